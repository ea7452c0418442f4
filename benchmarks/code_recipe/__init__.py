"""The training text of code-124m's second stage, and problems to choose a recipe on that are not a benchmark's."""
