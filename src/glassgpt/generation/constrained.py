"""Constrained output: a regular expression, a choice of texts or a JSON schema (extra: structured).

The library llguidance tracks which texts may still follow and returns, for each token, whether its bytes lead to one of
them (after Willard & Louf 2023). End-of-text is allowed where the text is complete, and only there. Where the constraint
leaves a single continuation, it allows the tokens that the tokenizer itself would use for it.
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
from glassgpt.errors import GenerationError, GenerationFailedError, MissingExtraError
from glassgpt.generation.processors.base import TokenHistory

JSON_STYLE = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
"""JSON as Python formats it. With free white space a model could generate blanks forever."""

EXPLANATIONS = {
    "NoExtensionBias": "no text matches it",
}
"""Reasons of the library that need an explanation."""


class Constraint:
    """Forbids the tokens after which a sequence's output could no longer satisfy the constraint.

    The states of the last call's outputs are cached; that only saves time, as a state depends on the output alone.

    Args:
        start: llguidance's matcher before any output.
    """

    def __init__(self, start: Any) -> None:
        self._start = start
        self._states: Mapping[tuple[int, ...], Any] = {(): start}

    def __call__(self, logits: Tensor, histories: Sequence[TokenHistory]) -> Tensor:
        """(B, V) -> (B, V).

        Raises:
            GenerationError: an output violates the constraint, or the constraint is too complex.
        """
        states: dict[tuple[int, ...], Any] = {}
        for history in histories:
            output = tuple(history.output)
            if output not in states:
                states[output] = self._after(output, states)
        allowed = torch.stack([_allowed(states[tuple(history.output)]) for history in histories])  # (B, V)
        self._states = states
        return logits.masked_fill(~allowed.to(logits.device, non_blocking=True), -torch.inf)

    def is_complete(self, output: Sequence[int]) -> bool:
        """Return whether an output satisfies the constraint as it is, even if more could follow."""
        state = self._after(tuple(output), {})
        return bool(state.is_accepting())

    def _after(self, output: tuple[int, ...], states: Mapping[tuple[int, ...], Any]) -> Any:
        known = self._states.get(output)
        if known is not None:
            return known
        before = states.get(output[:-1]) or self._states.get(output[:-1])
        state, rest = (before, output[-1:]) if before is not None else (self._start, output)
        state = state.deep_copy()  # other sequences may continue from the same state
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
        raise GenerationFailedError(f"the output cannot be constrained: {_first_line(state.get_error())}")


def regex_constraint(pattern: str, tokenizer: Tokenizer) -> Constraint:
    r"""Return the constraint that the whole output matches a regular expression.

    The syntax is Rust's: no look-around, no back-references.

    Raises:
        GenerationError: the expression is invalid.
        MissingExtraError: the library is not installed.
    """
    return _constraint("regex", _library().LLMatcher.grammar_from_regex(pattern), tokenizer)


def choices_constraint(choices: Sequence[str], tokenizer: Tokenizer) -> Constraint:
    """Return the constraint that the output is exactly one of these texts.

    Raises:
        MissingExtraError: the library is not installed.
    """
    # Each character as an escape, so that none has a special meaning.
    spelled = ["".join(rf"\x{{{ord(character):X}}}" for character in choice) for choice in choices]
    return _constraint("choices", _library().LLMatcher.grammar_from_regex("|".join(spelled)), tokenizer)


def json_schema_constraint(schema: str, tokenizer: Tokenizer) -> Constraint:
    """Return the constraint that the output is JSON that follows a schema (draft 2020-12), formatted as by Python.

    Raises:
        GenerationError: the schema is not a JSON object, or uses a feature that the library does not support.
        MissingExtraError: the library is not installed.
    """
    library = _library()
    try:
        parsed = json.loads(schema)
    except json.JSONDecodeError as error:
        raise GenerationError(f"json_schema is not JSON: {error}") from error
    if not isinstance(parsed, dict):
        raise GenerationError(f"json_schema is {schema}; it must be a JSON object, such as {{}} for any JSON")
    grammar = library.LLMatcher.grammar_from_json_schema(json.dumps(parsed), overrides=JSON_STYLE)
    return _constraint("json_schema", grammar, tokenizer)


def _constraint(setting: str, grammar: str, tokenizer: Tokenizer) -> Constraint:
    start = _library().LLMatcher(_token_tree(tokenizer), grammar, log_level=0)
    state = start.deep_copy()
    if not state.is_error():
        state.compute_logit_bias()  # finds a form that nothing matches, such as [a&&b]
    if state.is_error():
        reason = _reason(state.get_error())
        raise GenerationError(f"{setting} is invalid: {EXPLANATIONS.get(reason, reason)}")
    return Constraint(start)


def _first_line(message: str) -> str:
    return message.strip().splitlines()[0]


def _reason(message: str) -> str:
    """Return the line of an error message that gives the reason, without the excerpt that shows the place."""
    lines = message.strip().splitlines()
    return next((line.removeprefix("error: ") for line in lines if line.startswith("error: ")), lines[0])


class _Vocabulary:
    """The interface of a tokenizer that llguidance expects."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.eos_token_id = tokenizer.end_of_text
        self.bos_token_id = None
        self.special_token_ids = sorted(tokenizer.special_tokens.values())
        self.tokens = [tokenizer.token_bytes(token) for token in range(tokenizer.vocab_size)]
        self._encode = tokenizer.encode

    def __call__(self, text: str) -> list[int]:
        return self._encode(text)


@lru_cache(maxsize=4)
def _token_tree(tokenizer: Tokenizer) -> Any:
    """Return the vocabulary as a prefix tree of bytes; cached, as it takes a tenth of a second for GPT-2's."""
    library = _library()
    return library.LLTokenizer(library.TokenizerWrapper(_Vocabulary(tokenizer)))


def _library() -> ModuleType:
    try:
        import llguidance
    except ImportError as error:
        raise MissingExtraError("llguidance", "structured", "constrained generation") from error
    return llguidance
