"""OpenMP's settings: what a user has set stays, threads follow cores, affinity and control groups."""

import math
import subprocess
import sys

import pytest

from glassgpt import openmp


@pytest.fixture
def environment(monkeypatch):
    for name in (*openmp.WAITING, openmp.THREADS):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setattr(openmp, "_own_threads", None)
    monkeypatch.setattr(openmp, "usable_cores", lambda: 8)
    return openmp.os.environ


def test_defaults_are_set_where_the_user_has_set_nothing(environment):
    openmp.set_openmp_defaults()
    assert (environment["GOMP_SPINCOUNT"], environment["OMP_NUM_THREADS"]) == (str(openmp.SPIN_COUNT), "8")


def test_settings_of_the_user_stay(environment, monkeypatch):
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    openmp.set_openmp_defaults(2)
    assert "GOMP_SPINCOUNT" not in environment
    assert environment["OMP_NUM_THREADS"] == "3"


@pytest.mark.parametrize(("given", "expected"), [(None, "1"), ("3", "3")])
def test_numpy_starts_no_threads_unless_the_user_wants_some(given, expected, monkeypatch):
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", given or "")
    if given is None:
        monkeypatch.delenv("OPENBLAS_NUM_THREADS")
    openmp.without_blas_threads()
    assert openmp.os.environ["OPENBLAS_NUM_THREADS"] == expected


def test_processes_share_the_cores(environment):
    openmp.set_openmp_defaults()
    openmp.set_openmp_defaults(processes=3)
    assert environment["OMP_NUM_THREADS"] == "2"


def test_a_short_spin_leaves_the_environment_as_it_was(environment):
    environment.pop("GOMP_SPINCOUNT", None)
    with openmp.short_spin():
        assert environment["GOMP_SPINCOUNT"] == str(openmp.SPIN_COUNT)
    assert "GOMP_SPINCOUNT" not in environment
    environment["OMP_WAIT_POLICY"] = "ACTIVE"
    with openmp.short_spin():
        assert "GOMP_SPINCOUNT" not in environment


def test_commands_set_the_defaults_before_torch_is_loaded():
    script = (
        "import os, sys; from glassgpt.cli import main\n"
        "try: main(['version'])\n"
        "except SystemExit: pass\n"
        "print('torch' in sys.modules, os.environ['GOMP_SPINCOUNT'])"
    )
    environment = {name: value for name, value in openmp.os.environ.items() if name not in openmp.WAITING}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment)
    assert done.stdout.split()[-2:] == ["False", str(openmp.SPIN_COUNT)]


def test_a_core_with_two_hardware_threads_counts_once(monkeypatch):
    monkeypatch.setattr(openmp.os, "sched_getaffinity", lambda _: {0, 1, 2, 3})
    monkeypatch.setattr(openmp, "_core_of", lambda cpu: f"{cpu % 2},{cpu % 2 + 2}")
    monkeypatch.setattr(openmp, "_control_group_limit", lambda: math.inf)
    assert openmp.usable_cores() == 2


@pytest.mark.parametrize(("limit", "cores"), [(math.inf, 4), (2.5, 3), (0.2, 1)])
def test_a_control_group_limits_the_cores(monkeypatch, limit, cores):
    monkeypatch.setattr(openmp.os, "sched_getaffinity", lambda _: {0, 1, 2, 3})
    monkeypatch.setattr(openmp, "_core_of", str)
    monkeypatch.setattr(openmp, "_control_group_limit", lambda: limit)
    assert openmp.usable_cores() == cores


@pytest.mark.parametrize(
    ("groups", "files", "limit"),
    [
        ("0::/app/job", {"app/job/cpu.max": "max 100000", "app/cpu.max": "150000 100000"}, 1.5),
        ("0::/not/visible", {"cpu.max": "200000 100000"}, 2.0),
        ("0::/", {}, math.inf),
        (
            "4:memory:/a\n2:cpu,cpuacct:/docker/x",
            {"cpu,cpuacct/docker/x/cpu.cfs_quota_us": "50000", "cpu,cpuacct/docker/x/cpu.cfs_period_us": "100000"},
            0.5,
        ),
        ("1:cpu:/", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, math.inf),
    ],
    ids=["version 2", "container", "no limit", "version 1", "version 1, no limit"],
)
def test_limits_of_control_groups(tmp_path, groups, files, limit):
    listing = tmp_path / "cgroup"
    listing.write_text(groups)
    for name, text in files.items():
        path = tmp_path / "root" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    assert openmp._control_group_limit(listing, tmp_path / "root") == limit
