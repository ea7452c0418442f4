"""The charts of a run that is trained on preferences."""

from __future__ import annotations

import math
from collections.abc import Sequence

from glassgpt.diagnosis.chart import EventMarker, Series, render_chart
from glassgpt.diagnosis.run_log import RunLog


def preference_charts(log: RunLog, markers: Sequence[EventMarker]) -> list[tuple[str, str]]:
    """Return the charts by the name of their caption; none for a run that is trained on text.

    The batch of each step is a line, the held-out pairs are points; of the changes, the rejected replies are a line in the
    color of rejection.
    """
    steps = log.step_numbers

    def both(column: str, held_out: str) -> list[Series]:
        points = [(int(line["step"]), line[held_out]) for line in log.validations if held_out in line]
        return [
            Series(steps, log.column(column), "line", "training"),
            Series([step for step, _ in points], [float(value) for _, value in points], "points", "validation"),
        ]

    rejected = Series(steps, log.column("rejected_change"), "line", "spike")
    charts = {
        "accuracy": both("preference_accuracy", "validation_accuracy"),
        "margin": both("reward_margin", "validation_margin"),
        "change": [*both("chosen_change", "validation_chosen_change"), rejected],
    }
    if all(math.isnan(value) for value in log.column("reward_margin")):
        return []
    return [(name, render_chart(name, series, markers)) for name, series in charts.items()]
