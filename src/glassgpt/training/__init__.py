"""logits -> weights: loss, optimizers, schedule, precision, checkpoints and the loop.

Nothing is imported here, so that reading a configuration does not load torch; import the module you need.
`training.loop.Trainer` is where to start reading.
"""
