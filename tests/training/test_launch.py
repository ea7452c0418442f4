"""Options of torchrun and DDP that differ between versions of PyTorch."""

import warnings
from argparse import ArgumentParser

import pytest
import torch
from torch.nn.parallel import DistributedDataParallel

from glassgpt.training.launch import torchrun_options
from glassgpt.training.parallel import _without_buffer_sync


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


def test_buffer_broadcast_is_switched_off_by_the_name_that_gives_no_warning():
    """PyTorch 2.14 renamed the option and warned in every process."""

    def until_2_13(module, broadcast_buffers=True):
        return None

    def since_2_14(module, broadcast_buffers=None, forward_sync_buffers=None):
        return None

    assert _without_buffer_sync(until_2_13) == {"broadcast_buffers": False}
    assert _without_buffer_sync(since_2_14) == {"forward_sync_buffers": False}


def test_ddp_of_this_pytorch_takes_the_option_without_a_warning(tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            wrapped = DistributedDataParallel(torch.nn.Linear(2, 2), **_without_buffer_sync(DistributedDataParallel))
        assert wrapped.broadcast_buffers is False
    finally:
        torch.distributed.destroy_process_group()
