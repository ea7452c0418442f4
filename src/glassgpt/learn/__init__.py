"""Lessons, their exercises, and checks that explain a mistake. See `docs/decisions/0055-learn.md`."""

from glassgpt.learn.course import bundled, course_run

__all__ = ["bundled", "course_run"]
