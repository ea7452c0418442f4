"""Rows and folders become documents; whatever is wrong is named by file and line."""

import base64
import gzip
import json
import lzma
import os
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glassgpt.data.bad_rows import BadRows
from glassgpt.data.observer import PrepareObserver
from glassgpt.errors import DataError, WrongDataError
from glassgpt.multimodal.folders import read_folder
from glassgpt.multimodal.sources import KEYS, MediaSource, SourceTurn, parse_document, read_row_file


def parse(row, base):
    return parse_document(row, base, "a.jsonl, line 1")


def image(path):
    return MediaSource("image", path)


def test_media_come_before_the_text_in_the_order_of_the_row(tmp_path):
    turns = parse({"audio": "b.wav", "image": ["x.png", "y.png"], "text": "two"}, tmp_path).turns
    media = (MediaSource("audio", tmp_path / "b.wav"), image(tmp_path / "x.png"), image(tmp_path / "y.png"))
    assert turns == (SourceTurn(media, learned=False), SourceTurn(("two",)))


def test_prompt_is_not_learned(tmp_path):
    turns = parse({"image": "x.png", "prompt": "What is it?", "text": " A bird"}, tmp_path).turns
    assert turns == (SourceTurn((image(tmp_path / "x.png"), "What is it?"), learned=False), SourceTurn((" A bird",)))


def test_text_alone_is_a_document(tmp_path):
    assert parse({"text": "words"}, tmp_path).turns == (SourceTurn(("words",)),)


def test_content_keeps_the_order_of_its_parts(tmp_path):
    raw = base64.b64encode(b"sound").decode()
    content = [
        {"type": "text", "text": "Look:"},
        {"type": "image_url", "image_url": {"url": "x.png"}},
        {"type": "image_url", "image_url": f"data:image/png;base64,{raw}"},
        {"type": "input_audio", "input_audio": {"data": raw, "format": "wav"}},
        {"type": "audio", "audio": "b.wav"},
        {"type": "text", "text": "end"},
    ]
    [turn] = parse({"content": content}, tmp_path).turns
    assert turn.parts == (
        "Look:", image(tmp_path / "x.png"), MediaSource("image", raw=b"sound"), MediaSource("audio", raw=b"sound"),
        MediaSource("audio", tmp_path / "b.wav"), "end",
    )  # fmt: skip


def test_messages_learn_what_the_assistant_says(tmp_path):
    messages = [
        {"role": "system", "content": "Answer briefly."},
        {"role": "user", "content": [{"type": "image", "image": "x.png"}, {"type": "text", "text": "What?"}]},
        {"role": "assistant", "content": "A bird."},
        {"role": "user", "content": "Which?"},
        {"role": "assistant", "content": "Wrong.", "weight": 0},
    ]
    turns = parse({"messages": messages}, tmp_path).turns
    assert [(turn.role, turn.learned) for turn in turns] == [
        ("system", False), ("user", False), ("assistant", True), ("user", False), ("assistant", False),
    ]  # fmt: skip
    assert turns[1].parts == (image(tmp_path / "x.png"), "What?")


def test_media_of_a_row_begin_the_first_message_of_the_user(tmp_path):
    messages = [{"role": "user", "content": "What?"}, {"role": "assistant", "content": "A bird."}]
    assert parse({"image": "x.png", "messages": messages}, tmp_path).turns[0].parts == (
        image(tmp_path / "x.png"),
        "What?",
    )


def test_null_is_an_empty_cell_of_a_table(tmp_path):
    empty = dict.fromkeys(["image", "audio", "prompt", "content", "messages", "note"])
    turns = [{"role": "user", "content": "a", "weight": None}, {"role": "assistant", "content": "b", "weight": None}]
    rows = [{"text": "a", "image": "x.png"}, {"text": "a"}, {"messages": turns}]
    assert [parse_document({**empty, **row}, tmp_path, "line 1") for row in rows] == [
        parse_document(row, tmp_path, "line 1")
        for row in [*rows[:2], {"messages": [{"role": turn["role"], "content": turn["content"]} for turn in turns]}]
    ]


