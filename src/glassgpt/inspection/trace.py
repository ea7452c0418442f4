"""Everything between a text and its next token, lazily and by name.

    trace = glassgpt.load("runs/demo").trace("ROMEO: my love")
    trace.names()
    trace["blocks.0.attention.weights"]  # (H, T, T)
    trace.describe("blocks.0.attention.weights")

The model runs once, by its fast path; what passed is kept. What a fast kernel does not show, the scores and weights
of attention, is computed from the queries and keys that passed, when it is asked for.
"""

from __future__ import annotations

import copy
import difflib
import inspect
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

import glassgpt.errors
from glassgpt.data.tokenizers import Tokenizer
from glassgpt.errors import InspectionError
from glassgpt.generation.options import GenerationOptions
from glassgpt.generation.processors.base import LogitsProcessor, TokenHistory
from glassgpt.generation.processors.pipeline import build_processors
from glassgpt.inspection.capture import Edit, record
from glassgpt.inspection.hook_points import activations_of, axis_sizes, hook_points
from glassgpt.inspection.tokenization import PreToken, pretokens
from glassgpt.model.hook_points import Activation, HookPoint, ReadActivation
from glassgpt.model.transformer import LanguageModel

MOST_BYTES = 100_000
"""A longer text is refused before it is cut; no model here sees as much at once."""
MODEL_STAGE = "model"
"""Before any processor."""
MOST_KEPT = 256 << 20
"""Bytes of computed tensors that a trace keeps: the logits of 1,024 tokens over GPT-2's vocabulary, or the weights of
five of its blocks. What passed in the run is kept whole."""
_HOUSE = Path(glassgpt.errors.__file__).parent.parent


@dataclass(frozen=True)
class Source:
    """Lines of our source.

    Attributes:
        file: from the package's folder on, with slashes.
        first: number of the first line.
        last: number of the last.
    """

    file: str
    first: int
    last: int


@dataclass(frozen=True)
class Description:
    """What a tensor of a trace is.

    Attributes:
        name: by which the trace has it.
        axes: what its dimensions are.
        shape: how long they are.
        unit: of its numbers.
        formula: what is computed, in the names of other tensors of the same block.
        source: the lines that compute it.
    """

    name: str
    axes: tuple[str, ...]
    shape: tuple[int, ...]
    unit: str
    formula: str
    source: Source


class Intervention(Protocol):
    """A change to a run; see `inspection.interventions`."""

    def edits(self, trace: Trace) -> Iterable[Edit]:
        """What to change in a run like that of `trace`.

        Raises:
            InspectionError: it does not fit the model or the text.
        """
        ...


