"""Lesson 7: generation."""
