"""The library's face: what `import glassgpt` offers, as `cli.py` is the command line's."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from glassgpt import console
from glassgpt.config import RunConfig, load_config, preflight, to_toml
from glassgpt.data.files import write_atomically
from glassgpt.data.shards import TokenDataset
from glassgpt.data.tokenizers import Tokenizer, load_tokenizer
from glassgpt.diagnosis import doctor as diagnosis
from glassgpt.diagnosis.autopsy import check_replay
from glassgpt.diagnosis.catalogue import language_of_the_terminal
from glassgpt.diagnosis.config import DiagnosisConfig
from glassgpt.diagnosis.data_checks import check_tokenizer, ladder, sample
from glassgpt.diagnosis.findings import EVENT, Checked, Finding
from glassgpt.diagnosis.record import Record
from glassgpt.diagnosis.recovery import Recovery
from glassgpt.diagnosis.report import write_report
from glassgpt.diagnosis.run_checks import examine_curve, examine_run
from glassgpt.diagnosis.series import Ladder
from glassgpt.diagnosis.settings_checks import check_problems
from glassgpt.diagnosis.show import warn_of
from glassgpt.diagnosis.text_checks import examine_text, held_out_prompts
from glassgpt.diagnosis.watch import Watch
from glassgpt.errors import CheckpointError, ConfigError, GlassGPTError, TokenizerError, UsageError
from glassgpt.evaluation.held_out import PromptOptions, human_continuations
from glassgpt.evaluation.loss import evaluate_dataset, require_same_tokenizer
from glassgpt.evaluation.pictures import check_picture, draw_comparison
from glassgpt.evaluation.report import Questions, Report, report_json, show_report
from glassgpt.evaluation.report import evaluate as measure
from glassgpt.evaluation.sweep import Sweep, sweep, with_check
from glassgpt.evaluation.sweep_show import settings_toml
from glassgpt.generation.bench import GenerationSpeed, Load, measure_generation
from glassgpt.generation.engine import Piece, Sample, stream
from glassgpt.generation.methods import Method, defaults_of, rows_at_once, write
from glassgpt.generation.options import GenerationOptions
from glassgpt.generation.precision import Precision, prepare_for_decoding
from glassgpt.generation.search_options import DRAFT_TOKENS, MethodOptions, SpeculativeOptions
from glassgpt.generation.speculative import Speculation
from glassgpt.inspection.trace import Trace, trace
from glassgpt.model.build import build_model
from glassgpt.model.config import GPT2_VOCABULARY, SHAPE
from glassgpt.model.transformer import LanguageModel
from glassgpt.training.bench import TrainingSpeed, measure_training
from glassgpt.training.checkpoint import (
    TrainingState,
    checkpoint_step,
    find_checkpoint,
    has_optimizer,
    list_checkpoints,
    load_model,
    load_weights,
    newest_whole,
    read_model_config,
    read_state,
    save_checkpoint,
)
from glassgpt.training.curve import draw_loss_curve
from glassgpt.training.hardware import pick_device, require_gpus, versions
from glassgpt.training.loop import Outcome, Trainer, announce
from glassgpt.training.observers import Observer, RunFiles, TensorBoard, display
from glassgpt.training.ranks import Ranks, process_group, ranks_from_environment
from glassgpt.training.run import RunFolder
from glassgpt.training.step import Settings

HELD_OUT_TOKENS = 16_384
"""Held-out tokens that generated text is held against."""


@dataclass(frozen=True)
class Loaded:
    """A model that is ready to be used, with the tokenizer that it speaks.

    Attributes:
        model: in evaluation mode; `model(tokens)` gives logits.
        tokenizer: `tokenizer.encode(text)` and `tokenizer.decode(tokens)`.
        step: how many steps it was trained for.
        precision: of the weights while it writes; see `prepare_for_decoding`.
        rows: texts at once that writing is made fast for.
    """

    model: LanguageModel
    tokenizer: Tokenizer
    step: int
    precision: Precision = "auto"
    rows: int = 1

    @functools.cached_property
    def writer(self) -> LanguageModel:
        """The model's twin that writes fastest on this machine, made when it is first needed."""
        return prepare_for_decoding(self.model, self.precision, rows=self.rows)

    def generate(self, prompt: str | None = None, *, method: Method | None = None, **options: Any) -> str:
        """The continuation of a prompt.

        Args:
            prompt: text to continue; None begins a document.
            method: `BeamOptions`, `ContrastiveOptions` or what `speculation` makes; None draws token by token.
            options: of `GenerationOptions` (`max_tokens`, `seed`, …).

        Raises:
            GenerationError: the prompt or an option cannot be used.
        """
        return self.generate_many([prompt], method=method, **options)[0]

    def generate_many(
        self, prompts: Sequence[str | None], *, method: Method | None = None, **options: Any
    ) -> list[str]:
        """The continuation of each prompt, written together, each as if it were alone; see `generate`."""
        results = self.samples_many(prompts, method=method, **{**options, "num_samples": 1})
        return [samples[0].text for samples in results]

    def samples(self, prompt: str | None = None, *, method: Method | None = None, **options: Any) -> list[Sample]:
        """Several continuations with their tokens and finish reasons; see `generate`.

        By beam search the `best` that were found, each a `ScoredSample`.
        """
        return self.samples_many([prompt], method=method, **options)[0]

    def samples_many(
        self, prompts: Sequence[str | None], *, method: Method | None = None, **options: Any
    ) -> list[list[Sample]]:
        """Several continuations of each prompt; see `samples`."""
        asked = GenerationOptions(**{**defaults_of(method), **options})
        return list(write(self.writer, self.tokenizer, prompts, asked, method))

    def stream(
        self, prompt: str | None = None, *, speculation: Speculation | None = None, **options: Any
    ) -> Iterator[str]:
        """The continuation piece by piece, as it comes; joined, the pieces are `generate`'s text."""
        pieces = self.pieces(prompt, speculation=speculation, **{**options, "num_samples": 1})
        return (piece.text for piece in pieces if piece.text)

    def pieces(
        self, prompt: str | None = None, *, speculation: Speculation | None = None, **options: Any
    ) -> Iterator[Piece]:
        """All samples piece by piece, with their tokens."""
        return stream(self.writer, self.tokenizer, prompt, GenerationOptions(**options), speculation)

    def speculation(self, draft: Loaded | None = None, *, tokens: int = DRAFT_TOKENS) -> Speculation:
        """A method for `generate` that writes the same text in fewer passes of this model.

        Args:
            draft: a small model that guesses; None looks for guesses in the text itself.
            tokens: guesses for each pass.

        Returns:
            Also counts, in its `tally`, how many guesses were right.

        Raises:
            TokenizerError: the small model speaks other tokens.
        """
        if draft is not None and draft.tokenizer.fingerprint != self.tokenizer.fingerprint:
            raise TokenizerError(
                f"the draft model's tokenizer is another ({draft.tokenizer.name}) than the model's "
                f"({self.tokenizer.name}), so it cannot guess tokens; train it on data that was prepared with the same one"
            )
        return Speculation(draft.writer if draft is not None else None, tokens)

    def trace(self, text: str | None = None, **options: Any) -> Trace:
        """Everything that the model computes between a text and its next token, by name; see `inspection.trace`.

        Args:
            text: without one, the token that begins a document.
            options: those of `GenerationOptions`, whose processors the next token passes.

        Raises:
            InspectionError: the text is empty or too long.
            GenerationError: an option cannot be used.
        """
        return trace(self.model, self.tokenizer, text, GenerationOptions(**options))


