"""`glassgpt ask`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from glassgpt import console
from glassgpt.cli.chat_evaluation import require_no_text_options
from glassgpt.cli.shared import Checkpoint, Device, Flag, Integer, Precision, require_template_file
from glassgpt.errors import UsageError
from glassgpt.lazy import import_for_good


def ask(
    index: Path,
    question: str,
    *,
    model: Path,
    option: Annotated[list[str] | None, Parameter(negative="")] = None,
    passages: Integer = 5,
    quotations: Integer = 1,
    max_tokens: Integer = 48,
    threshold: float = 0.5,
    chat_template: Path | None = None,
    checkpoint: Checkpoint = "best",
    device: Device = "auto",
    precision: Precision = "auto",
    json: Flag = False,
) -> None:
    """Answer a question with quotations from indexed documents, each with its source, or say that they do not answer it.

    Every quotation stands word for word in its passage. With --option, choose among given answers instead.

    Parameters
    ----------
    index:
        Folder of an index, created by glassgpt index.
    question:
        The question; with --option it may have a gap (________) for the answer.
    model:
        Folder of the run whose model reads the passages.
    option:
        An answer to choose from; give at least two.
    passages:
        Number of passages to read.
    quotations:
        Most quotations, each from another passage.
    max_tokens:
        Maximum tokens per quotation.
    threshold:
        Confidence below which there is no answer, 0 to 1.
    chat_template:
        File of a chat template, .toml or .jinja; by default that of the run, or a plain transcript.
    precision:
        Precision of the weights; see glassgpt generate --help.
    json:
        Print one JSON object with passages, scores, offsets and quotations.
    """
    from glassgpt.retrieval.index import Index
    from glassgpt.training.checksums import require_checkpoint_and_hash
    from glassgpt.training.run_folder import RunFolder

    _check_values(question, option or [], passages, quotations, max_tokens, threshold)
    if option:
        given = {"--passages": passages != 5, "--quotations": quotations != 1, "--max-tokens": max_tokens != 48}
        given |= {"--threshold": threshold != 0.5, "--chat-template": chat_template is not None}
        require_no_text_options("--option", given)
    opened = Index.open(index)
    RunFolder(model).require()
    require_template_file(chat_template)
    require_checkpoint_and_hash(RunFolder(model), checkpoint)
    import_for_good("glassgpt.api.loading")  # loads torch, which takes seconds

    from glassgpt import api
    from glassgpt.api.serving import chat_template as template_of
    from glassgpt.retrieval.show_answers import answer_json, choice_json, show_answer, show_choice

    loaded = api.load(model, checkpoint=checkpoint, device=device, precision=precision)
    if option:
        choice = api.ask_options(opened, question, option, model=loaded)
        console.output_json(choice_json(question, option, choice)) if json else show_choice(choice, option)
        return
    answer = api.ask(
        opened, question, model=loaded, passages=passages, quotations=quotations, max_tokens=max_tokens,
        threshold=threshold, template=template_of(model, chat_template),
    )  # fmt: skip
    console.output_json(answer_json(answer)) if json else show_answer(answer)


def _check_values(
    question: str, options: list[str], passages: int, quotations: int, max_tokens: int, threshold: float
) -> None:
    if not question.strip():
        raise UsageError("the question is empty; ask something")
    if len(options) == 1 or not all(option.strip() for option in options):
        raise UsageError("--option must be given at least twice, and none of them may be empty")
    if len(set(options)) < len(options):
        raise UsageError("two values of --option are the same; give different answers")
    for name, value in (("passages", passages), ("quotations", quotations), ("max-tokens", max_tokens)):
        if value < 1:
            raise UsageError(f"--{name} must be at least 1, not {value}")
    if not 0 <= threshold <= 1:
        raise UsageError(f"--threshold must be from 0 to 1, not {threshold}")
