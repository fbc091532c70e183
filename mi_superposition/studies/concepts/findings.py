"""What a run of the study found, as it is kept in its folder and told on its page."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from jaxtyping import Float, Int
from torch import Tensor

from mi_superposition.concepts.directions import Separation
from mi_superposition.concepts.overlap import mean_shared
from mi_superposition.concepts.probe import balanced_accuracy_error
from mi_superposition.errors import WorkError
from mi_superposition.runs import read_tensors, write_tensors
from mi_superposition.studies.concepts.features import FeaturesMeasured
from mi_superposition.studies.concepts.measure import LayerMeasured, RandomMeasured

State = Literal["trained", "untrained"]
STATES: tuple[State, ...] = ("trained", "untrained")
FINDINGS = "findings.safetensors"
_TENSORS = ("predicted", "cosines", "uncentred", "effects", "shared", "coordinates", "explained")


@dataclass(frozen=True)
class Findings:
    """Every layer of the model and of its untrained copy, random word lists, what words alone give, and single words.

    ``random`` is empty where texts have labels of their own. ``labels`` are those of the held-out texts, -1 for none; texts
    of one of ``groups`` have the same word. ``words`` are a few of each concept, ``word_points`` what each state's layer
    ``word_layer`` makes of them alone; both are empty for labels. ``features`` are those of the sparse autoencoder asked for, if any.
    """

    request: Mapping[str, Any]
    concepts: tuple[str, ...]
    by_words: bool
    n_texts: int
    n_train: int
    bag_of_words: float
    layers: Mapping[State, Mapping[str, LayerMeasured]]
    random: Mapping[str, RandomMeasured]
    labels: Int[Tensor, " text"]
    groups: Int[Tensor, " text"]
    words: Mapping[str, tuple[str, ...]]
    word_layer: str
    word_points: Mapping[State, Float[Tensor, "word d"]]
    features: FeaturesMeasured | None = None

    @property
    def chance(self) -> float:
        """Balanced accuracy by chance."""
        return 1 / len(self.concepts)

    def best(self, state: State) -> str:
        """The layer at which a probe finds the concepts best; every model has its own."""
        layers = self.layers[state]
        return max(layers, key=lambda name: layers[name].probe)

    @property
    def best_layer(self) -> str:
        """That of the trained model."""
        return self.best("trained")

    @property
    def best_random(self) -> float:
        """The best of all layers for random word lists (mean of the draws); 0 where there are none."""
        return max((sum(random.probes) / len(random.probes) for random in self.random.values()), default=0.0)

    @property
    def shares_units(self) -> bool:
        """Whether units that concepts share were counted: not where two labels are each other's rest."""
        return all(len(measured.shared) for measured in self.layers["trained"].values())

    def unit_effects(self) -> dict[str, Float[Tensor, "concept unit"]]:
        """How much each concept moves each unit of every layer of the trained model, and each feature (standard deviations)."""
        effects = {layer: measured.effects for layer, measured in self.layers["trained"].items()}
        return effects if self.features is None else effects | {self.features.name: self.features.effects}

    @property
    def error(self) -> float:
        """Standard error of the trained model's best accuracy, with held-out texts (or words) drawn again."""
        of_concept = self.labels >= 0
        predicted = self.layers["trained"][self.best_layer].predicted
        return balanced_accuracy_error(predicted, self.labels[of_concept], self.groups[of_concept], seed=0)

    @property
    def best_shuffled(self) -> float:
        """The best of all layers for shuffled labels."""
        return max(measured.shuffled for measured in self.layers["trained"].values())

    def metrics(self) -> dict[str, float | int]:
        """All numbers, flat: ``LAYER.NUMBER`` of the trained model, ``LAYER.untrained.NUMBER`` and ``LAYER.random.NUMBER``."""
        found: dict[str, float | int] = {
            "chance": self.chance,
            "bag_of_words": self.bag_of_words,
            "texts": self.n_texts,
            "held_out_texts": int((self.labels >= 0).sum()),
            "held_out_groups": len(self.groups[self.labels >= 0].unique()),
            "best_probe_error": self.error,
        }
        for state, layers in self.layers.items():
            for layer, measured in layers.items():
                prefix = f"{layer}." + ("" if state == "trained" else f"{state}.")
                found |= {f"{prefix}{name}": getattr(measured, name) for name in ("probe", "nearest", "shuffled")}
                for concept, one in zip(self.concepts, measured.separations, strict=True):
                    found[f"{prefix}{concept}.difference"] = one.difference
                    found[f"{prefix}{concept}.p"] = one.p
                if len(measured.shared):
                    found[f"{prefix}shared_units"] = mean_shared(measured.shared)
                    found[f"{prefix}shared_units_by_chance"] = measured.chance_shared
        for layer, random in self.random.items():
            found[f"{layer}.random.probe"] = sum(random.probes) / len(random.probes)
            if random.shared:
                found[f"{layer}.random.shared_units"] = sum(random.shared) / len(random.shared)
        if self.features is not None:
            for concept, effects in zip(self.concepts, self.features.effects, strict=True):
                found[f"{self.features.name}.{concept}.largest_effect"] = float(effects.abs().max())
            if self.features.random_largest:
                found[f"{self.features.name}.random.largest_effect"] = max(self.features.random_largest)
        return found


