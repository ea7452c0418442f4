"""Fine-tune a run on other text, and merge an adapter into the weights of its base."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from glassgpt import console
from glassgpt.adaptation.conversations import mixed_text, require_trainable
from glassgpt.adaptation.forgetting import compare, losses
from glassgpt.adaptation.memory import count_trainable, finetuning_memory
from glassgpt.adaptation.replay import open_training_data
from glassgpt.adaptation.show import print_memory
from glassgpt.api.initialization import adapter_of_adapter
from glassgpt.api.load_run import load
from glassgpt.api.run_datasets import held_out_dataset, open_for_run
from glassgpt.api.runs import kept_files, save_as_run
from glassgpt.api.training import check, train, write_run_report
from glassgpt.config import RunConfig, load_config
from glassgpt.data.chat.dataset import ConversationDataset
from glassgpt.data.shards import TokenDataset
from glassgpt.errors import UsageError, WrongRunError
from glassgpt.evaluation.loss_changes import LossChange, write_changes
from glassgpt.evaluation.observer import SILENT, EvaluationObserver
from glassgpt.interchange import peft
from glassgpt.model.accounting import count_parameters
from glassgpt.model.lora_config import LoRAConfig
from glassgpt.model.vectors import ModelWithEncoders
from glassgpt.multimodal.batches import EncodedDataset
from glassgpt.multimodal.config import OF_ENCODER
from glassgpt.training.checkpoint import find_checkpoint, read_adapter, weights_fingerprint
from glassgpt.training.loop import TrainingResult
from glassgpt.training.run_folder import RunFolder
from glassgpt.training.time_estimate import TimeEstimate


@dataclass(frozen=True)
class FinetuningResult:
    """The result of fine-tuning.

    Attributes:
        training: the result of the training run; None if other processes trained.
        changes: the loss before and after on the new text, and on the old one if it is known.
    """

    training: TrainingResult | None
    changes: list[LossChange]


def finetune(
    config: RunConfig,
    out: str | Path,
    *,
    resume: bool = False,
    observer: EvaluationObserver = SILENT,
    approve: Callable[[TimeEstimate], None] | None = None,
    processes: int = 1,
    launch: Callable[[], None] | None = None,
) -> FinetuningResult:
    """Fine-tune the run `config.init_from` into the folder `out`, and measure what was learned and what was forgotten.

    Args:
        config: the configuration; with `lora.rank` an adapter is trained, without it all weights.
        out: folder of the new run.
        resume: continue the run there.
        observer: receives the progress of the measurements.
        approve: see `train`.
        processes: number of processes that train.
        launch: trains in these processes and returns when they are done; None trains in this one.

    Raises:
        UsageError: the configuration names no run.
        GlassGPTError: see `train`.
    """
    if not config.init_from:
        raise UsageError("fine-tuning needs a run; name it as init_from")
    checked = check(config, out, processes=processes, resume=resume)
    _require_encoders(checked)
    length = checked.train.resolve_sequence_length(checked.model.context_length)
    rows = checked.train.resolve_micro_batch_size(checked.train.batch_tokens // (length * processes))
    shape = replace(checked.model, context_length=length)
    predicted, full = (finetuning_memory(shape, lora, rows) for lora in (checked.lora, LoRAConfig()))
    print_memory(count_trainable(checked.model, checked.lora), count_parameters(checked.model), predicted, full)

    texts = _texts(checked)
    before = losses(load(checked.init_from, device=checked.train.device).model, texts, observer)
    training = None
    if launch is not None:
        if torch.cuda.is_available():
            torch.cuda.empty_cache()  # what the measurement has used is kept otherwise, on the first process's GPU
        launch()
    else:
        training = train(config, out, resume=resume, approve=approve)
    after = losses(load(out, device=checked.train.device).model, texts, observer)
    changes = compare(texts, before, after)
    write_changes(Path(out), changes)
    write_run_report(RunFolder(Path(out)), checked, open_training_data(checked.data, checked.replay))
    return FinetuningResult(training, changes)


def _texts(config: RunConfig) -> dict[str, TokenDataset]:
    """Return the new text, and the old one: the one that is mixed in, else the one that the base was trained on."""
    texts = {"new": open_for_run(Path(config.data), Path(config.init_from))}
    if isinstance(texts["new"], ConversationDataset):  # before it is measured, which takes time
        require_trainable(texts["new"])
    if config.replay.data:
        return {**texts, "old": TokenDataset.open(Path(config.replay.data))}
    if isinstance(texts["new"], ConversationDataset) and (mixed := mixed_text(texts["new"])):
        return {**texts, "old": TokenDataset.open(mixed)}
    old = held_out_dataset(config.init_from, texts["new"].tokenizer)
    if isinstance(old, EncodedDataset) and not config.multimodal.names:
        return texts  # they have pictures and sound, which the new run cannot read
    return texts if old is None else {**texts, "old": old}


def _require_encoders(config: RunConfig) -> None:
    """Check that documents with media are read by the encoders of the run that is fine-tuned.

    Raises:
        UsageError: the run has others, or none.
    """
    known, wanted = load_config(config.init_from).multimodal, config.multimodal
    names = ("modalities", *(name for each in wanted.names for name in OF_ENCODER[each]), "attention")
    different = (name for name in names if getattr(known, name) != getattr(wanted, name))
    if wanted.names and (name := next(different, None)):
        here, there = ("empty" if value == "" else value for value in (getattr(each, name) for each in (wanted, known)))
        raise UsageError(
            f"multimodal.{name} is {here} with {config.data}, but {there} in {config.init_from}, whose encoders are fine-tuned; "
            f"to train others: glassgpt train PRESET --data {shlex.quote(config.data)} --init-from {shlex.quote(config.init_from)}"
        )


def merge(run: str | Path, out: str | Path, *, checkpoint: str = "best") -> RunFolder:
    """Add an adapter to the weights of its base, as a new run that needs neither.

    Args:
        run: the adapter's run.
        out: folder to create.
        checkpoint: see `load`.

    Raises:
        WrongRunError: the run is no adapter.
        GlassGPTError: see `load`.
    """
    folder = RunFolder(Path(run)).require()
    if read_adapter(find_checkpoint(folder, checkpoint)) is None:
        raise WrongRunError(f"{run} is not an adapter: it holds all its weights already")
    loaded, config = load(run, checkpoint=checkpoint, device="cpu"), load_config(folder.config)
    base = load(config.init_from, device="cpu").model.state_dict() if Path(config.init_from).is_dir() else {}
    same = [name for name, tensor in loaded.model.state_dict().items() if name in base and tensor.equal(base[name])]
    if base and len(same) == len(base):
        console.warn(f"the adapter in {run} changes nothing: it was not trained")
    origin = str(folder.path.absolute())
    lineage = RunConfig(data=config.data, seed=config.seed, init_from=origin, multimodal=config.multimodal)
    template = kept_files(folder.path)
    return save_as_run(loaded.model, loaded.tokenizer, Path(out), config=lineage, files=template)


def import_adapter(folder: str | Path, base: str | Path, out: str | Path) -> RunFolder:
    """Create the run of an adapter in PEFT's format.

    Args:
        folder: the adapter.
        base: the run that it adapts.
        out: folder to create.

    Raises:
        InterchangeError: a file is missing or damaged, or the adapter is another function or for another model.
        UsageError: the base is an adapter itself.
        GlassGPTError: see `load`.
    """
    path = find_checkpoint(RunFolder(Path(base)).require(), "best")
    if read_adapter(path) is not None:
        raise UsageError(adapter_of_adapter(str(base)))
    loaded = load(base, device="cpu")
    model = loaded.model
    if isinstance(model, ModelWithEncoders):
        model = model.language_model  # the adapter does not concern the encoders
    lora = peft.import_adapter(model, weights_fingerprint(path), Path(folder), console.warn)
    of_base = load_config(base)
    origin = str(Path(base).absolute())
    lineage = RunConfig(data=of_base.data, init_from=origin, lora=lora, multimodal=of_base.multimodal)
    template = kept_files(Path(base))
    return save_as_run(loaded.model, loaded.tokenizer, Path(out), config=lineage, files=template)
