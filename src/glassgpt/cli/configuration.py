"""The commands `model`, `config list` and `config show`."""

from __future__ import annotations

from glassgpt import console
from glassgpt.cli.shared import Overrides


def model(preset: str, *, overrides: Overrides) -> None:
    """Show a model's parameters by component, its memory for training and inference, and its FLOPs.

    Parameters
    ----------
    preset:
        Name of a preset, a TOML file or a run. Model settings can be overridden: --model.n-layer 6.
    """
    from glassgpt.config import load_config

    config = load_config(preset, overrides)

    from glassgpt.model.show import show_model  # loads torch, which takes seconds

    show_model(config.model)


def config_list() -> None:
    """List the presets."""
    from glassgpt.config import load_config, preset_names, preset_summary

    for name in preset_names():
        model = load_config(name).model
        shape = f"{model.n_layer} layers, {model.n_head} heads, width {model.n_embd}, context {model.context_length}"
        console.output(f"{name:20} {console.translated(shape)}\n    {console.translated(preset_summary(name))}")


def config_show(preset: str, *, overrides: Overrides) -> None:
    """Show all settings of a preset, file or run as TOML, with an explanation of each.

    Parameters
    ----------
    preset:
        Name of a preset, a TOML file or a run.
    """
    from glassgpt.config import load_config, to_toml

    console.output(to_toml(load_config(preset, overrides), comments=True), end="")
