"""The folder of a sweep, and the file in it that says what is searched and how."""

from __future__ import annotations

import hashlib
import json
import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from glassgpt.data.files import read_regular, write_atomically
from glassgpt.data.shards import TokenDataset
from glassgpt.errors import CheckpointError, UsageError
from glassgpt.schema import Setting
from glassgpt.sweep.space import TABLE, Space, parse_space, to_toml

Sampler = Literal["tpe", "random", "grid"]
Pruner = Literal["median", "hyperband", "none"]
VERSION = 1
OWN = "sweep"


@dataclass(frozen=True)
class SweepFolder:
    """The files of a sweep.

    Attributes:
        path: the folder itself; it need not exist yet.
    """

    path: Path

    @property
    def setup(self) -> Path:
        """The search space, and how it is searched."""
        return self.path / "sweep.toml"

    @property
    def base(self) -> Path:
        """The configuration that all trials share but for the settings that are searched."""
        return self.path / "base.toml"

    @property
    def study(self) -> Path:
        """Optuna's study, in SQLite."""
        return self.path / "study.db"

    @property
    def result(self) -> Path:
        """All trials and the best one, as JSON."""
        return self.path / "sweep.json"

    @property
    def page(self) -> Path:
        """All trials on one page."""
        return self.path / "sweep.html"

    @property
    def best(self) -> Path:
        """The configuration of the best trial, which `glassgpt train` takes."""
        return self.path / "best.toml"

    def trial(self, number: int) -> Path:
        """Return the run of a trial."""
        return self.path / "trials" / f"{number:04d}"

    def seed_run(self, number: int, seed: int) -> Path:
        """Return the run that repeats a trial with another seed."""
        return self.path / "seeds" / f"{number:04d}-{seed}"

    def log(self, run: Path) -> Path:
        """Return the file for the output of the process that trains a run."""
        return self.path / "logs" / f"{run.parent.name}-{run.name}.txt"

    def exists(self) -> bool:
        """Return whether there is a sweep here."""
        return self.setup.is_file()

    def require_new(self) -> None:
        """Check that the folder is free for a new sweep.

        Raises:
            UsageError: it holds something else.
        """
        if self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir())):
            raise UsageError(f"{self.path} exists and is not a sweep; choose another --out")


@dataclass(frozen=True)
class SweepSetup:
    """The search space, and how it is searched. Trials can be compared only if all of it stays the same.

    Attributes:
        space: the settings that are varied.
        sampler: how settings are chosen.
        pruner: which trials are stopped early.
        seed: of the sampler.
        data: checksum of the dataset.
        trials: number of trials; may change when the sweep is resumed.
        minutes: time for them; infinity is no limit; may change when the sweep is resumed.
    """

    space: Space
    sampler: Sampler
    pruner: Pruner
    seed: int
    data: str
    trials: int
    minutes: float

    def differences(self, other: SweepSetup) -> list[str]:
        """Return what makes trials of another setup incomparable with those of this one, one line each."""
        mine, theirs = ({each.name: each for each in one.space} for one in (self, other))
        found = [f"{name} is searched there" for name in mine if name not in theirs]
        found += [f"{name} is not searched there" for name in theirs if name not in mine]
        found += [
            f"{name} has {mine[name].to_toml()} there, not {theirs[name].to_toml()}"
            for name in mine
            if name in theirs and mine[name] != theirs[name]
        ]
        for option in ("sampler", "pruner", "seed"):
            before, now = getattr(self, option), getattr(other, option)
            if before != now:
                found.append(f"--{'sampler-seed' if option == 'seed' else option} is {before} there, not {now}")
        return found

    def write(self, folder: SweepFolder) -> None:
        """Write `sweep.toml`."""
        minutes = {} if math.isinf(self.minutes) else {"minutes": self.minutes}
        values = {
            "version": VERSION, "sampler": self.sampler, "pruner": self.pruner, "seed": self.seed, "data": self.data,
            "trials": self.trials, **minutes,
        }  # fmt: skip
        own = "".join(f"{name} = {json.dumps(value)}\n" for name, value in values.items())
        write_atomically(folder.setup, f"{to_toml(self.space)}\n[{OWN}]\n{own}".encode())

    @classmethod
    def read(cls, folder: SweepFolder, settings: Mapping[str, Setting]) -> SweepSetup:
        """Read `sweep.toml`.

        Raises:
            CheckpointError: it is damaged or of another version.
        """
        try:
            table = tomllib.loads(read_regular(folder.setup).decode())
            own: dict[str, Any] = table[OWN]
            if own["version"] != VERSION:
                raise CheckpointError(f"{folder.setup} has version {own['version']}; this program reads {VERSION}")
            space = parse_space(table[TABLE], settings, f"{folder.setup}: ")
            return cls(
                space, cast(Sampler, own["sampler"]), cast(Pruner, own["pruner"]), int(own["seed"]), str(own["data"]), int(own["trials"]),
                float(own.get("minutes", math.inf)),
            )  # fmt: skip
        except (ValueError, KeyError, TypeError, OSError) as error:
            raise CheckpointError(f"{folder.setup} is damaged; choose another --out") from error


def data_checksum(dataset: TokenDataset) -> str:
    """Return a checksum of a dataset's tokens and tokenizer, from the headers of its shards."""
    digest = hashlib.sha256(dataset.tokenizer_fingerprint.encode())
    for name in sorted(dataset.headers):
        digest.update(name.encode() + dataset.headers[name].checksum)
    return digest.hexdigest()
