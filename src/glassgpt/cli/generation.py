"""`glassgpt generate` and `glassgpt bench generate`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from glassgpt import console
from glassgpt.cli.generation_flags import PROMPT_AND_OUTPUT, options_from_flags, read_prompts, strategy_from_flags
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
from glassgpt.errors import GenerationError, UsageError

if TYPE_CHECKING:
    from glassgpt.api import LoadedModel
    from glassgpt.generation.engine.output import Sample, TokenChunk
    from glassgpt.generation.options import GenerationOptions
    from glassgpt.generation.strategies import DecodingStrategy

EXPLAINED_TOKENS, MAX_EXPLAINED_TOKENS = 20, 200
"""Tokens that --explain generates by default, and at most: it prints a table for each."""
EXPLAINED_CANDIDATES = 5


def generate(
    run: Run,
    *,
    prompt: Annotated[
        tuple[str, ...], Parameter(allow_leading_hyphen=True, negative="", show_default=False, group=PROMPT_AND_OUTPUT)
    ] = (),
    prompts: Annotated[Path | None, Parameter(allow_leading_hyphen=True, group=PROMPT_AND_OUTPUT)] = None,
    normalize: Annotated[Literal["nfc"] | None, Parameter(group=PROMPT_AND_OUTPUT)] = None,
    settings: PresetOption = None,
    options: GenerationArguments | None = None,
    strategy: StrategyArguments | None = None,
    explain: Annotated[Flag, Parameter(group=PROMPT_AND_OUTPUT)] = False,
    json: Annotated[Flag, Parameter(group=PROMPT_AND_OUTPUT)] = False,
    checkpoint: Checkpoint = "best",
    device: Device = "auto",
    precision: Literal["auto", "float32", "bfloat16", "int8"] = "auto",
) -> None:
    """Generate text with a run's model. Tokens are sampled, unless an option selects beam or contrastive search.

    Parameters
    ----------
    prompt:
        Text to continue; - reads standard input. May be repeated. Without a prompt, a new document is started.
    prompts:
        File with one prompt per line, processed together; - reads standard input.
    normalize:
        nfc composes characters of the prompts that are decomposed, such as Korean from macOS.
    explain:
        Show for each token the candidates and their probabilities before and after each logits processor.
    json:
        Print one JSON object per sample with prompt and sample number, text, tokens and finish_reason, and the fields
        of beam search, --logprobs or --explain.
    precision:
        Precision of the weights. On a CPU, auto is the fastest exact kernel; bfloat16 and int8 change the text slightly and
        report by how much.
    """
    from glassgpt import api
    from glassgpt.generation.engine.prompt import random_seed

    texts, chosen = _normalized(read_prompts(prompt, prompts), normalize), strategy_from_flags(strategy or {})
    given: dict[str, Any] = {**({"max_tokens": EXPLAINED_TOKENS} if explain else {}), **(options or {})}
    # A search has its own defaults; everything else samples, with a seed that can be reported.
    defaults = dict(chosen.defaults) if chosen and chosen.defaults else {"seed": random_seed()}
    parsed = options_from_flags(defaults, settings, given)
    if parsed.logprobs and not (json or explain):
        raise UsageError("--logprobs needs --json or --explain, which print them; add one of them")
    if explain and "seed" not in defaults:
        raise UsageError(
            "--explain shows what tokens were sampled from, but a search does not sample; remove one of them"
        )
    loaded, loaded_strategy = api.load_for_generation(run, parsed, chosen, len(texts), checkpoint, device, precision)
    console.info(f"checkpoint: {loaded.checkpoint}")
    _print_kernel(loaded)
    if precision in ("bfloat16", "int8"):
        _print_precision_cost(run, loaded, precision)
    print_generation(loaded, texts, parsed, loaded_strategy, as_json=json, explain=explain)
    if "seed" in defaults and "seed" not in given and not parsed.is_greedy:
        console.info(f"(to repeat this text: --seed {parsed.seed})")


def _normalized(prompts: Sequence[str | None], form: str | None) -> list[str | None]:
    """Compose the prompts if asked to, and note decomposed ones otherwise."""
    from glassgpt.data.remarks import is_decomposed, normalized

    if form:
        return [prompt and normalized(prompt, (form,)) for prompt in prompts]
    if any(prompt and is_decomposed(prompt) for prompt in prompts):
        console.info(
            "note: the prompt has characters in decomposed form (NFD), which can cost three times the tokens; "
            "compose them with --normalize nfc"
        )
    return [*prompts]


def _print_kernel(loaded: LoadedModel) -> None:
    """Print which CPU kernel was chosen, if any were timed to choose it."""
    from glassgpt.generation.precision import kernel_choice

    choice = kernel_choice(loaded.model, loaded.precision, batch_size=loaded.batch_size)
    if choice is not None and choice.milliseconds:
        console.info(choice.describe())


def _print_precision_cost(run: Path, loaded: LoadedModel, precision: str) -> None:
    from glassgpt import api
    from glassgpt.evaluation.precision_cost import perplexity_cost
    from glassgpt.evaluation.show import ConsoleObserver, show_precision_cost

    held_out, observer = api.held_out_dataset(run, loaded.tokenizer), ConsoleObserver()
    cost = perplexity_cost(loaded.model, loaded.decoding_model, held_out, observer=observer) if held_out else None
    show_precision_cost(cost, precision, held_out)


def print_generation(
    loaded: LoadedModel,
    prompts: Sequence[str | None],
    options: GenerationOptions,
    strategy: DecodingStrategy | None,
    *,
    as_json: bool,
    explain: bool,
) -> None:
    """Generate and print, as text or JSON lines, with log-probabilities or traces if requested.

    Raises:
        GenerationError: a prompt or an option is invalid.
    """
    from glassgpt.generation import show
    from glassgpt.generation.decoding_trace import trace_samples
    from glassgpt.generation.engine.speculative import SpeculativeDecoding
    from glassgpt.generation.strategies import generate_samples, stream_samples

    if explain and options.max_tokens > MAX_EXPLAINED_TOKENS:
        raise GenerationError(
            f"max_tokens is {options.max_tokens}; with --explain it must be at most {MAX_EXPLAINED_TOKENS}, because "
            "each token gets a table"
        )
    model, tokenizer = loaded.decoding_model, loaded.tokenizer
    is_sampled = strategy is None or isinstance(strategy, SpeculativeDecoding)
    reasons: set[str | None] = set()
    if is_sampled and len(prompts) == options.num_samples == 1 and not (as_json or explain):
        chunks = _record_chunks(stream_samples(model, tokenizer, prompts[0], options, strategy), reasons)
        is_cut = show.print_stream(prompts[0], chunks, options.max_tokens)
    else:
        results = show.with_progress(generate_samples(model, tokenizer, prompts, options, strategy), len(prompts))
        results = _record_samples(results, reasons)
        top = options.logprobs or EXPLAINED_CANDIDATES
        traced = trace_samples(model, tokenizer, prompts, options, results, top=top)
        is_cut = False
        if explain and as_json:
            show.print_json_with_traces(traced, tokenizer)
        elif explain:
            show.print_traces(prompts, traced, tokenizer)
        elif as_json and options.logprobs:
            show.print_json_with_logprobs(traced, tokenizer)
        elif as_json:
            show.print_json(results)
        else:
            is_cut = show.print_texts(prompts, results, options.max_tokens)
    if options.has_form and "length" in reasons:
        show.print_form_cut(options.max_tokens)
    if is_cut:
        show.print_context_full(model.config.context_length, can_continue=is_sampled)
    if isinstance(strategy, SpeculativeDecoding):
        show.print_acceptance_stats(strategy.stats)


def _record_chunks(chunks: Iterator[TokenChunk], reasons: set[str | None]) -> Iterator[TokenChunk]:
    for chunk in chunks:
        reasons.add(chunk.finish_reason)
        yield chunk


def _record_samples(results: Iterator[list[Sample]], reasons: set[str | None]) -> Iterator[list[Sample]]:
    for samples in results:
        reasons.update(sample.finish_reason for sample in samples)
        yield samples


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
    """Measure generation: time to first token, time per token, tokens per second, peak memory, share of the bandwidth.

    Parameters
    ----------
    model:
        A run, or a preset, whose model gets random weights.
    batch:
        Batch sizes, separated by commas.
    prompt_tokens:
        Tokens of each prompt; by default 64, or a quarter of a smaller context.
    new_tokens:
        New tokens of each text; by default 256, or as many as still fit into a smaller context.
    top_k:
        Sample among the k most probable tokens; 0 disables it.
    top_p:
        Sample among the most probable tokens that together reach this probability; 1 disables it.
    rounds:
        Number of timed rounds.
    precision:
        Of the weights.
    """
    from glassgpt import api
    from glassgpt.generation.show import print_generation_speed

    speeds, context = api.bench_generate(
        model, batch, prompt_tokens, new_tokens, rounds, top_k=top_k, top_p=top_p, device=device, precision=precision,
        overrides=overrides, on_batch=lambda size: console.info(f"measuring a batch of {size} …"),
    )  # fmt: skip
    print_generation_speed(speeds, context)
