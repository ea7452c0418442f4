"""`glassgpt.load`, which begins to read a run before torch is imported. Free of torch until then."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from glassgpt.lazy import without_collecting
from glassgpt.openmp import short_spin
from glassgpt.training.checksums import begin_hashing
from glassgpt.training.run_folder import RunFolder

if TYPE_CHECKING:
    from glassgpt.api.loaded_model import LoadedModel
    from glassgpt.generation.precision import Precision


def load(
    run: str | Path,
    *,
    checkpoint: str = "best",
    device: str = "auto",
    precision: Precision = "auto",
    batch_size: int = 1,
) -> LoadedModel:
    """Load a run's model.

    Args:
        run: the run's folder.
        checkpoint: `best` (the latest, if none was validated), `latest`, or `step-NNNNNN`, a checkpoint or snapshot.
        device: `auto`, `cpu`, `cuda` or `mps`.
        precision: of the weights during generation: `auto`, `float32`, `bfloat16`, `int8` on a CPU, or on a GPU `fp8`, or `fp8-kv`
            for keys and values too.
        batch_size: number of sequences at once for which generation is optimized.

    Raises:
        CheckpointError: the run or the checkpoint does not exist, or the checkpoint is damaged.
        TokenizerError: the run's tokenizer is not the one that the model was trained with.
    """
    begin_hashing(RunFolder(Path(run)).require(), checkpoint)
    with without_collecting(), short_spin():
        from glassgpt.api.loading import load_checkpoint

    return load_checkpoint(run, checkpoint, device, precision, batch_size)[0]
