"""figures -> causes: checks, detectors, replay, recovery and the report."""
