"""Hyperparameter sweeps: training with many settings from a search space, compared."""
