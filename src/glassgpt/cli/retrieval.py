"""Commands that index documents and search them. Free of torch."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Literal

from glassgpt import console
from glassgpt.cli.shared import Flag, Integer
from glassgpt.errors import UsageError


def index(
    *documents: Path,
    out: Path,
    update: Flag = False,
    passage_characters: Integer | None = None,
    dense: Literal["minilm", "none"] | None = None,
) -> None:
    """Index text, Markdown, HTML, PDF and JSON lines, to be searched and to answer questions from.

    What cannot be read is skipped with a reason. PDF needs the extra retrieval.

    Parameters
    ----------
    documents:
        Files and folders. Rows of JSON have their text in the field text, and perhaps their name in the field source.
    out:
        Folder of the index.
    update:
        Update the index at --out: read the files that are new or changed, and leave out those that are gone. Without
        documents, those that it was built from.
    passage_characters:
        Longest passage, 1,000 by default; an update keeps it. Passages end at headings, paragraphs and sentences.
    dense:
        minilm: also find English passages by their meaning, with vectors of all-MiniLM-L6-v2 (extra dense; 10 ms per passage
        on two cores). By default none; an update keeps what the index has.
    """
    from glassgpt.api.retrieval import index_documents
    from glassgpt.data.files import require_creatable

    require_creatable(out)
    index_documents(documents, out, update=update, passage_characters=passage_characters, dense=dense)
    console.info(f'search it with: glassgpt search {shlex.quote(str(out))} "WORDS"')


def search(index: Path, question: str, *, limit: Integer = 5, json: Flag = False) -> None:
    """Search an index for passages.

    Parameters
    ----------
    index:
        Folder of an index, created by glassgpt index.
    question:
        Words or a sentence.
    limit:
        Number of passages.
    json:
        Print one JSON object with the passages, their places and their scores.
    """
    from glassgpt.retrieval.index import Index
    from glassgpt.retrieval.show import hit_json, show_hits

    if limit < 1:
        raise UsageError(f"--limit must be at least 1, not {limit}")
    hits = Index.open(index).search(question, limit)
    if json:
        console.output_json({"question": question, "hits": [hit_json(hit) for hit in hits]})
    elif hits:
        show_hits(hits)
    else:
        console.info("no passage contains a word of the question")
