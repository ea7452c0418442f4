"""Lesson 0: a language model made by counting."""
