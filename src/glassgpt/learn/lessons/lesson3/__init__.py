"""Lesson 3: attention."""
