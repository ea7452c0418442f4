"""The loop of a sweep with trials that are numbers instead of training runs, and the study in its SQLite file."""

import math
from dataclasses import dataclass, field

import pytest

pytest.importorskip("optuna")

import optuna
from optuna.storages import InMemoryStorage

from glassgpt.errors import GlassGPTError
from glassgpt.sweep.loop import SweepLoop
from glassgpt.sweep.records import Luck, Outcome, best_of, within_spread
from glassgpt.sweep.space import Choices, Range
from glassgpt.sweep.study import NAME, SweepStudy, sqlite

STEPS = 100
EVERY = 20
SPACE = (Range("rate", 1e-4, 1.0, log=True), Range("warmup", 0, 50, is_integer=True), Choices("kind", ("a", "b")))


def final_loss(values):
    """A loss with its optimum at rate 0.01, warmup 20 and kind b."""
    return abs(math.log10(values["rate"]) + 2) + abs(values["warmup"] - 20) / 50 + (values["kind"] == "a")


@dataclass
class FakeRun:
    """A trial that takes a second per validation; `ends` says how, if not complete."""

    values: dict
    clock: list
    ends: dict = field(default_factory=dict)
    step: int = 0
    asked: bool = False

    def validations(self):
        if self.step == STEPS or self.asked:
            return []
        self.step += EVERY
        self.clock[0] += 1
        return [(self.step, final_loss(self.values) + 5 * (1 - self.step / STEPS))]

    def outcome(self):
        if self.asked:
            return Outcome("stopped", 1.0, self.step, self.step / EVERY)
        if self.ends and self.step >= self.ends.get("at", 0):
            return Outcome(self.ends["kind"], step=self.step, code="GG-NAN-002", message="something broke")
        return Outcome("complete", final_loss(self.values), STEPS, 10.0) if self.step == STEPS else None

    def stop(self):
        self.asked = True


@pytest.fixture
def storage():
    """A study in memory, which is faster and stays while it is referred to."""
    return InMemoryStorage()


class Sweep:
    """A study and a loop over `FakeRun`s; `ends` maps the number of a trial to how it ends."""

    def __init__(self, storage, *, sampler="tpe", pruner="none", seed=0, first=None, space=SPACE, jobs=1, ends=None):
        self.study = SweepStudy(
            storage, space, sampler=sampler, pruner=pruner, seed=seed, steps=(STEPS, EVERY), first=first
        )
        self.ends, self.clock, self.started, self.ended = ends or {}, [0.0], [], []
        self.is_stopped = False
        self.running = self.most_running = 0
        self.loop = SweepLoop(
            self.study, self.start, jobs, is_stopped=lambda: self.is_stopped, on_end=self.end,
            clock=lambda: self.clock[0], wait=lambda seconds: None,
        )  # fmt: skip

    def start(self, record, slot):
        self.started.append((record.number, slot))
        self.running += 1
        self.most_running = max(self.running, self.most_running)
        ends = self.ends.get(record.number, {})
        return FakeRun(record.values, self.clock, ends.pop(0) if isinstance(ends, list) and ends else ends or {})

    def end(self, record, outcome):
        self.running -= 1
        self.ended.append((record.number, outcome.kind))

    def run(self, trials, seconds=math.inf):
        self.loop.run(trials, seconds)
        return self.study.records()


def test_trials_are_run_and_remembered(storage):
    first = {"rate": 0.1, "warmup": 20, "kind": "a"}
    records = Sweep(storage, first=first).run(4)
    assert [each.number for each in records] == [0, 1, 2, 3]
    assert records[0].values == first
    assert records[0].loss == final_loss(first)
    assert [step for step, _ in records[0].curve] == [*range(EVERY, STEPS + 1, EVERY)]


@pytest.mark.parametrize("left", ["waiting", "without settings"])
def test_process_that_was_killed_while_it_asked_leaves_no_trial(storage, left):
    space = (Range("rate", 0.001, 0.1, log=True, points=3), Choices("warmup", (0, 20)), SPACE[2])
    whole = Sweep(InMemoryStorage(), sampler="grid", space=space).run(6)
    Sweep(storage, sampler="grid", space=space).run(2)
    killed = optuna.load_study(study_name=NAME, storage=storage)
    if left == "waiting":
        killed.enqueue_trial(dict(whole[2].values))
    else:
        killed.ask()
    records = Sweep(storage, sampler="grid", space=space).run(6)
    assert [each.values for each in records] == [each.values for each in whole]
    assert all(each.is_complete for each in records)


def test_study_is_in_a_file(tmp_path):
    records = Sweep(sqlite(tmp_path / "a b%20?.db")).run(2)
    assert Sweep(sqlite(tmp_path / "a b%20?.db")).study.records() == records
    assert [path.name for path in tmp_path.iterdir()] == ["a b%20?.db"]


def test_tpe_is_better_than_random_on_an_easy_loss():
    found = {}
    for sampler in ("tpe", "random"):
        found[sampler] = [each.loss for each in Sweep(InMemoryStorage(), sampler=sampler).run(40)]
    assert min(found["tpe"]) < min(found["random"])
    assert sum(found["tpe"][20:]) < 0.7 * sum(found["random"][20:])


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_resumed_sweep_asks_what_an_uninterrupted_one_does(storage, sampler):
    whole = Sweep(InMemoryStorage(), sampler=sampler).run(14)
    Sweep(storage, sampler=sampler).run(12)
    assert [each.values for each in Sweep(storage, sampler=sampler).run(14)] == [each.values for each in whole]


