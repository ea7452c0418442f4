"""Building, searching and updating an index; the scores are those of an independent library."""

import errno
import gzip
import json
import os
import shutil
import sys

import numpy as np
import pytest

from glassgpt.api.retrieval import index_documents
from glassgpt.errors import DataError, UnsafeFileError, UsageError, WrongDataError
from glassgpt.retrieval import building
from glassgpt.retrieval.building import Changes, IndexObserver, build_index, update_index
from glassgpt.retrieval.html_text import html_text
from glassgpt.retrieval.index import DOCUMENTS, WORDS, Index, best_first
from glassgpt.retrieval.manifest import IndexOptions
from glassgpt.retrieval.postings import Bm25
from glassgpt.retrieval.store import PassageStore

ANIMALS = {
    "cats.md": "# Cats\n\nCats purr.\n\n## Food\n\nCats eat mice and fish.\n",
    "dogs.txt": "Dogs bark at strangers. They guard houses.",
    "birds.html": "<title>no</title><h1>Birds</h1><p>Birds <b>fly</b> &amp; sing.</p><script>mice()</script>",
    "rows.jsonl": '{"text": "고양이는 쥐를 먹는다. 도시는 크다.", "source": "ko"}\n{"text": "Snakes hiss."}\n',
}


class Recorder(IndexObserver):
    def __init__(self):
        self.skipped = []

    def on_skipped(self, skipped):
        self.skipped.append((skipped.place.rpartition("/")[2], skipped.reason))


@pytest.fixture
def animals(tmp_path):
    """A folder of documents and its index."""
    docs = tmp_path / "docs"
    docs.mkdir()
    for name, text in ANIMALS.items():
        (docs / name).write_text(text)
    build_index([docs], tmp_path / "index")
    return docs, tmp_path / "index"


def found(folder, question, limit=5):
    return [hit.passage.source.rpartition("/")[2] for hit in Index.open(folder).search(question, limit)]


def test_passages_have_their_place(animals):
    docs, folder = animals
    hit = Index.open(folder).search("who eats mice?")[0]
    passage = hit.passage
    assert (passage.source, passage.path, passage.heading) == (str(docs / "cats.md"),) * 2 + ("Cats > Food",)
    assert (
        (docs / "cats.md").read_text()[passage.start : passage.end]
        == passage.text
        == "## Food\n\nCats eat mice and fish."
    )
    assert hit.score == pytest.approx(sum(hit.scores.values()))
    assert Index.open(folder).store.passage(passage.number) == passage


@pytest.mark.parametrize(
    ("question", "source"),
    [("strangers", "dogs.txt"), ("Flying BIRDS", "birds.html"), ("고양이가 사는 곳", "ko"), ("snake", "rows.jsonl:2")],
)
def test_questions_find_their_source(animals, question, source):
    assert found(animals[1], question)[:1] == [source]


def test_unknown_words_find_nothing(animals):
    assert found(animals[1], "zebra") == found(animals[1], "?!") == []


