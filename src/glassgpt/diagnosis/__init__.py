"""Metrics -> causes: what went wrong, the evidence, and what to change."""
