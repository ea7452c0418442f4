"""The arithmetic of choosing a training recipe: which changes helped, their combinations, and the one to use.

Works on the result of `recipes.py`. Its `base` names the recipe that changes are made to; the row of a change has `changes`
and a `group`, of which only one change is made at a time. Recipes are compared by the seconds that they are predicted to need for the
reference's loss, if e times as many steps lower the loss by `nats_per_fold`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

Row = dict[str, Any]
NOT_OF_THE_RECIPE = ("train.max_steps", "train.eval_tokens", "train.eval_every_steps")
VALIDATIONS = 14
"""Validations of a run that is timed: few enough to be quick, often enough to interpolate between two."""


def seconds_of(row: Row) -> float:
    """Return the seconds for the reference's loss, timed or else predicted; infinite if unknown."""
    return row.get("seconds_for_reference", row.get("predicted_seconds", math.inf))


def helpful_changes(result: Row) -> list[str]:
    """Return the best change of each group that is better than the base by more than the noise, in the file's order."""
    rows: Mapping[str, Row] = result["recipes"]
    limit = _limit(result)
    best: dict[str, str] = {}
    for name, row in rows.items():
        group = row.get("group")
        if group and seconds_of(row) < min(limit, seconds_of(rows.get(best.get(group, ""), {}))):
            best[group] = name
    return list(best.values())


def combinations(result: Row, most: int) -> dict[str, dict[str, str]]:
    """Return the settings of combined changes by name: all helpful ones, then all but one, for each of them."""
    helpful = helpful_changes(result)
    if len(helpful) < 2:
        return {}
    without_one = [[name for name in helpful if name != left_out] for left_out in helpful]
    sets = [helpful, *(names for names in without_one if len(names) > 1)]
    return {" + ".join(names): _combined(result, names) for names in sets[:most]}


def choose(result: Row) -> str:
    """Return the name of the recipe with the fewest seconds: among those timed, if there are any.

    By predictions it is the base if no other is better by more than the noise.
    """
    rows: Mapping[str, Row] = result["recipes"]
    timed = [name for name, row in rows.items() if "seconds_for_reference" in row]
    best = min(timed or rows, key=lambda name: seconds_of(rows[name]))
    return best if timed or seconds_of(rows[best]) < _limit(result) else result["base"]


def final_settings(row: Row, margin: float) -> dict[str, str]:
    """Return the settings with which a chosen recipe is trained on the text that is reported.

    Args:
        row: of the result.
        margin: share of steps more than the reference's loss is predicted to need; negative leaves the steps open.
    """
    settings = {name.replace("-", "_"): value for name, value in row["settings"].items()}
    kept = {name: value for name, value in settings.items() if name not in NOT_OF_THE_RECIPE}
    steps = math.ceil(row.get("steps_for_reference", int(settings.get("train.max_steps", 0))) * (1 + margin))
    if margin >= 0 and steps:
        kept |= {"train.max_steps": str(steps), "train.eval_every_steps": str(max(1, round(steps / VALIDATIONS)))}
    return kept


def _limit(result: Row) -> float:
    """Return the seconds that a recipe must stay below to be better than the base."""
    base = result["recipes"][result["base"]]
    return seconds_of(base) * math.exp(-result["noise"] / result["nats_per_fold"])


def _combined(result: Row, names: list[str]) -> dict[str, str]:
    rows: Mapping[str, Row] = result["recipes"]
    base = rows[result["base"]]
    settings: dict[str, str] = dict(base["settings"])
    for name in names:
        settings |= rows[name]["changes"]
    reference = base["steps_for_reference"]
    steps = reference * math.prod(rows[name]["steps_for_reference"] / reference for name in names)
    return {**settings, "train.max-steps": str(round(steps))}
