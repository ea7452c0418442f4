"""What `glassgpt sweep-decoding` prints and writes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from glassgpt import console
from glassgpt.data.tokenizers import Tokenizer
from glassgpt.evaluation.documents import shorten
from glassgpt.evaluation.objectives import OBJECTIVES, Figures
from glassgpt.evaluation.quality import share
from glassgpt.evaluation.show import SAMPLE_CHARACTERS, prompt_line
from glassgpt.evaluation.sweep import REPETITION_PENALTIES, TEMPERATURES, Check, Sweep, Tried, preset_values

SHOWN = 10
"""Settings of the ranking that are printed."""
NAMES = {"found": "the found setting", "ready": "the ready setting", "default": "generate's default"}
WHY = {
    "temperature": f"tried: {', '.join(map(str, TEMPERATURES))}",
    "top_p": "1 is no limit; tried: 0.8 to 1, or min_p instead",
    "min_p": "0 is none; tried: 0.05 and 0.1",
    "repetition_penalty": f"1 is none; tried: {', '.join(map(str, REPETITION_PENALTIES))}",
}


def settings_toml(found: Sweep, run: str) -> str:
    """The winner as a settings file for `--settings`: what was found, on what, and what the ready setting adds."""
    values = [(name, value, WHY[name]) for name, value in found.winner.settings.items()]
    values += [(name, value, f"as in the ready settings {found.purpose}") for name, value in found.kept.items()]
    # JSON's spelling of text, numbers and lists is also TOML's.
    lines = [f"{f'{name} = {json.dumps(value, ensure_ascii=False)}':<28}# {why}" for name, value, why in values]
    return "\n".join([*(f"# {line}" for line in _origin(found, run)), "", *lines, ""])


def _origin(found: Sweep, run: str) -> list[str]:
    """How the setting was found and how good it is, in lines."""
    best, human = found.winner, found.human
    return [
        f"For {found.purpose} text by {shorten(run, 60)}: {OBJECTIVES[found.purpose].why}.",
        f"The best of {found.rounds[0].candidates} settings on {len(best.texts)} held-out prompts by "
        f"glassgpt sweep-decoding (score {best.score:.3f}, seed {found.prompts.seed}).",
        f"Here and in what people wrote there: surprisal {best.figures.surprisal:.2f} and {human.surprisal:.2f} nats per "
        f"token,",
        f"distinct-2 {share(best.figures.variety.distinct_2)} and {share(human.variety.distinct_2)}, "
        f"repeated 4-grams {share(best.figures.variety.repeated_4)} and {share(human.variety.repeated_4)}.",
        *_check_lines(found),
    ]


def _check_lines(found: Sweep) -> list[str]:
    """The check in a line; none where there was none."""
    if found.check is None:
        return []
    scores = ", ".join(f"{NAMES[one.name]} {one.score:.3f}" for one in found.check.settings)
    return [f"Scores on {found.check.prompts} other prompts: {scores}."]


def show_sweep(found: Sweep, tokenizer: Tokenizer, samples: int) -> None:
    """Print the ranking with people at its head, what the score means, and texts by the best three."""
    objective = OBJECTIVES[found.purpose]
    columns = ("", "score", "surprisal", "distinct-2", "repeated-4", "texts")
    rows = [["people", "", *_cells(found.human), str(found.rounds[-1].prompts)]]
    ready = preset_values(found.purpose)
    ranked = list(enumerate(found.ranking, start=1))
    rows += [_row(at, tried, ready) for at, tried in ranked if at <= SHOWN or tried.settings == ready]
    console.table(f"settings for {found.purpose} text, the best first", columns, rows)
    console.output(f"Wanted: {objective.why}.")
    console.output(
        f"score = |surprisal / people's - {objective.surprisal:g}| + {objective.variety:g} · |distinct-2 - people's|\n"
        f"        + {objective.repetition:g} · (repeated-4 beyond people's); lower is better, and comparable\n"
        f"        among settings with equally many texts only."
    )
    _show_check(found)
    for at in range(min(samples, found.rounds[-1].prompts)):
        _show_texts(at, found, tokenizer)


def _show_check(found: Sweep) -> None:
    if found.check is None:
        console.output("There were too few prompts to check the winner on others; 3 are needed.")
        return
    rows = [["people", "", *_cells(found.check.human)]]
    rows += [[NAMES[one.name], f"{one.score:.3f}", *_cells(one.figures)] for one in found.check.settings]
    title = f"the same on {found.check.prompts} prompts that the search did not use"
    console.table(title, ("", "score", "surprisal", "distinct-2", "repeated-4"), rows)
    console.output(_verdict(found.check))


def _verdict(check: Check) -> str:
    """Whether the search was worth it, in a line."""
    found, best = check.settings[0], min(check.settings, key=lambda one: one.score)
    if best.score < found.score:
        return f"There {NAMES[best.name]} does better: take that, or search on more --prompts."
    return f"There, too, {NAMES[found.name]} is the best of the three."


def _row(at: int, tried: Tried, ready: Mapping[str, float]) -> list[str]:
    mark = " (ready)" if tried.settings == ready else ""
    name = f"{at}. {describe(tried)}{mark}"
    return [name, f"{tried.score:.3f}", *_cells(tried.figures), str(len(tried.texts))]


def _cells(figures: Figures) -> list[str]:
    return [f"{figures.surprisal:.2f}", share(figures.variety.distinct_2), share(figures.variety.repeated_4)]


def describe(tried: Tried) -> str:
    """A setting in few words: `t 0.85, top-p 0.9, rep 1.1`; what does nothing is left out."""
    values = tried.settings
    parts = [f"t {values['temperature']:g}"]
    parts += [f"top-p {values['top_p']:g}"] if values["top_p"] < 1 else []
    parts += [f"min-p {values['min_p']:g}"] if values["min_p"] > 0 else []
    parts += [f"rep {values['repetition_penalty']:g}"] if values["repetition_penalty"] != 1 else []
    return ", ".join(parts)


def _show_texts(at: int, found: Sweep, tokenizer: Tokenizer) -> None:
    best: Sequence[Tried] = [tried for tried in found.ranking if len(tried.texts) > at][:3]
    console.output(prompt_line(at, best[0].texts[at], tokenizer))
    for rank, tried in enumerate(best, start=1):
        text = shorten(tried.texts[at].text, SAMPLE_CHARACTERS) or "(nothing)"
        console.output(f"{rank}. {describe(tried)}: {text}")
