"""Evaluation: predict held-out text, compare generated texts with human ones, search for good decoding settings.

Start with `perplexity` (prediction), `quality` (all metrics of a set of texts) and `sweep` (the search). `evaluate` runs
what `glassgpt evaluate` is asked for; `docs/evaluation.md` explains the metrics.
"""
