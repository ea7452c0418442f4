"""Logits processors, one file each: its settings, when it is active, and the function from logits to logits.

Nothing is imported here: `registry` lists the processors in their order, `pipeline` builds and applies them.
"""
