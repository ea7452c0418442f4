"""The methods of decoding as the command line takes them: their options again, in groups. Free of torch.

Names, types and help come from the dataclasses; only what is spelled otherwise on a command line stands here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypedDict, get_type_hints

from cyclopts import Group, Parameter

from glassgpt.cli.generation_flags import OPTION_GROUPS, converter_of, option_helps
from glassgpt.errors import UsageError
from glassgpt.generation.strategy_options import BeamOptions, ContrastiveOptions, SpeculativeOptions, StrategyOptions

GROUPS: dict[type[StrategyOptions], str] = {
    BeamOptions: "Beam search",
    ContrastiveOptions: "Contrastive search",
    SpeculativeOptions: "Several tokens a pass",
}
NAMED: dict[tuple[type[StrategyOptions], str], str] = {
    (BeamOptions, "groups"): "beam_groups",
    (ContrastiveOptions, "alpha"): "contrastive_alpha",
    (ContrastiveOptions, "k"): "contrastive_k",
}
"""Options whose name says too little where it stands alone."""
SPELLED = {"early_stopping": Literal["true", "false", "never"]}
"""Types that a command line writes otherwise."""
READ: dict[str, Any] = {"true": True, "false": False}


def _names(kind: type[StrategyOptions]) -> dict[str, str]:
    """A method's options: by the name on the command line, that in the dataclass."""
    return {NAMED.get((kind, item.name), item.name): item.name for item in dataclasses.fields(kind)}


def _flags() -> dict[str, Any]:
    return {flag: _flag(kind, name) for kind in GROUPS for flag, name in _names(kind).items()}


def _flag(kind: type[StrategyOptions], name: str) -> Any:
    """The type of an option, with its group and help."""
    # Before the last group, which tells of prompt and output.
    at = len(OPTION_GROUPS) - 2 + (1 + list(GROUPS).index(kind)) / (1 + len(GROUPS))
    default = getattr(kind(), name)
    is_plain = isinstance(default, (int, float)) and (name in SPELLED or not isinstance(default, bool))
    shown = next((word for word, value in READ.items() if value is default), default)
    hint = SPELLED.get(name) or get_type_hints(kind)[name]
    parameter = Parameter(
        converter=converter_of(hint),
        group=Group(GROUPS[kind], sort_key=at),
        negative="",
        show_default=False,
        help=f"{option_helps(kind)[name].removesuffix('.')}{_more(default)}." + (f" [default: {shown}]" * is_plain),
    )
    return Annotated[hint, parameter]


def _more(default: object) -> str:
    return "; may be repeated" if isinstance(default, tuple) else ""


def strategy_from_flags(given: Mapping[str, Any]) -> StrategyOptions | None:
    """The method that was asked for by any of its options; None writes token by token.

    Args:
        given: values by their name on the command line; only those that were given.

    Raises:
        UsageError: options of several methods are mixed.
        GenerationError: lists what is out of range.
    """
    asked = {kind: own for kind in GROUPS if (own := _given_of(kind, given))}
    if len(asked) > 1:
        named = " and ".join(f"{GROUPS[kind].lower()} (--{next(iter(own))})" for kind, own in asked.items())
        raise UsageError(f"{named.replace('_', '-')} exclude each other; choose one")
    for kind, own in asked.items():
        names = _names(kind)
        method = kind(**{names[flag]: value for flag, value in own.items()})
        method.check()
        return method
    return None


def _given_of(kind: type[StrategyOptions], given: Mapping[str, Any]) -> dict[str, Any]:
    return {
        flag: READ.get(given[flag], given[flag]) if flag in SPELLED else given[flag]
        for flag in _names(kind)
        if flag in given
    }


# Not total: what was not given is not there, so that a method is asked for by any of its options.
StrategyFlags = TypedDict("StrategyFlags", _flags(), total=False)  # type: ignore[misc]  # pyright: ignore
"""What `glassgpt generate` takes for its methods, as a type that cyclopts reads."""
