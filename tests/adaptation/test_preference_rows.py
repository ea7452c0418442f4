"""Files of preferences: the forms that people have, the split, batches of pairs, and clear errors for everything else."""

import json

import numpy as np
import pytest

from glassgpt.data.chat.render import Rendered
from glassgpt.data.preferences.batches import IGNORED, PairBatches, PairTokens, pair_batch, pairs_in_order
from glassgpt.data.preferences.dataset import build_dataset
from glassgpt.data.preferences.rows import parse_preference, read_preferences
from glassgpt.data.tokenizers import load_tokenizer
from glassgpt.errors import DataError, WrongDataError

USER, SYSTEM = {"role": "user", "content": "hi"}, {"role": "system", "content": "be kind"}
GOOD, BAD = {"role": "assistant", "content": "hello"}, {"role": "assistant", "content": "no"}
TURNS = [USER, {"role": "assistant", "content": "what?"}, USER]


@pytest.mark.parametrize(
    ("row", "prompt"),
    [
        ({"prompt": "hi", "chosen": "hello", "rejected": "no"}, [("user", "hi")]),
        ({"instruction": "add", "input": "", "output": "x", "chosen": "hello", "rejected": "no"}, [("user", "add")]),
        ({"instruction": "add", "input": "1 2", "chosen": "hello", "rejected": "no"}, [("user", "add\n\n1 2")]),
        (
            {"system": "be kind", "prompt": "hi", "chosen": "hello", "rejected": "no"},
            [("system", "be kind"), ("user", "hi")],
        ),
        ({"prompt": [SYSTEM, USER], "chosen": [GOOD], "rejected": [BAD]}, [("system", "be kind"), ("user", "hi")]),
        ({"prompt": [USER], "chosen": "hello", "rejected": "no"}, [("user", "hi")]),
        ({"chosen": [USER, GOOD], "rejected": [USER, BAD]}, [("user", "hi")]),
        ({"prompt": "hi", "chosen": [USER, GOOD], "rejected": [USER, BAD]}, [("user", "hi")]),
        (
            {"chosen": [*TURNS, GOOD], "rejected": [*TURNS, BAD]},
            [("user", "hi"), ("assistant", "what?"), ("user", "hi")],
        ),
    ],
)
def test_row_is_a_prompt_with_two_replies(row, prompt):
    found = parse_preference(row, "f, line 1")
    empty_cells = dict.fromkeys(["system", "prompt", "instruction", "input", "score"])
    assert parse_preference(empty_cells | row, "f, line 1") == found
    assert (found.chosen.pairs, found.rejected.pairs) == (
        [*prompt, ("assistant", "hello")],
        [*prompt, ("assistant", "no")],
    )
    assert list(found.prompt) == prompt
    assert [message.weight for message in found.chosen.messages] == [0] * len(prompt) + [1]


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ({"prompt": "hi", "chosen": "a", "rejected": " a "}, "chosen and rejected are the same"),
        ({"prompt": "hi", "chosen": "", "rejected": "a"}, "chosen is empty"),
        ({"prompt": " ", "chosen": "b", "rejected": "a"}, "prompt is empty"),
        ({"prompt": "hi", "chosen": "b\ud800", "rejected": "a"}, "lone surrogate U+D800 at character 1"),
        ({"prompt": "hi", "chosen": "a"}, "rejected is missing"),
        ({"chosen": "a", "rejected": "b"}, "prompt is missing"),
        ({"prompt": "hi", "chosen": 1, "rejected": "a"}, "chosen is int; it must be text"),
        ({"prompt": "hi", "chosen": "a", "rejected": "b", "score": 1}, "unknown key 'score'; the keys are prompt"),
        ({"prompt": "hi", "instruction": "hi", "chosen": "a", "rejected": "b"}, "cannot be combined"),
        (
            {"system": "be kind", "prompt": [USER], "chosen": "a", "rejected": "b"},
            "system cannot be combined with messages",
        ),
        ({"input": "1", "chosen": [USER, GOOD], "rejected": [USER, BAD]}, "input cannot be combined with messages"),
        ({"prompt": [GOOD], "chosen": "a", "rejected": "b"}, "the role is assistant, but user was expected"),
        ({"chosen": [USER, GOOD], "rejected": [*TURNS, BAD]}, "begin with different messages"),
        ({"prompt": "other", "chosen": [USER, GOOD], "rejected": [USER, BAD]}, "do not begin with those of the prompt"),
        ({"chosen": [USER, GOOD], "rejected": [USER, USER, BAD]}, "rejected, message 2: the role is user"),
    ],
)
def test_row_that_cannot_be_used_is_named_with_its_line(row, problem, tmp_path):
    file = tmp_path / "pairs.jsonl"
    good = {"prompt": "hi", "chosen": "hello", "rejected": "no"}
    file.write_text(f"{json.dumps(good)}\n\n{json.dumps(row)}\n")
    with pytest.raises(DataError, match=r"pairs\.jsonl, line 3") as caught:
        read_preferences(file)
    assert problem in str(caught.value)
    assert str(caught.value).endswith("leave out such rows with --preference.skip-bad NUMBER")
    found = read_preferences(file, skip_bad=1)
    assert (len(found.rows), len(found.skipped)) == (1, 1)


