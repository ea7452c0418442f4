"""However batches come to the device, they are the same batches, and the position counts what was handed out."""

import pytest
import torch

from glassgpt.data.batches import Batches
from glassgpt.training.batch_loader import DeviceResidentLoader, DirectLoader, PrefetchingLoader, build_batch_loader
from glassgpt.training.bench import random_tokens

CPU = torch.device("cpu")


@pytest.fixture(params=[DeviceResidentLoader, PrefetchingLoader])
def fast(request):
    return request.param


def batches(**ranks):
    return Batches(random_tokens(300, 1000), 16, seed=5, **ranks)


@pytest.mark.parametrize("ranks", [{}, {"rank": 1, "world_size": 2}])
def test_fast_feeds_equal_the_readable_one(fast, ranks):
    one, two = DirectLoader(batches(**ranks), CPU), fast(batches(**ranks), CPU)
    for _ in range(60):  # several epochs
        for a, b in zip(one.next(4), two.next(4), strict=True):
            assert a.dtype == b.dtype == torch.int64
            assert torch.equal(a, b)
        assert one._batches.position == two._batches.position
    two.close()


def test_a_sought_position_is_where_it_goes_on(fast):
    whole, resumed = fast(batches(), CPU), batches()
    for _ in range(7):
        whole.next(4)
    resumed.seek(whole._batches.position)
    for a, b in zip(whole.next(4), fast(resumed, CPU).next(4), strict=True):
        assert torch.equal(a, b)


def test_another_number_of_rows_than_was_read_ahead_is_refused():
    feed = PrefetchingLoader(batches(), CPU)
    feed.next(4)
    with pytest.raises(ValueError, match="read ahead"):
        feed.next(2)
    feed.close()


def test_a_cpu_reads_directly():
    assert isinstance(build_batch_loader(batches(), CPU), DirectLoader)
