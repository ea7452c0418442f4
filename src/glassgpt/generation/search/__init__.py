"""Deterministic search instead of sampling: beam search and contrastive search."""
