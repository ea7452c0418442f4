"""Weights -> text: logits processors, sampling, the engine and streaming.

Nothing is imported here, so that reading options does not load torch; import the module you need.
"""
