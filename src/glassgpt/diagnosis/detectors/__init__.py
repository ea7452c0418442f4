"""Detectors of faults in a run's series, one small class for each kind of finding."""
