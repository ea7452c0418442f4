"""Lessons, their exercises, and checks that explain a mistake. See `docs/decisions/0055-learn.md`."""