def load(
    run: str | Path, *, checkpoint: str = "best", device: str = "auto", precision: Precision = "auto", rows: int = 1
) -> Loaded:
    """Load a run's model.

    Args:
        run: the run's folder.
        checkpoint: `best` (the newest, where none was validated), `latest`, or `step-NNNNNN`.
        device: `auto`, `cpu`, `cuda` or `mps`.
        precision: of the weights while it writes: `auto`, `float32`, `bfloat16` or `int8`.
        rows: texts at once that writing is made fast for.

    Raises:
        CheckpointError: there is no run, no such checkpoint, or it is damaged.
        TokenizerError: the run's tokenizer is not the one that the model was trained with.
    """
    folder = RunFolder(Path(run)).require()
    path = find_checkpoint(folder, checkpoint)
    state = read_state(path)
    tokenizer = load_tokenizer(folder.tokenizer)
    if tokenizer.fingerprint != state.tokenizer_fingerprint:
        raise TokenizerError(f"{folder.tokenizer} is not the tokenizer that {path.name} was trained with")
    model = load_model(path).to(pick_device(device))
    return Loaded(model, tokenizer, state.step, precision, rows)


def load_writer(
    run: str | Path,
    options: GenerationOptions,
    method: MethodOptions | None,
    prompts: int,
    checkpoint: str,
    device: str,
    precision: Precision,
) -> tuple[Loaded, Method | None]:
    """Load what a generation needs: the run's model, made fast for it, and the model that guesses, if one is to.

    Args:
        run: see `load`, as are `checkpoint`, `device` and `precision`.
        options: of the generation.
        method: how it is written.
        prompts: how many.

    Raises:
        GlassGPTError: see `load` and `Loaded.speculation`.
    """
    rows = rows_at_once(prompts * options.num_samples, method)
    loaded = load(run, checkpoint=checkpoint, device=device, precision=precision, rows=rows)
    if not isinstance(method, SpeculativeOptions):
        return loaded, method
    draft = None if method.draft is None else load(method.draft, device=device, rows=prompts * options.num_samples)
    return loaded, loaded.speculation(draft, tokens=method.draft_tokens)


