"""Kernels for decoding on a CPU."""
