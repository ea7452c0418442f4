"""Logits -> weights: loss, optimizers, schedule, precision, checkpoints and the training loop.

This file imports nothing, so that reading a configuration does not load torch; import the module you need. Start
reading at `training.loop` and `training.step`.
"""
