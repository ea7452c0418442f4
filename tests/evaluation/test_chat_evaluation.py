"""Evaluation of models that chat, with tiny models: replies, the assistant's loss, and several runs side by side."""

import json
import math
import shutil
from dataclasses import replace

import pytest
import torch

from glassgpt.api import chat_evaluation
from glassgpt.api.chat_evaluation import ChatEvaluation, evaluate_chats
from glassgpt.api.runs import save_as_run
from glassgpt.config import RunConfig
from glassgpt.data import load_tokenizer
from glassgpt.data.chat.chat_template import TRANSCRIPT
from glassgpt.data.chat.jinja_template import compile_template
from glassgpt.data.chat.messages import parse_messages
from glassgpt.data.chat.plain import PLAIN_TEMPLATE
from glassgpt.data.chat.render import render
from glassgpt.errors import CheckpointError, DataError, GenerationError, UsageError
from glassgpt.evaluation.chat import evaluate
from glassgpt.evaluation.chat.assistant_loss import assistant_loss
from glassgpt.evaluation.chat.evaluate import ChatModel, ChatReport, ScoredReply, evaluate_chat
from glassgpt.evaluation.chat.replies import Reply, ReplyLimits, generate_replies
from glassgpt.evaluation.chat.show import show_chat_reports
from glassgpt.evaluation.chat.tasks import ChatTasks, read_tasks
from glassgpt.generation.engine.generate import generate
from glassgpt.generation.options import GenerationOptions
from small_models import attentive_model

BYTES = load_tokenizer("bytes")
GREEDY = GenerationOptions(temperature=0.0, max_tokens=12, seed=0)
TALK = [
    [("user", "Hi"), ("assistant", "Ho, 한")],
    [("system", "Be."), ("user", "A?"), ("assistant", "B"), ("user", "C?"), ("assistant", "Dee")],
]


@pytest.fixture(scope="module")
def model():
    return attentive_model()


@pytest.fixture(scope="module")
def talk():
    """Return conversations, rendered; the first message of the last one's assistant is context only."""
    template = compile_template(PLAIN_TEMPLATE, "plain")
    rows = [[{"role": role, "content": text} for role, text in each] for each in TALK]
    rows[1][2]["weight"] = 0
    return [render(BYTES, template, parse_messages(row, "here")) for row in rows]


def test_replies_equal_those_generated_alone(model):
    prompts = [BYTES.encode(text) for text in ("one", "seven", "x")]
    replies = generate_replies(model, BYTES, prompts, ReplyLimits(GREEDY, slots=2))
    for prompt, reply in zip(("one", "seven", "x"), replies, strict=True):
        (alone,) = generate(model, BYTES, prompt, GREEDY)
        assert (reply.text, reply.tokens) == (alone.text.strip(), len(alone.tokens))


def test_each_sampled_reply_has_a_seed_of_its_own(model):
    options = GenerationOptions(temperature=1.0, max_tokens=12, seed=5)
    replies = generate_replies(model, BYTES, [BYTES.encode("one")] * 2, ReplyLimits(options, slots=2))
    (alone,) = generate(model, BYTES, "one", GenerationOptions(temperature=1.0, max_tokens=12, seed=6))
    assert replies[1].text == alone.text.strip() != replies[0].text


def test_a_reply_that_ends_by_a_stop_string_has_stopped(model):
    (whole,) = generate(model, BYTES, "one", GREEDY)
    stop = BYTES.decode(whole.tokens[4:6])
    (until,) = generate_replies(
        model,
        BYTES,
        [BYTES.encode("one")],
        ReplyLimits(GenerationOptions(temperature=0.0, max_tokens=12, stop=(stop,)), 1),
    )
    (cut,) = generate_replies(model, BYTES, [BYTES.encode("one")], ReplyLimits(GREEDY, 1))
    assert (until.stopped, cut.stopped, cut.tokens) == (True, False, 12)


def test_prompt_that_fills_the_context_has_no_reply(model):
    context = model.config.context_length
    replies = generate_replies(model, BYTES, [[1] * context, [1] * (context - 1)], ReplyLimits(GREEDY, 2))
    assert (replies[0], replies[1].tokens) == (None, 2)


def reference_nats(model, rendered):
    """Reference: one forward pass for each supervised token."""
    nats, count = 0.0, 0
    for at, learned in enumerate(rendered.supervised):
        if learned and at:
            with torch.no_grad():
                logits = model(torch.tensor([rendered.tokens[:at]]))[0, -1].double()
            nats -= float(logits.log_softmax(-1)[rendered.tokens[at]])
            count += 1
    return nats, count


