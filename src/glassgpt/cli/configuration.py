"""Presets, settings, and what a model of them is made of."""

from __future__ import annotations

from glassgpt import console
from glassgpt.cli.shared import Overrides


def model(preset: str, *, overrides: Overrides) -> None:
    """Print a model's parameters by part, its memory to train and to run, and its arithmetic.

    Parameters
    ----------
    preset:
        A preset's name, a TOML file or a run. Any model setting can be changed: --model.n-layer 6.
    """
    from glassgpt.config import load_config
    from glassgpt.model.show import show_model

    show_model(load_config(preset, overrides).model)


def config_list() -> None:
    """List the presets."""
    from glassgpt.config import load_config, preset_names, preset_summary

    for name in preset_names():
        model = load_config(name).model
        shape = f"{model.n_layer} layers, {model.n_head} heads, width {model.n_embd}, context {model.context_length}"
        console.output(f"{name:20} {shape}\n    {preset_summary(name)}")


def config_show(preset: str, *, overrides: Overrides) -> None:
    """Print a preset, file or run with every setting, its value and what it means, as TOML.

    Parameters
    ----------
    preset:
        A preset's name, a TOML file or a run.
    """
    from glassgpt.config import load_config, to_toml

    console.output(to_toml(load_config(preset, overrides), comments=True), end="")
