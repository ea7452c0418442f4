"""All batch loaders return the same batches, and the position counts what they returned."""

import pytest
import torch

from glassgpt.data.batches import Batches
from glassgpt.training.batch_loader import DeviceResidentLoader, DirectLoader, PrefetchingLoader, build_batch_loader
from glassgpt.training.bench import random_tokens

CPU = torch.device("cpu")


@pytest.fixture(params=[DeviceResidentLoader, PrefetchingLoader])
def fast(request):
    return request.param


def batches(**distributed):
    return Batches(random_tokens(300, 1000), 16, seed=5, **distributed)


@pytest.mark.parametrize("distributed", [{}, {"rank": 1, "world_size": 2}])
def test_fast_loaders_return_the_batches_of_the_direct_one(fast, distributed):
    one, two = DirectLoader(batches(**distributed), CPU), fast(batches(**distributed), CPU)
    for _ in range(60):  # several epochs
        for a, b in zip(one.next(4), two.next(4), strict=True):
            assert a.dtype == b.dtype == torch.int64
            assert torch.equal(a, b)
        assert one._batches.position == two._batches.position
    two.close()


def test_loader_continues_at_a_sought_position(fast):
    whole, resumed = fast(batches(), CPU), batches()
    for _ in range(7):
        whole.next(4)
    resumed.seek(whole._batches.position)
    for a, b in zip(whole.next(4), fast(resumed, CPU).next(4), strict=True):
        assert torch.equal(a, b)


def test_prefetching_loader_refuses_another_batch_size():
    loader = PrefetchingLoader(batches(), CPU)
    loader.next(4)
    with pytest.raises(ValueError, match="prefetched"):
        loader.next(2)
    loader.close()


def test_cpu_uses_the_direct_loader():
    assert isinstance(build_batch_loader(batches(), CPU), DirectLoader)
