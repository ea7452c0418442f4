"""The fault suite: faults injected into real training runs, and healthy runs, each observed from outside.

`python -m benchmarks.faults` runs it; see `__main__.py`. `case.py` defines a case, `stages.py` runs one, `scoring.py`
scores it. The faults are in `data_faults.py`, `model_faults.py`, `training_faults.py` and `machine_faults.py`, the
healthy training runs in `healthy.py`.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
# Faults of a live training are injected by the same helpers as in the tests of diagnosis.
sys.path.insert(0, str(ROOT / "tests"))
