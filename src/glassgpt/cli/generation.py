"""Let a model write, and how fast that goes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from glassgpt import console
from glassgpt.cli.generation_flags import PROMPT_AND_OUTPUT
from glassgpt.cli.shared import (
    Checkpoint,
    Device,
    Flag,
    GenerationArguments,
    Integer,
    Overrides,
    PresetOption,
    Run,
    StrategyArguments,
)
from glassgpt.errors import UsageError


def generate(
    run: Run,
    *,
    prompt: Annotated[
        tuple[str, ...], Parameter(allow_leading_hyphen=True, negative="", show_default=False, group=PROMPT_AND_OUTPUT)
    ] = (),
    prompts: Annotated[Path | None, Parameter(allow_leading_hyphen=True, group=PROMPT_AND_OUTPUT)] = None,
    settings: PresetOption = None,
    options: GenerationArguments | None = None,
    method: StrategyArguments | None = None,
    explain: Annotated[Flag, Parameter(group=PROMPT_AND_OUTPUT)] = False,
    json: Annotated[Flag, Parameter(group=PROMPT_AND_OUTPUT)] = False,
    checkpoint: Checkpoint = "best",
    device: Device = "auto",
    precision: Literal["auto", "float32", "bfloat16", "int8"] = "auto",
) -> None:
    """Let a run's model write. Tokens are drawn; with an option of a search (beams, contrastive), it searches instead.

    Parameters
    ----------
    prompt:
        Text to continue; without it, a new document is begun. - reads standard input. May be repeated.
    prompts:
        File with a prompt on each line, all written together. - reads standard input.
    explain:
        Show, token by token, the candidates with their probabilities before and after each processor.
    json:
        Print one JSON object a sample: prompt and sample by number, text, tokens, finish_reason, and what a search,
        --logprobs or --explain add.
    precision:
        Of the weights on a CPU: auto is the fastest exact way; bfloat16 and int8 change the text a little, and say
        how much.
    """
    from glassgpt import api
    from glassgpt.cli.generation_flags import options_from_flags, read_prompts, strategy_from_flags
    from glassgpt.evaluation.precision_cost import perplexity_cost
    from glassgpt.evaluation.show import ConsoleObserver, show_precision_cost
    from glassgpt.generation.engine.prompt import random_seed
    from glassgpt.generation.show import EXPLAINED_TOKENS, print_generation
    from glassgpt.generation.strategy_options import SpeculativeOptions

    texts = read_prompts(prompt, prompts)
    how = strategy_from_flags(method or {})
    draws = how is None or isinstance(how, SpeculativeOptions)
    given: dict[str, Any] = {**({"max_tokens": EXPLAINED_TOKENS} if explain else {}), **(options or {})}
    asked = options_from_flags({"seed": random_seed()} if draws else {"temperature": 0}, settings, given)
    if asked.logprobs and not (json or explain):
        raise UsageError("--logprobs are printed with --json or --explain; add one of them")
    if explain and not draws:
        raise UsageError("--explain shows what tokens were drawn from, and a search draws none; leave one of them out")
    loaded, ready = api.load_for_generation(run, asked, how, len(texts), checkpoint, device, precision)
    if precision in ("bfloat16", "int8"):
        held_out = api.held_out_text(run, loaded.tokenizer)
        observer = ConsoleObserver()
        cost = perplexity_cost(loaded.model, loaded.writer, held_out, observer=observer) if held_out else None
        show_precision_cost(cost, precision, held_out)
    print_generation(loaded.writer, loaded.tokenizer, texts, asked, ready, as_json=json, explain=explain)
    if draws and "seed" not in given and not asked.is_greedy:
        console.info(f"(the same text again: --seed {asked.seed})")


def bench_generate(
    model: str,
    *,
    batch: str = "1,8,64",
    prompt_tokens: Integer | None = None,
    new_tokens: Integer | None = None,
    top_k: Integer = 50,
    top_p: float = 1.0,
    rounds: Integer = 5,
    device: Device = "auto",
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
        Tokens of each prompt; by default 64, or a quarter of a smaller context.
    new_tokens:
        Tokens of each text; by default 256, or what a smaller context has room for.
    top_k:
        Draw among so many; 0 is all.
    top_p:
        Draw among the most probable tokens that have this probability together.
    rounds:
        How often each is timed.
    precision:
        Of the weights.
    """
    from glassgpt import api
    from glassgpt.generation.bench import print_generation_speed

    speeds, about = api.bench_generate(
        model, batch, prompt_tokens, new_tokens, rounds, top_k=top_k, top_p=top_p, device=device, precision=precision,
        overrides=overrides,
    )  # fmt: skip
    print_generation_speed(speeds, about)
