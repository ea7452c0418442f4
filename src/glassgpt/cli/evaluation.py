"""How good a model and its texts are, and which settings suit it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Group, Parameter

from glassgpt import console
from glassgpt.cli.shared import Checkpoint, Device, Flag, Integer, Run
from glassgpt.errors import UsageError

HELD_OUT = Group("Held-out text", sort_key=1)
WRITTEN = Group("Generated text", sort_key=2)


def evaluate(
    run: Run,
    *,
    data: Path | None = None,
    checkpoint: Checkpoint = "best",
    device: Device = "auto",
    context_length: Annotated[Integer, Parameter(group=HELD_OUT)] = 0,
    stride: Annotated[Integer, Parameter(group=HELD_OUT)] = 0,
    per_document: Annotated[Flag, Parameter(group=HELD_OUT)] = False,
    generate: Annotated[Flag, Parameter(group=WRITTEN)] = False,
    compare: Annotated[str | None, Parameter(group=WRITTEN)] = None,
    prompts: Annotated[Integer, Parameter(group=WRITTEN)] = 32,
    prompt_tokens: Annotated[Integer, Parameter(group=WRITTEN)] = 0,
    new_tokens: Annotated[Integer, Parameter(group=WRITTEN)] = 128,
    seed: Annotated[Integer, Parameter(group=WRITTEN)] = 0,
    embedding_model: Annotated[Path | None, Parameter(group=WRITTEN)] = None,
    samples: Annotated[Integer, Parameter(group=WRITTEN)] = 2,
    picture: Annotated[Path | None, Parameter(group=WRITTEN)] = None,
    json: Flag = False,
    json_file: Path | None = None,
    force: Flag = False,
) -> None:
    """How well a run's model predicts held-out text, and how good the text is that it writes.

    Parameters
    ----------
    data:
        Data set; by default the one that the run was trained on.
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
    force:
        Write over files that are there.
    """
    from glassgpt import api
    from glassgpt.evaluation.compare import named_settings
    from glassgpt.evaluation.evaluate import EvaluationRequest
    from glassgpt.evaluation.held_out import PromptOptions

    given = named_settings(compare) if compare is not None else {"default": {}} if generate else {}
    if picture is not None and not given:
        raise UsageError("--picture draws a comparison; add --compare SETTINGS or --generate")
    if embedding_model is not None and not given:
        raise UsageError("--embedding-model is for generated text; add --compare SETTINGS or --generate")
    questions = EvaluationRequest(
        context_length=context_length,
        stride=stride,
        per_document=per_document,
        settings=given,
        prompts=PromptOptions(prompts, prompt_tokens, new_tokens, seed),
        embedding_model=embedding_model,
    )
    loaded, dataset = api.load_with_dataset(run, data, checkpoint=checkpoint, device=device, rows=prompts)
    api.evaluate(
        loaded, dataset, questions, as_json=json, samples=samples, json_file=json_file, picture=picture, force=force
    )


def sweep_decoding(
    run: Run,
    *,
    purpose: Annotated[str, Parameter(name="--for")],
    out: Path | None = None,
    force: Flag = False,
    budget: Integer = 1500,
    prompts: Integer = 64,
    prompt_tokens: Integer = 0,
    new_tokens: Integer = 96,
    seed: Integer = 0,
    samples: Integer = 1,
    data: Path | None = None,
    checkpoint: Checkpoint = "best",
    device: Device = "auto",
) -> None:
    """Search temperature, top-p or min-p and repetition penalty for a purpose, by what people wrote on the same prompts.

    Parameters
    ----------
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
    """
    from glassgpt import api
    from glassgpt.data.files import check_output_path
    from glassgpt.evaluation.held_out import PromptOptions
    from glassgpt.evaluation.objectives import objective_for
    from glassgpt.evaluation.show_sweep import show_sweep

    objective_for(purpose)
    if samples < 0:
        raise UsageError(f"--samples is {samples}; allowed is 0 or more")
    path = out or run / f"decoding-{purpose}.toml"
    if out is not None or run.is_dir():  # a run that is not there is told by name, not by its folder
        check_output_path("--out", path, (".toml",), force=force)
    loaded, dataset = api.load_with_dataset(run, data, checkpoint=checkpoint, device=device, rows=prompts)
    options = PromptOptions(prompts, prompt_tokens, new_tokens, seed)
    found = api.sweep_decoding(loaded, dataset, purpose, options, budget=budget, out=path, run=run.absolute().name)
    show_sweep(found, loaded.tokenizer, samples)
    console.info(f"wrote {path}; use it with: glassgpt generate {run} --settings {path}")
