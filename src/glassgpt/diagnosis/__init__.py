"""figures -> causes: what went wrong, how that is known, and what to change."""