def test_assistant_loss_equals_the_reference(talk):
    model = attentive_model(context_length=96)
    found = assistant_loss(model, BYTES, talk)
    nats, counts = zip(*(reference_nats(model, each) for each in talk), strict=True)
    assert found.tokens == sum(counts)
    assert found.nats == pytest.approx(sum(nats), rel=1e-5)
    # The text of the messages that are learned, each after a space; stop tokens have no bytes.
    assert found.n_bytes == len(" Ho, 한 Dee".encode())


def test_conversations_longer_than_the_context_are_measured(talk):
    assert math.isfinite(assistant_loss(attentive_model(context_length=16), BYTES, talk).loss)


def test_nothing_to_learn_is_an_error(model):
    with pytest.raises(DataError, match="says nothing"):
        assistant_loss(model, BYTES, [])


PROMPTS = [
    {"prompt": "No commas.", "instruction_id_list": ["punctuation:no_comma", "startend:quotation"], "kwargs": [{}, {}]},
    {"prompt": "Short.", "instruction_id_list": ["length_constraints:number_words"], "kwargs": [{"relation": "less than", "num_words": 99}]},
    {"prompt": "x" * 60, "instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]},
]  # fmt: skip
PROBLEMS = [{"question": "1+1?", "answer": "#### 2"}, {"question": "2+2?", "answer": "#### 4"}]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("chat")
    messages = [{"messages": [{"role": role, "content": text} for role, text in each]} for each in TALK]
    for name, rows in (("ifeval", PROMPTS), ("gsm8k", PROBLEMS), ("conversations", messages)):
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return {name: folder / f"{name}.jsonl" for name in ("ifeval", "gsm8k", "conversations")}


def test_scores_of_known_replies(model, files, monkeypatch):
    given = [Reply("Sure:\n\"a b\"", 3, True, False), Reply("a", 1, False, True), None, Reply("It is 2.", 4, True, False), Reply("3", 1, True, False)]  # fmt: skip
    monkeypatch.setattr(evaluate, "generate_replies", lambda *args, **kwargs: given)
    chat = ChatModel(model, model, BYTES, lambda messages: BYTES.encode(messages[-1][1]))
    report = evaluate_chat(chat, read_tasks(files["ifeval"], files["gsm8k"]), ReplyLimits(GREEDY, 4))
    counts = {name: (share.count, share.total) for name, share in report.shares().items()}
    assert counts == {
        "ifeval_prompt_strict": (1, 3), "ifeval_instruction_strict": (2, 4), "ifeval_prompt_loose": (2, 3),
        "ifeval_instruction_loose": (3, 4), "gsm8k": (1, 2), "stopped": (3, 4), "loops": (1, 4),
    }  # fmt: skip
    assert (report.mean_tokens, report.unanswered) == (9 / 4, 1)


def test_model_that_answers_nothing_is_shown_beside_one_that_does(capsys):
    answer = ScoredReply("gsm8k", "1+1?", Reply("2", 1, True, False), [True], [True])
    unanswered = replace(answer, reply=None, strict=[False], loose=[False])
    for first, second in ((answer, unanswered), (unanswered, answer)):
        show_chat_reports({"one": ChatReport([first]), "two": ChatReport([second])}, "title", samples=1)
        printed = capsys.readouterr().out
        assert "100.0% (1/1)" in printed
        assert "0.0% (0/1)" in printed
        assert "replies that loop" in printed
        assert "–" in printed


def test_examples_precede_each_problem(model, files):
    asked = []

    def encode(messages):
        asked.append(list(messages))
        return BYTES.encode(messages[-1][1])

    tasks = read_tasks(gsm8k=files["gsm8k"], shots=1)
    evaluate_chat(ChatModel(model, model, BYTES, encode), tasks, ReplyLimits(GREEDY, 4))
    assert asked == [[("user", "1+1?"), ("assistant", "#### 2"), ("user", "2+2?")]]


def test_nothing_to_evaluate_is_an_error(model):
    with pytest.raises(UsageError, match="--ifeval FILE"):
        evaluate_chat(ChatModel(model, model, BYTES, lambda messages: []), ChatTasks(), ReplyLimits(GREEDY, 1))


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    for seed, name in enumerate(("base", "tuned")):
        save_as_run(attentive_model(seed, context_length=64), BYTES, folder / name, config=RunConfig())
    return [folder / "base", folder / "tuned"]


def test_runs_are_compared_in_one_table(runs, files, tmp_path, run_main):
    out = tmp_path / "figures.json"
    arguments = [str(each) for each in runs] + [
        "--chat",
        "--device",
        "cpu",
        "--new-tokens",
        "8",
        "--json-file",
        str(out),
    ]
    for name, path in files.items():
        arguments += [f"--{name}", str(path)]
    code, table, notices = run_main("evaluate", *arguments, "--samples", "1")
    assert code == 0, notices
    assert "base" in table
    assert "tuned" in table
    assert "IFEval: prompts, strict" in table
    assert "loss of the assistant's tokens" in table
    assert "No commas." in table
    assert "longer than the model's context of 64" in notices
    figures = json.loads(out.read_text())
    assert list(figures["models"]) == ["base", "tuned"]
    assert (figures["settings"]["checkpoint"], figures["settings"]["device"]) == ("best", "cpu")
    for report in figures["models"].values():
        assert report["figures"]["ifeval_prompt_strict"]["total"] == 3
        assert len(report["replies"]) == 5
        assert report["assistant_loss"]["tokens"] > 10


def test_decoding_that_cannot_be_read_is_named(runs, files, run_main):
    arguments = ("evaluate", runs[0], "--chat", "--gsm8k", files["gsm8k"], "--decoding")
    for given, problem in (("top_p=", "--decoding: cannot parse top_p="), (",", "--decoding names no settings")):
        code, _, err = run_main(*arguments, given)
        assert (code, problem in err) == (2, True), err


@pytest.mark.parametrize(
    ("decoding", "problem"),
    [
        ("max_tokens=9", "--decoding sets max_tokens; use --new-tokens instead"),
        ("temperature=1+seed=3", "--decoding sets seed; use --seed instead"),
        ("num_samples=2", "--decoding sets num_samples, but each prompt gets one reply"),
    ],
)
def test_settings_with_an_option_of_their_own_are_refused(decoding, problem, runs, files, run_main):
    code, _, err = run_main("evaluate", runs[0], "--chat", "--gsm8k", files["gsm8k"], "--decoding", decoding)
    assert (code, problem in err) == (2, True), err


def test_damaged_run_is_found_before_the_first_is_evaluated(runs, files, tmp_path, monkeypatch):
    damaged = shutil.copytree(runs[1], tmp_path / "damaged")
    weights = next(damaged.glob("checkpoints/step-*/model.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    monkeypatch.setattr(chat_evaluation, "load", lambda *args, **kwargs: pytest.fail("a model was loaded before"))
    with pytest.raises(CheckpointError, match="is damaged"):
        evaluate_chats([runs[0], damaged], ChatEvaluation(read_tasks(files["ifeval"]), {}, device="cpu"))


def test_stop_strings_of_the_settings_are_added_to_those_of_the_template(runs, files, monkeypatch):
    given = []
    monkeypatch.setattr(chat_evaluation, "evaluate_chat", lambda chat, tasks, limits, **_: given.append(limits.options))
    request = ChatEvaluation(read_tasks(files["ifeval"]), {"stop": ("END",)}, new_tokens=4, device="cpu")
    chat_evaluation.evaluate_run(runs[0], request)
    assert given[0].stop == ("END", *TRANSCRIPT.stop)


def test_limit_and_one_run(runs, files, capsys):
    tasks = read_tasks(files["ifeval"], limit=1)
    reports = evaluate_chats(runs[:1], ChatEvaluation(tasks, {}, new_tokens=4, device="cpu"), as_json=True)
    assert len(reports["base"].replies) == 1
    printed = json.loads(capsys.readouterr().out)
    assert printed["settings"]["new_tokens"] == 4


def test_settings_are_checked_before_a_run_is_loaded(tmp_path, files):
    tasks = read_tasks(files["ifeval"])
    with pytest.raises(GenerationError, match="temperature"):
        evaluate_chats([tmp_path / "none"], ChatEvaluation(tasks, {"temperature": -1.0}))


def test_a_template_that_is_a_table_has_no_loss(runs, files, tmp_path, monkeypatch):
    save_as_run(attentive_model(context_length=64), BYTES, tmp_path / "run", config=RunConfig())
    table = "[roles.user]\nbefore = 'U'\nafter = ''\n[roles.assistant]\nbefore = 'A'\nafter = ''\n"
    (tmp_path / "run" / "chat_template.toml").write_text(table)
    tasks = read_tasks(conversations=files["conversations"])
    monkeypatch.setattr(chat_evaluation, "load", lambda *args, **kwargs: pytest.fail("a model was loaded before"))
    with pytest.raises(UsageError, match="chat template in Jinja"):
        evaluate_chats([runs[0], tmp_path / "run"], ChatEvaluation(tasks, {}, device="cpu"))
