"""A lesson for tests."""
