"""Lesson 2: tokenization."""
