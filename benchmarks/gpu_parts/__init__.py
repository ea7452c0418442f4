"""What `gpu_train.py` measures, a file each."""
