"""What a scan of heads gives, ready to be shown."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from mi_superposition.errors import RequestError
from mi_superposition.heads.scan.accumulator import hook_of
from mi_superposition.heads.scan.excerpts import HeadExcerpts
from mi_superposition.heads.scan.measures import Measured
from mi_superposition.heads.scan.tables import AttendedTokens, TokenPairs
from mi_superposition.neurons import NeuronScan, UnitExamples
from mi_superposition.results import Result

# A longer table is none that a command prints.
_ROWS_TOLD = 24


@dataclass(frozen=True)
class Similarity:
    """Cosines of every two heads, of the trained and of an untrained model."""

    trained: Float[Tensor, "head head"]
    untrained: Float[Tensor, "head head"]


@dataclass(frozen=True, repr=False)
class HeadScan(Result):
    """What every attention head of a model does on a corpus. Heads of all ``layers`` stand in one axis, layer after layer.

    ``measures`` are those of ``heads.scan.measures.MEASURES``. ``examples`` takes the heads of each layer as units whose activation at a token
    is their strongest value-weighted attention from there (the norm of what that key adds to the head's output); ``excerpts`` has the
    attention around them. ``similar``: by ``ov`` and ``qk``, the cosines of the matrices, and by ``attention``, on the queries drawn.
    ``n_repeated``: random tokens in each repeated sequence.
    """

    DRAWN_BY: ClassVar[str] = "mi_superposition.figures.head_scan:head_points"

    COLUMNS_PRINTED: ClassVar[tuple[str, ...]] = (
        "entropy", "distance", "first", "previous", "written", "induction", "previous_token", "duplicate_token", "copying", "qk_rank",
        "ov_rank",
    )  # fmt: skip

    layers: list[int]
    n_heads: int
    measures: dict[str, Measured]
    examples: NeuronScan
    excerpts: dict[str, HeadExcerpts]
    pairs: TokenPairs
    attended: AttendedTokens
    similar: dict[str, Similarity]
    n_repeated: int

    @property
    def names(self) -> list[str]:
        """Of every head its layer and number, as L0H3."""
        return [f"L{layer}H{head}" for layer in self.layers for head in range(self.n_heads)]

    def place_of(self, layer: int, head: int) -> int:
        """Where a head stands. Raises ``RequestError`` for one that is not there."""
        if layer not in self.layers:
            raise RequestError(
                f"layer = {layer}: the scan has heads in the layers {self.layers[0]} to {self.layers[-1]}"
            )
        if not 0 <= head < self.n_heads:
            raise RequestError(f"head = {head}: each layer has heads 0 to {self.n_heads - 1}")
        return self.layers.index(layer) * self.n_heads + head

    def strongest(self, layer: int, head: int) -> UnitExamples:
        """A head's examples of strongest attention in their texts. Raises as ``place_of``."""
        self.place_of(layer, head)
        return self.examples.examples(hook_of(layer), head)

    def summary(self) -> str:
        """What was scanned, and the heads with the largest scores, beside the untrained model's largest."""
        found = []
        for name in ("induction", "previous_token"):
            measured = self.measures[name]
            best = int(measured.values.argmax())
            other = (
                "" if measured.untrained is None else f" ({float(measured.untrained.max()):.2f} in an untrained model)"
            )
            found.append(
                f"{name.replace('_', '-')} score up to {float(measured.values[best]):.2f}, {self.names[best]}{other}"
            )
        return (
            f"{len(self.names)} heads on {self.examples.n_documents:,} documents ({self.examples.n_tokens:,} tokens): "
            f"{'; '.join(found)}"
        )

    def to_frame(self) -> pd.DataFrame:
        """One row per head: every measure, and its controls as ``NAME_untrained`` and ``NAME_permuted``."""
        columns = {}
        for name, measured in self.measures.items():
            columns[name] = measured.values.tolist()
            for control in ("untrained", "permuted"):
                values: Tensor | None = getattr(measured, control)
                if values is not None:
                    columns[f"{name}_{control}"] = values.tolist()
        index = [(layer, head) for layer in self.layers for head in range(self.n_heads)]
        return pd.DataFrame(columns, index=pd.MultiIndex.from_tuples(index, names=["layer", "head"]))

    def told(self) -> str:
        """As every result, without the columns that this scan does not have."""
        frame = self.to_frame()
        some = frame[[name for name in self.COLUMNS_PRINTED if name in frame]]
        table = f"{some.to_string(float_format='{:.3g}'.format)}\n" if len(some) <= _ROWS_TOLD else ""
        return f"{table}{self.summary()}"

    def metrics(self) -> dict[str, float | int | list[float]]:
        """All measures and controls, flat: ``NAME``, ``NAME/untrained`` and ``NAME/permuted``, a number a head."""
        metrics: dict[str, float | int | list[float]] = {
            "documents": self.examples.n_documents,
            "tokens": self.examples.n_tokens,
            "heads": len(self.names),
            "layers": len(self.layers),
        }
        for name, measured in self.measures.items():
            for end, values in (
                ("", measured.values),
                ("/untrained", measured.untrained),
                ("/permuted", measured.permuted),
            ):
                if values is not None and bool(torch.isfinite(values).all()):
                    metrics[f"{name}{end}"] = values.tolist()
        return metrics
