"""Lesson 4: the block."""
