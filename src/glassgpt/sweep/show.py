"""Terminal output of a sweep: a line per trial, the table of the best, and what luck did."""

from __future__ import annotations

import math
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager

from glassgpt import console
from glassgpt.sweep.records import Luck, Outcome, TrialRecord, best_of, ranked, within_spread
from glassgpt.sweep.result import SweepResult
from glassgpt.sweep.setup import SweepSetup
from glassgpt.sweep.space import Value

VAGUE = ("name", "kind", "rank")
"""Names of settings that say nothing without their group."""
SHOWN = 10
"""Rows of the table."""


def format_value(value: Value) -> str:
    """Format the value of a setting with at most four digits: 0.00152, 40, true."""
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def short_names(names: Iterable[str]) -> dict[str, str]:
    """Return settings without the name of their group where that is clear: `learning_rate`, but `optimizer.name`."""
    given = list(names)
    last = [name.rpartition(".")[2] for name in given]
    return {
        name: each if last.count(each) == 1 and each not in VAGUE else name
        for name, each in zip(given, last, strict=True)
    }


def format_values(values: Mapping[str, Value]) -> str:
    """Format settings on one line."""
    short = short_names(values)
    return ", ".join(f"{short[name]} {format_value(value)}" for name, value in values.items())


class SweepDisplay:
    """A progress bar of trials, and a line for each that ends.

    Args:
        meter: the bar.
        records: the trials so far.
        base: the values that the sweep started from.
    """

    def __init__(self, meter: console.ProgressMeter, records: Sequence[TrialRecord], base: Mapping[str, Value]) -> None:
        self._meter, self._base = meter, base
        self._records = list(records)

    def on_begin(self, record: TrialRecord) -> None:
        """Say which trial begins."""
        self._meter.note(f"trial {record.number} begins with {format_values(record.values)}")

    def on_validation(self, record: TrialRecord, step: int, loss: float) -> None:
        """Show the newest validation."""
        self._meter.note(f"trial {record.number} at step {step:,}, loss {loss:.4f}")

    def on_end(self, record: TrialRecord, outcome: Outcome) -> None:
        """Print how a trial ended."""
        best = best_of(self._records)
        self._records.append(TrialRecord(record.number, record.values, outcome))
        self._meter.advance(1)
        given = format_values(record.values)
        if outcome.kind == "complete":
            mark = "; best so far" if best is None or outcome.loss < best.loss else ""
            code = f"  {outcome.code}" if outcome.code else ""
            console.info(f"trial {record.number}  loss {outcome.loss:.4f}  {given}{code}{mark}")
        elif outcome.kind == "pruned":
            console.info(f"trial {record.number}  pruned at step {outcome.step:,}, loss {outcome.loss:.4f}  {given}")
        elif outcome.kind == "diverged":
            console.info(f"trial {record.number}  diverged at step {outcome.step:,} ({outcome.code})  {given}")
        else:
            console.warn(f"trial {record.number} failed: {outcome.message}  {given}")

    def on_repeat(self, best: TrialRecord, seeds: Sequence[int]) -> None:
        """Say that the best settings are trained with other seeds."""
        console.info(f"training the settings of trial {best.number} with {len(seeds)} other seeds")
        self._meter.note(f"trial {best.number} with other seeds")

    def on_seed(self, seed: int, outcome: Outcome) -> None:
        """Print what the best settings reach with another seed."""
        if outcome.kind == "complete":
            console.info(f"seed {seed}  loss {outcome.loss:.4f}")
        else:
            console.warn(f"no result with seed {seed}: {outcome.message}")

    def on_stop_request(self) -> None:
        """Confirm the request at once."""
        console.info("stopping the trials after their next step and saving them; ask again to stop at once")


@contextmanager
def sweep_display(
    setup: SweepSetup, records: Sequence[TrialRecord], base: Mapping[str, Value]
) -> Generator[SweepDisplay]:
    """Yield a `SweepDisplay` for the trials of a sweep."""
    done = sum(each.outcome is not None for each in records)
    with console.progress("sweep", setup.trials, unit="trials", done=done) as meter:
        yield SweepDisplay(meter, records, base)


def show_result(result: SweepResult) -> None:
    """Print the best trials, the importance of the settings, and what the best one loses with other seeds."""
    names = [each.name for each in result.setup.space]
    columns = ["trial", "loss", *short_names(names).values(), "remark"]
    rows = [
        [
            str(record.number),
            f"{record.loss:.4f}",
            *(format_value(record.values[name]) for name in names),
            _remark(record, result),
        ]
        for record in ranked(result.trials)[:SHOWN]
    ]
    console.table("best trials, validation loss in nats per token", columns, rows)
    counts = ", ".join(f"{count} {console.translated(kind)}" for kind, count in result.counts.items())
    console.result(f"{len(result.trials)} trials in {console.format_duration(result.seconds)}: {counts}")
    if result.importance:
        shares = ", ".join(f"{name} {share:.0%}" for name, share in result.importance.items())
        console.result(f"importance (PED-ANOVA): {shares}")
    if result.luck is not None:
        show_luck(result, result.luck)


def _remark(record: TrialRecord, result: SweepResult) -> str:
    parts = [record.outcome.code] if record.outcome is not None and record.outcome.code else []
    if record is result.preset_trial:
        parts.append(console.translated("the preset"))
    return " ".join(parts)


def show_luck(result: SweepResult, luck: Luck) -> None:
    """Print what the best settings reach with other seeds."""
    losses = ", ".join(f"{loss:.4f}" for loss in luck.losses.values())
    console.result(f"the settings of trial {luck.number} with other seeds: {losses}")
    if math.isnan(luck.spread):
        console.result(f"they lose {luck.lost:+.4f} against the search, which chose the best of many")
        return
    near = within_spread(result.trials, luck)
    console.result(
        f"mean {luck.mean:.4f}, standard deviation {luck.spread:.4f}: {luck.lost:+.4f} against the {luck.loss:.4f} of the search"
    )
    if len(near) > 1:
        console.result(f"{len(near)} trials are within two standard deviations of the best: their order may be luck")
