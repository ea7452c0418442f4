"""activations -> pictures: what a model computes on a text, by name, measured, changed, and shown.

Nothing is imported here; import the module you need: `inspection.trace` for "everything between this text and its
next token", `inspection.measures`, `inspection.interventions`, `inspection.history` for a run's checkpoints.
"""