def held_out_text(run: str | Path, tokenizer: Tokenizer) -> TokenDataset | None:
    """The data set that a run was trained on, if it is still there and speaks the same tokens."""
    folder = load_config(Path(run)).data
    if not folder or not Path(folder).is_dir():
        return None
    dataset = TokenDataset.open(Path(folder))
    return dataset if dataset.tokenizer_fingerprint == tokenizer.fingerprint else None


def load_with_data(
    run: str | Path, data: Path | None = None, *, checkpoint: str = "best", device: str = "auto", rows: int = 1
) -> tuple[Loaded, TokenDataset]:
    """A run's model, and a data set to measure it on.

    Args:
        run: the run's folder.
        data: the data set; None takes the one that the run was trained on.
        checkpoint: see `load`, as are `device` and `rows`.

    Raises:
        UsageError: the run names no data.
        TokenizerError: the data set was made with another tokenizer than the model's.
        GlassGPTError: see `load` and `TokenDataset.open`.
    """
    loaded = load(run, checkpoint=checkpoint, device=device, rows=rows)
    folder = data or load_config(Path(run)).data
    if not folder:
        raise UsageError(f"{run} was not trained here and names no data; give a data set with --data DIR")
    dataset = TokenDataset.open(Path(folder))
    require_same_tokenizer(loaded.tokenizer.fingerprint, dataset)
    return loaded, dataset


def evaluate(
    loaded: Loaded,
    dataset: TokenDataset,
    questions: Questions,
    *,
    as_json: bool = False,
    samples: int = 2,
    json_file: Path | None = None,
    picture: Path | None = None,
) -> Report:
    """Find out, print and write down what is asked about a model.

    Args:
        loaded: the model.
        dataset: made with its tokenizer.
        questions: what to find out.
        as_json: print one JSON object instead of tables.
        samples: prompts whose texts are printed.
        json_file: where to write the JSON too.
        picture: where to draw the comparison.

    Raises:
        GlassGPTError: see `glassgpt.evaluation.report.evaluate`.
    """
    if samples < 0:
        raise UsageError(f"--samples is {samples}; allowed is 0 or more")
    if picture is not None:
        check_picture(picture)
    writer = loaded.writer if questions.settings else None
    report = measure(loaded.model, dataset, questions, writer=writer)
    text = report_json(report, dataset)
    if json_file is not None:
        write_atomically(json_file, f"{text}\n".encode())
    if picture is not None and report.comparison is not None:
        draw_comparison(report.comparison, dataset.tokenizer, picture)
        console.say(f"drew {picture}")
    if as_json:
        console.result(text)
    else:
        show_report(report, dataset, samples)
    return report


