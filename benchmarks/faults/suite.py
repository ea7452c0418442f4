"""All cases."""

from __future__ import annotations

from collections.abc import Sequence

from .case import Fault, Healthy
from .chat_faults import CHAT_FAULTS
from .data_faults import DATA_FAULTS
from .healthy import HEALTHY as HEALTHY_TEXT
from .machine_faults import MACHINE_FAULTS
from .model_faults import MODEL_FAULTS
from .multimodal_faults import MEDIA_FAULTS, MEDIA_HEALTHY
from .step_faults import STEP_FAULTS
from .training_faults import TRAINING_FAULTS

FAULTS: Sequence[Fault] = (
    *DATA_FAULTS,
    *CHAT_FAULTS,
    *MEDIA_FAULTS,
    *MODEL_FAULTS,
    *TRAINING_FAULTS,
    *STEP_FAULTS,
    *MACHINE_FAULTS,
)
HEALTHY: Sequence[Healthy] = (*HEALTHY_TEXT, *MEDIA_HEALTHY)
__all__ = ["FAULTS", "HEALTHY"]
