"""Options that `--gpus N` gives to torchrun."""

from argparse import ArgumentParser

import pytest

from glassgpt.training.launch import torchrun_options


@pytest.mark.parametrize("has_shutdown_timeout", [True, False])
def test_torchrun_gets_only_options_that_it_has(has_shutdown_timeout):
    """PyTorch 2.11 has no `--shutdown-timeout`; with it, its torchrun refused to start."""
    parser = ArgumentParser()
    parser.add_argument("--standalone", action="store_true")
    parser.add_argument("--nproc-per-node")
    if has_shutdown_timeout:
        parser.add_argument("--shutdown-timeout", type=int)
    parser.add_argument("script")
    parsed = parser.parse_args([*torchrun_options(parser, 2), "script"])
    assert parsed.nproc_per_node == "2"
    assert getattr(parsed, "shutdown_timeout", 600) == 600
