"""Lesson 5: the whole model."""
