"""Measurements of `gpu_train.py` and `gpu_generate.py`, one file each."""
