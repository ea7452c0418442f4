"""The Jinja environment of chat templates: what transformers gives them, in a sandbox."""

from __future__ import annotations

import functools
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any, NoReturn, cast

from jinja2 import nodes
from jinja2.compiler import CodeGenerator, Frame
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment

from glassgpt.data.chat.step_limit import count_made

MAX_PRODUCT = 10**6
"""Largest product; of a text and a number, its characters."""
MAX_SIZE = 10**8
"""Largest product of the sizes of what a filter or a method is given, which is the most that it can write."""
MAX_ITERATED = 10**5
"""Size of what cannot be counted without reading it: the longest range that the sandbox allows."""
READING = {
    "attr", "batch", "count", "d", "default", "dictsort", "first", "groupby", "items", "last", "length", "list", "map", "max",
    "min", "random", "reject", "rejectattr", "reverse", "select", "selectattr", "slice", "sort", "unique",
}  # fmt: skip
"""Filters that do not write what is inside of lists; all others may, if only because they take a list for its text."""
LARGE_WIDTH = re.compile(r"\d{5}|%[^a-zA-Z]*\*")
"""In a format, a width that takes memory, or one that is given beside it."""


GENERATION_START, GENERATION_END = "generation_start", "generation_end"
"""Variables of a template, written before and after what the assistant wrote; nothing is written if they are not given."""


class Generation(Extension):
    """`{% generation %}` … `{% endgeneration %}`: marks what the assistant wrote, for training; writes it as it is."""

    tags = {"generation"}  # noqa: RUF012 - as Jinja declares it

    def parse(self, parser: Parser) -> list[nodes.Node]:
        """Return the nodes between the tags, with the two variables around them."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        start, end = (
            nodes.Output([nodes.Name(name, "load")], lineno=line) for name in (GENERATION_START, GENERATION_END)
        )
        return [start, nodes.Scope(body, lineno=line), end]


class LimitedConcatenation(CodeGenerator):
    """Compiles `a ~ b` so that the environment computes it."""

    def visit_Concat(self, node: nodes.Concat, frame: Frame) -> None:  # noqa: N802 - Jinja's name
        """Write the call."""
        self.write("environment.concatenate((")
        for each in node.nodes:
            self.visit(each, frame)
            self.write(", ")
        self.write("))")


class ChatTemplateEnvironment(ImmutableSandboxedEnvironment):
    """Jinja without access to Python's insides, and with limits on the memory that a template can ask for.

    Lines are counted elsewhere (`limited_steps`), but one line can ask for any amount: sizes are checked before.
    """

    code_generator_class = LimitedConcatenation
    intercepted_binops = frozenset({"*", "**", "+", "%"})

    def __init__(self) -> None:
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, Generation])
        self.filters["tojson"] = _to_json
        self.filters |= {name: _limited(name, cast("Callable[..., Any]", each)) for name, each in self.filters.items()}
        self.finalize = _writable
        functions: dict[str, Any] = {"raise_exception": _refuse, "strftime_now": _now}
        self.globals.update(functions)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """Compute a small product, a short sum, or a text of a format with small widths."""
        is_large = operator == "**" or (operator == "*" and _size(left) * _size(right) > MAX_PRODUCT)
        is_large |= operator == "+" and not isinstance(left, int | float) and _size(left) + _size(right) > MAX_SIZE
        if operator == "%" and isinstance(left, str):
            is_large |= len(left) * _written_size(right) > MAX_SIZE or LARGE_WIDTH.search(left) is not None
        if is_large:
            raise SecurityError(f"{operator} with large numbers or long texts is not allowed")
        return _counted(super().call_binop(context, operator, left, right))

    def call(self, context: Any, called: Any, /, *args: Any, **named: Any) -> Any:  # type: ignore[override]
        """Call a function or a method that cannot write much; macros consist of what is checked itself."""
        owner = getattr(getattr(called, "__wrapped__", called), "__self__", None)  # the sandbox wraps str.format
        if not isinstance(called, Macro | type):
            name, writes = getattr(called, "__name__", ""), isinstance(owner, str | bytes)
            _require_small(owner, *args, *named.values(), name=name, writes=writes)
        made = super().call(context, called, *args, **named)
        return made if isinstance(called, Macro) else _counted(made)

    @staticmethod
    def concat(parts: Iterable[str]) -> str:
        """Return the whole text that a template wrote."""
        return _counted("".join(_writable([*parts])))

    def concatenate(self, values: Sequence[Any]) -> str:
        """Return the text of `a ~ b`."""
        return _counted("".join(map(str, _writable(values))))


def _limited(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a filter that refuses values of which it could make too much."""

    @functools.wraps(function)
    def checked(*args: Any, **named: Any) -> Any:
        _require_small(*args, *named.values(), name=name, writes=name not in READING)
        return _counted(function(*args, **named))

    return checked


def _counted(value: Any) -> Any:
    """Count what a template has made, and return it."""
    count_made(value)
    return value


def _require_small(*values: Any, name: str, writes: bool) -> None:
    """Refuse values if the product of their sizes, or a width in the first one, a format, is too large.

    Args:
        values: what a function is given, the object of a method first.
        name: of the function.
        writes: whether what is inside of lists counts.

    Raises:
        SecurityError: it is.
    """
    sizes = [max(1.0, _size(value), _written_size(value) if writes else 0) for value in values]
    is_format = "format" in name and isinstance(values[0], str) and LARGE_WIDTH.search(values[0])
    if math.prod(sizes) > MAX_SIZE or is_format:
        raise SecurityError(f"{name} with large numbers or long texts is not allowed")


def _writable(value: Any) -> Any:
    """Return what a template writes.

    Raises:
        SecurityError: it is too long.
    """
    if _written_size(value) > MAX_SIZE:
        raise SecurityError("writing a text of that length is not allowed")
    return value


def _size(value: Any) -> float:
    """Return a number's size, or the length of a text or a list."""
    if isinstance(value, int | float):
        return abs(value)
    if isinstance(value, Iterator):
        return MAX_ITERATED
    return len(value) if isinstance(value, str | bytes | range | list | tuple | dict) else 1


def _written_size(value: Any, most: float = MAX_SIZE) -> float:
    """Return about as many characters as a value takes when it is written; counting ends above `most`."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, dict):
        value = [*value, *cast("dict[Any, Any]", value).values()]
    if not isinstance(value, list | tuple):
        return 1
    total = 0.0
    for each in cast("Sequence[Any]", value):
        total += 1 + _written_size(each, most - total)
        if total > most:
            break
    return total


def _to_json(value: Any, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _refuse(message: str) -> NoReturn:
    raise ValueError(message)


def _now(format: str) -> str:
    return datetime.now().strftime(format)
