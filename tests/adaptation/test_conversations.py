"""Fine-tuning on conversations: packed rows are exact, what is learned is right, and every mistake is found before step 1."""

import itertools
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from transformers import PreTrainedTokenizerFast

from forked import run_ranks
from glassgpt import api
from glassgpt.adaptation.conversations import prepare_source, read_source
from glassgpt.adaptation.replay import open_training_data
from glassgpt.api.compression import CompressionSource
from glassgpt.api.runs import save_as_run
from glassgpt.api.serving import chat_template
from glassgpt.cli.distillation import check_distillation, check_search
from glassgpt.compression.methods.distil import Distil
from glassgpt.compression.methods.int8 import Int8
from glassgpt.config import load_config
from glassgpt.data import PrepareOptions, load_tokenizer, prepare
from glassgpt.data.batches import build_batches
from glassgpt.data.chat.batches import IGNORED, NEXT_STARTS, ConversationBatches, row_targets
from glassgpt.data.chat.dataset import ConversationDataset
from glassgpt.data.chat.formats import detect_format, read_conversations
from glassgpt.data.chat.packing import pack
from glassgpt.data.chat.plain import PLAIN_TEMPLATE
from glassgpt.data.chat.prepare import choose_row_length, split_held_out
from glassgpt.data.chat.rows import STARTS, SUPERVISED, TEXT
from glassgpt.data.shards import TokenDataset
from glassgpt.diagnosis.checks import conversations as checks
from glassgpt.diagnosis.checks.conversations import check_conversations
from glassgpt.diagnosis.checks.data import dataset_baseline
from glassgpt.errors import ConfigError, DataError, Interrupted, UnsafeFileError, UsageError
from glassgpt.evaluation.evaluate import EvaluationRequest, evaluate
from glassgpt.evaluation.loss import evaluate_dataset
from glassgpt.evaluation.loss_changes import read_changes
from glassgpt.model.build import build_model
from glassgpt.model.config import ModelConfig
from glassgpt.training.conversations import ConversationLoss
from glassgpt.training.observers import Observer
from glassgpt.training.run_folder import RunFolder

CONVERSATIONS = [[f"q{n}?", f"a{n * n}"] for n in range(60)]
SMALL = {
    "train.batch_tokens": 96, "train.sequence_length": 48, "train.max_steps": 6, "train.eval_every_steps": 3,
    "train.snapshots": "off", "train.learning_rate": 1e-2, "schedule.warmup_steps": 1,
}  # fmt: skip


