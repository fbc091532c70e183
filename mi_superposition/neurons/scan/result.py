"""What a scan gives, ordered and ready to be shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from mi_superposition.corpora.tokens import running_text, visible_tokens
from mi_superposition.errors import RequestError
from mi_superposition.neurons.config import ScanSettings
from mi_superposition.neurons.scan.examples import Examples, UnitExamples, excerpts
from mi_superposition.neurons.scan.names import layer_name
from mi_superposition.results import Result

_EXAMPLES = ("top", "bottom", "tenths")
# Names of tensors that are other than those of the fields: files of version 0.1 have them.
_STORED_AS = {"position": "place"}
_TOKENS_IN_TABLE = 5


@dataclass(frozen=True)
class UnitScan:
    """What the units of one hook did, in the hook's own units.

    ``top`` and ``bottom``: the largest and the smallest activations, one per document, near-duplicates skipped.
    ``tenths``: tokens drawn uniformly from each of ten equal intervals of the range ``edges[:, 0]`` to ``edges[:, -1]``
    (measured on the first sequences; what lies outside belongs to the outermost intervals), the lowest interval first; its axis
    ``example`` is interval by interval. ``histogram`` counts what lies below the edges, in each bin, and above.

    ``top_tokens``: those with the largest mean activation among tokens that occur at least 5 times.
    ``partners``: the units whose activations correlate most with it in magnitude; no columns where not asked for.
    ``contexts``: the effective number of different contexts among the largest activations (see ``polysemanticity``);
    ``contexts_shuffled`` the same where examples were permuted across units.
    """

    top: Examples
    bottom: Examples
    tenths: Examples
    edges: Float[Tensor, "unit edge"]
    histogram: Int[Tensor, "unit bin"]
    fraction_active: Float[Tensor, " unit"]
    mean: Float[Tensor, " unit"]
    variance: Float[Tensor, " unit"]
    skewness: Float[Tensor, " unit"]
    minimum: Float[Tensor, " unit"]
    maximum: Float[Tensor, " unit"]
    top_tokens: Int[Tensor, "unit token"]
    top_token_mean: Float[Tensor, "unit token"]
    top_token_count: Int[Tensor, "unit token"]
    partners: Int[Tensor, "unit partner"]
    partner_correlation: Float[Tensor, "unit partner"]
    contexts: Float[Tensor, " unit"]
    contexts_shuffled: Float[Tensor, " unit"]

    @property
    def n_units(self) -> int:
        """How many units the hook has."""
        return len(self.mean)


@dataclass(frozen=True, repr=False)
class NeuronScan(Result):
    """What the units of every hook respond to in a corpus.

    ``documents`` holds the tokens of each document shown, ``vocabulary`` what every token looks like, by its number; empty where
    that is not known.
    """

    DRAWN_BY: ClassVar[str] = "mi_superposition.pages.neurons.scan:figure"

    hooks: dict[str, UnitScan]
    documents: dict[int, list[int]]
    n_documents: int
    n_tokens: int
    settings: ScanSettings
    vocabulary: tuple[str, ...] = ()

    @property
    def n_units(self) -> int:
        """Units of all hooks together."""
        return sum(units.n_units for units in self.hooks.values())

    @property
    def top_activations(self) -> dict[str, Float[Tensor, "unit k"]]:
        """The largest activations of each hook's units, the largest first; NaN where there are fewer."""
        return {hook: units.top.activation for hook, units in self.hooks.items()}

    @property
    def top_documents(self) -> dict[str, Int[Tensor, "unit k"]]:
        """The documents they are in; -1 where there are fewer."""
        return {hook: units.top.document for hook, units in self.hooks.items()}

    @property
    def top_positions(self) -> dict[str, Int[Tensor, "unit k"]]:
        """Their positions in these documents, in tokens; -1 where there are fewer."""
        return {hook: units.top.position for hook, units in self.hooks.items()}

    def summary(self) -> str:
        """What was scanned, and the median number of contexts with its control."""
        contexts, permuted = (
            float(torch.cat([getattr(units, name) for units in self.hooks.values()]).median())
            for name in ("contexts", "contexts_shuffled")
        )
        names = [layer_name(hook) for hook in self.hooks]
        where = ", ".join(names) if len(names) < 4 else f"{names[0]} to {names[-1]}"
        return (
            f"{self.n_units:,} units of {where} on {self.n_documents:,} documents ({self.n_tokens:,} tokens): median of "
            f"{contexts:.1f} contexts per unit ({permuted:.1f} when examples are permuted across units)"
        )

    def to_frame(self) -> pd.DataFrame:
        """One row per unit of every hook; the tokens with the largest mean activation are there if the vocabulary is known."""
        return pd.concat([self._hook_frame(hook) for hook in self.hooks], keys=list(self.hooks), names=["hook", "unit"])

    def _hook_frame(self, hook: str) -> pd.DataFrame:
        units = self.hooks[hook]
        columns: dict[str, list[Any]] = {
            "maximum": units.maximum.tolist(),
            "fraction_active": units.fraction_active.tolist(),
            "mean": units.mean.tolist(),
            "skewness": units.skewness.tolist(),
            "contexts": units.contexts.tolist(),
        }
        if self.vocabulary:
            columns["top_tokens"] = [
                " ".join(self.vocabulary[token].strip() for token in row)
                for row in units.top_tokens[:, :_TOKENS_IN_TABLE].tolist()
            ]
        return pd.DataFrame(columns)

    def examples(self, hook: str, unit: int, tokenizer: PreTrainedTokenizerBase | None = None) -> UnitExamples:
        """A unit's largest activations in their texts: a table by ``to_frame()``, shaded text in a notebook.

        ``tokenizer`` says what tokens look like, for a scan without a vocabulary. Raises ``RequestError`` for a hook or unit that
        was not scanned, and where neither is there.
        """
        if hook not in self.hooks:
            raise RequestError(f"hook {hook!r} was not scanned: the scan has {', '.join(map(repr, self.hooks))}")
        units = self.hooks[hook]
        if not 0 <= unit < units.n_units:
            raise RequestError(f"unit = {unit}: {hook!r} has units 0 to {units.n_units - 1}")
        shown = {number: self.documents[number] for number in units.top.document[unit].unique().tolist() if number >= 0}
        vocabulary: Sequence[str] = self.vocabulary
        if tokenizer is not None:
            vocabulary = visible_tokens(
                tokenizer, 1 + max((token for some in shown.values() for token in some), default=0)
            )
        if not vocabulary:
            raise RequestError("the scan does not know what its tokens look like: give the model's tokenizer")
        texts = {number: running_text([vocabulary[token] for token in tokens]) for number, tokens in shown.items()}
        return UnitExamples(
            hook=hook,
            unit=unit,
            largest=tuple(excerpts(units.top, unit, texts)),
            histogram=units.histogram[unit],
            edges=units.edges[unit],
            maximum=float(units.maximum[unit]),
            mean=float(units.mean[unit]),
            fraction_active=float(units.fraction_active[unit]),
            contexts=float(units.contexts[unit]),
            contexts_permuted=float(units.contexts_shuffled.median()),
        )

    def tensors(self) -> dict[str, Tensor]:
        """Everything but the numbers of documents and tokens, the settings and the vocabulary, as tensors by name, to be saved;
        windows in half precision.
        """
        numbers = list(self.documents)
        tokens = [torch.tensor(self.documents[number], dtype=torch.int32) for number in numbers]
        saved = {
            "documents.number": torch.tensor(numbers, dtype=torch.long),
            "documents.length": torch.tensor([len(document) for document in tokens], dtype=torch.long),
            "documents.tokens": torch.cat(tokens) if tokens else torch.zeros(0, dtype=torch.int32),
        }
        for hook, units in self.hooks.items():
            for field in fields(UnitScan):
                value = getattr(units, field.name)
                if isinstance(value, Examples):
                    largest = torch.finfo(torch.float16).max
                    parts = {_stored_as(part.name): getattr(value, part.name) for part in fields(Examples)}
                    parts["window"] = parts["window"].clamp(-largest, largest).half()
                    saved |= {f"{hook}/{field.name}.{part}": tensor for part, tensor in parts.items()}
                else:
                    saved[f"{hook}/{field.name}"] = value
        return saved

    @classmethod
    def from_tensors(
        cls,
        tensors: Mapping[str, Tensor],
        *,
        hooks: Sequence[str],
        n_documents: int,
        n_tokens: int,
        settings: ScanSettings,
        vocabulary: Sequence[str] = (),
    ) -> NeuronScan:
        """Inverse of ``tensors``, with what is no tensor; ``hooks`` in their order."""
        numbers, lengths = tensors["documents.number"].tolist(), tensors["documents.length"].tolist()
        documents = dict(
            zip(numbers, (part.tolist() for part in tensors["documents.tokens"].split(lengths)), strict=True)
        )

        def examples(start: str) -> Examples:
            return Examples(*(tensors[f"{start}.{_stored_as(part.name)}"] for part in fields(Examples)))

        def unit_scan(hook: str) -> UnitScan:
            parts: dict[str, Any] = {
                field.name: examples(f"{hook}/{field.name}")
                if field.name in _EXAMPLES
                else tensors[f"{hook}/{field.name}"]
                for field in fields(UnitScan)
            }
            return UnitScan(**parts)

        return cls(
            {hook: unit_scan(hook) for hook in hooks}, documents, n_documents, n_tokens, settings, tuple(vocabulary)
        )


def _stored_as(field: str) -> str:
    return _STORED_AS.get(field, field)
