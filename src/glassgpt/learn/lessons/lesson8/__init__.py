"""Lesson 8: engineering."""
