"""Detectors of faults in a run's metrics, one small class for each kind of finding."""