def sweep_decoding(
    loaded: Loaded, dataset: TokenDataset, purpose: str, prompts: PromptOptions, *, budget: int, out: Path, run: str
) -> Sweep:
    """Find a setting for a purpose and write it into a file that `--settings` reads.

    Args:
        loaded: the model.
        dataset: made with its tokenizer.
        purpose: one of the ready settings' names.
        prompts: what to search on; half as many again are cut to check the winner on.
        budget: texts to be written by the search, about.
        out: the file.
        run: what the file calls the model.

    Raises:
        GlassGPTError: see `glassgpt.evaluation.sweep.sweep`.
    """
    prompts = prompts.fitted(loaded.model.config.context_length)
    human = human_continuations(dataset, dataclasses.replace(prompts, count=with_check(prompts.count)))
    found = sweep(loaded.model, loaded.tokenizer, human, purpose, prompts, budget, writer=loaded.writer)
    write_atomically(out, settings_toml(found, run).encode())
    return found


def save_as_run(model: LanguageModel, tokenizer: Tokenizer, out: Path) -> RunFolder:
    """Make a run of weights that were not trained here, so that every command works on it.

    Raises:
        UsageError: something is there already.
    """
    run = RunFolder(out)
    _refuse_existing(run)
    state = TrainingState(tokenizer_fingerprint=tokenizer.fingerprint)
    save_checkpoint(run, model, (), state)
    _write_run_files(run, RunConfig(model=model.config), tokenizer)
    return run


def train(
    config: RunConfig,
    out: str | Path,
    *,
    resume: bool = False,
    tensorboard: bool = False,
    observers: tuple[Observer, ...] = (),
) -> Outcome:
    """Train as configured, into the folder `out`; with `resume`, go on where the run there stopped.

    Args:
        config: the configuration; it is checked as a whole first.
        out: the run's folder.
        resume: continue from the newest whole checkpoint, or start if there is none yet.
        tensorboard: also write TensorBoard events.
        observers: further listeners.

    Raises:
        ConfigError: lists everything that cannot work.
        UsageError: there is a run in `out` already, and `resume` was not asked for.
        Interrupted: the user stopped it; it was saved.
        GlassGPTError: see `Trainer.run`.
    """
    run = RunFolder(Path(out))
    config = check(config, out, processes=ranks_from_environment().count, resume=resume)
    with process_group(pick_device(config.train.device)) as ranks:
        return _train(config, run, ranks, resume=resume, tensorboard=tensorboard, observers=observers)


