"""Inspection: trace, analyze, modify and display what a model computes on a text.

Nothing is imported here. Start with `inspection.trace` (every activation between a text and its next token), then
`inspection.analysis`, `inspection.interventions` and `inspection.checkpoint_traces`.
"""
