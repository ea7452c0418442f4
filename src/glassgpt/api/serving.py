"""Serving runs over HTTP, and replaying recorded answers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import torch

import glassgpt
from glassgpt.api.loading import load_checkpoint
from glassgpt.data.chat.chat_template import FILE_NAME, TRANSCRIPT, load_template
from glassgpt.data.chat.jinja_template import JINJA_SUFFIX, Template, load_jinja_template
from glassgpt.data.files import read_regular
from glassgpt.device import pick_device
from glassgpt.errors import UsageError
from glassgpt.generation.engine.engine import DEFAULT_SLOTS
from glassgpt.generation.precision import Precision, kernel_choice
from glassgpt.serving.replay import Replayed, replay_records
from glassgpt.serving.run import ModelSource
from glassgpt.serving.served_model import Weights
from glassgpt.training.checkpoint import MANIFEST, read_adapter, resolve_pointer
from glassgpt.training.run_folder import RunFolder

CPU_SLOTS = 8
"""Sequences decoded at once on a CPU by default: more would take memory, and hardly be faster."""


def default_slots(device: str) -> int:
    """Return how many sequences a server decodes at once on a device by default."""
    return DEFAULT_SLOTS if pick_device(device).type == "cuda" else CPU_SLOTS


def load_weights(run: Path, checkpoint: str, device: str, precision: Precision, slots: int) -> Weights:
    """Load a run's checkpoint for the server.

    Args:
        run: the run's folder.
        checkpoint: see `load`, as are `device` and `precision`.
        slots: sequences decoded at once, for which the kernel is chosen.

    Raises:
        GlassGPTError: see `load`.
    """
    loaded, path = load_checkpoint(run, checkpoint, device, precision, slots)
    choice = kernel_choice(loaded.model, precision, batch_size=slots)
    model = loaded.decoding_model
    parameter = next(loaded.model.parameters())
    files = json.loads(read_regular(path / MANIFEST))["files"]
    weights = [entry["sha256"][:16] for name, entry in sorted(files.items()) if name.endswith(".safetensors")]
    if (adapter := read_adapter(path)) is not None:
        weights.append(adapter.base[:16])
    dtype = str(next(model.parameters()).dtype).removeprefix("torch.")
    identity = {
        "weights": "+".join(weights),
        "tokenizer": loaded.tokenizer.fingerprint[:16],
        "precision": precision if precision != "auto" else choice.kernel.precision if choice is not None else dtype,
        "kernel": "" if choice is None else choice.name,
        "device": parameter.device.type if parameter.device.type == "cpu" else torch.cuda.get_device_name(),
        "threads": str(torch.get_num_threads()),
        "slots": str(slots),
        "torch": str(torch.__version__),
        "glassgpt": glassgpt.__version__,
    }
    return Weights(model, loaded.tokenizer, loaded.step, identity, str(run), path.name)


def model_source(
    run: Path,
    name: str,
    *,
    checkpoint: str,
    device: str,
    precision: Precision,
    slots: int,
    template: Path | None = None,
    follow: bool = False,
) -> ModelSource:
    """Return a run as a model to serve.

    Args:
        run: the run's folder.
        name: of the model.
        checkpoint: see `load_weights`, as are `device`, `precision` and `slots`.
        template: file of the chat template; None takes that of the run's folder, or a plain transcript.
        follow: serve the newest checkpoint, also of a run that is still training.
    """
    folder = RunFolder(run).require()

    def newest() -> str | None:
        path = resolve_pointer(folder, "latest")
        return None if path is None else path.name

    return ModelSource(
        name,
        lambda: load_weights(run, "latest" if follow else checkpoint, device, precision, slots),
        chat_template(run, template),
        newest if follow else None,
    )


def chat_template(run: Path, given: Path | None = None) -> Template:
    """Return the chat template in a file, or else that of a run's folder, or a plain transcript.

    A file is a table in TOML, or a Jinja program if its name ends in `.jinja`. Of a run that has both, the table is taken.

    Raises:
        ConfigError: the file cannot be read, or is not a template.
    """
    own = [path for path in (run / FILE_NAME, RunFolder(run).chat_template) if path.is_file()]
    found = given if given is not None else next(iter(own), None)
    if found is None:
        return TRANSCRIPT
    return load_jinja_template(found) if found.suffix == JINJA_SUFFIX else load_template(found)


def replay(
    file: Path, run: Path | None = None, *, device: str = "auto", precision: Precision = "auto"
) -> Iterator[Replayed]:
    """Generate recorded answers again and yield what differs, answer by answer.

    Args:
        file: written by `glassgpt serve --record`.
        run: folder of the run; None takes the one that the record names.
        device: see `load`, as is `precision`.

    Raises:
        UsageError: the file cannot be read or is not a record.
        GlassGPTError: see `load`.
    """

    def weights(recorded_run: str, checkpoint: str, slots: int) -> Weights:
        return load_weights(run or Path(recorded_run), checkpoint, device, precision, slots)

    try:
        with file.open(encoding="utf-8") as lines:
            yield from replay_records(lines, weights)
    except UnicodeDecodeError as error:
        raise UsageError(f"{file} is not a record of glassgpt serve --record: {error}") from error