@pytest.mark.parametrize(("field", "rows"), [(WORDS, "passages"), (DOCUMENTS, "documents")])
def test_scores_agree_with_bm25s(tmp_path, field, rows):
    bm25s = pytest.importorskip("bm25s")
    draw = np.random.default_rng(0)
    texts = [" ".join(f"w{word}" for word in draw.zipf(1.5, 60) % 50) for _ in range(40)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    build_index([tmp_path / "rows.jsonl"], tmp_path / "index", IndexOptions(passage_characters=100))
    index = Index.open(tmp_path / "index")
    postings = {WORDS: index.words, DOCUMENTS: index.documents}[field]
    units = {
        "passages": [index.store.passage(number).text for number in range(len(index))],
        "documents": texts,
    }[rows]
    theirs = bm25s.BM25(k1=0.9, b=0.4, method="lucene")
    theirs.index([text.split() for text in units], show_progress=False)
    question = ["w1", "w7", "w20"]
    ours = postings.scores([(index.vocabulary.find(word)[0], 1.0) for word in question], Bm25(0.9, 0.4))
    np.testing.assert_allclose(ours, theirs.get_scores(question), rtol=1e-4)


def test_a_name_counts_as_words_of_its_document(tmp_path):
    rows = [
        {"source": "김무성/0", "text": "아버지의 고향인 부산에서 태어났다."},
        {"source": "others/1", "text": "부산에서 태어났다."},
        {"source": "김무성/2", "text": "그는 김무성 의원이다."},
        *({"source": f"others/{number}", "text": "서울에서 자랐다."} for number in range(3, 9)),
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    build_index([tmp_path / "rows.jsonl"], tmp_path / "index")
    index = Index.open(tmp_path / "index")
    assert index.names is not None
    # The scores of one field that holds both, with the lengths of the texts: counted in full tables.
    tables = [np.zeros((len(index.vocabulary), len(rows))) for _ in range(2)]
    for postings, table in zip((index.documents, index.names), tables, strict=True):
        for term in range(len(index.vocabulary)):
            found_rows, counts = postings.of_term(term)
            table[term, found_rows] = counts
    texts, both = tables[0], sum(tables)
    most = np.maximum(*((table > 0).sum(axis=1) for table in tables))[:, None]
    norms = index.documents.norms(Bm25())
    rarity = np.log(1 + (len(rows) - most + 0.5) / (most + 0.5))
    terms = sorted(set(index.vocabulary.find("김무성 부산 others")))
    expected = (rarity * (both / (both + norms) - texts / (texts + norms)))[terms].sum(axis=0)
    gains = index.documents.gains(index.names, [(term, 1.0) for term in terms], Bm25())
    np.testing.assert_allclose(gains, expected, rtol=1e-5)
    assert gains[0] > gains[2] > 0, "a text that has the name already gains less"
    named = [hit.passage.source for hit in index.search("김무성 부산")]
    index.names = None
    unnamed = [hit.passage.source for hit in index.search("김무성 부산")]
    assert named.index("김무성/0") < named.index("others/1")
    assert unnamed.index("김무성/0") > unnamed.index("others/1")


def test_the_number_of_a_row_without_a_name_is_not_searched(tmp_path):
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps({"text": f"text {at}"}) + "\n" for at in "abcd"))
    build_index([tmp_path / "rows.jsonl"], tmp_path / "index")
    assert not Index.open(tmp_path / "index").search("3")


def test_an_older_index_has_no_names_until_it_is_updated(animals):
    docs, folder = animals
    with_names = contents(folder)
    manifest = json.loads((folder / "index.json").read_text())
    for path in folder.glob("names.*.npy"):
        path.unlink()
        del manifest["sizes"][path.name]
    (folder / "index.json").write_text(json.dumps(manifest))
    assert Index.open(folder).names is None
    assert found(folder, "who eats mice?")[0] == "cats.md"
    (docs / "new.txt").write_text("Zebras have stripes.")
    update_index(folder)
    (docs / "new.txt").unlink()
    update_index(folder)
    assert contents(folder) == with_names


def test_small_blocks_make_the_same_index(animals, tmp_path, monkeypatch):
    docs, folder = animals
    monkeypatch.setattr(building, "BLOCK_TERMS", 5)
    build_index([docs], tmp_path / "other")
    for path in folder.glob("*.npy"):
        np.testing.assert_array_equal(np.load(path), np.load(tmp_path / "other" / path.name))


def contents(folder):
    """Return what an index holds, without the order in which documents were read."""
    index = Index.open(folder)
    passages = sorted(
        (passage.source, passage.start, passage.end, passage.text, passage.heading)
        for passage in map(index.store.passage, range(len(index)))
    )
    questions = ("who eats mice", "strangers", "고양이", "zebra", "snake birds", "felines")
    scores = [[(hit.passage.source, round(hit.score, 4)) for hit in index.search(text)] for text in questions]
    return passages, scores


def test_update_makes_the_index_that_building_makes(animals, tmp_path):
    docs, folder = animals
    (docs / "cats.md").rename(docs / "felines.md")
    (docs / "dogs.txt").unlink()
    (docs / "birds.html").write_text("<h1>Birds</h1><p>Penguins swim.</p>")
    (docs / "new.txt").write_text("Zebras have stripes.")
    os.utime(docs / "rows.jsonl")
    manifest, changes = update_index(folder)
    assert changes == Changes(kept=1, renamed=1, added=2, removed=1)
    build_index([docs], tmp_path / "fresh")
    assert contents(folder) == contents(tmp_path / "fresh")
    assert (manifest.documents, manifest.passages) == (5, len(Index.open(folder)))
    assert update_index(folder)[1] == Changes(kept=4, renamed=0, added=0, removed=0)
    assert contents(folder) == contents(tmp_path / "fresh")