class Trace:
    """What a model computed on one text; made by `trace` or `trace_tokens`.

    Everything is without the batch axis, on the model's device, and no copy: do not write into it.

    Attributes:
        model: whose run it was; it is read when something is computed later, so its weights should still be the same.
        tokenizer: the model's.
        text: that was traced, or None where tokens were given.
        options: whose processors stand between the logits and the next token.
        written: how many of the last tokens the model wrote itself; processors tell them from those of a prompt.
        interventions: what was changed in the run.
        base: the trace that was intervened in, or None.
    """

    def __init__(
        self,
        model: LanguageModel,
        tokenizer: Tokenizer,
        tokens: Sequence[int],
        text: str | None,
        options: GenerationOptions,
        interventions: tuple[Intervention, ...] = (),
        base: Trace | None = None,
        written: int = 0,
    ) -> None:
        self.model, self.tokenizer, self.text, self.written = model, tokenizer, text, written
        self.interventions, self.base = interventions, base
        self._sites = activations_of(model)
        self._stand_before(options)
        self._given = _given(tokenizer, tokens, next(model.parameters()).device)
        self._derived = _Recent()
        edits = [edit for intervention in interventions for edit in intervention.edits(base or self)]
        passages = {port.location for _, port in hook_points(self._sites)}
        self._heard = record(model, self._given["tokens"][None], passages, edits)

    def _stand_before(self, options: GenerationOptions) -> None:
        """Take the distributions behind the processors of these options."""
        self.options = options
        processors = build_processors(options, self.tokenizer)
        self._choices = _choices(processors, self.tokenizer.vocab_size, self.written)
        self._chosen = _Recent()

    def names(self) -> list[str]:
        """Everything that can be asked for, in the order in which the data passes it."""
        return [*self._sites, *self._choices]

    @torch.no_grad()
    def __getitem__(self, name: str) -> Tensor:
        """A tensor by its name.

        Raises:
            InspectionError: there is none of this name.
        """
        origin = self.site(name).origin
        if origin is None:
            return self._given[name]
        if isinstance(origin, HookPoint):
            return origin.view(self._heard[origin.location])
        recent = self._chosen if name in self._choices else self._derived
        return recent.get(name, lambda: origin(self.__getitem__))

    def site(self, name: str) -> Activation:
        """How a tensor comes about.

        Raises:
            InspectionError: there is none of this name.
        """
        found = self._sites.get(name) or self._choices.get(name)
        if found is None:
            nearest = difflib.get_close_matches(name, self.names(), 1)
            hint = f"did you mean {nearest[0]}?" if nearest else "trace.names() lists them"
            raise InspectionError(f"a trace of this model has no {name}; {hint}")
        return found

    def describe(self, name: str) -> Description:
        """What a tensor is, without computing it.

        Raises:
            InspectionError: there is none of this name.
        """
        site = self.site(name)
        if isinstance(site.origin, HookPoint):
            shape = tuple(self[name].shape)  # captured already
        else:
            lengths = axis_sizes(self.model.config, len(self["bytes"]), len(self))
            lengths["vocabulary"] = self.tokenizer.vocab_size if name in self._choices else lengths["vocabulary"]
            shape = tuple(lengths[axis] for axis in site.axes)
        return Description(name, site.axes, shape, site.unit, site.formula, source_of(site.source))

    def __len__(self) -> int:
        """Number of tokens T."""
        return len(self["tokens"])

    @cached_property
    def tokens(self) -> list[int]:
        """The ids."""
        return self["tokens"].tolist()

    @cached_property
    def pretokens(self) -> list[PreToken]:
        """How the text became tokens; nothing where tokens were given."""
        return [] if self.text is None else pretokens(self.tokenizer, self.text)

    def stages(self) -> list[str]:
        """The names of the next token's distributions: the model's own, then after each processor."""
        return list(self._choices)

    def replaceable(self) -> list[str]:
        """The names of what a patch can replace: others read it, and only there."""
        return [name for name, port in hook_points(self._sites) if not port.read_only]

    def with_options(self, options: GenerationOptions) -> Trace:
        """The same run before other processors; the model does not run again.

        Raises:
            GenerationError: the options cannot work.
        """
        options.check()
        other = copy.copy(self)
        other._stand_before(options)
        return other

    def intervene(self, *interventions: Intervention) -> Trace:
        """Run again with changes, on top of those made already; this trace becomes the new one's `base`.

        Raises:
            InspectionError: one of them does not fit the model or the text.
        """
        everything = (*self.interventions, *interventions)
        return Trace(self.model, self.tokenizer, self.tokens, self.text, self.options, everything, self, self.written)

    def difference(self, name: str) -> Tensor:
        """What the interventions changed: this trace's tensor less the base's, in float32.

        Raises:
            InspectionError: nothing was intervened in, or there is no such tensor.
        """
        if self.base is None:
            raise InspectionError("this trace is of an undisturbed run; trace.intervene(…) gives one with a difference")
        return self[name].float() - self.base[name].float()

    def of(self, text: str) -> Trace:
        """An undisturbed trace of another text by the same model.

        Raises:
            InspectionError: the text cannot be traced.
        """
        return trace(self.model, self.tokenizer, text, self.options)


def trace(
    model: LanguageModel,
    tokenizer: Tokenizer,
    text: str | None,
    options: GenerationOptions | None = None,
    written: Sequence[int] = (),
) -> Trace:
    """Run a model on a text and keep what it computed.

    Args:
        model: it stays as it is, and its logits are those of any other run, bit for bit.
        tokenizer: the model's.
        text: at most as many tokens as the model sees at once; None is the token that begins a document.
        options: whose processors stand between the logits and the next token; by default `GenerationOptions()`.
        written: tokens after those of the text, as a model writes them: it does not cut its own words anew.

    Raises:
        InspectionError: the text is empty or too long.
        GenerationError: the options cannot work.
        TokenizerError: the text holds a lone surrogate, or a token is outside the vocabulary.
    """
    if text is not None:
        _refuse_size(text)
    tokens = [tokenizer.end_of_text] if text is None else tokenizer.encode(text)
    return trace_tokens(model, tokenizer, [*tokens, *written], options, text=text, written=len(written))


