"""Features of a sparse autoencoder with the largest effects of concepts."""

from __future__ import annotations

from mi_superposition.models import FEATURES
from mi_superposition.pages.concepts.links import UnitPages, unit_cell
from mi_superposition.site.records import Link, TableRecord
from mi_superposition.studies.concepts.result import ConceptsResult

_SHOWN_FEATURES = 6


def feature_tables(result: ConceptsResult, pages: UnitPages) -> list[TableRecord]:
    """For each concept the features with the largest effects, compared with the largest of random word lists; nothing without an
    autoencoder.
    """
    measured = result.features
    if measured is None:
        return []
    addresses = pages.get(measured.name, {})
    largest = max(measured.random_largest, default=0.0)
    rows: list[list[str | Link | list[str | Link]]] = []
    for concept, effects in zip(result.concepts, measured.effects, strict=True):
        cell: list[str | Link] = []
        for unit in effects.abs().topk(min(_SHOWN_FEATURES, len(effects))).indices.tolist():
            cell += [unit_cell(unit, addresses), f"({float(effects[unit]):+.2f})"]
        above = [str(int((effects.abs() > largest).sum()))] if measured.random_largest else []
        rows.append([concept, f"{float(effects.abs().max()):.2f}", *above, cell])
    control = ""
    if measured.random_largest:
        mean = sum(measured.random_largest) / len(measured.random_largest)
        control = (
            f" Control: in {len(measured.random_largest)} draws of the same number of random word lists, the largest "
            f"effect on any feature is {mean:.2f} on average and {largest:.2f} at most; the third column counts the "
            "features above that maximum. A single frequent word, such as a name, can have as large an effect as a "
            "concept."
        )
    return [
        TableRecord(
            id="features",
            title="SAE features with the largest effect",
            look_at=(
                "Effect (Cohen's d) of each concept on the features (averaged over a sentence's tokens) of the sparse "
                f"autoencoder at {measured.name.removesuffix(FEATURES)}: the largest effect, and the features with the "
                f"largest effects.{control}"
            ),
            columns=[
                "concept",
                "largest effect",
                *(["above random lists"] if measured.random_largest else []),
                "features",
            ],
            rows=rows,
            words=("features",),
        )
    ]
