"""Serving runs over HTTP, and replaying recorded answers."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

import glassgpt
from glassgpt import console
from glassgpt.api.adapted_serving import NamedRun, adapters_by_base, verified_runs, with_adapters_of
from glassgpt.api.loading import load_checkpoint
from glassgpt.config import load_config
from glassgpt.data.chat.chat_template import FILE_NAME, TRANSCRIPT, load_template
from glassgpt.data.chat.jinja_template import JINJA_SUFFIX, Template, load_jinja_template
from glassgpt.data.files import read_regular
from glassgpt.device import pick_device
from glassgpt.errors import UsageError
from glassgpt.generation.cpu.gpt2_step import StepsInC
from glassgpt.generation.cpu.kernel_times import processor_name
from glassgpt.generation.engine.engine import DEFAULT_SLOTS
from glassgpt.generation.precision import Precision, kernel_choice, prepare_for_decoding
from glassgpt.multimodal.model import MultimodalModel
from glassgpt.multimodal.prompting import with_vector_table
from glassgpt.retrieval.index import Index
from glassgpt.serving.document_answers import Documents
from glassgpt.serving.replay import Replayed, check_records, replay_records
from glassgpt.serving.run import ModelSource, adapter_model_name
from glassgpt.serving.served_model import Weights
from glassgpt.training.checkpoint import MANIFEST, find_base, find_checkpoint, read_adapter, resolve_pointer
from glassgpt.training.run_folder import RunFolder

CPU_SLOTS = 8
"""Sequences decoded at once on a CPU by default: more would take memory, and hardly be faster."""


def default_slots(device: str) -> int:
    """Return how many sequences a server decodes at once on a device by default."""
    return DEFAULT_SLOTS if pick_device(device).type == "cuda" else CPU_SLOTS


def load_weights(
    run: Path,
    checkpoint: str,
    device: str,
    precision: Precision,
    slots: int,
    adapters: Mapping[str, Path] | None = None,
    kernel: str = "",
    verified: Path | None = None,
) -> Weights:
    """Load a run's checkpoint for the server.

    Args:
        run: the run's folder.
        checkpoint: see `load`, as are `device` and `precision`.
        slots: sequences decoded at once, for which the kernel is chosen.
        adapters: verified checkpoints of adapters of these weights, which are to share them, by name.
        kernel: in the identity of weights that were served before; used again if this machine has it.
        verified: folder of the checkpoint, if it is verified already.

    Raises:
        GlassGPTError: see `load`.
    """
    loaded, path = load_checkpoint(run, checkpoint, device, precision, slots, verified=verified)
    encoder = loaded.model if isinstance(loaded.model, MultimodalModel) else None
    original = loaded.model if encoder is None else encoder.language_model
    choice = kernel_choice(original, precision, batch_size=slots, remembers=True, preferred=kernel)
    model = prepare_for_decoding(original, precision, batch_size=slots, remembers=True, preferred=kernel)
    model = model if encoder is None else with_vector_table(model, encoder, loaded.tokenizer)
    device_type = next(original.parameters()).device.type
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
        "device": torch.cuda.get_device_name() if device_type == "cuda" else device_type,
        "blocks": ("C" if isinstance(model, StepsInC) else "PyTorch") if device_type == "cpu" else "",
        "processor": processor_name() if device_type == "cpu" else "",
        "threads": str(torch.get_num_threads()),
        "slots": str(slots),
        "torch": str(torch.__version__),
        "glassgpt": glassgpt.__version__,
    }
    found = Weights(model, loaded.tokenizer, loaded.step, identity, str(run), path.name, encoder=encoder)
    return with_adapters_of(found, original, path, adapters) if adapters else found


def load_adapter_weights(
    run: Path, checkpoint: str, device: str, precision: Precision, slots: int, kernel: str = ""
) -> Weights:
    """Load an adapter for the server, beside the weights of its base; see `load_weights`."""
    path = find_checkpoint(RunFolder(run).require(), checkpoint)
    adapter = read_adapter(path)
    if adapter is None:
        raise UsageError(f"{run} is not an adapter any more; give the folder of the one that was served")
    base = find_base(path, adapter)
    weights = load_weights(base.parent.parent, base.name, device, precision, slots, {"adapter": path}, kernel)
    return weights.adapters["adapter"]


def model_sources(
    runs: Sequence[NamedRun],
    *,
    device: str,
    precision: Precision,
    slots: int,
    template: Path | None = None,
    follow: bool = False,
    indexes: Sequence[Path] = (),
) -> list[ModelSource]:
    """Return runs as models to serve, each adapter after the base that it adapts, as `base:adapter`.

    Adapters share the weights and the engine of their base, except on a GPU, whose kernels have no adapters, and with
    `follow`, where each is merged into weights of its own.

    Args:
        runs: to serve, with different names.
        device: see `model_source`, as are all others.
        indexes: folders of indexes that each run also answers from, as `run+index`.

    Raises:
        UsageError: two models would have the same name.
        GlassGPTError: a checkpoint is damaged.
    """
    runs = verified_runs(runs)
    found = adapters_by_base(runs)
    is_shared = pick_device(device).type != "cuda" and not follow
    settings: dict[str, Any] = {"device": device, "precision": precision, "slots": slots, "template": template}
    adapted = {name for adapters in found.values() for name in adapters}
    sources: list[ModelSource] = []
    for run in runs:
        if run.name in adapted:
            continue
        adapters = found.get(run.name, {})
        # An adapter that sees has encoders of its own, and is merged into weights of its own.
        shared = {name: own for name, own in adapters.items() if is_shared and not _has_encoders(own)}
        apart = {name: own for name, own in adapters.items() if name not in shared}
        sources.append(model_source(run, run.name, follow=follow, adapters=shared, **settings))
        for name, own in apart.items():
            sources.append(model_source(own, adapter_model_name(run.name, name), follow=follow, **settings))
    documents = {path.resolve().name: Documents(Index.open(path)) for path in indexes}
    return [dataclasses.replace(source, documents=documents) for source in sources]


def _has_encoders(run: NamedRun) -> bool:
    return bool(load_config(RunFolder(run.folder).path).multimodal.names)


def model_source(
    run: NamedRun,
    name: str,
    *,
    device: str,
    precision: Precision,
    slots: int,
    template: Path | None = None,
    follow: bool = False,
    adapters: Mapping[str, NamedRun] | None = None,
) -> ModelSource:
    """Return a run as a model to serve.

    Args:
        run: the run.
        name: of the model.
        device: see `load_weights`, as are `precision` and `slots`.
        template: file of the chat template; None takes that of the run's folder, or a plain transcript.
        follow: serve the newest checkpoint, also of a run that is still training.
        adapters: verified runs that adapt these weights and share them, by name.
    """
    folder = RunFolder(run.folder).require()
    beside = adapters or {}
    paths = {name: own.verified for name, own in beside.items() if own.verified is not None}

    def newest() -> str | None:
        path = resolve_pointer(folder, "latest")
        return None if path is None else path.name

    def load() -> Weights:
        if follow:
            return load_weights(run.folder, "latest", device, precision, slots)
        return load_weights(run.folder, run.checkpoint, device, precision, slots, paths, verified=run.verified)

    return ModelSource(
        name,
        load,
        chat_template(run.folder, template),
        newest if follow else None,
        {name: chat_template(own.folder, template) for name, own in beside.items()},
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
    if found.suffix == JINJA_SUFFIX:
        return load_jinja_template(found, RunFolder(run).chat_template)
    return load_template(found)


def replay(
    file: Path, run: Path | None = None, *, device: str = "auto", precision: Precision = "auto"
) -> Iterator[Replayed]:
    """Generate recorded answers again and yield what differs, answer by answer.

    Args:
        file: written by `glassgpt serve --record`.
        run: folder of the run; None takes the one that the record names.
        device: see `load`, as is `precision`.

    Raises:
        UsageError: the file cannot be read or is not a record, or `run` would stand for an adapter and for a base.
        GlassGPTError: see `load`.
    """

    def weights(recorded_run: str, checkpoint: str, slots: int, beside: bool, kernel: str) -> Weights:
        load = load_adapter_weights if beside else load_weights
        return load(run or Path(recorded_run), checkpoint, device, precision, slots, kernel=kernel)

    with file.open(encoding="utf-8", errors="surrogateescape") as lines:  # a record can be cut within a character
        for number in check_records(lines, run):
            console.warn(f"line {number} of {file} was cut off while it was written; it is left out")
        lines.seek(0)
        yield from replay_records(lines, weights)