def messages(*texts):
    return [{"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(texts)]


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def chat_run(tmp_path_factory):
    """An untrained run with a context of 96 bytes; tests must not modify it."""
    torch.manual_seed(0)
    shape = ModelConfig(n_layer=2, n_head=2, n_embd=16, vocab_size=257, context_length=96)
    run = tmp_path_factory.mktemp("chat") / "run"
    return save_as_run(build_model(shape), load_tokenizer("bytes"), run).path


@pytest.fixture(scope="module")
def chat_file(tmp_path_factory):
    return write(
        tmp_path_factory.mktemp("file") / "chat.jsonl", [{"messages": messages(*texts)} for texts in CONVERSATIONS]
    )


@pytest.fixture(scope="module")
def chat_data(chat_run, chat_file, tmp_path_factory):
    """The conversations in rows of 48 tokens; tests must not modify it."""
    return prepare_source(read_source(chat_run, chat_file), tmp_path_factory.mktemp("rows") / "data", 96, 48)


# Formats

EMPTY_CELLS = dict.fromkeys(
    ["messages", "conversations", "instruction", "input", "output", "prompt", "completion", "system", "weight", "id"]
)


@pytest.mark.parametrize(
    ("row", "name"),
    [
        ({"messages": messages("q", "a")}, "messages"),
        ({"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}, "sharegpt"),
        ({"instruction": "q", "input": "", "output": "a"}, "alpaca"),
        ({"prompt": "q", "completion": "a"}, "prompt"),
    ],
)
def test_formats_give_the_same_conversation(row, name, tmp_path):
    file = write(tmp_path / "f.jsonl", [row, EMPTY_CELLS | row])
    assert detect_format(file) == name
    assert [each.pairs for each in read_conversations(file, name)] == 2 * [[("user", "q"), ("assistant", "a")]]


def test_null_is_an_empty_cell_of_a_table(tmp_path):
    turns = [EMPTY_CELLS | turn for turn in messages("q", "a")]
    said = [EMPTY_CELLS | turn for turn in ({"from": "human", "value": "q"}, {"from": "gpt", "value": "a"})]
    file = write(tmp_path / "f.jsonl", [EMPTY_CELLS | {"messages": turns}, EMPTY_CELLS | {"conversations": said}])
    assert detect_format(file) == "messages"
    unread = set()
    rows = [next(read_conversations(write(file, [row]), name, unread)) for row, name in (
        (EMPTY_CELLS | {"messages": turns}, "messages"), (EMPTY_CELLS | {"conversations": said}, "sharegpt"),
    )]  # fmt: skip
    assert [[message.weight for message in each.messages] for each in rows] == [[1, 1], [1, 1]]
    assert not unread


def test_input_of_alpaca_follows_the_instruction(tmp_path):
    file = write(tmp_path / "f.jsonl", [{"instruction": "q", "input": "text", "output": "a", "id": 1}])
    assert next(read_conversations(file, "alpaca")).pairs[0] == ("user", "q\n\ntext")


@pytest.mark.parametrize(
    ("row", "name"),
    [
        ({"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}, "sharegpt"),
        ({"instruction": "q", "input": None, "output": "a"}, "alpaca"),
    ],
)
def test_system_message_beside_the_turns_comes_first(row, name, tmp_path):
    given = [row | {"system": "s"}, row | {"system": None}, row | {"system": ""}]
    found = [each.pairs for each in read_conversations(write(tmp_path / "f.jsonl", given), name)]
    turns = [("user", "q"), ("assistant", "a")]
    assert found == [[("system", "s"), *turns], turns, turns]


def test_keys_that_are_not_read_are_named(tmp_path):
    unread = set()
    pair = {"instruction": "q", "output": "a"}
    rows = [pair | {"id": 1, "input": "x"}, pair | {"system": "s", "tools": []}]
    list(read_conversations(write(tmp_path / "f.jsonl", rows), "alpaca", unread))
    assert unread == {"id", "tools"}
    list(
        read_conversations(
            write(tmp_path / "g.jsonl", [{"messages": messages("q", "a"), "system": "s"}]), "messages", unread
        )
    )
    assert unread == {"id", "tools", "system"}


@pytest.mark.parametrize(
    ("content", "error"),
    [
        ("", "has no conversations: it is empty"),
        ('{"prompt": "a", "completion": null}', "line 1: the keys are prompt; a conversation has"),
        ('{"instruction": "a", "output": "b", "system": 1}', "line 1: system holds int, not text"),
        ('{"text": "a"}', "line 1: the keys are text; a conversation has messages"),
        ("[1]", "line 1: expected a JSON object, got list"),
        ('{"prompt": "a", "completion": 3}', "line 1: completion holds int, not text"),
        ('{"prompt": "a", "completion": "b"}\n{"prompt": "a"}', "line 2: completion is missing"),
        ('{"prompt": "a", "completion": " "}', "line 1: the assistant's message is empty"),
        ('{"conversations": [{"from": "bot", "value": "q"}]}', "message 1: from is 'bot'; it must be human"),
        ('{"conversations": [{"from": ["gpt"], "value": "q"}]}', "message 1: from is ['gpt']; it must be human"),
        ('{"conversations": 1}', "conversations is int; it must be a list"),
        ('{"conversations": [{"from": "human", "value": "q", "x": 1}]}', "unknown key 'x'"),
    ],
)
def test_files_that_hold_no_conversations_are_refused(content, error, tmp_path):
    file = tmp_path / "f.jsonl"
    file.write_text(content)
    with pytest.raises(DataError) as caught:
        list(read_conversations(file, detect_format(file)))
    assert error in str(caught.value)
    assert "\n" not in str(caught.value)


# Rows


def test_every_conversation_is_in_one_row_and_rows_are_nearly_full():
    lengths = np.random.default_rng(0).integers(1, 60, 500).tolist()
    rows = pack(lengths, 256)
    assert sorted(one for row in rows for one in row) == list(range(500))
    assert max(sum(lengths[one] for one in row) for row in rows) <= 256
    assert len(rows) * 256 < 1.03 * sum(lengths)


def test_row_length_is_the_context_halved_while_conversations_fit():
    assert [choose_row_length(n, 1024) for n in (10, 200, 600, 5000)] == [64, 256, 1024, 1024]
    assert [choose_row_length(n, 8192) for n in (600, 5000)] == [1024, 2048]


def test_same_first_question_is_never_in_both_splits(chat_file):
    twice = [*read_conversations(chat_file, "messages")] * 2
    train, validation = split_held_out(twice, 0.2)
    assert not {each.pairs[0] for each in train} & {each.pairs[0] for each in validation}
    assert len(validation) == pytest.approx(0.2 * len(twice), abs=1)


def test_common_first_question_is_trained_on(tmp_path):
    rows = [{"messages": messages("hi", f"a{n}")} for n in range(97)]
    rows += [{"messages": messages(f"q{n}", "a")} for n in range(3)]
    file = write(tmp_path / "f.jsonl", rows)
    train, validation = split_held_out(list(read_conversations(file, "messages")))
    assert len(validation) == 3
    assert {each.pairs[0][1] for each in train} == {"hi"}
    file = write(tmp_path / "g.jsonl", rows[:-2])  # the other question alone is less than wanted
    train, validation = split_held_out(list(read_conversations(file, "messages")))
    assert (len(train), len(validation)) == (97, 1)


def test_rare_first_question_is_held_out_even_if_it_is_more_than_wanted(tmp_path):
    rows = [{"messages": messages(f"q{n % 2}", f"a{n}")} for n in range(20)]
    train, validation = split_held_out(list(read_conversations(write(tmp_path / "f.jsonl", rows), "messages")))
    assert (len(train), len(validation)) == (10, 10)


def test_one_first_question_cannot_be_split(tmp_path):
    file = write(tmp_path / "f.jsonl", [{"messages": messages("hi", f"a{n}")} for n in range(9)])
    with pytest.raises(DataError, match="have only one first question"):
        split_held_out(list(read_conversations(file, "messages")))


def test_rows_hold_the_conversations_and_their_masks(chat_data):
    tokens, tokenizer = chat_data.split("train"), chat_data.tokenizer
    ids, flags = tokens.read(0, len(tokens)), tokens.flags(0, len(tokens))
    starts = [*np.flatnonzero(flags & STARTS), len(ids)]
    found = set()
    for start, end in itertools.pairwise(starts):
        learned = tokenizer.decode(ids[start:end][flags[start:end] & SUPERVISED > 0])
        found |= {(tokenizer.decode(ids[start:end]), learned)} if learned else set()
    train = set(map(tuple, CONVERSATIONS)) - {
        (one.pairs[0][1], one.pairs[1][1]) for one in read_source_validation(chat_data)
    }
    assert found == {(f"User: {q}\nAssistant: {a}<|endoftext|>\n", f" {a}<|endoftext|>") for q, a in train}


def read_source_validation(dataset):
    tokens = dataset.split("validation")
    text = dataset.tokenizer.decode(tokens.read(0, len(tokens)))
    parts = [part.split("\nAssistant: ") for part in text.replace("\0", "").split("User: ")[1:]]

    class One:
        def __init__(self, question, answer):
            self.pairs = [("user", question), ("assistant", answer.split("<|endoftext|>")[0])]

    return [One(*part) for part in parts]


def test_batches_are_a_permutation_of_the_rows_in_each_epoch(chat_data):
    batches = build_batches(chat_data.split("train"), 48, seed=1)
    assert isinstance(batches, ConversationBatches)
    rows = batches.windows_per_epoch
    first, second = batches.starts_at(0, rows), batches.starts_at(rows, rows)
    assert sorted(first) == sorted(second) == [49 * row for row in range(rows)]
    assert first.tolist() != second.tolist()
    inputs, targets = batches.read(first)
    learned = targets >= 0
    assert torch.equal(targets[:, :-1][learned[:, :-1]], inputs[:, 1:][learned[:, :-1]])
    assert set(targets[~learned].tolist()) == {IGNORED, NEXT_STARTS}


@pytest.mark.parametrize("arch", ["gpt2", "modern", "llama"])
def test_packed_conversations_have_the_loss_and_gradient_they_have_alone(arch, chat_data):
    torch.manual_seed(1)
    shape = ModelConfig(
        arch=arch, n_layer=2, n_head=2, n_embd=16, vocab_size=257, context_length=48, bias=arch == "gpt2"
    )
    model = build_model(shape)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    tokens = chat_data.split("train")
    batches = build_batches(tokens, 48, seed=1)
    starts = batches.starts_at(0, 3)
    loss = ConversationLoss(model)(*batches.read(starts))
    loss.backward()
    packed = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    alone = torch.zeros(())
    for row in starts:
        ids, flags = tokens.read(int(row), 49), tokens.flags(int(row), 49)
        borders = [*np.flatnonzero(flags & STARTS), 49]
        for start, end in itertools.pairwise(borders):
            one = torch.from_numpy(ids[start:end])
            nats = F.cross_entropy(model(one[None, :-1])[0], one[1:], reduction="none") if end - start > 1 else None
            if nats is not None:
                alone = alone + nats[torch.from_numpy(flags[start + 1 : end] & SUPERVISED > 0)].sum()
    alone = alone / (3 * 48)
    alone.backward()
    torch.testing.assert_close(loss, alone)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(packed[name], parameter.grad, atol=1e-6, rtol=1e-4, msg=name)


def test_loss_does_not_depend_on_how_the_batch_is_divided(chat_data):
    torch.manual_seed(1)
    model = build_model(ModelConfig(n_layer=1, n_head=2, n_embd=16, vocab_size=257, context_length=48))
    tokens = chat_data.split("train")
    inputs, targets = build_batches(tokens, 48, seed=1).next(4)
    loss = ConversationLoss(model, supervised_share=tokens.supervised_share)
    whole = loss(inputs, targets)
    parts = [loss(inputs[row : row + 1], targets[row : row + 1]) for row in range(4)]
    torch.testing.assert_close(whole, torch.stack(parts).mean())
    torch.testing.assert_close(loss.of(model, chunk_tokens=40)(inputs, targets), whole)


@pytest.mark.parametrize("micro_batch_size", [1, 3])
def test_reported_loss_is_that_of_the_learned_tokens_of_the_batch(micro_batch_size, chat_run, chat_data, tmp_path):
    settings = {"train__max_steps": 4, "train__batch_tokens": 3 * 48, "train__learning_rate": 1e-12, "seed": 1}
    config = configuration(chat_run, chat_data, train__micro_batch_size=micro_batch_size, **settings)
    api.train(config, tmp_path / "run")
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    reported = [line["loss"] for line in lines if "loss" in line]
    model = api.load(chat_run, device="cpu").model
    batches = build_batches(chat_data.split("train"), 48, seed=1)
    expected, counts = [], set()
    for _ in range(4):
        inputs, targets = batches.next(3)
        learned = int((targets >= 0).sum())
        with torch.inference_mode():
            mean = ConversationLoss(model).eval()(inputs, targets)  # over all targets
        expected.append(mean.item() * targets.numel() / learned)
        counts.add(learned)
    assert len(counts) > 1
    assert reported == pytest.approx(expected, rel=1e-5)


def test_evaluation_is_the_mean_over_the_supervised_tokens(chat_run, chat_data):
    model = api.load(chat_run, device="cpu").model
    result = evaluate_dataset(model, chat_data)
    assert result.tokens == chat_data.conversations.validation.supervised
    assert result.loss == pytest.approx(np.log(257), abs=0.3)


@pytest.mark.parametrize("options", [{"stride": 8}, {"per_document": True}, {"context_length": 32}])
def test_rows_are_not_evaluated_as_a_text(options, chat_run, chat_data):
    model = api.load(chat_run, device="cpu").model
    with pytest.raises(UsageError, match="holds conversations, each of which is evaluated by itself"):
        evaluate(model, chat_data, EvaluationRequest(**options))


# Training


class StopAt(Observer):
    """Asks for a stop after a step, as Ctrl-C does."""

    def __init__(self, step):
        self._step = step

    def on_step(self, metrics):
        if metrics.step == self._step:
            raise Interrupted("stopped by the test", 2)


def configuration(chat_run, chat_data, **changes):
    settings = {"data": str(chat_data.folder), "init_from": str(chat_run)}
    settings |= {
        f"model.{key}": getattr(load_config(chat_run).model, key)
        for key in ("n_layer", "n_head", "n_embd", "vocab_size", "context_length")
    }
    return load_config("nano", {**SMALL, **settings, **{k.replace("__", "."): v for k, v in changes.items()}})


@pytest.fixture(scope="module")
def tuned(chat_run, chat_data, tmp_path_factory):
    """An adapter that learned the conversations for six steps; tests must not modify it."""
    out = tmp_path_factory.mktemp("tuned") / "run"
    result = api.finetune(configuration(chat_run, chat_data, lora__rank=4), out)
    return out, result


def test_finetuning_learns_and_has_no_findings(tuned):
    out, result = tuned
    assert result.changes[0].after < result.changes[0].before - 0.03
    events = [json.loads(line) for line in (out / "events.jsonl").read_text().splitlines()]
    # Only that the base, which is untrained, is no better than a guess.
    assert [event["code"] for event in events if event["event"] == "finding"] == ["GG-INI-003"]


def test_resumed_finetuning_ends_with_the_same_bits(chat_run, chat_data, tuned, tmp_path):
    config = configuration(chat_run, chat_data, lora__rank=4, checkpoint__every_steps=2)
    with pytest.raises(Interrupted):
        api.train(config, tmp_path / "run", observers=(StopAt(4),))
    api.train(config, tmp_path / "run", resume=True)
    one, other = (load_file(run / "checkpoints/step-000006/model.safetensors") for run in (tmp_path / "run", tuned[0]))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_audits_and_chunks_agree_with_conversations(chat_run, chat_data, tmp_path):
    changes = {"diagnosis__watch": "full", "diagnosis__sample_every_steps": 2, "train__loss_chunk_tokens": 20}
    config = configuration(chat_run, chat_data, train__max_steps=4, train__micro_batch_size=1, **changes)
    api.train(config, tmp_path / "run")
    events = [json.loads(line) for line in (tmp_path / "run/events.jsonl").read_text().splitlines()]
    assert [event["code"] for event in events if event["event"] == "finding"] == ["GG-INI-003"]


def test_template_stays_with_merged_compressed_and_exported_models(tuned, tmp_path):
    run = tuned[0]
    assert RunFolder(run).chat_template.read_text() == PLAIN_TEMPLATE
    merged = api.merge(run, tmp_path / "merged")
    assert merged.chat_template.read_text() == PLAIN_TEMPLATE
    api.export(merged.path, tmp_path / "hf")
    theirs = PreTrainedTokenizerFast.from_pretrained(tmp_path / "hf")
    ids = theirs.apply_chat_template(messages("q?", "a", "r?"), add_generation_prompt=True, return_dict=False)
    loaded = api.load(merged.path, device="cpu")
    template = chat_template(merged.path)
    assert template.encode(loaded.tokenizer, [("user", "q?"), ("assistant", "a"), ("user", "r?")]) == list(ids)


def test_run_started_from_one_keeps_its_template(tuned, grammar_data, tmp_path):
    merged = api.merge(tuned[0], tmp_path / "merged").path
    config = configuration(merged, ConversationDataset.open(load_config(tuned[0]).data), train__max_steps=1)
    text = replace(config, data=str(grammar_data), train=replace(config.train, sequence_length=0))
    api.train(text, tmp_path / "again")
    assert (tmp_path / "again/chat_template.jinja").read_text() == PLAIN_TEMPLATE


def test_no_smaller_model_learns_from_conversations(tuned, grammar_data, tmp_path):
    run, out = tuned[0], tmp_path / "new"
    with pytest.raises(UsageError, match="holds conversations, but a smaller model learns from text"):
        check_distillation(run, out, [Distil(1)], None, "best", {}, resume=False)
    with pytest.raises(UsageError, match="holds conversations"):
        check_search(run, None, "best", {"train.max_steps": "50"})
    check_search(run, None, "best", {})  # only quantizes
    check_search(run, grammar_data, "best", {"train.max_steps": "50"})


def test_compression_is_not_measured_on_rows_of_conversations(tuned, grammar_data, tmp_path):
    budget = {"eval_tokens": 512, "calibration_tokens": 512}
    with pytest.raises(UsageError, match="holds conversations; to measure what is lost, add --data DIR"):
        api.compress(CompressionSource(tuned[0], **budget), tmp_path / "new", [Int8()])
    assert not (tmp_path / "new").exists()
    api.compress(CompressionSource(tuned[0], grammar_data, **budget), tmp_path / "new", [Int8()])
    assert (tmp_path / "new/chat_template.jinja").is_file()


# Mistakes are found before step 1


def findings(dataset):
    return {finding.code: finding.severity for check in check_conversations(dataset) for finding in check.findings}


def test_healthy_conversations_have_no_findings(chat_data):
    assert findings(chat_data) == {}


def test_baselines_count_the_learned_tokens_alone(chat_data):
    learned = []
    for split in ("train", "validation"):
        tokens = chat_data.split(split)
        learned.append(tokens.read(0, len(tokens))[tokens.flags(0, len(tokens)) & SUPERVISED > 0])
    counts = np.bincount(learned[0], minlength=257)
    distinct = np.count_nonzero(counts)
    probabilities = (counts + distinct / 257) / (len(learned[0]) + distinct)
    baseline = dataset_baseline(chat_data)
    assert baseline.unigram == pytest.approx(-np.log(probabilities[learned[1][1:]]).mean())
    assert baseline.unigram != pytest.approx(dataset_baseline(TokenDataset.open(chat_data.folder)).unigram, abs=0.01)


def source_with(chat_run, chat_file, tmp_path, template):
    (tmp_path / "t.jinja").write_text(template)
    return read_source(chat_run, chat_file, template_file=tmp_path / "t.jinja")


OPEN = "{% for m in messages %}{% if m.role == 'user' %}U:{{ m.content }}\n{% else %}A:"
CLOSE = "{% endif %}{% endfor %}{% if add_generation_prompt %}A:{% endif %}"


@pytest.mark.parametrize(
    ("template", "code"),
    [
        (OPEN + "{% generation %}{{ m.content }}{% endgeneration %}{{ eos_token }}" + CLOSE, "GG-CHT-001"),
        (OPEN + "{% generation %}{% endgeneration %}{{ m.content + eos_token }}" + CLOSE, "GG-CHT-002"),
        (OPEN + "{% generation %}{{ m.content }}<|im_end|>{% endgeneration %}" + CLOSE, "GG-CHT-006"),
    ],
)
def test_wrong_templates_are_refused_and_nothing_is_left(template, code, chat_run, chat_file, tmp_path):
    source = source_with(chat_run, chat_file, tmp_path, template)
    with pytest.raises(DataError, match=code):
        prepare_source(source, tmp_path / "data", 96, 48)
    assert not (tmp_path / "data").exists()


STOPS = "{% generation %}{{ m.content + eos_token }}{% endgeneration %}" + CLOSE
REFUSES_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}"


@pytest.mark.parametrize(
    ("template", "severity"),
    [
        (("<|user|>" + OPEN + STOPS).replace("A:", "<|assistant|>"), "warning"),  # Zephyr's markers are text
        ("{# not <|im_start|> #}" + OPEN + STOPS, "warning"),
        (REFUSES_SYSTEM + "<|user|>" + OPEN + STOPS, "warning"),
        (OPEN + "{% generation %}{{ m.content + '<|im_end|>' + eos_token }}{% endgeneration %}" + CLOSE, "fatal"),
        (OPEN + "{{ m.content + '<|im_end|>' + eos_token }}" + CLOSE, "fatal"),  # without marks
    ],
)
def test_unknown_marker_is_fatal_only_in_answers(template, severity, chat_run, chat_data, tmp_path):
    shutil.copytree(chat_data.folder, tmp_path / "data")
    (tmp_path / "data/chat_template.jinja").write_text(template)
    assert findings(ConversationDataset.open(tmp_path / "data")) == {"GG-CHT-006": severity}


def test_conversations_are_checked_once_until_they_change(chat_data, tmp_path, monkeypatch):
    calls = []
    counted = checks.check_fit
    monkeypatch.setattr(checks, "check_fit", lambda dataset: (calls.append(dataset.folder), counted(dataset))[1])
    folder = tmp_path / "data"
    shutil.copytree(chat_data.folder, folder)
    for _ in range(3):
        assert findings(ConversationDataset.open(folder)) == {}
    assert calls == [folder]
    (folder / "chat_template.jinja").write_text("<|user|>" + OPEN + STOPS)
    assert findings(ConversationDataset.open(folder)) == {"GG-CHT-006": "warning"}
    assert calls == [folder] * 2


@pytest.mark.slow
def test_all_ranks_refuse_what_the_first_one_finds(chat_run, chat_data, tmp_path):
    """By the Python API, where nothing was checked before. A rank that is not told loses the connection, or waits."""
    shutil.copytree(chat_data.folder, tmp_path / "data")
    (tmp_path / "data/chat_template.jinja").write_text(OPEN + "{{ m.content + '<|im_end|>' + eos_token }}" + CLOSE)
    settings = SMALL | {"init_from": str(chat_run), "data": str(tmp_path / "data"), "train.device": "cpu"}
    shape = load_config(chat_run).model
    (tmp_path / "train.py").write_text(f"""
from dataclasses import asdict
from glassgpt import api
from glassgpt.config import load_config
from glassgpt.model.config import ModelConfig
shape = {{f"model.{{name}}": value for name, value in asdict({shape!r}).items()}}
api.train(load_config(None, {settings!r} | shape), {str(tmp_path / "run")!r})
""")
    for done in run_ranks(2, script=tmp_path / "train.py", timeout=60):
        assert done.returncode == 1
        assert "DataError: these conversations cannot be trained on: the chat template does not fit" in done.stderr
        assert "GG-CHT-006" in done.stderr


def test_conversations_about_special_tokens_are_healthy(chat_run, tmp_path):
    rows = [{"messages": messages(f"{n} <|endoftext|>?", f"<|endoftext|> {n}")} for n in range(20)]
    source = read_source(chat_run, write(tmp_path / "f.jsonl", rows))
    assert findings(prepare_source(source, tmp_path / "data", 96)) == {}


def test_template_that_marks_everything_is_found(chat_data, tmp_path):
    shutil.copytree(chat_data.folder, tmp_path / "data")
    damaged = with_flags(tmp_path / "data", lambda ids, flags: np.where(flags & STARTS, flags, SUPERVISED))
    assert findings(damaged)["GG-CHT-003"] == "fatal"


def with_flags(folder, change):
    """Change the flags of the training split and everything that follows from them."""
    from hashlib import sha256

    dataset = ConversationDataset.open(folder)
    tokens = dataset.split("train")
    flags = change(tokens.read(0, len(tokens)), tokens.flags(0, len(tokens))).astype(np.uint8)
    (folder / "train.flags").write_bytes(flags.tobytes())
    content = json.loads((folder / "conversations.json").read_text())
    content["train"] |= {
        "supervised": int((flags & SUPERVISED > 0).sum()),
        "sha256": sha256(flags.tobytes()).hexdigest(),
    }
    (folder / "conversations.json").write_text(json.dumps(content))
    return ConversationDataset.open(folder)


def test_stop_token_that_was_masked_as_padding_is_found(chat_data, tmp_path):
    shutil.copytree(chat_data.folder, tmp_path / "data")
    stop = chat_data.conversations.stop
    damaged = with_flags(tmp_path / "data", lambda ids, flags: np.where(ids == stop, flags & STARTS, flags))
    assert findings(damaged) == {"GG-CHT-001": "fatal"}


def test_fatal_problems_of_an_existing_dataset_are_found(chat_run, chat_file, chat_data, tmp_path):
    shutil.copytree(chat_data.folder, tmp_path / "data")
    stop = chat_data.conversations.stop
    with_flags(tmp_path / "data", lambda ids, flags: np.where(ids == stop, flags & STARTS, flags))
    with pytest.raises(DataError, match="GG-CHT-001"):
        prepare_source(read_source(chat_run, chat_file), tmp_path / "data", 96, 48)
    assert (tmp_path / "data").exists()  # it was not made by this command


def test_damaged_dataset_is_not_trained_on(chat_run, chat_data, run_main, tmp_path, monkeypatch):
    shutil.copytree(chat_data.folder, tmp_path / "data")
    stop = chat_data.conversations.stop
    damaged = with_flags(tmp_path / "data", lambda ids, flags: np.where(ids == stop, flags & STARTS, flags))
    with pytest.raises(DataError, match="GG-CHT-001"):
        api.train(configuration(chat_run, damaged), tmp_path / "run")
    with monkeypatch.context() as patch:
        patch.setattr("glassgpt.api.finetuning.load", lambda *args, **more: pytest.fail("a model was loaded before"))
        with pytest.raises(DataError, match="GG-CHT-001"):
            api.finetune(configuration(chat_run, damaged), tmp_path / "run")
    command = ("train", "nano", "--init-from", chat_run, "--data", tmp_path / "data", "--out", tmp_path / "run")
    shape = ("--model.n-layer", 2, "--model.n-head", 2, "--model.n-embd", 16, "--model.context-length", 96)
    code, _, err = run_main(*command, *shape, "--train.sequence-length", 48, "--train.batch-tokens", 96)
    assert (code, "GG-CHT-001" in err) == (1, True), err
    command = ("finetune", chat_run, "--format", "chat", "--data", tmp_path / "data", "--out", tmp_path / "run")
    code, _, err = run_main(*command)
    assert (code, "GG-CHT-001" in err) == (1, True), err
    assert not (tmp_path / "run").exists()


def test_conversations_in_both_files_are_found(chat_run, chat_file, tmp_path):
    source = read_source(chat_run, chat_file, validation_data=chat_file)
    with pytest.raises(DataError, match="GG-CHT-007"):
        prepare_source(source, tmp_path / "data", 96, 48)


def test_long_conversations_lose_their_last_turns_and_it_is_said(chat_run, tmp_path):
    rows = [{"messages": messages(f"q{n}", "a", "q", "b" * 30)} for n in range(9)] + [{"messages": messages("q", "a")}]
    source = read_source(chat_run, write(tmp_path / "f.jsonl", rows))
    with pytest.raises(DataError, match="GG-CHT-005"):  # most are cut
        prepare_source(source, tmp_path / "data", 96, 48)
    source = read_source(
        chat_run, write(tmp_path / "g.jsonl", [{"messages": messages(f"q{n}", "a" * 99)} for n in range(9)])
    )
    with pytest.raises(DataError, match="none of the 8 conversations of the train split fits into a row of 48 tokens"):
        prepare_source(source, tmp_path / "data", 96, 48)
    with pytest.raises(DataError, match="fits into a row of 96 tokens"):  # the longest that the model has
        prepare_source(source, tmp_path / "data", 96)


def test_damaged_flags_are_refused(chat_data, tmp_path):
    shutil.copytree(chat_data.folder, tmp_path / "data")
    flags = bytearray((tmp_path / "data/train.flags").read_bytes())
    flags[5] ^= 1
    (tmp_path / "data/train.flags").write_bytes(flags)
    with pytest.raises(DataError, match=r"train\.flags does not match its checksum"):
        ConversationDataset.open(tmp_path / "data")


def test_dataset_without_its_template_is_refused(chat_data, tmp_path):
    shutil.copytree(chat_data.folder, tmp_path / "data")
    (tmp_path / "data/chat_template.jinja").unlink()
    with pytest.raises(DataError, match=r"chat_template\.jinja is missing; prepare the conversations again"):
        ConversationDataset.open(tmp_path / "data")


def test_rows_of_another_length_are_refused(chat_data):
    with pytest.raises(DataError, match=r"rows of 48 tokens, but train\.sequence_length is 96; set it to 48"):
        build_batches(chat_data.split("train"), 96, seed=1)


def test_rows_of_another_length_are_refused_before_anything_is_read(chat_run, chat_data, run_main, tmp_path):
    problem = "rows of 48 tokens, but train.sequence_length is 96; set it to 48"
    with pytest.raises(ConfigError, match=problem):
        api.check(configuration(chat_run, chat_data, train__sequence_length=0), tmp_path / "run")
    chat = ("finetune", chat_run, "--format", "chat", "--out", tmp_path / "run", "--train.sequence-length", 96)
    code, _, err = run_main(*chat, "--data", chat_data.folder, "--train.batch-tokens", 96)
    assert (code, problem in " ".join(err.split())) == (2, True), err
    checks = list(api.doctor(data=chat_data.folder, overrides={"train.sequence_length": "24"}))
    assert "rows of 48 tokens" in str([finding.evidence for check in checks for finding in check.findings])


def test_rows_are_no_prompts(tuned, run_main):
    run, problem = tuned[0], "holds conversations, which cannot be continued as a text"
    for command in (
        ("evaluate", run, "--generate"),
        ("sweep-decoding", run, "--for", "chat"),
        ("doctor", run, "--text"),
    ):
        code, _, err = run_main(*command)
        assert (code, problem in " ".join(err.split())) == (2, True), err
    loaded, dataset = api.load_with_dataset(run, None, device="cpu")
    with pytest.raises(UsageError, match=problem):
        evaluate(loaded.model, dataset, EvaluationRequest(settings={"default": {}}))


def test_nothing_is_merged_if_the_template_cannot_be_copied(tuned, tmp_path):
    run = shutil.copytree(tuned[0], tmp_path / "run")
    (run / "chat_template.jinja").rename(tmp_path / "t.jinja")
    (run / "chat_template.jinja").symlink_to(tmp_path / "t.jinja")
    with pytest.raises(UnsafeFileError, match="is a symbolic link"):
        api.merge(run, tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


def test_conversations_are_not_mixed_with_a_text(chat_data, grammar_data):
    for new, old, error in (
        (chat_data.folder, grammar_data, "cannot be combined with the conversations in"),
        (grammar_data, chat_data.folder, "which holds conversations; name a dataset of text"),
    ):
        replay = load_config("nano", {"replay.data": str(old), "replay.share": 0.5}).replay
        with pytest.raises(DataError, match=error):
            open_training_data(new, replay)


@pytest.fixture(scope="module")
def mixed_data(chat_run, chat_file, grammar_data, tmp_path_factory):
    """The conversations in rows of 48 tokens, and a quarter of old text; tests must not modify it."""
    out = tmp_path_factory.mktemp("mixed") / "data"
    return prepare_source(read_source(chat_run, chat_file), out, 96, 48, (grammar_data, 0.25))


def test_rows_of_old_text_are_mixed_into_the_training_rows_alone(mixed_data, chat_data, grammar_data):
    tokens, plain, old = (
        mixed_data.split("train"),
        chat_data.split("train"),
        TokenDataset.open(grammar_data).split("train"),
    )
    flags = tokens.flags(0, len(tokens)).reshape(-1, 49)
    ids = tokens.read(0, len(tokens)).reshape(-1, 49)
    is_text = flags[:, 0] & TEXT > 0
    assert is_text.sum() == round(len(plain) // 49 / 3)
    assert mixed_data.conversations.train.text == is_text.sum() * 49
    assert (flags[is_text, 0] == STARTS | TEXT).all()
    assert (flags[is_text, 1:] == SUPERVISED | TEXT).all()
    everything = old.read(0, len(old)).astype(np.uint16).tobytes()
    assert all(row.astype(np.uint16).tobytes() in everything for row in ids[is_text])
    assert len({row.tobytes() for row in ids[is_text]}) == is_text.sum()
    conversations = {row.tobytes() for row in plain.read(0, len(plain)).reshape(-1, 49)}
    assert {row.tobytes() for row in ids[~is_text]} == conversations
    assert mixed_data.conversations.validation == chat_data.conversations.validation
    assert not [finding for check in check_conversations(mixed_data) for finding in check.findings]


def test_old_text_that_is_shorter_than_a_row_is_refused(chat_run, chat_file, tmp_path):
    (tmp_path / "old.txt").write_text("It is short. But.")
    prepare(PrepareOptions(sources=(str(tmp_path / "old.txt"),), out=tmp_path / "old", tokenizer="bytes", workers=1))
    with pytest.raises(DataError, match="the old text has only .* tokens; give one of at least 49"):
        prepare_source(read_source(chat_run, chat_file), tmp_path / "x", 96, 48, (tmp_path / "old", 0.25))
    assert not (tmp_path / "x").exists()


def test_row_of_old_text_has_the_loss_of_a_text(chat_run, mixed_data):
    tokens = mixed_data.split("train")
    start = int(np.flatnonzero(tokens.flags(0, len(tokens)) & (STARTS | TEXT) == STARTS | TEXT)[0])
    ids = torch.from_numpy(tokens.read(start, 49))
    model = api.load(chat_run, device="cpu").model
    targets = row_targets(ids[None].numpy(), tokens.flags(start, 49)[None])
    alone = F.cross_entropy(model(ids[None, :-1])[0], ids[1:], reduction="sum")
    counted = ConversationLoss(model)(ids[None, :-1], torch.from_numpy(targets))
    torch.testing.assert_close(counted * 48, alone)


def test_mask_of_conversations_is_judged_without_the_old_text(mixed_data, tmp_path):
    """A template without an answer to learn is fatal, however much text is learned."""
    folder = shutil.copytree(mixed_data.folder, tmp_path / "data")
    data = ConversationDataset.open(folder)
    text = data.conversations.train.text
    train = replace(data.conversations.train, supervised=text - text // 49)
    data.conversations = replace(data.conversations, train=train)
    assert [finding.code for finding in checks.check_mask(data).findings] == ["GG-CHT-002"]


def test_command_mixes_old_text_in_and_measures_it(chat_run, chat_file, grammar_data, run_main, tmp_path):
    settings = ("--row-tokens", "48", "--train.max-steps", "2", "--train.batch-tokens", "96", "--train.device", "cpu")
    given = ("--format", "chat", "--data", chat_file, "--replay", f"{grammar_data}=0.25", "--out", tmp_path / "out")
    code, out, err = run_main("finetune", chat_run, *given, *settings)
    assert code == 0, err
    assert "tokens of text" in out
    assert [change.text for change in read_changes(tmp_path / "out")] == ["new", "old"]


def test_table_of_texts_and_other_conversations_are_refused(chat_run, chat_file, chat_data, tmp_path):
    shutil.copytree(chat_run, tmp_path / "run")
    (tmp_path / "run/chat_template.toml").write_text("[roles.user]\n[roles.assistant]\n")
    with pytest.raises(ConfigError, match="has no stop token to learn"):
        read_source(tmp_path / "run", chat_file)
    source = read_source(chat_run, chat_file)
    assert prepare_source(source, chat_data.folder, 96, 48).folder == chat_data.folder
    with pytest.raises(UsageError, match="holds other conversations"):
        prepare_source(source, chat_data.folder, 96, 32)


# The command


def test_command_shows_conversations_and_trains_nothing(chat_run, chat_file, run_main):
    code, out, err = run_main("finetune", chat_run, "--format", "chat", "--data", chat_file, "--show", "2")
    assert code == 0
    assert "60 conversations in the format messages" in err
    assert "chat template: the plain transcript" in err
    assert out.count("User: q") == 2
    assert "tokens are learned (⟦ ⟧)" in err  # no terminal, so no colors
    assert out.count("⟦") == out.count("⟧") == 2


def test_command_prepares_and_trains(chat_run, chat_file, run_main, tmp_path):
    settings = ("--row-tokens", "48", "--train.max-steps", "2", "--train.batch-tokens", "96")
    code, out, err = run_main(
        "finetune", chat_run, "--format", "chat", "--data", chat_file, "--out", tmp_path / "out", *settings
    )
    assert code == 0, err
    assert "rows of 48 tokens" in out
    assert (tmp_path / "out-data/conversations.json").is_file()
    assert RunFolder(tmp_path / "out").chat_template.is_file()


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["--show", "3"], "need --format chat"),
        (["--format", "chat", "--data", "{dataset}", "--show", "3"], "--show needs a file of conversations"),
        (["--format", "chat", "--out", "x"], "no conversations are given"),
        (["--format", "chat", "--data", "missing.jsonl", "--out", "x"], "missing.jsonl cannot be read"),
        (["--format", "chat", "--data", "{file}"], "no folder for the new run"),
        (
            ["--format", "chat", "--data", "{file}", "--out", "x", "--row-tokens", "97"],
            "from 2 to the model's context of 96",
        ),
        (["--format", "chat", "--data", "{file}", "--out", "x", "--replay", "d=0.1"], "d does not exist"),
        (
            ["--format", "chat", "--data", "{file}", "--out", "x", "--replay", "d"],
            "--replay is d; it must be DATA=SHARE",
        ),
        (
            ["--format", "chat", "--data", "{file}", "--out", "x", "--replay", "{dataset}=0.1"],
            "which holds conversations; name a dataset of text",
        ),
        (["--format", "chat", "--data", "{dataset}", "--out", "x", "--replay", "d=0.1"], "--replay need a file"),
        (["--format", "chat", "--data", "{file}", "--out", "x", "--epochs", "0"], "--epochs is 0.0"),
        (
            ["--format", "chat", "--data", "{file}", "--out", "x", "--lora.rank", "0"],
            "to train all weights, add --full",
        ),
        (
            ["--format", "chat", "--data", "{file}", "--out", "x", "--full", "--lora.alpha", "8"],
            "--full or --lora.alpha",
        ),
        (["--format", "chat", "--data", "{file}", "--out", "x", "--lora.alpha", "0"], "lora.alpha is 0.0"),
        (["--format", "chat", "--data", "{file}", "--out", "x", "--lora.targets", "mlp.gate"], "which no layer has"),
        (
            ["--format", "chat", "--data", "{file}", "--out", "x", "--train.sequence-length", "48"],
            "train.sequence_length is 48, but conversations are read in rows",
        ),
    ],
)
def test_mistakes_are_reported_before_anything_is_written(
    arguments, error, chat_run, chat_file, chat_data, run_main, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    words = [each.replace("{file}", str(chat_file)).replace("{dataset}", str(chat_data.folder)) for each in arguments]
    code, _, err = run_main("finetune", chat_run, *words)
    assert code == 2
    assert error in err
    assert not list(tmp_path.iterdir())