def test_open_index_survives_its_update(animals):
    docs, folder = animals
    before = Index.open(folder)
    (docs / "dogs.txt").unlink()
    update_index(folder)
    assert before.search("strangers")[0].passage.text == ANIMALS["dogs.txt"]
    assert found(folder, "strangers") == []


def test_failed_update_keeps_the_index(animals):
    docs, folder = animals
    shutil.rmtree(docs)
    with pytest.raises(DataError, match="no document can be indexed; .*it no longer exists"):
        update_index(folder)
    assert found(folder, "strangers") == ["dogs.txt"]
    assert [path.name for path in folder.parent.iterdir()] == ["index"]


def test_update_says_which_documents_are_gone_and_finds_them_again(tmp_path):
    for name in ("cats", "dogs"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.txt").write_text(f"The {name} sleep.")
    build_index([tmp_path / "cats", tmp_path / "dogs"], tmp_path / "index")
    (tmp_path / "dogs").rename(tmp_path / "elsewhere")  # such as a disk that is not mounted
    recorder = Recorder()
    assert update_index(tmp_path / "index", observer=recorder)[1] == Changes(kept=1, renamed=0, added=0, removed=1)
    assert recorder.skipped == [("dogs", "it no longer exists")]
    (tmp_path / "elsewhere").rename(tmp_path / "dogs")
    manifest, changes = update_index(tmp_path / "index")
    assert (changes.added, manifest.skipped) == (1, ())
    with pytest.raises(WrongDataError, match="none does not exist"):
        update_index(tmp_path / "index", [tmp_path / "none"])
    assert found(tmp_path / "index", "dogs") == ["a.txt"]


def test_update_says_which_folders_it_reads(animals, tmp_path, capsys):
    docs, _ = animals
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "a.txt").write_text("The cats sleep.")
    build_index([docs, docs / "cats.md", tmp_path / "other" / "a.txt"], tmp_path / "mine")
    manifest = json.loads((tmp_path / "mine" / "index.json").read_text())
    manifest["roots"] = [["harmless", path] for _, path in manifest["roots"]]  # as somebody else may write it
    (tmp_path / "mine" / "index.json").write_text(json.dumps(manifest))
    index_documents([], tmp_path / "mine", update=True)
    lines = [f"the index names documents in {folder}" for folder in (docs, tmp_path / "other")]
    assert capsys.readouterr().err.splitlines()[:2] == lines


def test_index_among_its_documents_is_not_read(animals):
    docs, folder = animals
    folder.rename(docs / "index")
    manifest, changes = update_index(docs / "index")
    assert changes == Changes(kept=4, renamed=0, added=0, removed=0)
    assert len(manifest.indexed) == 4


def test_second_update_at_the_same_time_is_refused(animals):
    docs, folder = animals

    class Other(IndexObserver):
        def on_ignored(self, count, suffixes, links):
            (docs / "new.txt").write_text("Zebras have stripes.")
            update_index(folder)

    (docs / "picture.png").write_bytes(b"")
    with pytest.raises(DataError, match="was updated by another process"):
        update_index(folder, observer=Other())
    assert found(folder, "zebras") == ["new.txt"]


def test_index_that_is_replaced_while_it_is_opened_is_opened_again(animals, monkeypatch):
    docs, folder = animals
    replaced = []

    def store(path):
        if not replaced:
            replaced.append(path)
            (docs / "dogs.txt").unlink()
            update_index(folder)
        return PassageStore(path)

    monkeypatch.setattr("glassgpt.retrieval.index.PassageStore", store)
    index = Index.open(folder)
    assert len(index) == index.manifest.passages == len(index.words.lengths)
    assert index.search("strangers") == []


def test_same_text_is_one_hit(tmp_path):
    for name in ("a.txt", "b.txt", "c.txt"):
        (tmp_path / name).write_text("Cats purr loudly.")
    (tmp_path / "d.txt").write_text("Cats sleep, they do not purr.")
    manifest = build_index([tmp_path], tmp_path / "index")
    first, second = Index.open(tmp_path / "index").search("cats purr")
    assert first.passage.path.endswith("a.txt")
    assert [place.rpartition("/")[2] for place in first.copies] == ["b.txt", "c.txt"]
    assert second.passage.path.endswith("d.txt")
    assert second.copies == ()
    assert (manifest.passages, manifest.copies) == (4, 2)


