"""All cases."""

from __future__ import annotations

from collections.abc import Sequence

from .case import Fault
from .chat_faults import CHAT_FAULTS
from .data_faults import DATA_FAULTS
from .healthy import HEALTHY
from .machine_faults import MACHINE_FAULTS
from .model_faults import MODEL_FAULTS
from .step_faults import STEP_FAULTS
from .training_faults import TRAINING_FAULTS

FAULTS: Sequence[Fault] = (*DATA_FAULTS, *CHAT_FAULTS, *MODEL_FAULTS, *TRAINING_FAULTS, *STEP_FAULTS, *MACHINE_FAULTS)
__all__ = ["FAULTS", "HEALTHY"]
