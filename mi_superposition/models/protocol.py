"""What a measurement needs of a language model: TransformerLens's ``HookedTransformer`` and ``TransformerBridge`` both have it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from torch import Tensor

# Of a model whose tokenizer has no beginning token.
NO_BEGINNING = "no_beginning_token"
# Of a loaded model: which of these ways its weights were processed in, by name.
PROCESSED = "processed_weights"
PROCESSING = ("fold_ln", "center_writing_weights", "center_unembed", "fold_value_biases")


@runtime_checkable
class HookedModel(Protocol):
    """A model with TransformerLens's hook names, configuration and weights."""

    cfg: Any
    tokenizer: Any

    if TYPE_CHECKING:
        # A submodule: from Python 3.12 on, `isinstance` does not find it on an instance.
        blocks: Any

    @property
    def W_E(self) -> Tensor:
        """Embedding, (d_vocab, d_model)."""
        ...

    @property
    def W_U(self) -> Tensor:
        """Unembedding, (d_model, d_vocab_out)."""
        ...

    @property
    def hook_dict(self) -> Mapping[str, Any]:
        """Hook points by name."""
        ...

    def __call__(self, *inputs: Any, **options: Any) -> Any:
        """Logits of every position."""
        ...

    def run_with_hooks(self, *inputs: Any, **options: Any) -> Any:
        """Logits with functions put in at hook points."""
        ...

    def hooks(self, *inputs: Any, **options: Any) -> Any:
        """Context in which functions are put in at hook points."""
        ...

    def named_parameters(self) -> Iterable[tuple[str, Any]]:
        """Every weight by its name."""
        ...


def beginning_token(model: HookedModel, tokenizer: Any = None) -> int | None:
    """The token that a text begins with for this model, where its tokenizer has one of its own; ``tokenizer``: for a model that came
    without, such as an untrained copy.

    TransformerLens gives a tokenizer without a beginning token another of its tokens instead; a model of ``load_model`` remembers that
    there was none.
    """
    tokenizer = tokenizer or model.tokenizer
    if tokenizer is None or getattr(model, NO_BEGINNING, False):
        return None
    return tokenizer.bos_token_id
