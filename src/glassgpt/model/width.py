"""Initial weights and learning rates that follow the width of the model, so that the best rate stays the same.

A rate that is best for a narrow model is too high for a wide one: a weight is one of many that add up to an
activation, and all of them move in the same direction. `RULES` divides rates and initial weights by powers of the width, so
that an activation, and its change in a step, have the same size at any width (the maximal update parametrization,
"muP": Yang and Hu 2021; Yang et al. 2022, table 8; weight decay from Dey et al. 2025, "CompleteP", table 1). For Muon see
Yang, Simon and Bernstein 2023.

The published rules also multiply the logits of a tied head. Here the gain and bias of the last norm carry that factor:
they start smaller and learn more slowly, which is the same function and the same training, and `forward`, exports
and everything that reads a model stay as they are. Attention is not scaled, because heads keep their width: a wider
model has more of them.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from glassgpt.errors import ConfigError
from glassgpt.model.transformer import LanguageModel


class WidthRule(NamedTuple):
    """Exponents of `n_embd / base_width` for one kind of parameter.

    Attributes:
        initial: of its initial standard deviation, or initial value for a gain.
        adamw: of AdamW's learning rate.
        muon: of Muon's learning rate, which applies to matrices only.
    """

    initial: float
    adamw: float
    muon: float = 0.0


RULES = {
    # One row per token: its width changes neither how large an entry should be nor how fast it should move.
    "embedding": WidthRule(initial=0.0, adamw=0.0),
    # Sums over the width: random initial weights add up like its square root, updates like the width itself. Muon's
    # update has singular values of 1 at any width already.
    "matrix": WidthRule(initial=-0.5, adamw=-1.0, muon=0.0),
    "vector": WidthRule(initial=0.0, adamw=0.0),
    # Sums over the width as well; logits that start small do no harm.
    "head": WidthRule(initial=-1.0, adamw=-1.0),
    # Gain and bias of the last norm, if the head is tied: they stand for a factor of the logits.
    "output": WidthRule(initial=-1.0, adamw=-1.0),
}
"""The rule of each kind of parameter; `output` is no `ParameterKind`, but a part of `vector`."""


def scaled_kinds(model: LanguageModel) -> dict[str, str]:
    """Return the key in `RULES` of each parameter, by name.

    Raises:
        ConfigError: the head is tied, and the last norm has no gain that could carry its factor.
    """
    kinds: dict[str, str] = dict(model.parameter_kinds())
    if "head" in kinds.values():
        return kinds
    output = {f"norm.{name}" for name, _ in model.norm.named_parameters()} & set(kinds)
    if not output:
        problem = "model.base_width needs an untied head, or a last norm with a gain; set it to 0"
        raise ConfigError([problem])
    return kinds | dict.fromkeys(output, "output")


def initial_scale(model: LanguageModel, name: str) -> float:
    """Return the factor of a parameter's initial standard deviation (or of a gain), by name; 1 without a base width."""
    base = model.config.base_width
    return (model.config.n_embd / base) ** RULES[scaled_kinds(model)[name]].initial if base else 1.0


def scale_initial_weights(model: LanguageModel) -> None:
    """Scale the initial weights of a new model in place; without a base width they stay as they are."""
    if not model.config.base_width:
        return
    for name, parameter in model.named_parameters():
        parameter.data.mul_(initial_scale(model, name))


def scale_groups(model: LanguageModel, groups: dict[Any, dict[str, Any]], optimizer: str) -> dict[Any, dict[str, Any]]:
    """Return optimizer groups with their rates scaled; without a base width, the groups themselves.

    Weight decay is divided by the same factor, because a step decays by the rate times the decay, and that product should
    not depend on the width.

    Args:
        model: the model; its configuration has both widths.
        groups: by kind, each with `params`, `weight_decay` and `rate_ratio`.
        optimizer: name of the algorithm for matrices, `adamw` or `muon`.
    """
    base = model.config.base_width
    if not base:
        return groups
    ratio, kinds, named = model.config.n_embd / base, scaled_kinds(model), dict(model.named_parameters())
    output = {id(named[name]) for name, kind in kinds.items() if kind == "output"}
    scaled: dict[Any, dict[str, Any]] = {}
    for kind, group in groups.items():
        for key, inside in ((kind, False), ("output", True)):
            members = [p for p in group["params"] if (id(p) in output) == inside]
            if not members:
                continue
            rule = RULES[key]
            factor = ratio ** (rule.muon if optimizer == "muon" and key == "matrix" else rule.adamw)
            decay, rate_ratio = group["weight_decay"] / factor, group["rate_ratio"] * factor
            scaled[key] = {"params": members, "weight_decay": decay, "rate_ratio": rate_ratio}
    return scaled