def check(config: RunConfig, out: str | Path, *, processes: int = 1, resume: bool = False) -> RunConfig:
    """Everything that can be known to go wrong before training starts.

    Returns:
        The configuration with nothing left open; see `glassgpt.config.preflight`.

    Raises:
        ConfigError: lists everything that cannot work.
        UsageError: there is a run in `out` already, and `resume` was not asked for.
    """
    run = RunFolder(Path(out))
    if not resume:
        _refuse_existing(run)
    existing = next(folder for folder in (run.path.absolute(), *run.path.absolute().parents) if folder.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        raise UsageError(f"{run.path} cannot be made: {existing} is no folder that can be written to")
    require_gpus(config.train.device, processes)
    return preflight(config, run.path, processes)


def _train(
    config: RunConfig,
    run: RunFolder,
    ranks: Ranks,
    *,
    resume: bool,
    tensorboard: bool,
    observers: tuple[Observer, ...],
) -> Outcome:
    dataset = TokenDataset.open(Path(config.data))
    settings = _settings(config)
    torch.manual_seed(config.seed)
    model = build_model(config.model)
    found = newest_whole(run) if resume else None
    if config.init_from and found is None:
        _initialise_from(model, config.init_from, dataset)
    noticed = _first_look(config, run, dataset, None if found else model) if ranks.is_first else []
    trainer = Trainer(model, dataset, settings, run, ranks=ranks)
    watch_over(trainer, config.diagnosis)
    if ranks.rank > 0:
        torch.manual_seed(config.seed + ranks.rank)  # equal weights, but dropout of its own
    if found is not None:
        for line in found.refused:
            console.warn(f"passing over a damaged checkpoint: {line}")
        if not has_optimizer(found.path):
            raise UsageError(
                f"{run.path} holds imported weights; train on from them with --init-from {run.path} --out NEW"
            )
        trainer.resume(found.path)
        console.say(f"going on from {found.path.name}")
    ranks.wait()  # until all have looked at the folder; from here on the first writes to it
    if not ranks.is_first:
        trainer.observers += observers
        return trainer.run()
    run.path.mkdir(parents=True, exist_ok=True)
    _write_run_files(run, config, dataset.tokenizer)
    files = RunFiles(run, trainer.state.step)
    _note_start(files, trainer, found.refused if found else [], noticed)
    announce(trainer)
    with display(config.train.max_steps - trainer.state.step) as shown:
        trainer.observers += [files, *([TensorBoard(run)] if tensorboard else []), shown, *observers]
        try:
            outcome = trainer.run()
        except GlassGPTError:
            _leave_report(run, config, dataset)
            raise
    draw_loss_curve(run)
    _leave_report(run, config, dataset)
    return outcome


def _first_look(config: RunConfig, run: RunFolder, dataset: TokenDataset, model: LanguageModel | None) -> list[Finding]:
    """What is noticed at a start of training, and said; without a model where it goes on from a checkpoint."""
    weights = Path(config.init_from) if config.init_from else run.checkpoints if model is None else None
    plan = diagnosis.Plan(config.model, _settings(config), dataset, run.path, weights)
    return warn_of(diagnosis.examine_quickly(plan, model), language_of_the_terminal())


def _leave_report(run: RunFolder, config: RunConfig, dataset: TokenDataset) -> None:
    """What the files tell of a run that has just ended, well or not, on one page in its folder."""
    record, known = Record.read(run), ladder(dataset)
    saved = [checkpoint_step(path) for path in list_checkpoints(run)]
    tokens = dataset.info.train.tokens
    checks = list(examine_curve(record, config.model, _settings(config), known, saved, train_tokens=tokens))
    try:
        write_report(record, checks, known)
    except OSError as error:  # a full disk has ended the run; that is what the user must read
        console.warn(f"{run.report} could not be written: {error.strerror}")


def watch_over(trainer: Trainer, config: DiagnosisConfig) -> None:
    """Let a training be watched, and mended where that can be undone. Before it is resumed."""
    watch = None
    if config.watch != "off":
        watch = Watch(trainer, config, trainer.run_folder.layers)
        watch.attach()
    trainer.guard = Recovery(config, watch)


def bench_train(config: RunConfig, *, steps: int = 20) -> TrainingSpeed:
    """How fast a configuration trains here; on its data where it names some, else on random tokens.

    Raises:
        ConfigError: lists everything that cannot work.
    """
    ranks = ranks_from_environment()
    require_gpus(config.train.device, ranks.count)
    if problems := config.problems(ranks.count):
        raise ConfigError(problems)
    dataset = TokenDataset.open(Path(config.data)) if config.data else None
    model_config = config.model
    if model_config.vocab_size == 0:
        vocab_size = dataset.vocab_size if dataset else GPT2_VOCABULARY
        model_config = dataclasses.replace(model_config, vocab_size=vocab_size)
    if dataset and model_config.vocab_size < dataset.vocab_size:
        raise ConfigError([f"model.vocab_size is {model_config.vocab_size:,}, the data set has {dataset.vocab_size:,}"])
    tokens = dataset.split("train") if dataset else None
    with process_group(pick_device(config.train.device)) as ranks:
        torch.manual_seed(config.seed)
        model = build_model(model_config)
        return measure_training(model, _settings(config), tokens=tokens, steps=steps, ranks=ranks)


def bench_generate(
    model: str,
    batches: str,
    prompt_tokens: int,
    new_tokens: int,
    rounds: int,
    *,
    top_k: int,
    top_p: float,
    device: str,
    precision: Precision,
    overrides: dict[str, Any],
) -> tuple[list[GenerationSpeed], dict[str, Any]]:
    """How fast a run's model, or one of a preset's shape, writes here; see `measure_generation`.

    Raises:
        UsageError: what is asked for cannot be measured.
        GlassGPTError: there is no such model, or not such a device or precision.
    """
    options = GenerationOptions(temperature=1.0, top_k=top_k, top_p=top_p)
    options.check()
    try:
        load_of_it = Load(tuple(int(b) for b in batches.split(",")), prompt_tokens, new_tokens, rounds, options)
    except ValueError:
        raise UsageError(f"--batch is {batches!r}; allowed are numbers separated by commas, like 1,8,64") from None
    if RunFolder(Path(model)).config.is_file():
        return measure_generation(load(model, device=device).model, load_of_it, precision=precision)
    config = load_config(model, overrides).model
    if config.vocab_size == 0:
        config = dataclasses.replace(config, vocab_size=GPT2_VOCABULARY)
    torch.manual_seed(0)
    built = build_model(config).eval().to(pick_device(device))
    return measure_generation(built, load_of_it, precision=precision)


def _settings(config: RunConfig) -> Settings:
    return Settings(config.train, config.optimizer, config.schedule, config.checkpoint, config.seed)


def resumed_config(out: str | Path, overrides: dict[str, Any]) -> RunConfig:
    """The configuration of an existing run, with changes.

    Raises:
        CheckpointError: there is no run.
        UsageError: the changes concern the model's shape, which its checkpoints fix.
    """
    run = RunFolder(Path(out)).require()
    before = load_config(run.config)
    config = load_config(run.config, overrides)
    if not config.model.same_shape(before.model):
        raise UsageError("a run's model cannot change shape when it is resumed; start a new run with another --out")
    return config


def _refuse_existing(run: RunFolder) -> None:
    if run.exists():
        raise UsageError(f"{run.path} holds a run already; go on with it by --resume, or choose another --out")
    if run.path.exists() and (not run.path.is_dir() or any(run.path.iterdir())):
        raise UsageError(f"{run.path} exists and is not a run; choose another --out")


def _initialise_from(model: LanguageModel, source: str, dataset: TokenDataset) -> None:
    folder = RunFolder(Path(source)).require()
    path = find_checkpoint(folder, "best")
    theirs = read_model_config(path)
    if not theirs.same_shape(model.config):
        different = [
            f"model.{name} is {getattr(model.config, name)} here and {getattr(theirs, name)} there"
            for name in SHAPE
            if getattr(model.config, name) != getattr(theirs, name)
        ]
        raise CheckpointError(f"{source} is another model: {'; '.join(different)}")
    if read_state(path).tokenizer_fingerprint != dataset.tokenizer_fingerprint:
        raise TokenizerError(
            f"{dataset.folder} was made with another tokenizer than {source}; "
            f"prepare the text again with --tokenizer {source}"
        )
    load_weights(model, path, averaged=True)


def _write_run_files(run: RunFolder, config: RunConfig, tokenizer: Tokenizer) -> None:
    write_atomically(run.config, to_toml(config).encode())
    tokenizer.save(run.tokenizer)


def _note_start(files: RunFiles, trainer: Trainer, refused: list[str], noticed: list[Finding]) -> None:
    step = trainer.state.step
    for line in refused:
        files.on_event(step, "checkpoint refused", {"why": line})
    how = {"hardware": trainer.hardware.describe(), **versions()}
    files.on_event(step, "resume" if step else "start", how)
    for finding in noticed:
        files.on_event(step, EVENT, finding.to_json())


def doctor(
    target: str | Path | None = None,
    *,
    data: str | Path | None = None,
    overrides: dict[str, Any] | None = None,
    rate_range: bool = False,
    text: GenerationOptions | None = None,
) -> Iterator[Checked]:
    """Look at a configuration before it is trained, at a run from its files, or at a data set.

    Args:
        target: a preset's name or TOML file, a run's folder, a data set's folder; None looks at this machine.
        data: data set that a preset is to be trained on.
        overrides: settings by dotted name.
        rate_range: also find out which learning rates are stood.
        text: also let a run write with these settings, and tell what is wrong with its text.

    Yields:
        Each check as it is made, with the figure that it measured and what is wrong.

    Raises:
        ConfigError: the target names nothing, or holds settings that do not exist.
        UsageError: text is asked of something that is no run.
    """
    if text is not None and (target is None or not RunFolder(Path(target)).exists()):
        raise UsageError(f"--text looks at what a run writes; name a run instead of {target or 'nothing'}")
    if target is None and data is None and not overrides:
        return diagnosis.examine_machine()
    if target is None and data is not None and not overrides:
        return _doctor_data(Path(data))
    if target is not None and RunFolder(Path(target)).exists() and not rate_range:
        return _doctor_run(RunFolder(Path(target)), Path(data) if data else None, text)
    if target is not None and Path(target).is_dir() and not RunFolder(Path(target)).exists():
        return _doctor_data(Path(target))
    named = {"data": str(data)} if data else {}
    config = load_config(target, {**(overrides or {}), **named})
    out = Path(target) if target is not None and Path(target).is_dir() else Path("runs")
    return _doctor_config(config, out, rate_range=rate_range)


def _doctor_data(folder: Path) -> Iterator[Checked]:
    dataset = diagnosis.open_dataset(folder)
    if isinstance(dataset, Checked):
        yield dataset
    else:
        yield from diagnosis.examine_data(dataset)


def _doctor_config(config: RunConfig, out: Path, *, rate_range: bool) -> Iterator[Checked]:
    dataset = diagnosis.open_dataset(Path(config.data)) if config.data else None
    if isinstance(dataset, Checked):
        yield dataset
        return
    problems = check_problems(_problems(config, dataset))
    yield problems
    if not problems.is_fine:
        return
    weights: Path | None = None
    if config.init_from:
        source = RunFolder(Path(config.init_from)).require()
        weights = find_checkpoint(source, "best")
        if dataset is not None:
            yield check_tokenizer(read_state(weights).tokenizer_fingerprint, dataset)
    vocab_size = config.model.vocab_size or (dataset.vocab_size if dataset else GPT2_VOCABULARY)
    model = dataclasses.replace(config.model, vocab_size=vocab_size)
    yield from diagnosis.examine(diagnosis.Plan(model, _settings(config), dataset, out, weights), rate_range=rate_range)


def _problems(config: RunConfig, dataset: TokenDataset | None) -> list[str]:
    """What `preflight` would refuse; without data, what can be known without."""
    if dataset is None:
        return config.problems()
    try:
        preflight(config, None)
    except ConfigError as error:
        return error.problems
    return []


def _doctor_run(run: RunFolder, data: Path | None, text: GenerationOptions | None) -> Iterator[Checked]:
    config = load_config(run.config)
    folder = data or (Path(config.data) if config.data else None)
    dataset = diagnosis.open_dataset(folder) if folder is not None and folder.is_dir() else None
    known = None
    if isinstance(dataset, Checked):
        yield dataset
    elif dataset is not None:
        yield check_tokenizer(load_tokenizer(run.tokenizer).fingerprint, dataset)
        known = ladder(dataset)
    yield from examine_run(
        Record.read(run),
        config.model,
        _settings(config),
        known,
        train_tokens=dataset.info.train.tokens if isinstance(dataset, TokenDataset) else 0,
        is_fresh=not config.init_from,
    )
    replayed = check_replay(
        Record.read(run), config.model, _settings(config), dataset if isinstance(dataset, TokenDataset) else None
    )
    yield from [replayed] if replayed else []
    if text is not None:
        if dataset is None or known is None or isinstance(dataset, Checked):
            raise UsageError(f"--text needs held-out text, and the data of {run.path} are gone; name some with --data")
        yield from _doctor_text(run, dataset, known, text)


def report(run: str | Path, checks: list[Checked]) -> Path:
    """Write a run's `report.html` with these checks; where it is.

    Raises:
        CheckpointError: there is no run, or its folder cannot be written to.
    """
    folder = RunFolder(Path(run)).require()
    config = load_config(folder.config)
    dataset = diagnosis.open_dataset(Path(config.data)) if config.data and Path(config.data).is_dir() else None
    known = ladder(dataset) if isinstance(dataset, TokenDataset) else None
    try:
        write_report(Record.read(folder), checks, known)
    except OSError as error:
        raise CheckpointError(f"{folder.report} cannot be written: {error.strerror}") from error
    return folder.report


def _doctor_text(run: RunFolder, dataset: TokenDataset, known: Ladder, options: GenerationOptions) -> Iterator[Checked]:
    loaded = load(run.path)
    loss = evaluate_dataset(loaded.model, dataset, limit=HELD_OUT_TOKENS).loss
    held_out = sample(dataset.split("validation"), HELD_OUT_TOKENS).tolist()
    prompts = held_out_prompts(held_out, loaded.tokenizer, loaded.model.config.context_length)
    yield from examine_text(loaded.writer, loaded.tokenizer, prompts, options, validation_loss=loss, ladder=known)
