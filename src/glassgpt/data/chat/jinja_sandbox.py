"""The Jinja environment of chat templates: what transformers gives them, in a sandbox."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any, NoReturn

from jinja2 import nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

MAX_PRODUCT = 10**6
"""Largest product; of a text and a number, its characters."""


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


class ChatTemplateEnvironment(ImmutableSandboxedEnvironment):
    """Jinja without access to Python's insides, and with limits on the memory that a template can ask for."""

    intercepted_binops = frozenset({"*", "**"})

    def __init__(self) -> None:
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, Generation])
        self.filters["tojson"] = _to_json
        functions: dict[str, Any] = {"raise_exception": _refuse, "strftime_now": _now}
        self.globals.update(functions)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """Compute a small product."""
        if operator == "**" or _size(left) * _size(right) > MAX_PRODUCT:
            raise SecurityError(f"{operator} with large numbers or long texts is not allowed")
        return super().call_binop(context, operator, left, right)


def _size(value: Any) -> float:
    return abs(value) if isinstance(value, int | float) else len(value)


def _to_json(value: Any, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _refuse(message: str) -> NoReturn:
    raise ValueError(message)


def _now(format: str) -> str:
    return datetime.now().strftime(format)
