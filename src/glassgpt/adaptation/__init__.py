"""Weights to other weights: fine-tuning of all weights or of a low-rank adapter."""
