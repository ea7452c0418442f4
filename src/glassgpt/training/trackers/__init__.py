"""Programs that record experiments (TensorBoard, Weights & Biases, MLflow, Trackio), one file each.

`observer.py` calls them, each in a separate thread; a tracker that fails or hangs never stops training. Add one with
a file and a line in `names.py` and `build.py`. Does not import torch.
"""
