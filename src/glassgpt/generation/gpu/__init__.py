"""Decoding on a GPU: hand-written kernels, captured in CUDA graphs."""
