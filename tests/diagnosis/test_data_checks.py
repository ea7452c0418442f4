"""Checks of prepared datasets and of batches."""

import random
import shutil

import numpy as np
import pytest
from diagnosis_helpers import codes
from hypothesis import given
from hypothesis import strategies as st

from glassgpt import api
from glassgpt.data import PrepareOptions, prepare
from glassgpt.data.batches import Batches
from glassgpt.data.grammar import grammar_text
from glassgpt.data.shards import TokenArray, TokenDataset
from glassgpt.diagnosis.checks import data as data_checks
from glassgpt.errors import TokenizerError


def all_data_checks(dataset: TokenDataset) -> list[str]:
    return codes(
        data_checks.check_shards(dataset),
        data_checks.check_token_ids(dataset, dataset.vocab_size),
        data_checks.check_tokenizer_fit(dataset),
        data_checks.check_duplicates(dataset),
        data_checks.check_overlap(dataset),
        data_checks.check_split_similarity(dataset),
        data_checks.check_id_shift(dataset),
    )


def test_healthy_data_passes_all_checks(grammar_dataset):
    assert all_data_checks(grammar_dataset) == []


def test_overlap_of_training_and_validation_text_is_reported(prepared):
    ours, theirs = grammar_text(2000, seed=1), grammar_text(300, seed=2)
    half = theirs[: len(theirs) // 3]
    dataset = prepared(ours + half, theirs)
    check = data_checks.check_overlap(dataset)
    assert codes(check) == ["GG-DAT-005"]
    assert check.findings[0].evidence["share"] == pytest.approx(33, abs=3)
    assert check.findings[0].severity == "warning"
    assert codes(data_checks.check_duplicates(dataset)) == []


def test_overlap_is_also_found_from_a_run(prepared, nano_run):
    ours = grammar_text(500, seed=1)
    found = codes(*api.doctor(nano_run, data=prepared(ours + "x", ours).folder))
    assert "GG-DAT-005" in found
    assert "GG-DAT-005" not in codes(*api.doctor(nano_run))


def test_korean_text_in_a_finding_is_readable(prepared):
    """The tokens are bytes, so that each character takes three of them."""
    ours = "".join(f"{number}번째 문장은 앞의 문장과 다릅니다.\n" for number in range(400))
    finding = data_checks.check_overlap(prepared(ours + "x", ours)).findings[0]
    assert "번째 문장은 앞의" in str(finding.evidence["example"])


def test_complete_overlap_is_fatal(prepared):
    ours = grammar_text(500, seed=1)
    check = data_checks.check_overlap(prepared(ours + "x", ours))
    assert codes(check) == ["GG-DAT-005"]
    assert check.findings[0].severity == "fatal"


def test_duplicated_training_text_is_reported(prepared):
    ours = grammar_text(500, seed=1)
    check = data_checks.check_duplicates(prepared(ours + ours, grammar_text(200, seed=2)))
    assert codes(check) == ["GG-DAT-006"]
    assert check.findings[0].evidence["share"] == pytest.approx(50, abs=1)


def test_damaged_shard_is_reported(prepared):
    dataset = prepared(grammar_text(300, seed=1), grammar_text(100, seed=2))
    shard = dataset.folder / "train-00000.bin"
    raw = bytearray(shard.read_bytes())
    raw[-3] ^= 1
    shard.write_bytes(raw)
    assert codes(data_checks.check_shards(dataset)) == ["GG-DAT-007"]
    shard.write_bytes(raw[:-2])
    assert codes(*api.doctor(dataset.folder)) == ["GG-DAT-007"]


def test_replaced_tokenizer_is_reported(prepared, tmp_path):
    dataset = prepared(grammar_text(300, seed=1), grammar_text(100, seed=2), tokenizer="bpe:300")
    (tmp_path / "more.txt").write_text(grammar_text(100, seed=3).upper())
    options = PrepareOptions(
        sources=(str(tmp_path / "more.txt"),), out=tmp_path / "other", tokenizer="bpe:300", workers=1
    )
    prepare(options)
    shutil.copy(tmp_path / "other" / "tokenizer.json", dataset.folder)
    with pytest.raises(TokenizerError):
        _ = dataset.tokenizer
    assert codes(data_checks.check_shards(dataset)) == ["GG-DAT-010"]
    assert codes(*api.doctor(dataset.folder)) == ["GG-DAT-010"]
    assert codes(data_checks.check_tokenizer("another", dataset)) == ["GG-DAT-010"]
    assert codes(data_checks.check_tokenizer(dataset.tokenizer_fingerprint, dataset)) == []


def test_token_id_outside_the_vocabulary_is_reported(grammar_dataset):
    assert codes(data_checks.check_token_ids(grammar_dataset, 100)) == ["GG-DAT-001"]


def test_tokenizer_unsuited_to_the_text_is_reported(prepared):
    korean = "글을 배우는 아이는 누구나 아무도 다시 닫을 수 없는 문을 연다. " * 50
    dataset = prepared(korean, korean[:400], tokenizer="gpt2")
    check = data_checks.check_tokenizer_fit(dataset)
    assert codes(check) == ["GG-DAT-008", "GG-DAT-009"]


def test_validation_text_of_another_kind_is_reported(prepared):
    dataset = prepared(grammar_text(500, seed=1), "0123456789 %&/() " * 300)
    assert codes(data_checks.check_split_similarity(dataset)) == ["GG-DAT-011"]


@pytest.mark.parametrize("shift", [1, -3])
def test_ids_that_are_shifted_in_one_split_are_reported(prepared, shift):
    dataset = prepared(grammar_text(400, 1), grammar_text(400, 2))
    assert codes(data_checks.check_id_shift(dataset)) == []
    validation = dataset.split("validation")
    moved = (validation.read(0, len(validation)) + shift) % dataset.vocab_size
    dataset.split = lambda name: TokenArray([moved]) if name == "validation" else type(dataset).split(dataset, name)
    check = data_checks.check_id_shift(dataset)
    assert codes(check) == ["GG-DAT-014"]
    assert check.findings[0].evidence["by"] == shift


def test_noise_is_reported_and_text_is_not(prepared):
    """In noise a token does not predict the next one. In a short text it hardly does, which is not reported."""
    chance = random.Random(0)
    noise = "".join(chance.choice("abcdefghijklmnop ") for _ in range(50_000))
    assert codes(data_checks.check_split_similarity(prepared(noise[5000:], noise[:5000]))) == ["GG-DAT-012"]
    assert codes(data_checks.check_split_similarity(prepared(noise[:9000], noise[9000:10_000]))) == []
    speech = grammar_text(2000, seed=9)
    for tokenizer in ("bytes", "bpe:400"):
        assert codes(data_checks.check_split_similarity(prepared(speech, grammar_text(300, seed=8), tokenizer))) == []


def test_repetitive_text_is_distinguished_from_a_stuck_data_loader(prepared):
    batches = Batches(prepared("-" * 5000, grammar_text(20, seed=1)).split("train"), 32, seed=0)
    assert codes(data_checks.check_batches(batches, 8)) == ["GG-DAT-006"]


def test_text_that_changes_language_is_not_noise(prepared):
    """Bigrams of one language do not predict the other: both halves of the comparison must contain both."""
    words = ["글을", "배우는", "아이는", "누구나", "아무도", "다시", "닫을", "수", "없는", "문을", "연다"]
    chance = random.Random(0)
    korean = "\n".join(" ".join(chance.choices(words, k=8)) for _ in range(500))
    english = grammar_text(5000, seed=1)[: len(korean.encode())]  # the change of language is in the middle
    for train in (korean + english, english + korean):
        dataset = prepared(train, korean[:3000] + english[:3000])
        assert len(dataset.split("train")) > 2 * data_checks.MIN_TOKENS_FOR_BIGRAMS
        assert codes(data_checks.check_split_similarity(dataset)) == []


class Shifted(Batches):
    def next(self, rows):
        inputs, targets = super().next(rows)
        return inputs, targets.roll(-1, dims=1)


class RepeatedWindow(Batches):
    def next(self, rows):
        inputs, targets = super().next(rows)
        return inputs[:1].expand_as(inputs).contiguous(), targets[:1].expand_as(targets).contiguous()


class Unshuffled(Batches):
    def _shuffled_starts(self, epoch):
        return np.sort(super()._shuffled_starts(epoch))


class RepeatedBatch(Batches):
    """Every batch is correct by itself, but equal to the first one."""

    def starts_at(self, position, rows):
        return super().starts_at(0, rows)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (Batches, []),
        (Shifted, ["GG-DAT-002"]),
        (RepeatedWindow, ["GG-DAT-003"]),
        (RepeatedBatch, ["GG-DAT-003"]),
        (Unshuffled, ["GG-DAT-004"]),
    ],
)
def test_faulty_batches_are_reported(grammar_dataset, kind, expected):
    batches = kind(grammar_dataset.split("train"), 32, seed=0)
    batches.seek(5)
    assert codes(data_checks.check_batches(batches, 16)) == expected
    assert batches.position == 5


def test_windows_of_one_token_are_not_called_duplicates(grammar_dataset):
    batches = Batches(grammar_dataset.split("train"), 1, seed=0)
    assert codes(data_checks.check_batches(batches, 64)) == []


@given(st.lists(st.integers(0, 3), min_size=1, max_size=60), st.integers(1, 6))
def test_passage_hashes_are_equal_only_for_equal_passages(tokens, n):
    hashes = data_checks.passage_hashes(np.array(tokens), n)
    passages = [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]
    assert len(hashes) == len(passages)
    assert len(set(hashes.tolist())) == len(set(passages))
    assert len(set(zip(passages, hashes.tolist(), strict=True))) == len(set(passages))


@given(st.integers(1, 400_000))
def test_sample_has_the_requested_size(length):
    tokens = TokenArray([np.zeros(length, dtype=np.uint16)])
    assert len(data_checks.sample(tokens, 200_000)) == min(length, 200_000)
