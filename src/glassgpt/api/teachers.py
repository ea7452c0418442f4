"""The teacher of a run that learns another one's predictions, and the lineage of weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from glassgpt.config import RunConfig
from glassgpt.data.shards import TokenDataset
from glassgpt.errors import CheckpointError, TokenizerError
from glassgpt.training.checkpoint import find_checkpoint, read_state, weights_fingerprint
from glassgpt.training.lineage import Lineage, read_lineage
from glassgpt.training.run_folder import RunFolder


def lineage_from(run: RunFolder, checkpoint: Path, steps: Sequence[str]) -> Lineage:
    """Return the lineage of weights made from a checkpoint of a run."""
    before = read_lineage(run)
    earlier = before.steps if before is not None else ()
    return Lineage(str(run.path.absolute()), checkpoint.name, weights_fingerprint(checkpoint), (*earlier, *steps))


def checked_teacher(config: RunConfig, run: RunFolder, dataset: TokenDataset) -> Lineage | None:
    """Check the teacher of a run that is about to be trained or resumed.

    Returns:
        The lineage to record, which names the teacher; None without a teacher.

    Raises:
        TokenizerError: the dataset was prepared with another tokenizer than the teacher's.
        CheckpointError: the teacher does not exist, or a resumed run began with other weights of it.
    """
    if not config.train.teacher:
        return None
    teacher = RunFolder(Path(config.train.teacher)).require()
    checkpoint = find_checkpoint(teacher, "best")
    if read_state(checkpoint).tokenizer_fingerprint != dataset.tokenizer_fingerprint:
        raise TokenizerError(
            f"{dataset.folder} was prepared with another tokenizer than the teacher {teacher.path}; "
            f"prepare the text again with --tokenizer {teacher.path}"
        )
    now = lineage_from(teacher, checkpoint, ["distil: trained to predict what its teacher predicts"])
    before = read_lineage(run) if run.exists() else None
    if before is not None and before.weights_sha256 != now.weights_sha256:
        raise CheckpointError(
            f"{run.path} began with other weights of its teacher than those of {checkpoint}; restore "
            f"{before.checkpoint} of {before.source} as its best, or start a new run"
        )
    return before or now
