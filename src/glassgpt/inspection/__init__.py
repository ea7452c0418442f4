"""Inspection: what a model computes on a text, by name, and how to analyze, change and display it.

Nothing is imported here. Start with `inspection.trace` (every activation between a text and its next token), then
`inspection.analysis`, `inspection.interventions` and `inspection.checkpoint_traces`.
"""
