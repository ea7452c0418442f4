"""Lesson 1: the idea of GPT."""