MISTAKES = [
    ({"image": "x.png"}, "the keys are image; a row needs text, content or messages to learn"),
    ({"image": "x.png", "text": " "}, "text is empty"),
    ({"image": "x.png", "text": 3}, "text is int; it must be text"),
    ({"image": [None], "text": "a"}, "image is None; it must be the path of a file"),
    ({"image": "x.png", "text": None}, "the keys are image; a row needs text"),
    ({"image": "", "text": "a"}, "it must be the path of a file"),
    ({"image": "a\0b", "text": "a"}, "it must be the path of a file"),
    ({"image": "https://example.org/a.png", "text": "a"}, "is a URL, and nothing is fetched"),
    ({"image": "file:///etc/passwd", "text": "a"}, "is a URL, and nothing is fetched"),
    ({"image": "data:image/png,abc", "text": "a"}, "is not a data URL in base64"),
    ({"image": "data:image/png;base64,a*b", "text": "a"}, "not valid base64"),
    ({"content": [], "text": "a"}, "content and text cannot be combined"),
    ({"content": [{"type": "image", "image": "x.png"}]}, "content has no text"),
    ({"content": "text"}, "it must be text or a list of parts"),
    ({"content": [{"type": "video"}]}, "part 1: it is {'type': 'video'}; it must be an object whose type is"),
    ({"content": [{"type": []}]}, "part 1"),
    ({"content": [7]}, "part 1: it is 7"),
    ({"messages": []}, "at least one message"),
    ({"messages": [7]}, "message 1: it is 7"),
    ({"messages": [{"role": "user", "content": "a"}]}, "it must be of the assistant"),
    ({"messages": [{"role": "assistant", "content": "a"}]}, "user was expected"),
    ({"messages": [{"role": ["user"], "content": "a"}]}, "it must be system, user or assistant"),
    (
        {"messages": [{"role": "user", "content": [{"type": "input_audio", "input_audio": 3}]}]},
        "data is missing or null",
    ),
    (
        {
            "messages": [
                {"role": "user", "content": "a"},
                {"role": "assistant", "content": [{"type": "image", "image": "x"}]},
            ]
        },
        "put it into one of the user",
    ),
    (
        {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "weight": 0}]},
        "nothing can be learned",
    ),
]


@pytest.mark.parametrize(("row", "problem"), MISTAKES)
def test_mistakes_are_named_with_their_line(tmp_path, row, problem):
    with pytest.raises(DataError, match="^a.jsonl, line 1") as caught:
        parse(row, tmp_path)
    assert problem in str(caught.value)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8) | st.sampled_from(["user", "assistant", "text", "image"]),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.sampled_from(["role", "content", "weight", "type", "text", "image", "image_url", "url", "input_audio", "data"]), inner, max_size=4),
    max_leaves=6,
)  # fmt: skip


@given(st.dictionaries(st.sampled_from(KEYS), JSON, max_size=4))
@settings(max_examples=60, deadline=None)
def test_any_row_is_a_document_or_a_data_error(row):
    with suppress(DataError):  # any other error fails
        document = parse(row, Path("folder"))
        assert any(isinstance(part, str) and part.strip() for turn in document.turns for part in turn.parts)


@pytest.mark.parametrize(
    ("row", "place"),
    [
        ({"text": "a\ud800"}, "rows: "),
        ({"prompt": "\ud800", "text": "a"}, "rows: "),
        ({"content": [{"type": "text", "text": "\ud800"}]}, "rows, part 1: "),
        ({"messages": [{"role": "user", "content": "\ud800"}]}, "rows, message 1: "),
    ],
)
def test_half_of_a_surrogate_pair_is_refused_with_its_place(row, place):
    with pytest.raises(DataError, match=f"^{place}the text contains the lone surrogate U.D800"):
        parse_document(row, Path("folder"), "rows")


