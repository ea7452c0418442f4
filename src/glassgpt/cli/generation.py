"""`glassgpt generate` and `glassgpt bench generate`."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from glassgpt import console, plugin
from glassgpt.cli.drawing import DRAWING, captions_of, check_drawing, draw_pictures
from glassgpt.cli.generation_flags import (
    HELP_GROUPS,
    PROMPT_AND_OUTPUT,
    GenerationArguments,
    StrategyArguments,
    options_from_flags,
    read_prompts,
    strategy_from_flags,
    values_from_flags,
)
from glassgpt.cli.media_prompts import check_media, media_prompts
from glassgpt.cli.shared import (
    Checkpoint,
    Device,
    Flag,
    Integer,
    Overrides,
    Precision,
    PresetOption,
    Run,
    run_name,
)
from glassgpt.errors import GenerationError, GenerationFailedError, GlassGPTError, UsageError
from glassgpt.generation.processors.base import CONTENT
from glassgpt.generation.processors.custom import PARAMETERS
from glassgpt.lazy import import_for_good

if TYPE_CHECKING:
    from glassgpt.api import LoadedModel
    from glassgpt.data.tokenizers import Tokenizer
    from glassgpt.generation.engine.output import Sample, TokenChunk
    from glassgpt.generation.engine.prompt import OnFailure
    from glassgpt.generation.options import GenerationOptions
    from glassgpt.generation.prompt_list import PromptList
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
    image: Annotated[tuple[Path, ...], Parameter(negative="", show_default=False, group=PROMPT_AND_OUTPUT)] = (),
    audio: Annotated[tuple[Path, ...], Parameter(negative="", show_default=False, group=PROMPT_AND_OUTPUT)] = (),
    draw: Annotated[
        tuple[str, ...], Parameter(allow_leading_hyphen=True, negative="", show_default=False, group=DRAWING)
    ] = (),
    out: Annotated[Path | None, Parameter(group=DRAWING)] = None,
    image_tokenizer: Annotated[Path | None, Parameter(group=DRAWING)] = None,
    normalize: Annotated[Literal["nfc"] | None, Parameter(group=PROMPT_AND_OUTPUT)] = None,
    settings: PresetOption = None,
    options: GenerationArguments | None = None,
    strategy: StrategyArguments | None = None,
    processor: Annotated[tuple[str, ...], Parameter(negative="", show_default=False, group=HELP_GROUPS[CONTENT])] = (),
    explain: Annotated[Flag, Parameter(group=PROMPT_AND_OUTPUT)] = False,
    json: Annotated[Flag, Parameter(group=PROMPT_AND_OUTPUT)] = False,
    checkpoint: Checkpoint = "best",
    device: Device = "auto",
    precision: Precision = "auto",
) -> None:
    """Generate text with a run's model. Tokens are sampled, unless an option selects beam or contrastive search.

    Parameters
    ----------
    prompt:
        Text to continue; - reads standard input. May be repeated. Without a prompt, a new document is started.
    prompts:
        File with one prompt per line, processed together; - reads standard input.
    image:
        Picture that comes before each prompt, or where it spells <|image|>. May be repeated.
    audio:
        Sound that comes before each prompt, or where it spells <|audio|>. May be repeated.
    draw:
        Caption of a picture to draw, by a run that was trained on a dataset of prepare --draw; - reads one per line from
        standard input. May be repeated. --num-samples draws several of each.
    out:
        PNG file for the picture, or for a sheet of several: row by row, in the order of the captions, each with its samples; or
        a new folder, for a file per picture and drawings.jsonl, which names them.
    image_tokenizer:
        Folder of the image tokenizer with which the dataset was prepared; by default where it was then.
    normalize:
        nfc composes characters of the prompts that are decomposed, such as Korean from macOS.
    processor:
        Logits processor of your own, as module:function: it maps logits (B, V) and histories to logits, before the temperature.
        May be repeated.
    explain:
        Show for each token the candidates and their probabilities before and after each logits processor.
    json:
        Print one JSON object per sample with prompt and sample number, the prompt's text and line, text, tokens and
        finish_reason, and the fields of beam search, --logprobs or --explain.
    precision:
        Precision of the weights. On a CPU, auto is the fastest exact kernel; bfloat16 and int8 change the text slightly, and
        the perplexity before and after is printed. The same holds for fp8 and fp8-kv, on GPUs from Ada or Hopper on; fp8-kv
        also keeps keys and values in 8 bits, in half the memory. Neither is faster than bfloat16.
    """
    from glassgpt.generation.strategy_options import SpeculativeOptions
    from glassgpt.training.checksums import require_checkpoint_and_hash
    from glassgpt.training.run_folder import RunFolder

    RunFolder(run).require()
    if draw or out is not None or image_tokenizer is not None:
        of_text = {
            "prompt": prompt, "prompts": prompts, "image": image, "audio": audio, "normalize": normalize, "settings": settings,
            "processor": processor, "explain": explain, "json": json, **(strategy or {}),
        }  # fmt: skip
        place = check_drawing(draw, out, values_from_flags(options or {}), of_text)
        require_checkpoint_and_hash(RunFolder(run), checkpoint)
        loading = {"checkpoint": checkpoint, "device": device, "precision": precision}
        draw_pictures(run, captions_of(draw), place, image_tokenizer, values_from_flags(options or {}), loading)
        return
    given_prompts, chosen = _normalized(read_prompts(prompt, prompts), normalize), strategy_from_flags(strategy or {})
    if isinstance(chosen, SpeculativeOptions) and chosen.draft is not None:
        RunFolder(chosen.draft).require()
    given: dict[str, Any] = {**({"max_tokens": EXPLAINED_TOKENS} if explain else {}), **(options or {})}
    options_from_flags({}, settings, given)
    if image or audio:
        check_media(run, image, audio)
    processors = _own_processors(processor)
    require_checkpoint_and_hash(RunFolder(run), checkpoint)
    import_for_good("glassgpt.api.loading")  # loads torch, which takes seconds

    from glassgpt import api
    from glassgpt.generation.engine.prompt import random_seed

    # A search has its own defaults; everything else samples, with a seed that can be reported.
    defaults = dict(chosen.defaults) if chosen and chosen.defaults else {"seed": random_seed()}
    parsed = options_from_flags({**defaults, **processors}, settings, given)
    if parsed.logprobs and not (json or explain):
        raise UsageError("--logprobs needs --json or --explain, which print them; add one of them")
    if explain and "seed" not in defaults:
        raise UsageError(
            "--explain shows what tokens were sampled from, but a search does not sample; remove one of them"
        )
    n_prompts = len(given_prompts.texts)
    loaded, loaded_strategy = api.load_for_generation(run, parsed, chosen, n_prompts, checkpoint, device, precision)
    console.info(f"checkpoint: {loaded.checkpoint}")
    if not parsed.parse_special_tokens:
        _note_special_tokens(given_prompts, loaded.tokenizer)
    _print_kernel(loaded)
    if precision not in ("auto", "float32"):
        _print_precision_cost(run, loaded, precision)
    with media_prompts(loaded, given_prompts, image, audio, parsed, loaded_strategy) as prompt_list:
        failures = print_generation(loaded, prompt_list, parsed, loaded_strategy, as_json=json, explain=explain)
    if "seed" in defaults and "seed" not in given and not parsed.is_greedy:
        console.info(f"(to repeat this text: --seed {parsed.seed})")
    if failures:
        raise GenerationFailedError("\n".join(failures))


def _own_processors(specs: Sequence[str]) -> dict[str, Any]:
    """Return the option that holds the user's own processors; none without any.

    Raises:
        PluginError: one of them cannot be imported or called.
    """
    for spec in specs:
        plugin.allow(spec)
    return {"processors": tuple(plugin.load_function(spec, PARAMETERS) for spec in specs)} if specs else {}


def _normalized(prompts: PromptList, form: str | None) -> PromptList:
    """Compose the prompts if asked to, and note decomposed ones otherwise."""
    from glassgpt.data.remarks import is_decomposed, normalized

    if form:
        return dataclasses.replace(prompts, texts=[text and normalized(text, (form,)) for text in prompts.texts])
    if any(text and is_decomposed(text) for text in prompts.texts):
        console.info(
            "note: the prompt has characters in decomposed form (NFD), which can cost three times the tokens; "
            "compose them with --normalize nfc"
        )
    return prompts


def _note_special_tokens(prompts: PromptList, tokenizer: Tokenizer) -> None:
    from glassgpt.data.remarks import spelled_special_tokens

    if found := spelled_special_tokens(filter(None, prompts.texts), tokenizer.special_tokens):
        console.info(
            f"note: {' and '.join(found)} in a prompt is ordinary text; to read it as the special token, add "
            "--parse-special-tokens"
        )


def _print_kernel(loaded: LoadedModel) -> None:
    """Print which CPU kernel was chosen, if any were timed to choose it."""
    from glassgpt.generation.precision import kernel_choice

    choice = kernel_choice(loaded.model, loaded.precision, batch_size=loaded.batch_size, remembers=True)
    if choice is not None and choice.milliseconds:
        console.info(choice.describe())


def _print_precision_cost(run: Path, loaded: LoadedModel, precision: str) -> None:
    from glassgpt import api
    from glassgpt.api.multimodal import with_encoders_of
    from glassgpt.evaluation.precision_cost import perplexity_cost
    from glassgpt.evaluation.show import ConsoleObserver, show_precision_cost

    held_out, observer = api.held_out_dataset(run, loaded.tokenizer), ConsoleObserver()
    prepared = with_encoders_of(loaded.model, loaded.decoding_model)
    cost = perplexity_cost(loaded.model, prepared, held_out, observer=observer) if held_out else None
    show_precision_cost(cost, precision, held_out)


def print_generation(
    loaded: LoadedModel,
    prompts: PromptList,
    options: GenerationOptions,
    strategy: DecodingStrategy | None,
    *,
    as_json: bool,
    explain: bool,
) -> list[str]:
    """Generate and print, as text or JSON lines, with log-probabilities or traces if requested.

    Returns:
        What failed although texts were printed: prompts without a text, and texts that were cut inside a form.

    Raises:
        GenerationError: an option is invalid, or the only prompt.
    """
    from glassgpt.generation import show
    from glassgpt.generation.engine.speculative import SpeculativeDecoding

    if explain and options.max_tokens > MAX_EXPLAINED_TOKENS:
        raise GenerationError(
            f"max_tokens is {options.max_tokens}; with --explain it must be at most {MAX_EXPLAINED_TOKENS}, because "
            "each token gets a table"
        )
    for message in prompts.problems:
        console.error(message)
    n_failed, cut = len(prompts.unreadable), list[Sequence[int]]()

    def report(index: int, error: GlassGPTError) -> None:
        nonlocal n_failed
        n_failed += 1
        console.error(f"{prompts.name(index)}: {error}")

    is_sampled = strategy is None or isinstance(strategy, SpeculativeDecoding)
    is_any_full = _print_results(loaded, prompts, options, strategy, cut, report, as_json=as_json, explain=explain)
    if is_any_full:
        show.print_context_full(loaded.model.config.context_length, can_continue=is_sampled)
    if isinstance(strategy, SpeculativeDecoding):
        show.print_acceptance_stats(strategy.stats)
    n_prompts = len(prompts.texts) + len(prompts.unreadable)
    failures = [f"{n_failed} of {n_prompts} prompts failed"] if n_failed else []
    return [*failures, *_incomplete_forms(loaded, options, cut)]


def _print_results(
    loaded: LoadedModel,
    prompts: PromptList,
    options: GenerationOptions,
    strategy: DecodingStrategy | None,
    cut: list[Sequence[int]],
    report: OnFailure,
    *,
    as_json: bool,
    explain: bool,
) -> bool:
    """Print every text; append the tokens of those that `max_tokens` or the context has cut to `cut`.

    Returns:
        True if a printed text ended early because the context was full.
    """
    from glassgpt.generation import show
    from glassgpt.generation.decoding_trace import trace_samples
    from glassgpt.generation.engine.speculative import SpeculativeDecoding
    from glassgpt.generation.strategies import generate_samples, stream_samples

    model, tokenizer, texts = loaded.decoding_model, loaded.tokenizer, prompts.given
    is_single = len(texts) == 1 and not prompts.file
    is_sampled = strategy is None or isinstance(strategy, SpeculativeDecoding)
    if is_sampled and is_single and options.num_samples == 1 and not (as_json or explain):
        chunks = _record_cut_stream(stream_samples(model, tokenizer, texts[0], options, strategy), cut)
        return show.print_stream(prompts.texts[0], chunks, options.max_tokens)
    generated = generate_samples(model, tokenizer, texts, options, strategy, None if is_single else report)
    results = _record_cut(show.with_progress(generated, len(texts)), cut)
    top = options.logprobs or EXPLAINED_CANDIDATES
    traced = trace_samples(model, tokenizer, texts, options, results, top=top)
    if explain and as_json:
        show.print_json_with_traces(prompts, traced, tokenizer)
    elif explain:
        show.print_traces(prompts, traced, tokenizer)
    elif as_json and options.logprobs:
        show.print_json_with_logprobs(prompts, traced, tokenizer)
    elif as_json:
        show.print_json(prompts, results)
    else:
        return show.print_texts(prompts, results, options.max_tokens)
    return False


def _record_cut_stream(chunks: Iterator[TokenChunk], cut: list[Sequence[int]]) -> Iterator[TokenChunk]:
    tokens: list[int] = []
    for chunk in chunks:
        tokens.append(chunk.token)
        if chunk.finish_reason == "length":
            cut.append(tokens)
        yield chunk


def _record_cut(results: Iterator[list[Sample]], cut: list[Sequence[int]]) -> Iterator[list[Sample]]:
    for samples in results:
        cut += [sample.tokens for sample in samples if sample.finish_reason == "length"]
        yield samples


def _incomplete_forms(loaded: LoadedModel, options: GenerationOptions, cut: Sequence[Sequence[int]]) -> list[str]:
    """Return a message if texts were cut before they matched the form that the options ask for."""
    if not (options.has_form and cut):
        return []
    from glassgpt.generation.forms import form_check

    is_complete = form_check(options, loaded.tokenizer)
    incomplete = [tokens for tokens in cut if not is_complete(tokens)]
    if not incomplete:
        return []
    longest = max(map(len, incomplete))
    limit = (
        "--max-tokens" if longest >= options.max_tokens else f"the context of {loaded.model.config.context_length:,}"
    )
    what = "a text does" if len(incomplete) == 1 else f"{len(incomplete)} texts do"
    return [f"{what} not match the form asked for: cut at {longest:,} tokens by {limit}; allow more tokens"]


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
    precision: Precision = "auto",
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
    from glassgpt.cli.checks import check_run_or_preset

    model = run_name(model)
    check_run_or_preset(model)

    from glassgpt import api  # loads torch, which takes seconds
    from glassgpt.generation.show import print_generation_speed

    speeds, context = api.bench_generate(
        model, batch, prompt_tokens, new_tokens, rounds, top_k=top_k, top_p=top_p, device=device, precision=precision,
        overrides=overrides, on_batch=lambda size: console.info(f"measuring a batch of {size} …"),
    )  # fmt: skip
    print_generation_speed(speeds, context)
