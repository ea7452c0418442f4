import time

import numpy as np
import pytest
import torch

from glassgpt.data import TokenArray
from glassgpt.data.batches import Batches
from glassgpt.data.validation import validation_windows
from glassgpt.errors import DataError


def numbered(count: int) -> TokenArray:
    """Tokens equal to their positions, in two shards."""
    ids = np.arange(count, dtype=np.uint32)
    return TokenArray([ids[: count // 3], ids[count // 3 :]])


@pytest.mark.parametrize(("count", "context"), [(1000, 8), (1000, 7), (17, 8), (9, 8), (16, 8), (2, 1), (100, 33)])
def test_each_token_is_a_target_at_most_once_per_epoch(count, context):
    batches = Batches(numbered(count), context, seed=1)
    starts = []
    for _ in range(4):
        _, targets = batches.next(batches.windows_per_epoch)
        flat = targets.flatten().tolist()
        assert len(set(flat)) == len(flat)
        assert len(flat) > count - 1 - 2 * context
        starts.append(min(flat))
    assert batches.epoch == 4
    if count > 100:
        assert len(set(starts)) > 1, "each epoch has its own offset"


def test_epochs_differ_and_are_shuffled():
    batches = Batches(numbered(2000), 8, seed=3)
    first, second = (batches.next(batches.windows_per_epoch)[0][:, 0] for _ in range(2))
    assert not torch.equal(first, first.sort().values)
    assert not torch.equal(first.argsort(), second.argsort())


def test_targets_are_inputs_shifted():
    inputs, targets = Batches(numbered(500), 16, seed=0).next(5)
    assert inputs.shape == targets.shape == (5, 16)
    assert inputs.dtype == targets.dtype == torch.int64
    assert torch.equal(inputs + 1, targets)
    assert inputs.is_contiguous()
    assert targets.is_contiguous()


def test_seek_equals_consuming_up_to_the_position():
    consumed, seeking = (Batches(numbered(333), 8, seed=5) for _ in range(2))
    for _ in range(50):
        position = consumed.position
        expected = consumed.next(7)
        seeking.seek(0)
        seeking.next(1)
        seeking.seek(position)
        assert torch.equal(seeking.next(7)[0], expected[0])
    assert consumed.position == seeking.position == 350
    assert consumed.epoch > 1


def test_batch_size_does_not_change_the_stream():
    one, many = (Batches(numbered(333), 8, seed=5) for _ in range(2))
    singles = torch.cat([one.next(1)[0] for _ in range(100)])
    assert torch.equal(many.next(100)[0], singles)


def test_stream_depends_on_the_seed():
    a, b, c = (Batches(numbered(999), 8, seed=seed).next(20)[0] for seed in (1, 1, 2))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


def test_ranks_partition_the_global_batch():
    alone = Batches(numbered(777), 8, seed=2)
    ranks = [Batches(numbered(777), 8, seed=2, rank=rank, world_size=3) for rank in range(3)]
    for _ in range(20):
        expected = alone.next(12)[1]
        assert torch.equal(torch.cat([rank.next(4)[1] for rank in ranks]), expected)
    assert {rank.position for rank in ranks} == {alone.position}


def test_text_shorter_than_a_window_raises():
    with pytest.raises(DataError, match=r"has 8 tokens.*context_length 8 needs 9"):
        Batches(numbered(8), 8, seed=0)


@pytest.mark.parametrize("batch_size", [1, 3, 100])
@pytest.mark.parametrize(("count", "context"), [(100, 7), (92, 7), (2, 7), (8, 7), (9, 7)])
def test_validation_windows_predict_each_token_once(count, context, batch_size):
    pairs = list(validation_windows(numbered(count), context, batch_size=batch_size))
    targets = torch.cat([target.flatten() for _, target in pairs])
    assert targets.tolist() == list(range(1, count))
    for inputs, target in pairs:
        assert torch.equal(inputs + 1, target)
        assert inputs.shape[0] <= batch_size
        assert inputs.shape[1] <= context


def test_validation_windows_respect_the_limit():
    targets = [target for _, target in validation_windows(numbered(100), 7, limit=17)]
    assert [target.numel() for target in targets] == [7, 7, 3]
    with pytest.raises(DataError, match="at least 2"):
        next(validation_windows(numbered(1), 7))


def test_next_is_fast_enough_for_training(tmp_path):
    np.zeros(4_000_000, dtype=np.uint16).tofile(tmp_path / "tokens")
    batches = Batches(TokenArray([np.memmap(tmp_path / "tokens", np.uint16, "r")]), 256, seed=0)
    batches.next(8)
    times = []
    for _ in range(20):
        start = time.perf_counter()
        batches.next(8)
        times.append(time.perf_counter() - start)
    assert min(times) < 0.01 * 0.020, "1 % of a step of 20 ms"
