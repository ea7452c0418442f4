"""The files of the page, and one HTML file of all of them."""

from __future__ import annotations

import re
from importlib import resources

PAGE_MODULES = (
    "words.js",
    "dom.js",
    "svg.js",
    "fragment.js",
    "state.js",
    "source.js",
    "failure.js",
    "color.js",
    "matrix.js",
    "thumbnails.js",
    "token.js",
    "tokens.js",
    "embeddings.js",
    "block.js",
    "norm.js",
    "head.js",
    "lines.js",
    "player.js",
    "motion.js",
    "projection.js",
    "sum.js",
    "stream.js",
    "mlp.js",
    "model.js",
    "lens.js",
    "media.js",
    "next.js",
    "cache.js",
    "changes.js",
    "film.js",
    "history.js",
    "candidates.js",
    "tour.js",
    "keys.js",
    "page.js",
)
"""JavaScript modules, each after those it imports."""
POLICY = (
    "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; script-src 'unsafe-inline'; "
    "style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'\">\n"
)
"""Keeps the page from loading or sending anything."""


def read_page_file(name: str) -> str:
    """Return the content of one of the page's files."""
    return (resources.files("glassgpt.inspection") / "page" / name).read_text(encoding="utf-8")


def standalone(data: str) -> str:
    """Return one HTML file with the page and its data, a JSON text, that needs neither a server nor a network."""
    # Inside a script element only "<" can end it; JSON can escape it.
    data_element = f'<script type="application/json" id="saved">{data.replace("<", chr(92) + "u003c")}</script>'
    style = f"<style>{read_page_file('page.css')}</style>"
    page = read_page_file("index.html").replace('<link rel="stylesheet" href="page.css">', POLICY + style)
    return page.replace(
        '<script type="module" src="page.js"></script>', f'{data_element}\n<script type="module">{_joined()}</script>'
    )


def _joined() -> str:
    """Join the modules into one script, each in a function that returns its exports."""
    return "\n".join(["const modules = {};", *map(_scope, PAGE_MODULES)])


def _scope(name: str) -> str:
    code = read_page_file(name)
    exported = re.findall(r"^export (?:async )?(?:function|const|class) (\w+)", code, re.MULTILINE)
    code = re.sub(r'^import (\{.*\}) from "\./(.*)";$', r'const \1 = modules["\2"];', code, flags=re.MULTILINE)
    code = re.sub(r"^export ", "", code, flags=re.MULTILINE)
    return f'modules["{name}"] = (() => {{\n{code}\nreturn {{ {", ".join(exported)} }};\n}})();'
