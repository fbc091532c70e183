"""What hooks and their units are called."""

from __future__ import annotations

from mi_superposition.models import FEATURES


def layer_of(hook: str) -> int:
    """The layer in a hook's name, or -1 where it names none."""
    words = hook.split(".")
    return int(words[1]) if words[0] == "blocks" and len(words) > 1 and words[1].isdigit() else -1


def has_mlp_neurons(hook: str) -> bool:
    """Whether the units of a hook are the neurons of an MLP, after their activation function."""
    return layer_of(hook) >= 0 and hook.split(".")[2:] == ["mlp", "hook_post"]


def layer_name(hook: str) -> str:
    """How a hook is called in headings: "Layer 1", or its own name where its units are no MLP neurons."""
    return f"Layer {layer_of(hook)}" if has_mlp_neurons(hook) else hook


def unit_word(hook: str) -> str:
    """What its units are called."""
    if hook.endswith(FEATURES):
        return "feature"
    return "neuron" if has_mlp_neurons(hook) else "unit"


def unit_name(hook: str, unit: int) -> str:
    """How one unit is called in headings: "Layer 1, neuron 5"."""
    return f"{layer_name(hook)}, {unit_word(hook)} {unit}"
