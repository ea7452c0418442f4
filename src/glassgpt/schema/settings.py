"""Settings as dataclass fields: type, range, group and help, declared once.

The configuration of a run and the options of a generation are frozen dataclasses. A field is the only description of
a setting: its type and default as in any dataclass; its help, group and range in `setting(...)`, or its help in the
`Attributes` of the class's docstring. Command-line flags, TOML files, keyword arguments and the tables of the
documentation are derived from `settings_of(component)`. Free of torch.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property
from operator import attrgetter
from pathlib import Path
from typing import Any, Literal, TypeVar, cast, get_args, get_origin, get_type_hints

from docstring_parser import parse as parse_docstring

from glassgpt.schema.type_hints import alternatives, describe_type, is_mapping, is_number, normalizer_of, predicate_of

T = TypeVar("T")

METADATA = "setting"


@dataclass(frozen=True, kw_only=True)
class Details:
    """The metadata of a setting besides type and default; see `setting`."""

    help: str = ""
    group: str = ""
    minimum: float | None = None
    above: float | None = None
    maximum: float | None = None
    note: str = ""
    must_be: str = ""
    is_valid: Callable[[Any], bool] | None = None
    flag: str = ""
    flag_help: str = ""
    metavar: str = ""
    from_text: Callable[[str], Any] | None = None
    parse_key: Callable[[str], Any] | None = None
    unsupported_by: Mapping[str, str] = field(default_factory=dict[str, str])
    python_only: bool = False


def setting(
    default: T,
    *,
    help: str,
    group: str = "",
    minimum: float | None = None,
    above: float | None = None,
    maximum: float | None = None,
    note: str = "",
    must_be: str = "",
    is_valid: Callable[[T], bool] | None = None,
    flag: str = "",
    flag_help: str = "",
    metavar: str = "",
    from_text: Callable[[str], Any] | None = None,
    parse_key: Callable[[str], Any] | None = None,
    unsupported_by: Mapping[str, str] | None = None,
    python_only: bool = False,
) -> T:
    """Return a dataclass field that describes a setting.

    Args:
        default: the field's default. A dict is copied for each instance.
        help: one or two sentences without the range, which is added.
        group: heading under which the command line lists it.
        minimum: smallest value allowed.
        above: exclusive lower bound.
        maximum: largest value allowed.
        note: what a special value means ("0 disables it"); part of help and error messages.
        must_be: completes "it must be …" in error messages; by default type, range and note.
        is_valid: returns whether a value of the right type is allowed.
        flag: name on the command line, without dashes; by default the field's.
        flag_help: what the command line's help adds ("may be repeated").
        metavar: form of the words on the command line, for error messages ("TEXT=NUMBER").
        from_text: converts a word of the command line, or raises `ValueError`; by default by the field's type.
        parse_key: converts the keys of a TOML table and of `KEY=NUMBER`; by default they stay text.
        unsupported_by: names of the decoding strategies that cannot honor the setting, each with the reason.
        python_only: no text can express it, so that it has no flag and no place in a file.
    """
    details = Details(
        help=help, group=group, minimum=minimum, above=above, maximum=maximum, note=note, must_be=must_be,
        is_valid=is_valid, flag=flag, flag_help=flag_help, metavar=metavar, from_text=from_text, parse_key=parse_key,
        unsupported_by=unsupported_by or {}, python_only=python_only,
    )  # fmt: skip
    metadata = {METADATA: details}
    if isinstance(default, dict):
        copied = cast("dict[Any, Any]", default)
        return cast(T, field(default_factory=lambda: dict(copied), hash=False, metadata=metadata))
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class Setting:
    """One setting of a component.

    Attributes:
        name: dotted where components are nested, as in `train.learning_rate`.
        type: int, float, bool, str, Path, a `Literal` of strings, `tuple`, `Mapping`, or several of these.
        default: its value unless given.
        help: what it does.
        details: the rest of what its field declares.
    """

    name: str
    type: Any
    default: Any
    help: str
    details: Details = Details()

    @property
    def flag(self) -> str:
        """The command-line flag: `--train.learning-rate`."""
        return "--" + (self.details.flag or self.name).replace("_", "-")

    @property
    def types(self) -> tuple[Any, ...]:
        """The alternatives of a union; otherwise the type alone."""
        return alternatives(self.type)

    @property
    def choices(self) -> tuple[str, ...]:
        """The values of a `Literal`."""
        return tuple(word for kind in self.types if get_origin(kind) is Literal for word in get_args(kind))

    @property
    def expected(self) -> str:
        """Requirement for a value, for an error message."""
        note = f" ({self.details.note})" if self.details.note else ""
        return (self.details.must_be or f"{describe_type(self.type)}{_range(self.details)}") + note

    @cached_property
    def is_required(self) -> bool:
        """True if the default is not an allowed value, so that another must be given."""
        return not self.is_in_range(self.default)

    @cached_property
    def has_type(self) -> Callable[[Any], bool]:
        """A function that returns whether a value has the setting's type."""
        return predicate_of(self.type)

    @cached_property
    def normalize(self) -> Callable[[Any], Any]:
        """A function that converts a value of the setting's type: int to float, lists to tuples."""
        return normalizer_of(self.type)

    @cached_property
    def is_table(self) -> bool:
        """True if values are tables."""
        return is_mapping(self.type)

    @cached_property
    def read(self) -> Callable[[Any], Any]:
        """A function that returns the setting's value in a component, by its dotted name."""
        return attrgetter(self.name)

    def error(self, value: Any, name: str = "") -> str:
        """Return the message for a value that is not allowed.

        Args:
            value: as given.
            name: what to call the setting; by default its name.
        """
        return f"{name or self.name} is {value!r}; it must be {self.expected}"

    def is_in_range(self, value: Any) -> bool:
        """Return whether a value of the right type is allowed. Numbers must be finite."""
        details = self.details
        if is_number(value):
            return (
                math.isfinite(value)
                and (details.minimum is None or value >= details.minimum)  # as given: a float would round 2**63 - 1 up
                and (details.above is None or value > details.above)
                and (details.maximum is None or value <= details.maximum)
            )
        return details.is_valid is None or value is None or details.is_valid(value)


