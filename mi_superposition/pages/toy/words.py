"""Settings and shapes in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mi_superposition.toy.config import ToySetting


def setting_labels(settings: Sequence[ToySetting]) -> list[str]:
    """A label for each setting, all different. Says of it what is not zero, and importance only where it differs between settings."""
    n_importances = len({setting.importance for setting in settings})
    labels = [_label(setting, with_importance=n_importances > 1) for setting in settings]
    return [label if labels.count(label) == 1 else f"{label}, setting {number}" for number, label in enumerate(labels)]


def _label(setting: ToySetting, *, with_importance: bool) -> str:
    first, last = _ends(setting.probability)
    label = f"sparsity {_range(1 - first, 1 - last)}"
    if with_importance:
        label += f", importance {_range(*_ends(setting.importance))}"
    if setting.dropout:
        label += f", dropout {setting.dropout:g}"
    if setting.l1:
        label += f", L1 {setting.l1:g}"
    return label


def _ends(values: float | tuple[float, ...]) -> tuple[float, float]:
    return (values[0], values[-1]) if isinstance(values, tuple) else (values, values)


def _range(first: float, last: float) -> str:
    return f"{first:.3g}" if first == last else f"{first:.3g} to {last:.3g}"


def shapes_in_words(features_by_shape: Mapping[str, int]) -> str:
    """How many features form shapes of each name."""
    return ", ".join(
        f"{n} in no named shape" if name == "unnamed" else f"{n} in {name}s" for name, n in features_by_shape.items()
    )