def test_grid_is_tried_once_and_completely(storage):
    space = (Range("rate", 0.001, 0.1, log=True, points=3), Range("warmup", 0, 40, step=20, is_integer=True), SPACE[2])
    Sweep(storage, sampler="grid", space=space).run(5)
    records = Sweep(storage, sampler="grid", space=space).run(1000)
    assert len(records) == 18 == len({tuple(each.values.values()) for each in records})
    assert Sweep(storage, sampler="grid", space=space).study.is_exhausted


@pytest.mark.parametrize("pruner", ["median", "hyperband"])
def test_bad_trials_are_pruned_and_good_ones_are_not(storage, pruner):
    records = Sweep(storage, sampler="random", pruner=pruner).run(40)
    pruned = [each for each in records if each.outcome.kind == "pruned"]
    complete = [each.loss for each in records if each.is_complete]
    assert 5 <= len(pruned) <= 35
    assert all(EVERY <= each.outcome.step < STEPS for each in pruned)
    assert sum(complete) / len(complete) < sum(final_loss(each.values) for each in pruned) / len(pruned)
    assert min(final_loss(each.values) for each in records) == min(complete)


def test_diverged_trial_is_a_result_that_tpe_avoids(storage):
    sweep = Sweep(storage)
    sweep.start = lambda record, slot: FakeRun(
        record.values, sweep.clock, {"kind": "diverged"} if record.values["rate"] > 0.02 else {}
    )
    sweep.loop._start = sweep.start
    records = sweep.run(40)
    diverged = [each for each in records if each.outcome.kind == "diverged"]
    assert {each.outcome.code for each in diverged} == {"GG-NAN-002"}
    assert all(math.isnan(each.loss) for each in diverged)
    assert sum(each in diverged for each in records[20:]) < sum(each in diverged for each in records[:20])


def test_trials_at_once_have_slots_of_their_own(storage):
    sweep = Sweep(storage, jobs=3)
    sweep.run(9)
    assert sweep.most_running == 3
    assert {slot for _, slot in sweep.started} == {0, 1, 2}


def test_stopped_sweep_resumes_its_trials_first(storage):
    sweep = Sweep(storage, jobs=2)
    sweep.loop._wait = lambda seconds: setattr(sweep, "is_stopped", len(sweep.started) >= 5)
    sweep.run(8)
    unfinished = [each.number for each in sweep.study.unfinished()]
    assert len(unfinished) == 2
    resumed = Sweep(storage, jobs=2)
    records = resumed.run(8)
    assert [number for number, _ in resumed.started[:2]] == unfinished
    assert len(records) == 8
    assert all(each.is_complete for each in records)


def test_time_is_a_budget_of_all_processes_together(storage):
    sweep = Sweep(storage)
    sweep.run(100, seconds=18)
    assert sweep.study.count == 4
    assert len(sweep.study.unfinished()) == 1
    assert 18 <= sweep.study.seconds <= 19
    again = Sweep(storage)
    again.run(100, seconds=18)
    assert again.started == []


def test_killed_trial_is_resumed_and_fails_at_last(storage):
    killed = {"kind": "killed"}
    sweep = Sweep(storage, ends={1: [dict(killed), dict(killed)], 2: killed})
    records = sweep.run(4)
    assert [number for number, _ in sweep.started] == [0, 1, 1, 1, 2, 2, 2, 3]
    assert [each.outcome.kind for each in records] == ["complete", "complete", "failed", "complete"]


def test_full_disk_ends_the_sweep_and_the_trial_is_resumed(storage):
    sweep = Sweep(storage, jobs=2, ends={2: {"kind": "disk-full"}})
    with pytest.raises(GlassGPTError, match=r"the disk is full: something broke; free some space"):
        sweep.run(8)
    assert 2 in [each.number for each in sweep.study.unfinished()]
    assert all(each.is_complete for each in Sweep(storage, jobs=2).run(8))


def test_sweep_whose_first_trials_all_fail_ends(storage):
    sweep = Sweep(storage, ends={number: {"kind": "failed"} for number in range(9)})
    with pytest.raises(GlassGPTError, match="the first 3 trials all failed: something broke"):
        sweep.run(9)
    assert sweep.study.count == 3


def test_some_failures_are_results(storage):
    records = Sweep(storage, ends={number: {"kind": "failed"} for number in (1, 2, 3)}).run(6)
    assert [each.number for each in records if each.outcome.kind == "failed"] == [1, 2, 3]


def test_importance_finds_the_settings_that_matter(storage):
    sweep = Sweep(storage, sampler="random")
    sweep.run(9)
    assert sweep.study.importance() == {}
    sweep.run(60)
    found = sweep.study.importance()
    assert sum(found.values()) == pytest.approx(1)
    assert found["warmup"] < found["rate"]


def test_damaged_study(tmp_path):
    (tmp_path / "study.db").write_bytes(b"no database" * 1000)
    with pytest.raises(GlassGPTError, match=r"study\.db is damaged"):
        sqlite(tmp_path / "study.db")


def test_luck_is_named(storage):
    records = Sweep(storage).run(12)
    best = best_of(records)
    luck = Luck(best.number, best.loss, {1: best.loss + 0.2, 2: best.loss + 0.1, 3: best.loss + 0.3})
    assert luck.lost == pytest.approx(0.2)
    assert luck.spread == pytest.approx(0.1)
    near = within_spread(records, luck)
    assert near[0] == best
    assert [each.loss for each in near] == sorted(each.loss for each in records if each.loss <= best.loss + 0.2)
    assert math.isnan(Luck(0, 1.0, {1: 1.0}).spread)
