"""Serving adapters: which of the runs to serve adapt another one of them, and loading them beside its weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from glassgpt.errors import CheckpointError, UsageError
from glassgpt.generation.adapters import AdapterLayers, Selection, adapter_decoder, adapter_layers, with_adapters
from glassgpt.model.transformer import LanguageModel
from glassgpt.serving.run import adapter_model_name
from glassgpt.serving.served_model import Weights
from glassgpt.training.checkpoint import find_checkpoint, load_adapter, read_adapter, read_state, weights_fingerprint
from glassgpt.training.run_folder import RunFolder


@dataclass(frozen=True)
class NamedRun:
    """A run to serve.

    Attributes:
        name: of the model.
        folder: of the run.
        checkpoint: see `api.load`.
        verified: folder of that checkpoint, once `verified_runs` has read it; None before.
    """

    name: str
    folder: Path
    checkpoint: str
    verified: Path | None = None


def verified_runs(runs: Sequence[NamedRun]) -> list[NamedRun]:
    """Return runs with their checkpoints verified if an adapter is among them; loading them need not do it again.

    Raises:
        GlassGPTError: a checkpoint is damaged.
    """
    if not any(RunFolder(run.folder).base.is_file() for run in runs):
        return [*runs]
    return [replace(run, verified=find_checkpoint(RunFolder(run.folder), run.checkpoint)) for run in runs]


def adapters_by_base(runs: Sequence[NamedRun]) -> dict[str, dict[str, NamedRun]]:
    """Return for the name of each base the adapters of its weights among verified runs, by their names.

    Raises:
        UsageError: two models would have the same name.
    """
    paths = {run.name: run.verified for run in runs if run.verified is not None}
    if not paths:
        return {}
    adapters = {name: read_adapter(path) for name, path in paths.items()}
    full = [name for name, adapter in adapters.items() if adapter is None]
    bases = {weights_fingerprint(paths[name]): name for name in reversed(full)}  # the first of equal ones
    found: dict[str, dict[str, NamedRun]] = {}
    for run in runs:
        adapter = adapters[run.name]
        if adapter is not None and adapter.base in bases:
            base = bases[adapter.base]
            if adapter_model_name(base, run.name) in paths:
                raise UsageError(
                    f"two models are called {adapter_model_name(base, run.name)}; give them names, as in NAME=FOLDER"
                )
            found.setdefault(base, {})[run.name] = run
    return found


def with_adapters_of(weights: Weights, base: LanguageModel, checkpoint: Path, adapters: Mapping[str, Path]) -> Weights:
    """Return weights with adapters beside them.

    Args:
        weights: of a model.
        base: the same model before it was prepared for generation.
        checkpoint: that it was loaded from.
        adapters: verified checkpoints of adapters of these weights, by name.

    Raises:
        CheckpointError: an adapter adapts other weights, as those of a base that was trained further meanwhile, or does
            not fit the model.
    """
    for path in adapters.values():
        adapter = read_adapter(path)
        if adapter is None or adapter.base != weights_fingerprint(checkpoint):
            raise CheckpointError(f"{path} does not adapt the weights in {checkpoint}; start the server again")
    layers = {name: adapter_layers(load_adapter(base, path)) for name, path in adapters.items()}
    own = {name: _beside(weights, name, layers[name], path) for name, path in adapters.items()}
    return replace(weights, adapters=own, decoder=adapter_decoder(layers))


def _beside(weights: Weights, name: str, layers: AdapterLayers, checkpoint: Path) -> Weights:
    model = with_adapters(weights.model, {name: layers}, Selection(name))
    identity = {**weights.identity, "adapter": weights_fingerprint(checkpoint)[:16]}
    run, step = str(checkpoint.parent.parent), read_state(checkpoint).step
    return Weights(model, weights.tokenizer, step, identity, run, checkpoint.name, adapter=name)
