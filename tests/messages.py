"""Collect the English texts of the program that a person can read, from its source, for the test of the translations.

`python tests/messages.py` lists the texts without a translation, as lines to be completed and put into a file of
`src/glassgpt/locale/ko`.
"""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import glassgpt

SOURCE = Path(glassgpt.__file__).parent
NOT_SHOWN = (
    "locale/ko/*", "locale/particles.py", "locale/templates.py", "generation/gpu/kernels/*",
    "inspection/page_files.py", "diagnosis/chart.py", "diagnosis/report.py", "diagnosis/html_page.py", "sweep/page.py", "sweep/parallel_coordinates.py", "diagnosis/report_changes.py", "diagnosis/pages.py", "generation/reference.py",
    "cli/examples.py", "cli/korean_help.py", "cli/top_level_help.py", "lazy.py", "__init__.py", "api/__init__.py", "interchange/check_prompts.py", "data/chat/plain.py", "data/code/licenses.py",
    "evaluation/chat/instructions.py", "evaluation/chat/word_counts.py",
    "retrieval/prompts.py", "learn/lessons/*", "inspection/telling.py",
)  # fmt: skip
"""Files without messages of their own: HTML, both languages, examples, generated documents, what replies must contain, what models read, and lessons."""
PRINTING = {
    "info",
    "warn",
    "error",
    "result",
    "styled",
    "translated",
    "table",
    "progress",
    "notice",
    "warning",
    "on_note",
}
"""Functions whose literal arguments are shown, even if they are single words."""
LETTERS = re.compile(r"[A-Za-z]{2,}[.,;:)]* +(?:\{\}|[\w(/'#-]{2})|\{\}[;:,]? [A-Za-z]{2,}")
"""More than one word: single words are names, keys and options."""


@dataclass(frozen=True, order=True)
class Message:
    """A text in the source: its place, and its template with `{}` for each value."""

    path: str
    line: int
    template: str


def messages() -> list[Message]:
    """Return all texts that can be shown."""
    files = [path for path in sorted(SOURCE.rglob("*.py")) if not _is_excluded(path)]
    return [message for path in files for message in _messages_of(path, SOURCE)]


def _is_excluded(path: Path) -> bool:
    name = path.relative_to(SOURCE)
    return any(
        str(name) == pattern or (pattern.endswith("*") and str(name).startswith(pattern[:-1])) for pattern in NOT_SHOWN
    )


@cache
def _messages_of(path: Path, source: Path) -> list[Message]:
    found: list[Message] = []
    tree = ast.parse(path.read_text(encoding="utf-8"))
    hidden = {id(node) for node in _hidden(tree)}
    printed = {id(node) for node in _printed(tree)}
    for node in ast.walk(tree):
        template = _template(node)
        if template is None or id(node) in hidden:
            continue
        if (id(node) in printed and re.search("[a-z]", template)) or LETTERS.search(template):
            found.append(Message(str(path.relative_to(source)), node.lineno, template))
    return found


def _template(node: ast.AST) -> str | None:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return re.sub("%[sd]", "{}", node.value)  # of a logger
    if isinstance(node, ast.JoinedStr):
        return "".join("{}" if isinstance(part, ast.FormattedValue) else part.value for part in node.values)
    return None


def _hidden(tree: ast.AST) -> Iterator[ast.AST]:
    """Yield docstrings, the pieces of f-strings, annotations, keys, and the names of exceptions' encodings."""
    for node in ast.walk(tree):
        match node:
            case ast.Expr(value=ast.Constant()):
                yield node.value
            case ast.JoinedStr():
                yield from (part for part in node.values if isinstance(part, ast.Constant))
            case ast.FormattedValue(format_spec=ast.JoinedStr() as spec):
                yield spec
                yield from ast.walk(spec)
            case ast.arg(annotation=annotation) | ast.AnnAssign(annotation=annotation) if annotation:
                yield from ast.walk(annotation)
            case ast.FunctionDef(returns=returns) if returns:
                yield from ast.walk(returns)
            case ast.Call(func=ast.Name(id="cast" | "TypeVar")):
                yield from node.args
            case ast.Call(func=ast.Attribute(value=ast.Name(id="re"))):
                yield from node.args
            case ast.Compare():
                yield from (node.left, *node.comparators)
            case ast.Subscript():
                yield node.slice
            case _:
                pass


def _printed(tree: ast.AST) -> Iterator[ast.AST]:
    """Yield the literal arguments of functions that print."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id == "columns":
            yield from ast.walk(node.value)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in PRINTING:
            for argument in [*node.args, *(each.value for each in node.keywords if each.arg in ("unit", "label"))]:
                parts = argument.elts if isinstance(argument, ast.Tuple | ast.List) else [argument]
                for part in parts:
                    yield from (part.body, part.orelse) if isinstance(part, ast.IfExp) else (part,)


if __name__ == "__main__":
    from translations import missing

    for message in missing():
        print(f"# {message.path}:{message.line}\n{message.template!r}: '',")
