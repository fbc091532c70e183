"""Study superposition in neural networks, with the control beside every claim."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mi_superposition.corpora import load_corpus
    from mi_superposition.models import load_model

__all__ = ["load_corpus", "load_model"]


def __getattr__(name: str) -> object:
    # torch and TransformerLens take seconds to import; `mi-superposition --help` needs neither.
    if name == "load_model":
        from mi_superposition.models import load_model

        return load_model
    if name == "load_corpus":
        from mi_superposition.corpora import load_corpus

        return load_corpus
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
