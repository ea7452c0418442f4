"""The names that `train.trackers` takes, and the package and extra behind each. Does not import torch."""

from __future__ import annotations

from glassgpt.errors import require_extra

EXTRAS = {
    "tensorboard": ("tensorboard", "tensorboard", "writing TensorBoard events"),
    "wandb": ("wandb", "wandb", "tracking with Weights & Biases"),
    "mlflow": ("mlflow", "mlflow", "tracking with MLflow"),
    "trackio": ("trackio", "trackio", "tracking with Trackio"),
}
"""The arguments of `require_extra` for each tracker."""


def tracker_names(setting: str) -> list[str]:
    """Return the names in a value of `train.trackers`, each once."""
    return list(dict.fromkeys(filter(None, (name.strip() for name in setting.split(",")))))


def tracker_problems(setting: str) -> list[str]:
    """Return one line for each name that is no tracker's."""
    known = ", ".join(EXTRAS)
    return [
        f"train.trackers names {name}, which is no tracker; the trackers are {known}, separated by commas"
        for name in tracker_names(setting)
        if name not in EXTRAS
    ]


def require_trackers(setting: str) -> None:
    """Check that the package of each tracker is installed.

    Raises:
        MissingExtraError: one is not.
    """
    for name in tracker_names(setting):
        require_extra(*EXTRAS[name])