def test_bad_rows_are_skipped_up_to_the_number(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(
        b'\xef\xbb\xbf{"text": "one", "id": 7}\n\n{"text": ""}\nnot json\n{"text": "\xff"}\n{"text": "two"}\n'
    )
    bad, unread = BadRows(3), set()
    assert [one.turns[0].parts[0] for one in read_row_file(path, bad, unread)] == ["one", "two"]
    assert [problem.partition(": ")[0].rpartition(" ")[2] for problem in bad.problems] == ["3", "4", "5"]
    assert unread == {"id"}
    with pytest.raises(DataError, match="line 5.*2 bad rows were skipped before"):
        list(read_row_file(path, BadRows(2), set()))


@pytest.mark.parametrize(("suffix", "compress"), [(".gz", gzip.compress), (".xz", lzma.compress)])
def test_compressed_rows(tmp_path, suffix, compress):
    path = tmp_path / f"rows.jsonl{suffix}"
    path.write_bytes(compress(b'{"text": "one"}\n{"text": "two"}\n'))
    assert len(list(read_row_file(path, BadRows(), set()))) == 2
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(DataError, match="is truncated or not what its name says"):
        list(read_row_file(path, BadRows(), set()))


class Notes(PrepareObserver):
    def __init__(self):
        self.texts = []

    def on_note(self, text):
        self.texts.append(text)


def folder_documents(folder, bad=0, **options):
    notes = Notes()
    documents = list(read_folder(folder, BadRows(bad), notes, **{"follow_links": False, **options}))
    named = [
        ([source.path.relative_to(folder).as_posix() for source in one.media], one.turns[-1].parts[0])
        for one in documents
    ]
    return named, notes.texts


def touch(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")


def test_folder_names_are_labels_unless_there_is_a_text(tmp_path):
    touch(tmp_path, "cat/1.png", "cat/2.JPG", "dog/deep/3.wav", "4.png", ".hidden/5.png", "cat/notes.md")
    (tmp_path / "4.txt").write_text("\ufeffa red apple\n", encoding="utf-8")
    (tmp_path / "cat" / "2.txt").write_text("a black cat")
    documents, notes = folder_documents(tmp_path)
    assert documents == [
        (["4.png"], "a red apple"),
        (["cat/1.png"], "cat"),
        (["cat/2.JPG"], "a black cat"),
        (["dog/deep/3.wav"], "deep"),
    ]
    assert notes == [f"files of other types in {tmp_path} are not read: 1 (.md)"]


def test_files_of_one_name_are_one_document(tmp_path):
    touch(tmp_path, "bird/1.wav", "bird/1.png", "bird/1.tar.png")
    assert folder_documents(tmp_path)[0] == [(["bird/1.png", "bird/1.wav"], "bird"), (["bird/1.tar.png"], "bird")]


def test_file_without_text_is_bad(tmp_path):
    touch(tmp_path, "1.png", "2.png", "2.txt", "cat/3.png")
    assert folder_documents(tmp_path, bad=2)[0] == [(["cat/3.png"], "cat")]
    with pytest.raises(DataError, match="1 has no text; write it to 1.txt, or put it into a folder"):
        folder_documents(tmp_path)


def test_caption_that_is_a_fifo_is_not_opened(tmp_path):
    touch(tmp_path, "1.png")
    os.mkfifo(tmp_path / "1.txt")
    with pytest.raises(DataError, match="is not a file of text"):
        folder_documents(tmp_path)


def test_links_out_of_the_folder_are_not_followed(tmp_path):
    touch(tmp_path, "outside.png", "folder/cat/1.png")
    (tmp_path / "folder/cat/2.png").symlink_to(tmp_path / "outside.png")
    documents, notes = folder_documents(tmp_path / "folder")
    assert len(documents) == 1
    assert "are not followed: 1" in notes[0]
    assert len(folder_documents(tmp_path / "folder", follow_links=True)[0]) == 2


def test_caption_that_is_a_link_out_of_the_folder_is_not_read(tmp_path):
    touch(tmp_path, "folder/cat/1.png")
    (tmp_path / "secret.txt").write_text("a secret")
    (tmp_path / "folder/cat/1.txt").symlink_to(tmp_path / "secret.txt")
    with pytest.raises(DataError, match=r"1\.txt is a link that leads out of .*folder; remove it"):
        folder_documents(tmp_path / "folder")
    assert folder_documents(tmp_path / "folder", follow_links=True)[0] == [(["cat/1.png"], "a secret")]


def test_caption_may_have_its_suffix_in_capitals(tmp_path):
    touch(tmp_path, "cat/1.PNG")
    (tmp_path / "cat/1.TXT").write_text("a black cat")
    assert folder_documents(tmp_path) == ([(["cat/1.PNG"], "a black cat")], [])


def test_folder_without_media_is_refused(tmp_path):
    touch(tmp_path, "a.txt")
    with pytest.raises(WrongDataError, match="contains no picture"):
        folder_documents(tmp_path)


def test_rows_in_a_folder_are_pointed_out(tmp_path):
    touch(tmp_path, "cat/1.png")
    (tmp_path / "rows.jsonl").write_text(json.dumps({"text": "a"}))
    assert "name each of these files as a source" in folder_documents(tmp_path)[1][0]
