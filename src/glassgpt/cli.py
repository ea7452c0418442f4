"""The command line. Each command's body imports what it needs, so that help never loads torch.

Results go to standard output, all else to standard error. Exit code 0 is success, 2 a command that cannot
work as given, 1 a failure on the way, 128 + signal an interruption that was honoured.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import cyclopts
from cyclopts import App, Group, Parameter

import glassgpt
from glassgpt import console
from glassgpt.errors import GlassGPTError, Interrupted, UsageError
from glassgpt.generation.flags import PROMPT_AND_OUTPUT, Flags, ProcessorFlags
from glassgpt.generation.search_flags import MethodFlags

app = App(
    name="glassgpt",
    help="A complete GPT-2 that one can see through: prepare text, train, generate, evaluate, look inside, diagnose.",
    version=glassgpt.__version__,
    help_epilogue="Every command takes --debug for a full traceback. Start with: glassgpt demo",
)
config_app = App(name="config", help="Show presets and every setting.")
app.command(config_app)
bench_app = App(name="bench", help="Measure how fast this machine is.")
app.command(bench_app)

Words = Annotated[str, Parameter(allow_leading_hyphen=True)]
"""Arguments without a name, among which - stands for standard input."""
Overrides = Annotated[dict[str, str], Parameter(parse=False)]
"""Dotted settings (`--train.learning-rate 3e-4`), taken from the command line by `main`."""

HELD_OUT = Group("Held-out text", sort_key=1)
WRITTEN = Group("Generated text", sort_key=2)

GivenOptions = Annotated[Flags, Parameter(name="*")]
"""The settings of a generation that were given, each an option of its own."""
GivenMethod = Annotated[MethodFlags, Parameter(name="*")]
"""The settings of a search or of speculation that were given."""
GivenProcessors = Annotated[ProcessorFlags, Parameter(name="*")]
"""Those of them that shape the probabilities of a single token."""


@app.command
def prepare(
    *sources: Words,
    out: Path,
    tokenizer: str = "gpt2",
    field: str = "text",
    validation_fraction: float = 0.1,
    validation_source: Annotated[tuple[str, ...], Parameter(negative="", allow_leading_hyphen=True)] = (),
    split: Literal["document", "tail"] = "document",
    seed: int = 1337,
    workers: int = 0,
    keep_duplicates: Annotated[bool, Parameter(negative="")] = False,
    force: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """Turn text into a data set: documents, tokens, shards.

    Parameters
    ----------
    sources:
        Text files, folders, globs, .jsonl, .parquet, any of them .gz, .xz or .zst; - for standard input;
        hf:NAME for a Hugging Face dataset; a URL; or the named sources shakespeare and grammar.
    out:
        Folder of the data set.
    tokenizer:
        gpt2, bytes, a path that holds a tokenizer, or one to train: bpe:SIZE, unigram:SIZE, sentencepiece:SIZE.
    field:
        Which field of a .jsonl or .parquet row is the text.
    validation_fraction:
        Share of the text that is held out.
    validation_source:
        A source that is the held-out text, the others then being for training alone; may be repeated.
    split:
        Hold out whole documents, or the tail of each; of fewer than ten documents always the tail of each.
    seed:
        Decides which documents are held out.
    workers:
        Parallel tokenizers; 0 takes all cores.
    keep_duplicates:
        Keep exact duplicates of documents instead of dropping them.
    force:
        Replace a data set that is there already.
    """
    from glassgpt.data.prepare import PrepareOptions, prepare_aloud

    _refuse_options(sources)
    if not sources:
        raise UsageError("no source is named; give files, folders, or the named source shakespeare")
    options = PrepareOptions(
        sources=sources,
        out=out,
        tokenizer=tokenizer,
        field=field,
        validation_fraction=validation_fraction,
        validation_sources=validation_source,
        split=split,
        seed=seed,
        workers=workers,
        deduplicate=not keep_duplicates,
        force=force,
    )
    prepare_aloud(options)
    console.say(f"the data set is in {out}; train on it with: glassgpt train PRESET --data {out}")


def _refuse_options(words: Sequence[str]) -> None:
    for word in words:
        if re.match(r"--?[a-zA-Z]", word):
            raise UsageError(f"unknown option {word}; see: glassgpt --help")


@app.command
def tokenize(
    *texts: Words,
    tokenizer: Annotated[tuple[str, ...], Parameter(name=("--tokenizer", "-t"), negative="")] = ("gpt2",),
    compare: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """Show the pieces of a text in colour, with ids and bytes; or compare tokenizers and languages.

    Parameters
    ----------
    texts:
        The text; - reads standard input.
    tokenizer:
        gpt2, bytes, or a path (a tokenizer.json, a data set, a run); may be repeated.
    compare:
        Compare the tokenizers by characters per token, on the texts or else on eight languages and code.
    """
    from glassgpt.data.show import compare_tokenizers, show_tokens
    from glassgpt.data.tokenizers import load_tokenizer

    _refuse_options(texts)
    texts = tuple(sys.stdin.read() if text == "-" else text for text in texts)
    if compare:
        compare_tokenizers(tokenizer, {text[:30]: text for text in texts} or None)
        return
    if not texts:
        raise UsageError("no text is given; write it in quotes, use - for standard input, or ask for --compare")
    for name in tokenizer:
        for text in texts:
            show_tokens(load_tokenizer(name), text)


@app.command
def model(preset: str, *, overrides: Overrides) -> None:
    """Print a model's parameters by part, its memory to train and to run, and its arithmetic.

    Parameters
    ----------
    preset:
        A preset's name, a TOML file or a run. Any model setting can be changed: --model.n-layer 6.
    """
    from glassgpt.config import load_config
    from glassgpt.model.show import show_model

    show_model(load_config(preset, overrides).model)


@app.command
def train(
    preset: str | None = None,
    *,
    data: Path | None = None,
    out: Path | None = None,
    resume: Annotated[bool, Parameter(negative="")] = False,
    seed: int | None = None,
    init_from: Path | None = None,
    gpus: int = 1,
    tensorboard: Annotated[bool, Parameter(negative="")] = False,
    watch: Annotated[bool, Parameter(negative="")] = False,
    no_recover: Annotated[bool, Parameter(negative="")] = False,
    overrides: Overrides,
) -> None:
    """Train a model. Ctrl-C saves at the next step and says how to go on; a second one leaves at once.

    Parameters
    ----------
    preset:
        A preset's name (glassgpt config list) or a TOML file; with --resume, not needed.
    data:
        Data set made by glassgpt prepare.
    out:
        Folder of the run; by default runs/PRESET.
    resume:
        Go on with the run in --out from its newest whole checkpoint, exactly as if it had never stopped.
    seed:
        Of the initial weights, the order of the data and dropout.
    init_from:
        Start from the weights of another run, trained or imported.
    gpus:
        Processes to train with, one on each GPU (or all on the CPU, where there is none): a shorthand for
        torchrun --standalone --nproc-per-node=N -m glassgpt train, which also spans machines.
    tensorboard:
        Also write TensorBoard events (extra: tensorboard).
    watch:
        Look into every layer every --diagnosis.sample-every-steps and write it to layers.jsonl; a table of gradients
        and updates is printed.
    no_recover:
        Stop at a step that is not finite, and say why, instead of skipping it; take no other remedy either.
    """
    from glassgpt import api
    from glassgpt.config import load_config
    from glassgpt.training.launch import is_restart, launch, launched_by_torchrun, mute_other_ranks

    if gpus < 1:
        raise UsageError(f"--gpus is {gpus}; it must be at least 1")
    mute_other_ranks()
    resume = resume or is_restart()

    named = {"data": data, "seed": seed, "init_from": init_from}
    named |= {"diagnosis.watch": "full" if watch else None, "diagnosis.recover": "false" if no_recover else None}
    overrides = overrides | {name: str(value) for name, value in named.items() if value is not None}
    if preset is None and not resume:
        raise UsageError("no preset is named; see them with: glassgpt config list")
    if resume and out is None and preset is not None and Path(preset).is_dir():
        out, preset = Path(preset), None
    if out is None:
        if preset is None:
            raise UsageError("which run is to be resumed? Name it with --out RUN")
        out = Path("runs") / Path(preset).stem
    if resume and (out / "config.toml").is_file():
        config = api.resumed_config(out, overrides)
    elif resume and preset is None:
        raise UsageError(f"there is no run in {out} to resume")
    else:
        config = load_config(preset, overrides)
    if gpus > 1 and not launched_by_torchrun():
        api.check(config, out, processes=gpus, resume=resume)
        launch(gpus, sys.argv[1:], f"go on from the last checkpoint with: glassgpt train --resume --out {out}")
        return
    outcome = api.train(config, out, resume=resume, tensorboard=tensorboard)
    _say_outcome(outcome, out)


def _say_outcome(outcome: Any, out: Path) -> None:
    early = ", stopped early" if outcome.stopped_early else ""
    console.say(f"{outcome.step:,} steps in {console.duration(outcome.seconds)}{early}; the run is in {out}")
    console.say(f"its curve is {out / 'loss.png'}; let it write with: glassgpt generate {out} --prompt TEXT")
    console.result(f"validation: {outcome.validation.loss:.4f} nats per token")
    console.result(f"validation: {outcome.validation.bits_per_byte:.2f} bits per byte")


@app.command
def generate(
    run: Path,
    *,
    prompt: Annotated[
        tuple[str, ...], Parameter(allow_leading_hyphen=True, negative="", show_default=False, group=PROMPT_AND_OUTPUT)
    ] = (),
    prompts: Annotated[Path | None, Parameter(allow_leading_hyphen=True, group=PROMPT_AND_OUTPUT)] = None,
    settings: str | None = None,
    options: GivenOptions | None = None,
    method: GivenMethod | None = None,
    explain: Annotated[bool, Parameter(negative="", group=PROMPT_AND_OUTPUT)] = False,
    json: Annotated[bool, Parameter(negative="", group=PROMPT_AND_OUTPUT)] = False,
    checkpoint: str = "best",
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto",
    precision: Literal["auto", "float32", "bfloat16", "int8"] = "auto",
) -> None:
    """Let a run's model write, as it comes. Options of a search ask for it; without any, tokens are drawn.

    Parameters
    ----------
    run:
        Folder of the run.
    prompt:
        Text to continue; without it, a new document is begun. - reads standard input. May be repeated.
    prompts:
        File with a prompt on each line, all written together. - reads standard input.
    settings:
        Ready settings by purpose (chat, code, creative, technical) or a TOML file with one's own; options win.
    explain:
        Show, token by token, the candidates with their probabilities before and after each processor.
    json:
        Print one JSON object a sample: prompt and sample by number, text, tokens, finish_reason, and what a search,
        --logprobs or --explain add.
    checkpoint:
        best, latest or step-NNNNNN.
    device:
        Where to run.
    precision:
        Of the weights on a CPU: auto is the fastest exact way; bfloat16 and int8 change the text a little, and say
        how much.
    """
    from glassgpt import api
    from glassgpt.evaluation.precision_cost import say_precision_cost
    from glassgpt.generation.engine import fresh_seed
    from glassgpt.generation.flags import options_from, prompts_from
    from glassgpt.generation.search_flags import method_from
    from glassgpt.generation.search_options import SpeculativeOptions
    from glassgpt.generation.show import EXPLAINED_TOKENS, print_written

    texts = prompts_from(prompt, prompts)
    how = method_from(method or {})
    draws = how is None or isinstance(how, SpeculativeOptions)
    given: dict[str, Any] = {**({"max_tokens": EXPLAINED_TOKENS} if explain else {}), **(options or {})}
    asked = options_from({"seed": fresh_seed()} if draws else {"temperature": 0}, settings, given)
    if asked.logprobs and not (json or explain):
        raise UsageError("--logprobs are printed with --json or --explain; add one of them")
    if explain and not draws:
        raise UsageError("--explain shows what tokens were drawn from, and a search draws none; leave one of them out")
    loaded, ready = api.load_writer(run, asked, how, len(texts), checkpoint, device, precision)
    if precision in ("bfloat16", "int8"):
        say_precision_cost(loaded.model, loaded.writer, precision, api.held_out_text(run, loaded.tokenizer))
    print_written(loaded.writer, loaded.tokenizer, texts, asked, ready, as_json=json, explain=explain)
    if draws and "seed" not in given and not asked.is_greedy:
        console.say(f"(the same text again: --seed {asked.seed})")


@app.command
def inspect(
    run: Path,
    *,
    prompt: Annotated[str | None, Parameter(allow_leading_hyphen=True)] = None,
    text: Annotated[bool, Parameter(negative="")] = False,
    save: Path | None = None,
    compare: Path | None = None,
    port: int = 0,
    browser: bool = True,
    head: str | None = None,
    ablate: Annotated[tuple[str, ...], Parameter(negative="", show_default=False)] = (),
    patch: Annotated[tuple[str, ...], Parameter(negative="", show_default=False)] = (),
    settings: str | None = None,
    options: GivenProcessors | None = None,
    checkpoint: str = "best",
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto",
) -> None:
    """Follow a text through a run's model, from its bytes to the next token: in the browser, or printed.

    Parameters
    ----------
    run:
        Folder of the run.
    prompt:
        Text to look at; without it, the token that begins a document. - reads standard input.
    text:
        Print the essentials: merges, logit lens, kinds of heads, one head's attention, the next token's candidates.
    save:
        Write one HTML file that shows it without a network, instead of serving a page.
    compare:
        Folder of another run, to put beside this one on the page.
    port:
        Of the page, on this machine alone; 0 takes a free one (extra: serve).
    browser:
        Open the page in the browser.
    head:
        With --text: LAYER.HEAD whose attention is drawn; by default the one with the clearest pattern.
    ablate:
        With --text: switch a part off and show what changes: head:LAYER.HEAD, attention:LAYER, mlp:LAYER, block:LAYER or
        position:NUMBER; scaled instead with =NUMBER; may be repeated.
    patch:
        With --text: put in place of an activation that of another text, NAME=TEXT everywhere or NAME@POSITION=TEXT
        (several with commas), as blocks.0.output@5=the old queen; may be repeated.
    settings:
        Ready settings by purpose (chat, code, creative, technical) or a TOML file with one's own; options win.
    checkpoint:
        best, latest or step-NNNNNN.
    device:
        Where to run.
    """
    from glassgpt import api
    from glassgpt.generation.flags import options_from
    from glassgpt.inspection.desk import Desk, Subject
    from glassgpt.inspection.saved import save_page
    from glassgpt.inspection.serve import serve_page
    from glassgpt.inspection.show import show_trace
    from glassgpt.inspection.trace import trace
    from glassgpt.training.run import RunFolder

    if (ablate or head or patch) and not text:
        raise UsageError("--ablate, --patch and --head are of --text; on the page, one clicks")
    if compare and (text or save):
        raise UsageError("--compare is of the page; leave --text and --save out")
    if text and save:
        raise UsageError("--text and --save exclude each other")
    if not 0 <= port < 1 << 16:
        raise UsageError(f"--port is {port}; allowed is 1 to 65535, or 0 for a free one")
    if prompt == "-":
        prompt = sys.stdin.read()
    asked = options_from({}, settings, options or {})
    loaded = api.load(run, checkpoint=checkpoint, device=device)
    if text:
        show_trace(trace(loaded.model, loaded.tokenizer, prompt, asked), ablate=ablate, patch=patch, head=head)
    elif save:
        save_page(trace(loaded.model, loaded.tokenizer, prompt, asked), save)
        console.say(f"wrote {save}; open it in any browser")
    else:
        runs = [(run, loaded)] + ([(compare, api.load(compare, device=device))] if compare else [])
        subjects = [Subject(str(path), each.model, each.tokenizer, RunFolder(path)) for path, each in runs]
        serve_page(Desk(subjects, prompt, asked), port=port, browser=browser)


@app.command
def evaluate(
    run: Path,
    *,
    data: Path | None = None,
    checkpoint: str = "best",
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto",
    context_length: Annotated[int, Parameter(group=HELD_OUT)] = 0,
    stride: Annotated[int, Parameter(group=HELD_OUT)] = 0,
    per_document: Annotated[bool, Parameter(negative="", group=HELD_OUT)] = False,
    generate: Annotated[bool, Parameter(negative="", group=WRITTEN)] = False,
    compare: Annotated[str | None, Parameter(group=WRITTEN)] = None,
    prompts: Annotated[int, Parameter(group=WRITTEN)] = 32,
    prompt_tokens: Annotated[int, Parameter(group=WRITTEN)] = 0,
    new_tokens: Annotated[int, Parameter(group=WRITTEN)] = 128,
    seed: Annotated[int, Parameter(group=WRITTEN)] = 0,
    embedding_model: Annotated[Path | None, Parameter(group=WRITTEN)] = None,
    samples: Annotated[int, Parameter(group=WRITTEN)] = 2,
    picture: Annotated[Path | None, Parameter(group=WRITTEN)] = None,
    json: Annotated[bool, Parameter(negative="")] = False,
    json_file: Path | None = None,
) -> None:
    """How well a run's model predicts held-out text, and how good the text is that it writes.

    Parameters
    ----------
    run:
        Folder of the run.
    data:
        Data set; by default the one that the run was trained on.
    checkpoint:
        best, latest or step-NNNNNN.
    device:
        Where to run.
    context_length:
        Tokens the model sees at once; 0 takes its whole context.
    stride:
        Slide the window by so many tokens, each token scored once with at least context - stride before it; 0 cuts
        the text into windows without overlap.
    per_document:
        Loss and perplexity of each held-out document too, read alone: the hardest and the easiest.
    generate:
        Let the model go on from held-out prompts and measure the texts beside what people wrote there.
    compare:
        The same for several settings, separated by commas: ready settings, greedy, pure, default, files that end in
        .toml, or like temperature=0.7+top_p=0.9.
    prompts:
        How many prompts: beginnings of held-out documents, then stretches from inside.
    prompt_tokens:
        Tokens of a prompt; 0 takes 32, or half of a smaller context.
    new_tokens:
        Most tokens of a text.
    seed:
        Decides which prompts, and each text.
    embedding_model:
        Folder of a sentence-embedding model on this machine, for coherence; by default the model's own hidden states.
    samples:
        Prompts whose texts are printed below the figures.
    picture:
        Draw the comparison into this .png, .svg or .pdf.
    json:
        Print one JSON object instead.
    json_file:
        Write the JSON object into this file too.
    """
    from glassgpt import api
    from glassgpt.evaluation.compare import named_settings
    from glassgpt.evaluation.held_out import PromptOptions
    from glassgpt.evaluation.report import Questions

    given = named_settings(compare) if compare is not None else {"default": {}} if generate else {}
    if picture is not None and not given:
        raise UsageError("--picture draws a comparison; add --compare SETTINGS or --generate")
    questions = Questions(
        context_length=context_length,
        stride=stride,
        per_document=per_document,
        settings=given,
        prompts=PromptOptions(prompts, prompt_tokens, new_tokens, seed),
        embedding_model=embedding_model,
    )
    loaded, dataset = api.load_with_data(run, data, checkpoint=checkpoint, device=device, rows=prompts)
    api.evaluate(loaded, dataset, questions, as_json=json, samples=samples, json_file=json_file, picture=picture)


@app.command(name="sweep-decoding")
def sweep_decoding(
    run: Path,
    *,
    purpose: Annotated[str, Parameter(name="--for")],
    out: Path | None = None,
    force: Annotated[bool, Parameter(negative="")] = False,
    budget: int = 1500,
    prompts: int = 64,
    prompt_tokens: int = 0,
    new_tokens: int = 96,
    seed: int = 0,
    samples: int = 1,
    data: Path | None = None,
    checkpoint: str = "best",
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto",
) -> None:
    """Search temperature, top-p or min-p and repetition penalty for a purpose, by what people wrote on the same prompts.

    Parameters
    ----------
    run:
        Folder of the run.
    purpose:
        creative, technical, chat or code: decides what is better, and whose other settings are kept.
    out:
        Settings file to write, for generate --settings; by default decoding-PURPOSE.toml in the run.
    force:
        Write over a file that is there.
    budget:
        Texts that the search may write, about; more is slower and surer.
    prompts:
        Held-out prompts that the last settings are compared on, at most; half as many again are set aside to check
        the winner beside the ready setting and generate's default.
    prompt_tokens:
        Tokens of a prompt; 0 takes 32, or half of a smaller context.
    new_tokens:
        Most tokens of a text.
    seed:
        Decides which prompts, and each text; the same seed finds the same setting.
    samples:
        Prompts whose texts are printed below the ranking.
    data:
        Data set; by default the one that the run was trained on.
    checkpoint:
        best, latest or step-NNNNNN.
    device:
        Where to run.
    """
    from glassgpt import api
    from glassgpt.evaluation.held_out import PromptOptions
    from glassgpt.evaluation.objectives import objective_for
    from glassgpt.evaluation.sweep_show import show_sweep

    objective_for(purpose)
    if samples < 0:
        raise UsageError(f"--samples is {samples}; allowed is 0 or more")
    path = out or run / f"decoding-{purpose}.toml"
    if path.suffix != ".toml" or (out is not None and not path.absolute().parent.is_dir()):
        raise UsageError(f"--out is {path}; allowed is a name that ends in .toml, in a folder that exists")
    if path.exists() and not force:
        raise UsageError(f"{path} is there already; write over it with --force, or choose another --out")
    loaded, dataset = api.load_with_data(run, data, checkpoint=checkpoint, device=device, rows=prompts)
    options = PromptOptions(prompts, prompt_tokens, new_tokens, seed)
    found = api.sweep_decoding(loaded, dataset, purpose, options, budget=budget, out=path, run=run.absolute().name)
    show_sweep(found, loaded.tokenizer, samples)
    console.say(f"wrote {path}; use it with: glassgpt generate {run} --settings {path}")


@app.command
def doctor(
    target: str | None = None,
    *,
    data: Path | None = None,
    rate_range: Annotated[bool, Parameter(negative="")] = False,
    text: Annotated[bool, Parameter(negative="")] = False,
    settings: str | None = None,
    options: GivenOptions | None = None,
    report: Annotated[bool, Parameter(negative="")] = False,
    json: Annotated[bool, Parameter(negative="")] = False,
    language: Literal["auto", "en", "ko"] = "auto",
    overrides: Overrides,
) -> None:
    """Find out what is wrong, or would go wrong, and what to change. Exit code 1: it breaks the run.

    Parameters
    ----------
    target:
        A preset's name or TOML file, before training; a run, also a dead one; a data set; or a finding's code
        (GG-NAN-002), to be explained. Without it, this machine is looked at.
    data:
        Data set that a preset is to be trained on.
    rate_range:
        Also try learning rates from 1e-7 to 1, suggest one and draw rate-range.png.
    text:
        Also let a run write, and tell whether the model or a setting is at fault for poor text.
    settings:
        With --text: ready settings by purpose or a TOML file, as for generate; single options win.
    report:
        Also write a run's report.html: its curves with the events marked, and the findings.
    json:
        Print one JSON object.
    language:
        Of findings; auto takes the terminal's.
    """
    from glassgpt import api
    from glassgpt.diagnosis.catalogue import CODE, language_of_the_terminal
    from glassgpt.diagnosis.findings import is_fatal
    from glassgpt.diagnosis.show import show, show_page
    from glassgpt.generation.flags import options_from

    spoken = language_of_the_terminal() if language == "auto" else language
    if target is not None and CODE.fullmatch(target):
        show_page(target, spoken)
        return
    if not text and (settings or options):
        raise UsageError("settings of a generation are looked at with --text; add that")
    writing = options_from({}, settings, dict(options or {})) if text else None
    if report and (target is None or not Path(target).is_dir()):
        raise UsageError(f"--report is written into a run; name one instead of {target or 'nothing'}")
    checks = api.doctor(target, data=data, overrides=dict(overrides), rate_range=rate_range, text=writing)
    made = show(checks, spoken, as_json=json)
    if report:
        console.say(f"the report is {api.report(target or '.', made)}")
    if is_fatal(made):
        sys.exit(1)


@app.command(name="import")
def import_(source: str, *, out: Path) -> None:
    """Make a run of a GPT-2 or NanoChat in Hugging Face's layout.

    Parameters
    ----------
    source:
        Folder with config.json, model.safetensors and tokenizer files; or a hub id such as openai-community/gpt2.
    out:
        Folder of the run.
    """
    from glassgpt import api
    from glassgpt.interchange.huggingface import download, import_model

    if not Path(source).is_dir() and not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", source):
        raise UsageError(f"{source} is neither a folder nor the id of a model on the hub")
    folder = Path(source) if Path(source).is_dir() else download(source)
    model, tokenizer = import_model(folder)
    run = api.save_as_run(model, tokenizer, out)
    count = sum(p.numel() for p in model.parameters())
    console.say(f"imported {console.count(count, 'parameters')} and the tokenizer {tokenizer.name} into {run.path}")
    console.say(f"let it write with: glassgpt generate {run.path} --prompt TEXT")
    console.say(f"train it on with: glassgpt train {run.path} --init-from {run.path} --data DIR --out RUN")


@app.command
def export(run: Path, folder: Path, *, checkpoint: str = "best") -> None:
    """Write a run in Hugging Face's layout, GPT-2's or NanoChat's, so that transformers loads it.

    Parameters
    ----------
    run:
        Folder of the run.
    folder:
        Where to write config.json, model.safetensors and tokenizer files.
    checkpoint:
        best, latest or step-NNNNNN.
    """
    from glassgpt import api
    from glassgpt.interchange.huggingface import export_model

    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder} is there already and not empty; choose another folder")
    loaded = api.load(run, checkpoint=checkpoint, device="cpu")
    export_model(loaded.model, loaded.tokenizer, folder)
    console.say(f"wrote {folder}; load it with: AutoModelForCausalLM.from_pretrained({str(folder)!r})")


@app.command
def demo(*, out: Path = Path("runs/demo"), force: Annotated[bool, Parameter(negative="")] = False) -> None:
    """From Shakespeare's plays to a model that writes like them, in about three minutes on two cores.

    Parameters
    ----------
    out:
        Folder of the run.
    force:
        Throw an earlier demo run away and begin again.
    """
    from glassgpt.demo import run_demo

    run_demo(out, force=force)


@bench_app.command(name="train")
def bench_train(
    preset: str,
    *,
    data: Path | None = None,
    steps: int = 20,
    gpus: int = 1,
    json: Path | None = None,
    overrides: Overrides,
) -> None:
    """Train a preset some steps and tell its speed: tokens per second, where a step's time goes, MFU, memory, kernels.

    Parameters
    ----------
    preset:
        A preset's name, a TOML file or a run.
    data:
        Data set; random tokens by default, which take as long.
    steps:
        Steps that are timed.
    gpus:
        Processes to train with, as for train.
    json:
        File to write the figures to.
    """
    from glassgpt import api
    from glassgpt.config import load_config
    from glassgpt.training.launch import launch, launched_by_torchrun, mute_other_ranks
    from glassgpt.training.show import show_speed

    if steps < 2:
        raise UsageError(f"--steps is {steps}; it must be at least 2")
    mute_other_ranks()
    if data is not None:
        overrides = overrides | {"data": str(data)}
    config = load_config(preset, overrides)
    if gpus > 1 and not launched_by_torchrun():
        launch(gpus, sys.argv[1:])
        return
    show_speed(config.train.batch_tokens, api.bench_train(config, steps=steps), json)


@bench_app.command(name="generate")
def bench_generate(
    model: str,
    *,
    batch: str = "1,8,64",
    prompt_tokens: int = 64,
    new_tokens: int = 256,
    top_k: int = 50,
    top_p: float = 1.0,
    rounds: int = 5,
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto",
    precision: Literal["auto", "float32", "bfloat16", "int8"] = "auto",
    overrides: Overrides,
) -> None:
    """Write texts and tell the speed: time to the first token and for each, tokens per second, memory, and its limit.

    Parameters
    ----------
    model:
        A run, or a preset whose model is made with random weights.
    batch:
        Numbers of texts written at once, separated by commas.
    prompt_tokens:
        Tokens of each prompt.
    new_tokens:
        Tokens of each text.
    top_k:
        Draw among so many; 0 is all.
    top_p:
        Draw among the most probable tokens that have this probability together.
    rounds:
        How often each is timed.
    device:
        Where to run.
    precision:
        Of the weights.
    """
    from glassgpt import api
    from glassgpt.generation.bench import show_generation_speed

    speeds, about = api.bench_generate(
        model, batch, prompt_tokens, new_tokens, rounds, top_k=top_k, top_p=top_p, device=device, precision=precision,
        overrides=overrides,
    )  # fmt: skip
    show_generation_speed(speeds, about)


@config_app.command(name="list")
def config_list() -> None:
    """List the presets."""
    from glassgpt.config import load_config, preset_names, preset_summary

    for name in preset_names():
        model = load_config(name).model
        shape = f"{model.n_layer} layers, {model.n_head} heads, width {model.n_embd}, context {model.context_length}"
        console.result(f"{name:20} {shape}\n    {preset_summary(name)}")


@config_app.command(name="show")
def config_show(preset: str, *, overrides: Overrides) -> None:
    """Print a preset, file or run with every setting, its value and what it means, as TOML.

    Parameters
    ----------
    preset:
        A preset's name, a TOML file or a run.
    """
    from glassgpt.config import load_config, to_toml

    console.result(to_toml(load_config(preset, overrides), comments=True), end="")


def take_overrides(arguments: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Separate `--section.name value` and `--section.name=value` from all other arguments.

    Raises:
        UsageError: a setting has no value, or stands twice with different values.
    """
    rest: list[str] = []
    overrides: dict[str, str] = {}
    queue = list(arguments)
    while queue:
        argument = queue.pop(0)
        if argument == "--":
            return [*rest, argument, *queue], overrides
        match = re.fullmatch(r"--([a-z][\w-]*(?:\.[\w-]+)+)(?:=(.*))?", argument, re.DOTALL)
        if match is None:
            rest.append(argument)
            continue
        name, value = match[1].replace("-", "_"), match[2]
        if value is None:
            if not queue:
                raise UsageError(f"--{match[1]} needs a value")
            value = queue.pop(0)
        if overrides.get(name, value) != value:
            raise UsageError(f"--{match[1]} is given twice, as {overrides[name]} and as {value}")
        overrides[name] = value
    return rest, overrides


def _dispatch(arguments: Sequence[str]) -> None:
    rest, overrides = take_overrides(arguments)
    command, bound, ignored = app.parse_args(rest, exit_on_error=False, print_error=False)
    extra = {"overrides": overrides} if "overrides" in ignored else {}
    if overrides and not extra:
        raise UsageError(f"this command has no setting --{next(iter(overrides)).replace('_', '-')}")
    command(*bound.args, **bound.kwargs, **extra)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given
    if debug:
        given.remove("--debug")
    try:
        _dispatch(given)
    except cyclopts.CycloptsError as error:
        if debug:
            raise
        console.fail(f"{' '.join(str(error).split())} See: glassgpt --help")
        sys.exit(UsageError.exit_code)
    except Interrupted as stop:
        console.say(str(stop))
        sys.exit(stop.exit_code)
    except GlassGPTError as error:
        if debug:
            raise
        console.fail(str(error))
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        if debug:
            raise
        console.say("interrupted")
        sys.exit(130)
    except BrokenPipeError:
        # The reader (head, less) has what it wanted; nothing is left to be said.
        sys.stderr.close()
        sys.exit(0)