def trace_tokens(
    model: LanguageModel,
    tokenizer: Tokenizer,
    tokens: Sequence[int],
    options: GenerationOptions | None = None,
    *,
    text: str | None = None,
    written: int = 0,
) -> Trace:
    """The trace of given tokens, which need not be those that any text is cut into; see `trace`.

    Args:
        model: see `trace`.
        tokenizer: the model's.
        tokens: those of a prompt, and what was written after it.
        options: see `trace`.
        text: that the first tokens are of, if they are of one.
        written: how many of the last tokens the model wrote itself.

    Raises:
        InspectionError: there is no token, or there are more than the model sees at once.
        GenerationError: the options cannot work.
        TokenizerError: a token is outside the vocabulary.
    """
    options = options or GenerationOptions()
    options.check()
    context = model.config.context_length
    if not 0 < len(tokens) <= context:
        raise InspectionError(f"the text has {len(tokens):,} tokens; allowed are 1 to {context:,}, the model's context")
    return Trace(model, tokenizer, tokens, text, options, written=written)


def _refuse_size(text: str) -> None:
    if not text:
        raise InspectionError("the text is empty; give it some, or leave it out to look at the beginning of a document")
    # Surrogates are the tokenizer's to refuse, in its own words.
    if (n_bytes := len(text.encode("utf-8", "surrogatepass"))) > MOST_BYTES:
        raise InspectionError(f"the text has {n_bytes:,} bytes; at most {MOST_BYTES:,} are looked at, shorten it")


def _given(tokenizer: Tokenizer, tokens: Sequence[int], device: torch.device) -> dict[str, Tensor]:
    pieces = {token: tokenizer.token_bytes(token) for token in tokens}  # all are asked for, to refuse unknown ones
    text = b"".join(pieces[token] for token in tokens if token != tokenizer.end_of_text)  # which is no text
    values = torch.from_numpy(np.frombuffer(text, np.uint8).copy())
    return {"bytes": values.to(device), "tokens": torch.tensor(list(tokens), device=device)}


class _Recent:
    """Computed tensors: the last ones that fit into `MOST_KEPT` together, and always the very last."""

    def __init__(self) -> None:
        self._tensors: dict[str, Tensor] = {}

    def get(self, name: str, compute: Callable[[], Tensor]) -> Tensor:
        found = self._tensors.pop(name, None)
        found = compute() if found is None else found
        self._tensors[name] = found
        while len(self._tensors) > 1 and sum(tensor.nbytes for tensor in self._tensors.values()) > MOST_KEPT:
            del self._tensors[next(iter(self._tensors))]
        return found


def _choices(processors: Sequence[LogitsProcessor], vocab_size: int, written: int) -> dict[str, Activation]:
    """The distributions of the next token: the model's own, then after each processor; (V,), V the tokenizer's."""
    found = {f"next.{MODEL_STAGE}": _choice((), vocab_size, written)}
    for count, processor in enumerate(processors, start=1):
        name = f"next.{processor.name}"
        found[name if name not in found else f"{name}.{count}"] = _choice(processors[:count], vocab_size, written)
    return found


def _choice(processors: Sequence[LogitsProcessor], vocab_size: int, written: int) -> Activation:
    def probabilities(read: ReadActivation) -> Tensor:
        logits = read("logits")[-1:, :vocab_size].float()
        tokens = read("tokens").tolist()
        history = TokenHistory(tokens[: len(tokens) - written], tokens[len(tokens) - written :])
        for processor in processors:
            logits = processor.apply(logits, [history])
        return logits.softmax(dim=-1)[0]

    formula = f"softmax({processors[-1].name}(…))" if processors else "softmax(last row of logits)"
    return Activation(("vocabulary",), "probability", formula, build_processors, probabilities)


@cache
def source_of(function: Callable[..., object]) -> Source:
    """Where a function or class of ours is written."""
    lines, first = inspect.getsourcelines(function)
    file = Path(inspect.getfile(inspect.unwrap(function))).relative_to(_HOUSE).as_posix()
    return Source(file, first, first + len(lines) - 1)