def test_all_places_of_a_text_are_known_however_they_are_ranked(tmp_path):
    (tmp_path / "a.txt").write_text("Cats purr loudly.")
    parts = "".join(f"# Part {n}\n\nStones lie still.\n\n" for n in range(9))
    (tmp_path / "b.md").write_text(f"Cats purr loudly.\n\n{parts}")
    for number in range(10):
        (tmp_path / f"d{number}.txt").write_text(f"Rain falls {number}.")
    (tmp_path / "c.txt").write_text("Cats purr, and purring cats are loud, loudly purring cats.")
    build_index([tmp_path], tmp_path / "index")
    [hit] = Index.open(tmp_path / "index").search("cats purr loudly", limit=1)
    assert {hit.passage.path.rpartition("/")[2], *(each.rpartition("/")[2] for each in hit.copies)} == {"a.txt", "b.md"}


def test_frequent_words_count_in_a_small_index(tmp_path):
    texts = ["What do owls do?", *(f"Cats {verb}." for verb in ("purr", "climb", "hunt")), *["Stones lie still."] * 8]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps({"text": each}) + "\n" for each in texts))
    build_index([tmp_path / "rows.jsonl"], tmp_path / "index")
    assert {"rows.jsonl:2", "rows.jsonl:3", "rows.jsonl:4"} < set(found(tmp_path / "index", "what do cats do?"))


def test_row_cannot_pass_for_another_file(tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"text": "Cats bark.", "source": "handbook.md"}\n')
    build_index([tmp_path / "rows.jsonl"], tmp_path / "index")
    [hit] = Index.open(tmp_path / "index").search("cats")
    assert hit.passage.place == f"handbook.md — {tmp_path / 'rows.jsonl'}"


def test_bad_files_are_skipped_with_a_reason(tmp_path, monkeypatch):
    monkeypatch.setattr("glassgpt.retrieval.documents.MAX_DOCUMENT_BYTES", 100)
    files = {
        "bad.html": b"<![bad[x]]>", "binary.txt": b"\0\1\2", "broken.pdf": b"%PDF-1.7 broken", "cut.jsonl.gz": b"\x1f\x8b\x08",
        "empty.txt": b" \n", "expands.txt.gz": gzip.compress(b"x" * 101),
        "good.txt": b"Cats purr.", "korean.txt": "고양이는 잠을 잔다. ".encode("cp949") * 3, "large.txt": b"x" * 101,
        "rows.jsonl": b'{"text": "Dogs bark."}\n{]\n{"title": "x"}\n\n{"text": "\\ud800"}\n'
        b'{"text": "x", "source": "\\ud800"}\n',
    }  # fmt: skip
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    recorder = Recorder()
    manifest = build_index([tmp_path], tmp_path / "index", observer=recorder)
    reasons = dict(recorder.skipped)
    assert list(reasons) == [
        "bad.html", "binary.txt", "broken.pdf", "cut.jsonl.gz", "empty.txt", "expands.txt.gz", "large.txt",
        "rows.jsonl, line 2", "rows.jsonl, line 3", "rows.jsonl, line 5", "rows.jsonl, line 6",
    ]  # fmt: skip
    assert "binary" in reasons["binary.txt"]
    assert "truncated" in reasons["cut.jsonl.gz"]
    assert "at most" in reasons["large.txt"]
    assert "when decompressed" in reasons["expands.txt.gz"]
    assert len(manifest.skipped) == len(reasons)
    assert found(tmp_path / "index", "cats") == ["good.txt"]
    assert found(tmp_path / "index", "고양이") == ["korean.txt"]
    assert {*update_index(tmp_path / "index")[0].skipped} == {*manifest.skipped}