def test_file_that_is_none_is_refused(tmp_path):
    for content, problem in (("", "holds no preferences"), ("[1]", "expected a JSON object"), ("{", "not valid JSON")):
        file = tmp_path / "pairs.jsonl"
        file.write_text(content)
        with pytest.raises(DataError, match=problem):
            read_preferences(file)
    with pytest.raises(WrongDataError, match="is not a file"):
        read_preferences(tmp_path)


def test_file_is_read_as_utf_8_with_or_without_byte_order_mark(tmp_path):
    file = tmp_path / "pairs.jsonl"
    line = json.dumps({"prompt": "안녕", "chosen": "네", "rejected": "no"}, ensure_ascii=False)
    file.write_text(f"{line}\r\n{line}\r\n", encoding="utf-8-sig")
    assert [row.prompt for row in read_preferences(file).rows] == 2 * [(("user", "안녕"),)]
    file.write_bytes(f"{line}\n".encode() + line.encode("cp949"))
    with pytest.raises(DataError, match="line 2: not valid UTF-8"):
        read_preferences(file)


def rendered(tokens, replied):
    """Return a conversation whose last tokens are the reply."""
    count = len(tokens) - replied
    return Rendered(list(tokens), [False] * count + [True] * replied, [(count, len(tokens))])


@pytest.fixture(scope="module")
def pairs():
    """Seven pairs; the ids tell pair, side and position."""
    chosen = [rendered([100 * pair + at for at in range(4 + pair % 3)], 2) for pair in range(1, 8)]
    rejected = [rendered([100 * pair + 50 + at for at in range(3 + pair % 2)], 1) for pair in range(1, 8)]
    return PairTokens(chosen, rejected)


def test_batch_holds_both_replies_of_a_prompt_and_judges_the_replies_alone(pairs):
    inputs, targets = pair_batch(pairs, np.array([2, 0]))
    assert inputs.shape == targets.shape == (2, 2, 4)  # of pair 1, whose chosen conversation has five tokens
    assert inputs[1].tolist() == [[100, 101, 102, 103], [150, 151, 152, 153]]
    assert targets[1].tolist() == [[IGNORED, IGNORED, 103, 104], [IGNORED, IGNORED, 153, IGNORED]]
    assert targets[0].tolist() == [[IGNORED, 302, 303, IGNORED], [IGNORED, IGNORED, 353, IGNORED]]
    assert len(list(pairs_in_order(pairs, 3))) == 3


def test_epoch_has_each_pair_once_and_continues_from_any_position(pairs):
    batches = PairBatches(pairs, seed=3)
    first = [batches.next(1)[0][0, 0, 0].item() // 100 for _ in range(14)]
    assert sorted(first[:7]) == sorted(first[7:]) == list(range(1, 8))
    assert first[:7] != first[7:]
    batches.seek(9)
    assert [batches.next(1)[0][0, 0, 0].item() // 100 for _ in range(5)] == first[9:]
    shares = [PairBatches(pairs, seed=3, rank=rank, world_size=2) for rank in (0, 1)]
    assert [one.next(2)[0][:, 0, 0].tolist() for one in shares] == [
        [100 * n for n in first[at : at + 2]] for at in (0, 2)
    ]


def test_quarantined_pair_is_replaced_and_no_other(pairs):
    batches = PairBatches(pairs, seed=3)
    batches.quarantine([(2 * pairs.row_length, 3 * pairs.row_length)])
    seen = [batches.next(1)[0][0, 0, 0].item() // 100 for _ in range(7)]
    assert set(seen) == {1, 2, 4, 5, 6, 7}


def test_split_depends_on_the_prompt_alone(tmp_path):
    file = tmp_path / "pairs.jsonl"
    rows = [{"prompt": f"question {n // 2}", "chosen": f"yes {n}", "rejected": "no"} for n in range(200)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    tokenizer = load_tokenizer("bytes")

    def opened(max_tokens=100, share=0.2):
        def render(row):
            texts = (row.chosen.pairs, row.rejected.pairs)
            return tuple(rendered([*prompt[1].encode(), *reply[1].encode()], len(reply[1])) for prompt, reply in texts)

        return build_dataset(
            file,
            read_preferences(file),
            tokenizer,
            render,
            validation_share=share,
            max_tokens=max_tokens,
            template_sha256="",
        )

    dataset = opened()
    texts = {
        name: {bytes(row[0]).rstrip(b"\0").decode() for row in dataset.split(name).ids.astype(np.uint8)}
        for name in ("train", "validation")
    }
    prompts = {name: {text.split("yes")[0] for text in each} for name, each in texts.items()}
    assert not prompts["train"] & prompts["validation"]
    assert len(prompts["train"] | prompts["validation"]) == 100
    assert 10 < len(prompts["validation"]) < 30
    assert (dataset.counts.train + dataset.counts.validation, dataset.counts.too_long) == (200, 0)
    assert opened(max_tokens=len("question 10yes 20")).counts.too_long == 100
    with pytest.raises(DataError, match="no pair is left for train"):
        opened(max_tokens=3)
    sizes = [sum(len(bytes(side).rstrip(b"\0")) for side in row) for row in dataset.split("train").ids.astype(np.uint8)]
    assert dataset.split("train").tokens_per_pair == round(np.mean(sizes))
