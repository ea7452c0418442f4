"""Output of `glassgpt sweep-decoding`, printed and as a settings file."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from glassgpt import console
from glassgpt.data.tokenizers import Tokenizer
from glassgpt.evaluation.documents import shorten
from glassgpt.evaluation.objectives import OBJECTIVES, ScoreInputs
from glassgpt.evaluation.quality import format_share
from glassgpt.evaluation.show import SAMPLE_CHARACTERS, prompt_line
from glassgpt.evaluation.sweep import (
    REPETITION_PENALTIES,
    TEMPERATURES,
    Sweep,
    SweepCandidate,
    SweepValidation,
    preset_values,
)

RANKING_SHOWN = 10
TEXTS_SHOWN = 3
NAMES = {"found": "the settings found", "ready": "the preset's settings", "default": "the defaults of generate"}
COMMENTS = {
    "temperature": f"tried: {', '.join(map(str, TEMPERATURES))}",
    "top_p": "1 is no limit; tried: 0.8 to 1, or min_p instead",
    "min_p": "0 is none; tried: 0.05 and 0.1",
    "repetition_penalty": f"1 is none; tried: {', '.join(map(str, REPETITION_PENALTIES))}",
}


def settings_toml(found: Sweep, run: str) -> str:
    """Return the winner as a file for `--settings`, with comments on how it was found."""
    values = [(name, value, COMMENTS[name]) for name, value in found.winner.settings.items()]
    values += [(name, value, f"as in the preset {found.purpose}") for name, value in found.kept.items()]
    # JSON's notation of strings, numbers and lists is also valid TOML.
    lines = [f"{f'{name} = {json.dumps(value, ensure_ascii=False)}':<28}# {comment}" for name, value, comment in values]
    return "\n".join([*(f"# {line}" for line in _provenance(found, run)), "", *lines, ""])


def _provenance(found: Sweep, run: str) -> list[str]:
    """Describe how the settings were found, and their scores."""
    best, human = found.winner, found.human
    diversity = best.inputs.diversity
    return [
        f"For {found.purpose} text by {shorten(run, 60)}: {OBJECTIVES[found.purpose].why}.",
        f"The best of {found.rounds[0].candidates} settings on {len(best.texts)} held-out prompts by "
        f"glassgpt sweep-decoding (score {best.score:.3f}, seed {found.prompts.seed}).",
        f"Generated and human text: surprisal {best.inputs.surprisal:.2f} and {human.surprisal:.2f} nats per token,",
        f"distinct-2 {format_share(diversity.distinct_2)} and {format_share(human.diversity.distinct_2)}, "
        f"repeated 4-grams {format_share(diversity.repeated_4)} and {format_share(human.diversity.repeated_4)}.",
        *_validation_lines(found),
    ]


def _validation_lines(found: Sweep) -> list[str]:
    if found.validation is None:
        return []
    scores = ", ".join(f"{NAMES[each.name]} {each.score:.3f}" for each in found.validation.settings)
    return [f"Scores on {found.validation.prompts} other prompts: {scores}."]


def show_sweep(found: Sweep, tokenizer: Tokenizer, samples: int) -> None:
    """Print the ranking below human text, the meaning of the score, and texts of the best candidates."""
    objective = OBJECTIVES[found.purpose]
    columns = ("", "score", "surprisal", "distinct-2", "repeated-4", "texts")
    cells = [[console.translated("people"), "", *_metric_cells(found.human), str(found.rounds[-1].prompts)]]
    preset = preset_values(found.purpose)
    ranked = enumerate(found.ranking, start=1)
    cells += [
        _candidate_cells(rank, candidate, preset)
        for rank, candidate in ranked
        if rank <= RANKING_SHOWN or candidate.settings == preset
    ]
    console.table(f"settings for {found.purpose} text, best first", columns, cells)
    console.result(f"Objective: {objective.why}.")
    console.result(
        f"score = |surprisal / people's - {objective.surprisal:g}| + {objective.diversity:g} · |distinct-2 - people's|\n"
        f"        + {objective.repetition:g} · (repeated-4 in excess of people's); lower is better; comparable only\n"
        f"        between settings with the same number of texts."
    )
    _show_validation(found)
    for at in range(min(samples, found.rounds[-1].prompts)):
        _show_texts(at, found, tokenizer)


def _show_validation(found: Sweep) -> None:
    if found.validation is None:
        console.result("There were too few prompts to validate the winner on others; at least 3 are needed.")
        return
    cells = [[console.translated("people"), "", *_metric_cells(found.validation.human)]]
    cells += [
        [console.translated(NAMES[each.name]), f"{each.score:.3f}", *_metric_cells(each.inputs)]
        for each in found.validation.settings
    ]
    title = f"on {found.validation.prompts} prompts that the search did not use"
    console.table(title, ("", "score", "surprisal", "distinct-2", "repeated-4"), cells)
    console.result(_conclusion(found.validation))


def _conclusion(validation: SweepValidation) -> str:
    """Describe whether the winner of the search also wins on the other prompts."""
    found, best = validation.settings[0], min(validation.settings, key=lambda each: each.score)
    if best.score < found.score:
        return f"On these, {NAMES[best.name]} do better: use them, or search on more --prompts."
    return f"On these too, {NAMES[found.name]} are the best of the three."


def _candidate_cells(rank: int, candidate: SweepCandidate, preset: Mapping[str, float]) -> list[str]:
    mark = console.translated(" (preset)") if candidate.settings == preset else ""
    name = f"{rank}. {describe(candidate)}{mark}"
    return [name, f"{candidate.score:.3f}", *_metric_cells(candidate.inputs), str(len(candidate.texts))]


def _metric_cells(inputs: ScoreInputs) -> list[str]:
    diversity = inputs.diversity
    return [f"{inputs.surprisal:.2f}", format_share(diversity.distinct_2), format_share(diversity.repeated_4)]


def describe(candidate: SweepCandidate) -> str:
    """Describe settings in short: `t 0.85, top-p 0.9, rep 1.1`; options without effect are left out."""
    values = candidate.settings
    parts = [f"t {values['temperature']:g}"]
    parts += [f"top-p {values['top_p']:g}"] if values["top_p"] < 1 else []
    parts += [f"min-p {values['min_p']:g}"] if values["min_p"] > 0 else []
    parts += [f"rep {values['repetition_penalty']:g}"] if values["repetition_penalty"] != 1 else []
    return ", ".join(parts)


def _show_texts(at: int, found: Sweep, tokenizer: Tokenizer) -> None:
    best: Sequence[SweepCandidate] = [each for each in found.ranking if len(each.texts) > at][:TEXTS_SHOWN]
    console.output(prompt_line(at, best[0].texts[at], tokenizer))
    for rank, candidate in enumerate(best, start=1):
        text = shorten(candidate.texts[at].text, SAMPLE_CHARACTERS) or console.translated("(nothing)")
        console.output(f"{rank}. {describe(candidate)}: {text}")
