"""Conversations as tokens and masks: the ids and masks of transformers, and clear errors for what is no conversation."""

import pytest
from transformers import PreTrainedTokenizerFast

from glassgpt.data import load_tokenizer
from glassgpt.data.chat.jinja_template import compile_template
from glassgpt.data.chat.messages import parse_messages
from glassgpt.data.chat.plain import PLAIN_TEMPLATE
from glassgpt.data.chat.render import render
from glassgpt.data.tokenizers.bpe import GPT2_PATTERN, BPETokenizer
from glassgpt.errors import DataError
from glassgpt.interchange.tokenizer_files import write_tokenizer_files

SPECIAL = {"<|im_start|>": 257, "<|im_end|>": 258}
CHATML = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
MARKED = (
    "{% for m in messages %}{% if m.role == 'assistant' %}{{ '<|im_start|>assistant\n' }}{% generation %}"
    "{{ m.content + '<|im_end|>' }}{% endgeneration %}{{ '\n' }}{% else %}"
    "{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
WEIGHTED = [
    {"role": "system", "content": "x"},
    {"role": "user", "content": "\n\nhi, it's 12"},
    {"role": "assistant", "content": " a\n", "weight": 0},
    {"role": "user", "content": "한국어 <|im_end|>"},
    {"role": "assistant", "content": "네, 한국어"},
]
MESSAGES = [{key: message[key] for key in ("role", "content")} for message in WEIGHTED]


@pytest.fixture(scope="module")
def tokenizer():
    """Bytes, one merge of two line breaks, and special tokens."""
    return BPETokenizer("chatml", GPT2_PATTERN, [*(bytes([b]) for b in range(256)), b"\n\n"], SPECIAL, "<|im_end|>")


@pytest.fixture(scope="module")
def theirs(tokenizer, tmp_path_factory):
    """The tokenizer as transformers loads it."""
    folder = tmp_path_factory.mktemp("theirs")
    write_tokenizer_files(tokenizer, 100, folder)
    return PreTrainedTokenizerFast.from_pretrained(folder)


def rendered(tokenizer, text, messages):
    return render(tokenizer, compile_template(text, "a.jinja"), parse_messages(messages, "f, line 1"))


def learned(tokenizer, result):
    return [tokenizer.decode(result.tokens[start:end]) for start, end in result.spans if result.supervised[start]]


@pytest.mark.parametrize("text", [MARKED, PLAIN_TEMPLATE])
@pytest.mark.parametrize("count", [3, 5])
def test_ids_and_mask_are_those_of_transformers(text, count, tokenizer, theirs):
    messages = [{**m, "content": m["content"].replace(" <|im_end|>", "")} for m in MESSAGES[:count]]
    expected = theirs.apply_chat_template(
        messages, chat_template=text, return_dict=True, return_assistant_tokens_mask=True
    )
    result = rendered(tokenizer, text, messages)
    assert result.tokens == list(expected["input_ids"])
    assert [int(each) for each in result.supervised] == list(expected["assistant_masks"])


def test_template_without_marks_gives_the_mask_of_the_one_with_marks(tokenizer):
    assert rendered(tokenizer, CHATML, MESSAGES) == rendered(tokenizer, MARKED, MESSAGES)
    assert learned(tokenizer, rendered(tokenizer, CHATML, MESSAGES)) == [" a\n<|im_end|>", "네, 한국어<|im_end|>"]


def test_message_of_weight_0_is_not_learned(tokenizer):
    for text in (CHATML, MARKED):
        assert learned(tokenizer, rendered(tokenizer, text, WEIGHTED)) == ["네, 한국어<|im_end|>"]


def test_plain_template_learns_the_answer_and_the_end_of_text():
    tokenizer = load_tokenizer("bytes")
    result = rendered(tokenizer, PLAIN_TEMPLATE, MESSAGES[1:3])
    assert tokenizer.decode(result.tokens) == "User: \n\nhi, it's 12\nAssistant:  a\n<|endoftext|>\n"
    assert learned(tokenizer, result) == ["  a\n<|endoftext|>"]


def test_text_that_depends_on_later_messages_needs_marks(tokenizer):
    text = "{% for m in messages %}{{ loop.revindex ~ m.content }}{% endfor %}"
    with pytest.raises(DataError, match="f, line 1, message 3: a.jinja writes earlier messages differently"):
        rendered(tokenizer, text, MESSAGES)


def test_marks_must_be_as_many_as_answers(tokenizer):
    text = "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}"
    with pytest.raises(DataError, match="marks 5 texts with {% generation %}, but the assistant has 2 messages"):
        rendered(tokenizer, text, MESSAGES)


def of(*pairs, **extra):
    return [{"role": role, "content": content, **extra} for role, content in pairs]


@pytest.mark.parametrize(
    ("messages", "error"),
    [
        ([], "messages is []; it must be a list"),
        ("hi", "messages is 'hi'; it must be a list"),
        (["hi"], "message 1: it is 'hi'; it must be an object"),
        (of(("user", "a"), ("bot", "b")), "message 2: role is 'bot'; it must be system, user or assistant"),
        (of(("system", "a"), ("system", "b"), ("user", "c")), "several system messages"),
        (of(("user", "a"), ("system", "b"), ("assistant", "c")), "message 2: the role is system, but assistant"),
        (of(("user", "a"), ("user", "b")), "message 2: the role is user, but assistant was expected"),
        (of(("assistant", "a")), "message 1: the role is assistant, but user was expected"),
        (of(("user", " \n"), ("assistant", "b")), "message 1: the user's message is empty"),
        (of(("user", "\ud800"), ("assistant", "b")), "message 1: the text contains the lone surrogate U+D800"),
        (of(("user", None)), "message 1: content is None; it must be text"),
        (of(("user", "a"), ("assistant", "b"), name="x"), "message 1: unknown key 'name'"),
        (of(("user", "a"), ("assistant", "b"), weight=2), "message 1: weight is 2; it must be 0"),
        (of(("user", "a"), ("assistant", "b"), weight=0), "has weight 0, so that nothing can be learned"),
        (of(("user", "a"), ("assistant", "b"), ("user", "c")), "the last message is of the user"),
        (of(("system", "a")), "the last message is of the system"),
    ],
)
def test_what_is_no_conversation_is_refused_in_one_line(messages, error):
    with pytest.raises(DataError) as caught:
        parse_messages(messages, "f, line 7")
    assert error in str(caught.value)
    assert str(caught.value).startswith("f, line 7")
    assert "\n" not in str(caught.value)


def test_prompt_ends_with_the_user():
    asked = parse_messages(of(("user", "a"), ("assistant", "b"), ("user", "c")), "f", answered=False)
    assert asked.pairs[-1] == ("user", "c")
    with pytest.raises(DataError, match="it must be of the user"):
        parse_messages(of(("user", "a"), ("assistant", "b")), "f", answered=False)
