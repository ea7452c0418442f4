"""The fault suite: faults put into real trainings, and sound trainings, each looked at from the outside.

`python -m benchmarks.faults` runs it; see `__main__.py`. How a case is told apart and judged stands in `case.py` and
`judge.py`, what is put in where in `data_faults.py`, `model_faults.py`, `training_faults.py` and `machine_faults.py`,
and the sound ones in `healthy.py`.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
# How a fault is put into a living training is written down once, where the tests of diagnosis use it too.
sys.path.insert(0, str(ROOT / "tests"))