def test_full_disk_is_not_the_fault_of_a_file(tmp_path, monkeypatch):
    (tmp_path / "a.txt").write_text("Cats purr.")

    def add(*arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(building.StoreWriter, "add", add)
    with pytest.raises(DataError, match="the disk is full"):
        build_index([tmp_path / "a.txt"], tmp_path / "index")
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


@pytest.mark.parametrize("charset", ["undefined", "idna", "unicode_escape", "utf-16", "none"])
def test_charset_of_a_page_cannot_stop_the_index(tmp_path, charset):
    (tmp_path / "page.html").write_text(f'<meta charset="{charset}"><title>x</title><p>Cats purr \\ud800.')
    build_index([tmp_path / "page.html"], tmp_path / "index")
    assert found(tmp_path / "index", "cats") == ["page.html"]


def test_page_may_leave_out_the_end_of_its_head():
    page = "<!doctype html><head><meta charset=utf-8><title>no</title><style>no</style><h1>Cats</h1>They purr."
    assert html_text(page) == "# Cats\n\nThey purr."


@pytest.mark.skipif(sys.platform != "linux", reason="file names must be UTF-8 elsewhere")
def test_file_names_that_are_not_utf8_are_shown_with_a_mark(tmp_path):
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / os.fsdecode(b"caf\xe9.txt")).write_text("Cats purr.")
    build_index([tmp_path / "docs"], tmp_path / "index")
    assert found(tmp_path / "index", "cats") == ["caf?.txt"]
    assert update_index(tmp_path / "index")[1] == Changes(kept=1, renamed=0, added=0, removed=0)


def test_few_of_many_skipped_rows_are_listed_and_all_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(building, "MAX_SKIPPED", 2)
    for name in ("a", "b"):
        (tmp_path / f"{name}.jsonl").write_text('{"text": "cats"}\n' + "[]\n" * 3)
    (tmp_path / "c.txt").write_bytes(b"\0")
    manifest = build_index([tmp_path], tmp_path / "index")
    assert (len(manifest.skipped), manifest.n_skipped) == (2, 7)
    updated = update_index(tmp_path / "index")[0]
    assert (len(updated.skipped), updated.n_skipped) == (2, 7)
    (tmp_path / "a.jsonl").write_text('{"text": "cats"}')
    assert update_index(tmp_path / "index")[0].n_skipped == 4


def test_links_out_of_a_folder_and_hidden_files_are_not_read(tmp_path):
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret.txt").write_text("The password is swordfish.")
    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / "link.txt").symlink_to(tmp_path / "outside" / "secret.txt")
    (docs / "folder").symlink_to(tmp_path / "outside")
    (docs / ".hidden.txt").write_text("Another password.")
    (docs / "a.txt").write_text("Nothing.")
    build_index([docs], tmp_path / "index")
    assert found(tmp_path / "index", "password") == []


def test_nothing_to_index_is_an_error_that_leaves_nothing(tmp_path):
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "a.bin").write_bytes(b"\0")
    with pytest.raises(DataError, match="no document"):
        build_index([tmp_path / "docs"], tmp_path / "index")
    with pytest.raises(WrongDataError, match="does not exist"):
        build_index([tmp_path / "none"], tmp_path / "index")
    with pytest.raises(UsageError, match="--passage-characters is 3"):
        build_index([tmp_path / "docs"], tmp_path / "index", IndexOptions(passage_characters=3))
    assert [path.name for path in tmp_path.iterdir()] == ["docs"]


def test_existing_folder_is_kept(animals):
    docs, _ = animals
    with pytest.raises(UsageError, match="exists and is not"):
        build_index([docs], docs)
    with pytest.raises(WrongDataError, match="is not an index"):
        update_index(docs)


@pytest.mark.parametrize("name", ["passages.npy", "texts.bin", "words.rows.npy", "index.json"])
def test_damaged_index_is_one_line(animals, name):
    _, folder = animals
    path = folder / name
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(DataError, match="is damaged"):
        Index.open(folder)


@pytest.mark.parametrize("name", ["passages.npy", "texts.bin", "vocabulary.txt", "index.json"])
def test_files_of_an_index_that_are_links_are_refused(animals, name):
    _, folder = animals
    (folder / name).rename(folder.parent / name)
    (folder / name).symlink_to(folder.parent / name)
    with pytest.raises(UnsafeFileError, match="is a symbolic link"):
        Index.open(folder)


def test_rows_out_of_range_are_damage(animals):
    _, folder = animals
    rows = np.load(folder / "words.rows.npy")
    np.save(folder / "words.rows.npy", rows + np.uint32(1 << 20))
    with pytest.raises(DataError, match="is damaged"):
        Index.open(folder).search("cats")


def test_best_rows_come_first_and_equal_ones_in_order():
    scores = np.array([0, 2, 1, 2, 0, 3, 1], np.float32)
    assert list(best_first(scores, 2)) == list(best_first(scores, 100)) == [5, 1, 3, 2, 6]