def _range(details: Details) -> str:
    low, above, high = details.minimum, details.above, details.maximum
    if low is not None and high is not None:
        return f" between {_plain(low)} and {_plain(high)}"
    bounds = [f"of at least {_plain(low)}"] if low is not None else []
    bounds += [f"above {_plain(above)}"] if above is not None else []
    bounds += [f"at most {_plain(high)}"] if high is not None else []
    return f" {' and '.join(bounds)}" if bounds else ""


def _plain(number: float) -> str:
    return "2**63 - 1" if number == 2**63 - 1 else f"{number:g}"


@cache
def settings_of(component: type[Any], prefix: str = "") -> tuple[Setting, ...]:
    """Return the settings of a dataclass, and of the dataclasses that it holds.

    Inherited settings come first, in the order of the bases.

    Args:
        component: the dataclass.
        prefix: put before every name.
    """
    hints, helps = get_type_hints(component), _docstring_helps(component)
    found: list[Setting] = []
    for item in _fields_in_order(component):
        name, kind = prefix + item.name, hints[item.name]
        if dataclasses.is_dataclass(kind):
            found += settings_of(cast("type[Any]", kind), f"{name}.")
            continue
        details = cast(Details, item.metadata.get(METADATA, Details()))
        default = item.default_factory() if item.default is dataclasses.MISSING else item.default  # pyright: ignore
        found.append(Setting(name, kind, default, details.help or helps.get(item.name, ""), details))
    return tuple(found)


def _fields_in_order(component: type[Any]) -> list[dataclasses.Field[Any]]:
    fields = {item.name: item for item in dataclasses.fields(component)}
    # `fields` itself begins with the last of several bases; a reader expects the first one first.
    return [fields[name] for name in dict.fromkeys(_annotated_names(component)) if name in fields]


def _annotated_names(component: type[Any]) -> list[str]:
    inherited = [name for base in component.__bases__ for name in _annotated_names(base)]
    return [*inherited, *vars(component).get("__annotations__", {})]


def _docstring_helps(component: type[Any]) -> dict[str, str]:
    entries = parse_docstring(component.__doc__ or "").params
    return {entry.arg_name: " ".join((entry.description or "").split()) for entry in entries}


def type_errors(component: Any) -> list[str]:
    """Return a message for each setting whose value has the wrong type."""
    return [
        each.error(value)
        for each in settings_of(type(component))
        if (value := each.read(component)) is not each.default and not each.has_type(value)
    ]


def range_errors(component: Any) -> list[str]:
    """Return a message for each setting whose value, of the right type, is not allowed."""
    return [
        each.error(value)
        for each in settings_of(type(component))
        if ((value := each.read(component)) is not each.default or each.is_required) and not each.is_in_range(value)
    ]


def convert(value: Any, of: Setting) -> Any:
    """Convert a value from a TOML file or a caller to its setting's type: int to float, lists to tuples.

    Raises:
        ValueError: it has another type.
    """
    if of.is_table and isinstance(value, Mapping):
        parse_key = of.details.parse_key or str
        value = {parse_key(key): each for key, each in cast("Mapping[str, Any]", value).items()}
    if not of.has_type(value):
        raise ValueError(of.error(value))
    return of.normalize(value)


def parse_text(text: str, of: Setting) -> Any:
    """Parse a command-line argument into its setting's type.

    Raises:
        ValueError: it is not a value of that type.
    """
    if text in of.choices or str in of.types:
        return text
    for kind in of.types:
        try:
            return PARSERS[kind](text)
        except (KeyError, ValueError, OverflowError):
            continue
    raise ValueError(of.error(text))


def _parse_integer(text: str) -> int:
    number = float(text) if "e" in text.lower() else int(text)  # also written like 1e6
    if int(number) != number:
        raise ValueError(f"{text!r} is not an integer")
    return int(number)


PARSERS: dict[Any, Callable[[str], Any]] = {
    bool: lambda text: {"true": True, "false": False}[text.lower()],
    int: _parse_integer,
    float: float,
    Path: Path,
}


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return "; did you mean X?" for the known name most like a mistyped one, or nothing.

    Of a dotted name the last part alone is recognized too, whatever component it was put in.
    """
    names = list(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    if not close:
        last = name.rpartition(".")[2]
        close = [full for full in names if full.rpartition(".")[2] == last][:1]
    return f"; did you mean {close[0]}?" if close else ""
