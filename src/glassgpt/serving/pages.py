"""HTML pages of the server: the playground with its dashboard at `/`, and `/docs`, written from openapi.json.

The page at `/` consists of static files, which hold nothing of the models: what it shows, it requests from the API. Some
files are those of the page of `glassgpt inspect`.
"""

from __future__ import annotations

from html import escape
from importlib import resources
from pathlib import PurePath
from typing import Any

MEDIA_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}
OWN_FILES = (
    "serve.css", "words.js", "client.js", "address.js", "settings.js", "tokens.js", "answer.js", "media.js", "playground.js",
    "metrics.js", "dashboard.js", "main.js",
)  # fmt: skip
SHARED_FILES = ("page.css", "dom.js", "keys.js", "fragment.js")
"""Files of the package `inspection`."""


def _files() -> dict[str, tuple[str, str]]:
    own = {f"/page/{name}": ("glassgpt.serving", name) for name in OWN_FILES}
    shared = {f"/page/{name}": ("glassgpt.inspection", name) for name in SHARED_FILES}
    found = {"/": ("glassgpt.serving", "index.html"), **own, **shared}
    return {
        path: (f"{package}/{name}", f"{MEDIA_TYPES[PurePath(name).suffix]}; charset=utf-8")
        for path, (package, name) in found.items()
    }


PAGE_FILES = _files()
"""Package and name, and media type of each file of the page, by its path."""

STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color-scheme:light dark}"
    "table{border-collapse:collapse;width:100%}td,th{text-align:left;vertical-align:top;padding:.3rem .6rem;"
    "border-bottom:1px solid #8884}code{font:.9em ui-monospace,monospace}h2{margin-top:2.5rem}"
)


def read_page(path: str) -> bytes:
    """Return the content of a file of `PAGE_FILES`."""
    package, _, name = PAGE_FILES[path][0].partition("/")
    return (resources.files(package) / "page" / name).read_bytes()


def docs_page(document: dict[str, Any]) -> str:
    """Return the documentation of an API as a page.

    Args:
        document: from `openapi`.
    """
    sections = [_section(path, document) for path in document["paths"]]
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>glassgpt serve</title><style>{STYLE}</style><h1>glassgpt serve</h1>"
        '<p>An OpenAI-compatible server. The same as data: <a href="openapi.json">openapi.json</a>.</p>'
        f"{''.join(sections)}</html>"
    )


def _section(path: str, document: dict[str, Any]) -> str:
    method, operation = next(iter(document["paths"][path].items()))
    head = f"<h2><code>{method.upper()} {escape(path)}</code></h2><p>{escape(operation['summary'])}</p>"
    if "requestBody" not in operation:
        return head
    name = operation["requestBody"]["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
    fields = document["components"]["schemas"][name]["properties"]
    rows = "".join(
        f"<tr><td><code>{escape(field)}</code></td><td>{escape(_types(each))}</td><td>{escape(_default(each))}</td>"
        f"<td>{escape(each['description'])}</td></tr>"
        for field, each in fields.items()
    )
    return f"{head}<table><tr><th>field</th><th>type</th><th>default</th><th></th></tr>{rows}</table>"


def _types(field: dict[str, Any]) -> str:
    kinds = [each.get("type") or " | ".join(map(str, each.get("enum", []))) for each in field["anyOf"]]
    return " or ".join(dict.fromkeys(kind for kind in kinds if kind != "null"))


def _default(field: dict[str, Any]) -> str:
    value = field.get("default")
    return "" if value in (None, [], {}) else str(value).lower() if isinstance(value, bool) else str(value)
