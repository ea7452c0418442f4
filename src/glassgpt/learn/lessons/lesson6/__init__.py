"""Lesson 6: training."""
