"""Decoding on a GPU: a step by kernels of our own, launched as graphs."""
