"""Weights to smaller ones: quantization, and whatever else makes a model smaller or faster; see docs/compression.md."""