def save_findings(findings: Findings, folder: Path) -> None:
    """Write them to one safetensors file."""
    tensors: dict[str, Tensor] = {"labels": findings.labels, "groups": findings.groups}
    told: dict[str, Any] = {
        name: getattr(findings, name)
        for name in ("request", "concepts", "by_words", "n_texts", "n_train", "bag_of_words", "words", "word_layer")
    }
    told["random"] = {layer: dataclasses.asdict(random) for layer, random in findings.random.items()}
    told["layers"] = {}
    for state, layers in findings.layers.items():
        if findings.words:
            tensors[f"words/{state}"] = findings.word_points[state]
        told["layers"][state] = {}
        for layer, measured in layers.items():
            tensors |= {f"{state}/{layer}/{name}": getattr(measured, name) for name in _TENSORS}
            told["layers"][state][layer] = {
                **{
                    name: getattr(measured, name)
                    for name in ("n_units", "probe", "shuffled", "nearest", "chance_shared")
                },
                "separations": [dataclasses.asdict(one) for one in measured.separations],
            }
    if findings.features is not None:
        tensors["features/effects"] = findings.features.effects
        told["features"] = {"name": findings.features.name, "random_largest": findings.features.random_largest}
    write_tensors(folder / FINDINGS, tensors, {"findings": json.dumps(told, allow_nan=False)})


def load_findings_file(folder: Path) -> Findings:
    """Read them again. Raises ``WorkError`` for a file that is missing or damaged."""
    tensors, metadata = read_tensors(folder / FINDINGS)
    try:
        told = json.loads(metadata["findings"])
        layers: dict[State, dict[str, LayerMeasured]] = {
            state: {
                layer: LayerMeasured(
                    **{
                        **numbers,
                        "separations": tuple(Separation(**one) for one in numbers["separations"]),
                        **{name: tensors[f"{state}/{layer}/{name}"] for name in _TENSORS},
                    }
                )
                for layer, numbers in told["layers"][state].items()
            }
            for state in STATES
        }
        random = {
            layer: RandomMeasured(tuple(one["probes"]), tuple(one["shared"])) for layer, one in told["random"].items()
        }
        return Findings(
            request=told["request"],
            concepts=tuple(told["concepts"]),
            by_words=told["by_words"],
            n_texts=told["n_texts"],
            n_train=told["n_train"],
            bag_of_words=told["bag_of_words"],
            layers=layers,
            random=random,
            labels=tensors["labels"],
            groups=tensors["groups"],
            words={concept: tuple(words) for concept, words in told["words"].items()},
            word_layer=told["word_layer"],
            word_points={state: tensors[f"words/{state}"] for state in STATES if told["words"]},
            features=None
            if "features" not in told
            else FeaturesMeasured(
                told["features"]["name"], tensors["features/effects"], tuple(told["features"]["random_largest"])
            ),
        )
    except (KeyError, ValueError, TypeError) as error:
        raise WorkError(f"{str(folder / FINDINGS)!r} is damaged: {error}") from error
