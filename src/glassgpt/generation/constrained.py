"""Output that follows a form: a regular expression, a choice of texts, a JSON schema (extra: structured).

The library llguidance keeps the set of texts that may still come and says, for each token, whether its bytes lead
to one of them (after Willard & Louf 2023). End-of-text is allowed where the text is complete, and only there.
Where the form leaves one way on, tokens are those that the tokenizer itself would use for it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from glassgpt.data.tokenizers import Tokenizer
from glassgpt.errors import GenerationError, MissingExtraError
from glassgpt.generation.processors.base import TokenHistory

JSON_STYLE = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
"""JSON as Python writes it. Free white space would let a model write blanks for ever."""


class Constraint:
    """Forbids the tokens after which a row's output could not become a text of the wanted form.

    What has been read of an output is kept from one call to the next; that saves time and changes nothing, as the
    state depends on the output alone.

    Args:
        start: llguidance's matcher before any output.
    """

    def __init__(self, start: Any) -> None:
        self._start = start
        self._read: Mapping[tuple[int, ...], Any] = {(): start}

    def __call__(self, logits: Tensor, histories: Sequence[TokenHistory]) -> Tensor:
        """(B, V) -> (B, V).

        Raises:
            GenerationError: an output has left the form, or the form is too complex.
        """
        states: dict[tuple[int, ...], Any] = {}
        for history in histories:
            output = tuple(history.output)
            if output not in states:
                states[output] = self._after(output, states)
        allowed = torch.stack([_allowed(states[tuple(history.output)]) for history in histories])  # (B, V)
        self._read = states
        return logits.masked_fill(~allowed.to(logits.device, non_blocking=True), -torch.inf)

    def _after(self, output: tuple[int, ...], states: Mapping[tuple[int, ...], Any]) -> Any:
        known = self._read.get(output)
        if known is not None:
            return known
        before = states.get(output[:-1]) or self._read.get(output[:-1])
        state, rest = (before, output[-1:]) if before is not None else (self._start, output)
        state = state.deep_copy()  # other rows may go on from the same place
        state.consume_tokens(list(rest))
        _require_sound(state)
        return state


def _allowed(state: Any) -> Tensor:
    """(V,) bool."""
    allowed = torch.frombuffer(bytearray(state.compute_logit_bias()), dtype=torch.uint8).bool()
    _require_sound(state)
    return allowed


def _require_sound(state: Any) -> None:
    if state.is_error():
        raise GenerationError(f"the output cannot be held to its form: {_first_line(state.get_error())}")


def regex_constraint(pattern: str, vocabulary: Tokenizer) -> Constraint:
    r"""The whole output matches a regular expression, in Rust's syntax: no look-around, no back-references.

    Raises:
        GenerationError: the expression cannot be understood.
        MissingExtraError: the library is not installed.
    """
    return _constraint("regex", _library().LLMatcher.grammar_from_regex(pattern), vocabulary)


def choices_constraint(choices: Sequence[str], vocabulary: Tokenizer) -> Constraint:
    """The output is one of these texts, to the last character.

    Raises:
        MissingExtraError: the library is not installed.
    """
    # Each character by its number, so that none has a meaning of its own.
    spelled = ["".join(rf"\x{{{ord(character):X}}}" for character in choice) for choice in choices]
    return _constraint("choices", _library().LLMatcher.grammar_from_regex("|".join(spelled)), vocabulary)


def json_schema_constraint(schema: str, vocabulary: Tokenizer) -> Constraint:
    """The output is JSON that a schema (draft 2020-12) allows, spaced as Python spaces it.

    Raises:
        GenerationError: the schema is no JSON, or holds what the library does not know.
        MissingExtraError: the library is not installed.
    """
    library = _library()
    try:
        parsed = json.loads(schema)
    except json.JSONDecodeError as error:
        raise GenerationError(f"json_schema is not JSON: {error}") from error
    if not isinstance(parsed, dict):
        raise GenerationError(f"json_schema is {schema}; it must be an object in braces, as {{}} for any JSON")
    grammar = library.LLMatcher.grammar_from_json_schema(json.dumps(parsed), overrides=JSON_STYLE)
    return _constraint("json_schema", grammar, vocabulary)


def _constraint(setting: str, grammar: str, vocabulary: Tokenizer) -> Constraint:
    start = _library().LLMatcher(_prepared(vocabulary), grammar, log_level=0)
    if start.is_error():
        raise GenerationError(f"{setting} cannot be used: {_reason(start.get_error())}")
    return Constraint(start)


def _first_line(message: str) -> str:
    return message.strip().splitlines()[0]


def _reason(message: str) -> str:
    """The line that says why, of an error that also draws where."""
    lines = message.strip().splitlines()
    return next((line.removeprefix("error: ") for line in lines if line.startswith("error: ")), lines[0])


class _Vocabulary:
    """Our tokenizer as llguidance asks for it; the names are its."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.eos_token_id = tokenizer.end_of_text
        self.bos_token_id = None
        self.special_token_ids = [tokenizer.end_of_text]
        self.tokens = [tokenizer.token_bytes(token) for token in range(tokenizer.vocab_size)]
        self._encode = tokenizer.encode

    def __call__(self, text: str) -> list[int]:
        return self._encode(text)


@lru_cache(maxsize=4)
def _prepared(vocabulary: Tokenizer) -> Any:
    """The vocabulary as a tree of bytes; it takes a tenth of a second for GPT-2's, so it is kept."""
    library = _library()
    return library.LLTokenizer(library.TokenizerWrapper(_Vocabulary(vocabulary)))


def _library() -> ModuleType:
    try:
        import llguidance
    except ImportError as error:
        raise MissingExtraError("llguidance", "structured", "holding text to a form") from error
    return llguidance
