"""Evaluate a model on pictures and sounds whose text is known, and rank names for one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from glassgpt import console
from glassgpt.api.checked_options import as_list, as_path, require_count, require_texts
from glassgpt.api.figures import report_figures
from glassgpt.api.loaded_model import LoadedModel
from glassgpt.api.multimodal import MediaInput, encoded_prompts, prompt_with_media, require_encoders
from glassgpt.data.files import check_output_path
from glassgpt.errors import DataError, GenerationError
from glassgpt.generation.engine.prompt import encode_prompt
from glassgpt.generation.options import GenerationOptions
from glassgpt.multimodal.media import MediaItem
from glassgpt.multimodal.media_input import read_medium
from glassgpt.multimodal.naming import (
    Answer,
    Named,
    NameRanker,
    NamingReport,
    Question,
    answers_by_prompt,
    batches,
    read_questions,
    report_json,
)
from glassgpt.multimodal.naming_show import show_naming
from glassgpt.multimodal.prompting import MediaPrompt

ROWS_AT_ONCE = 256
"""Rows whose media are in memory at once."""
TOKENS_BEYOND = 8
"""Tokens that a model may say beyond those of the longest answer, so that a longer one is not taken for it."""


def evaluate_rows(
    loaded: LoadedModel,
    rows: Path,
    *,
    top: int = 0,
    limit: int = 0,
    samples: int = 2,
    as_json: bool = False,
    json_file: Path | None = None,
    force: bool = False,
) -> NamingReport:
    """Ask a model about the media of rows, print how often it says their text exactly, and write the file requested.

    Args:
        loaded: the model.
        rows: file of rows, as `prepare --format multimodal` takes them, with `image` or `audio`, perhaps `prompt`, and `text`.
        top: also count how often the text is among the `top` most probable of all texts with the same prompt.
        limit: rows to take from the start of the file; 0 takes all.
        samples: number of answers that are printed.
        as_json: print one JSON object instead of tables.
        json_file: file to write the JSON object to.
        force: overwrite an existing file.

    Raises:
        UsageError: a number is negative, or the file cannot be written.
        GenerationError: the model knows text alone.
        DataError: a row has no medium or no text, does not fit into the context, or has a medium that cannot be read.
    """
    for option, number in (("--top", top), ("--limit", limit), ("--samples", samples)):
        require_count(number, option)
    if json_file is not None:
        check_output_path("--json-file", json_file, force=force)
    require_encoders(loaded.model)
    questions = read_questions(as_path(rows, "rows"), limit)
    _check_rows(loaded, questions)
    answers: list[Answer] = []
    rankers = _rankers(loaded, questions) if top else {}
    options = GenerationOptions(temperature=0.0, max_tokens=_longest(loaded, questions) + TOKENS_BEYOND)
    with console.progress("answering", len(questions), unit="rows") as meter:
        for batch in batches(questions, ROWS_AT_ONCE):
            answers += _ask(loaded, batch, options, rankers, top)
            meter.advance(len(batch))
    report = NamingReport(tuple(answers), top)
    report_figures(report_json(report), lambda: show_naming(report, samples), as_json=as_json, json_file=json_file)
    return report


def top_names(
    loaded: LoadedModel,
    names: Sequence[str],
    k: int = 5,
    *,
    prompt: str | None = None,
    images: Sequence[MediaInput] = (),
    audio: Sequence[MediaInput] = (),
) -> list[Named]:
    """Return the most probable of given texts after media and a prompt, the best first.

    Args:
        loaded: the model.
        names: the texts, as in training: with the blank that they begin with there.
        k: number of texts to return.
        prompt: text between the media and the name.
        images: see `LoadedModel.generate`, as is `audio`.

    Returns:
        Texts, each with its log-probability in nats, its end included.

    Raises:
        GenerationError: there are no names, or a medium cannot be read.
        UsageError: k is less than 1.
    """
    names = as_list(names, "names", "")
    require_texts(names, "names")
    require_count(k, "k", 1)
    if not names or not all(names):
        raise GenerationError("there must be at least one name, and none may be empty")
    ranker = NameRanker(loaded.decoding_model, loaded.tokenizer, list(dict.fromkeys(names)))
    given = prompt_with_media(loaded.model, prompt, images, audio)
    options = GenerationOptions()
    with encoded_prompts(loaded.model, loaded.decoding_model, loaded.tokenizer, [given], options) as (encoded,):
        return ranker.best(encode_prompt(loaded.decoding_model, loaded.tokenizer, encoded, options), k)


def _ask(
    loaded: LoadedModel,
    questions: Sequence[Question],
    options: GenerationOptions,
    rankers: Mapping[str, NameRanker],
    top: int,
) -> list[Answer]:
    prompts = [MediaPrompt(each.prompt, _decoded(loaded, each), has_marks=False) for each in questions]
    texts = loaded.generate_many(prompts, temperature=options.temperature, max_tokens=options.max_tokens)
    best: list[tuple[Named, ...]] = [()] * len(questions)
    if top:
        with ExitStack() as stack:
            encoded = stack.enter_context(
                encoded_prompts(loaded.model, loaded.decoding_model, loaded.tokenizer, prompts, options)
            )
            for at, (question, ids) in enumerate(zip(questions, encoded, strict=True)):
                assert not isinstance(ids, str | None)  # prompts with media are ids
                try:
                    best[at] = tuple(rankers[question.prompt].best(ids, top))
                except GenerationError as error:
                    raise DataError(f"{question.origin}: {error}") from error
    return [Answer(*each) for each in zip(questions, texts, best, strict=True)]


def _check_rows(loaded: LoadedModel, questions: Sequence[Question]) -> None:
    """Check before anything runs what can be told without decoding.

    Raises:
        DataError: a row names a file that does not exist, or is too long whatever its sounds are.
    """
    known, context = require_encoders(loaded.model).multimodal, loaded.model.config.context_length
    for question in questions:
        for one in question.media:
            if one.modality not in known.names:
                raise DataError(f"{question.origin}: the model was not trained on {one.modality}; leave the row out")
            if one.path is not None and not one.path.is_file():
                raise DataError(f"{question.origin}: {one.path} does not exist, or is not a file")
        positions = [known.geometry.image_positions if one.modality == "image" else 1 for one in question.media]
        _require_fit(loaded, question, positions, context)


def _decoded(loaded: LoadedModel, question: Question) -> tuple[MediaItem, ...]:
    """Return the media of a row.

    Raises:
        DataError: one cannot be read, or they do not fit into the context.
    """
    config, context = require_encoders(loaded.model).multimodal, loaded.model.config.context_length
    try:
        items = tuple(read_medium(one.path or one.raw, one.modality, config) for one in question.media)
    except GenerationError as error:
        raise DataError(f"{question.origin}: {error}") from error
    _require_fit(loaded, question, [config.geometry.positions(item) for item in items], context)
    return items


def _require_fit(loaded: LoadedModel, question: Question, positions: Sequence[int], context: int) -> None:
    """Check that media of these positions, the prompt and the answer fit into the context.

    Raises:
        DataError: they do not.
    """
    texts = (question.prompt, question.answer)
    total = 1 + sum(1 + count for count in positions) + sum(len(loaded.tokenizer.encode(text)) for text in texts)
    if total > context:
        raise DataError(
            f"{question.origin}: the row takes {total:,} positions with its text, more than the model's context of {context:,}; "
            "shorten it, or leave it out"
        )


def _rankers(loaded: LoadedModel, questions: Sequence[Question]) -> dict[str, NameRanker]:
    return {
        prompt: NameRanker(loaded.decoding_model, loaded.tokenizer, names)
        for prompt, names in answers_by_prompt(questions).items()
    }


def _longest(loaded: LoadedModel, questions: Sequence[Question]) -> int:
    answers = {question.answer for question in questions}
    return max(len(loaded.tokenizer.encode(answer)) for answer in answers)
