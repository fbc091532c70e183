"""Spectra of a network's layers, next to those of its untrained copy and of random matrices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd
from scipy.stats import spearmanr

from mi_superposition.corpora import check_readable, corpus_of
from mi_superposition.corpora.images import load_images
from mi_superposition.errors import RequestError
from mi_superposition.models import BUNDLED_MODELS, device_of, load_model
from mi_superposition.progress import SILENT, Progress
from mi_superposition.results import Result
from mi_superposition.runs import HISTORY, MANIFEST, METRICS, Outcome, open_run, read_config, read_history, read_metrics
from mi_superposition.spectra.config import SpectraConfig
from mi_superposition.spectra.ranks import MEASURES
from mi_superposition.spectra.result import KINDS, Kind, LayerSpectra, Row, load_spectra, save_spectra
from mi_superposition.studies.spectra.classifier import MeasuredClassifier
from mi_superposition.studies.spectra.language_model import MeasuredLanguageModel
from mi_superposition.studies.spectra.network import STATES, MeasuredNetwork, State
from mi_superposition.studies.spectra.pictures import Pictures, load_pictures, save_pictures
from mi_superposition.training import fixed_arithmetic

COMMAND = "spectra"
# Runs that come with the package.
BUNDLED = Path(__file__).parents[2] / "bundled" / "spectra"
RANDOM = "random"
_PICTURES = "pictures.safetensors"
# What of a run its result is made of.
KEPT = (MANIFEST, METRICS, HISTORY, *(f"{state}.safetensors" for state in STATES), _PICTURES)
# With fewer layers a correlation with depth says nothing.
_DEPTH = 8
_NUMBERS = ("test_accuracy", "test_accuracy_untrained", "n_classes", "watched_images")


@dataclass(frozen=True, repr=False)
class SpectraResult(Result):
    """Spectra of a network's layers, trained and untrained, the history of its training and the network's own numbers."""

    DRAWN_BY: ClassVar[str] = "mi_superposition.pages.spectra.measure:figure"
    COLUMNS_PRINTED: ClassVar[tuple[str, ...]] = (
        "maximum", "possible", "energy_rank", "energy_rank_untrained", "energy_rank_random",
    )  # fmt: skip

    config: SpectraConfig
    spectra: Mapping[State, LayerSpectra]
    pictures: Mapping[State, Pictures]
    history: Sequence[Mapping[str, Any]]
    numbers: Mapping[str, float | int]

    @cached_property
    def random(self) -> LayerSpectra:
        """Spectra of independent normal entries in matrices of the same shapes."""
        return self.spectra["trained"].random(self.config.random.seed)

    @property
    def all_spectra(self) -> dict[str, LayerSpectra]:
        """Trained, untrained and random, by these names."""
        return {**{str(state): spectra for state, spectra in self.spectra.items()}, RANDOM: self.random}

    @property
    def kinds(self) -> list[Kind]:
        """Weights, and activations where they were measured."""
        return [kind for kind in KINDS if self.spectra["trained"].of(kind)]

    def ratios(self, state: str, kind: Kind, *, of_channels: bool = False) -> dict[str, float]:
        """Energy rank divided by the largest possible rank, by layer; ``of_channels``: by the number of singular values. See
        ``LayerSpectra.ratios``.
        """
        return self.all_spectra[state].ratios(kind, self.config.energy, of_channels=of_channels)

    def mean_ratio(self, state: str, kind: Kind, *, of_channels: bool = False) -> float:
        """The mean of ``ratios`` over layers."""
        ratios = self.ratios(state, kind, of_channels=of_channels).values()
        return sum(ratios) / len(ratios)

    def bounded(self, kind: Kind) -> int:
        """How many layers cannot have as many dimensions as they have singular values (channels), because their input is narrower."""
        spectra = self.spectra["trained"]
        return sum(most < len(spectra.of(kind)[name].values) for name, most in spectra.possible(kind).items())

    def depth_correlation(self, state: str, kind: Kind, *, of_channels: bool = False) -> float | None:
        """Spearman correlation of a layer's position in the network with its ratio (-1 if the ratio falls all the way); ``None``
        for few layers or where all ratios are equal.
        """
        ratios = list(self.ratios(state, kind, of_channels=of_channels).values())
        if len(ratios) < _DEPTH or len(set(ratios)) < 2:
            return None
        return float(spearmanr(range(len(ratios)), ratios).statistic)

    def summary(self) -> str:
        """What was measured, and the mean ratio of ranks next to its controls."""
        ratios = "; ".join(
            f"{kind} {self.mean_ratio('trained', kind):.2f} (untrained {self.mean_ratio('untrained', kind):.2f}, random "
            f"{self.mean_ratio(RANDOM, kind):.2f})"
            for kind in self.kinds
        )
        return f"{self.subject}: energy rank at {100 * self.config.energy:g} % / largest possible, mean over layers: {ratios}"

    @property
    def subject(self) -> str:
        """The network, how it was trained and what it read, in a few words."""
        config = self.config
        if config.image_set is None:
            read = f"on {config.text.corpus}" if "activations" in self.kinds else "weights only"
            return f"{config.model.name} without training, {read}"
        accuracy, untrained = self.numbers["test_accuracy"], self.numbers["test_accuracy_untrained"]
        return (
            f"{config.model.name} on {config.image_set}, {config.training.epochs} epochs, test accuracy {100 * accuracy:.1f} % "
            f"({100 * untrained:.1f} % untrained, {100 / self.numbers['n_classes']:.1f} % by chance)"
        )

    def to_frame(self) -> pd.DataFrame:
        """One row per layer and kind: rows and columns, the number of singular values (``maximum``), the largest possible rank, and every rank measure of the trained network,
        of the untrained one (``_untrained``) and of random matrices (``_random``).
        """
        frames = {state: spectra.to_frame(self.config.energy) for state, spectra in self.all_spectra.items()}
        frame = frames["trained"][["rows", "columns", "maximum", "possible"]].copy()
        for measure in MEASURES:
            for state, ranks in frames.items():
                frame[measure if state == "trained" else f"{measure}_{state}"] = ranks[measure]
        return frame

    def metrics(self) -> dict[str, float | int]:
        """All numbers, flat: ``LAYER.weights.RANK`` and ``LAYER.activations.RANK`` of the trained network, the same with the
        state's name before the rank for the others.
        """
        metrics: dict[str, float | int] = dict(self.numbers)
        for state, spectra in self.all_spectra.items():
            for kind in KINDS:
                possible, ratios = spectra.possible(kind), spectra.ratios(kind, self.config.energy)
                for layer, spectrum in spectra.of(kind).items():
                    ranks = spectrum.ranks(self.config.energy)
                    prefix = f"{layer}.{kind}." + ("" if state == "trained" else f"{state}.")
                    metrics |= {prefix + name: getattr(ranks, name) for name in ("n", *MEASURES, "energy_ratio")}
                    metrics |= {f"{prefix}possible": possible[layer], f"{prefix}possible_ratio": ratios[layer]}
                for name, of_channels in (("depth_correlation", False), ("depth_correlation_of_channels", True)):
                    correlation = self.depth_correlation(state, kind, of_channels=of_channels)
                    if correlation is not None:
                        metrics[f"{name}.{kind}.{state}"] = correlation
        return metrics


def measure(config: SpectraConfig, out: Path, progress: Progress = SILENT) -> Outcome:
    """Train if asked to, and measure both states into a run folder.

    Training resumes from its checkpoint; a state whose measuring was stopped is measured again. Raises as ``open_network`` and
    ``open_run`` do, and ``training.Stopped`` when asked to stop.
    """
    config = config.replace(device=device_of(config.device.device))
    network = open_network(config, progress)
    if not (out / MANIFEST).exists():
        network.check_room()
    with open_run(out, COMMAND, config, network.inputs()) as run:
        finished_already = run.finished
        if not finished_already:
            progress.begin("step", network.n_steps)
            with fixed_arithmetic(config.threads.number):
                network.train(run, progress)
                for state in STATES:
                    if not _spectra_file(out, state).exists():
                        save_spectra(network.measure(state, progress), _spectra_file(out, state))
                progress.stage("pictures")
                save_pictures({state: network.pictures(state) for state in STATES}, out / _PICTURES)
                run.finish(_read(out, config, network.metrics()).metrics())
    return Outcome(out, finished_already)


def load(folder: Path) -> SpectraResult:
    """The result in a finished run folder. Raises ``RequestError`` where there is none, ``WorkError`` for damaged files."""
    config = read_config(folder, SpectraConfig, COMMAND)
    metrics = read_metrics(folder)
    return _read(folder, config, {name: metrics[name] for name in _NUMBERS if name in metrics})


def open_network(config: SpectraConfig, progress: Progress = SILENT) -> MeasuredNetwork:
    """Load what a configuration names.

    Raises as ``load_images``, ``build_classifier``, ``load_model`` and ``load_corpus`` do, and ``RequestError`` for layers that are
    not there, images for a language model, and text for a model without a tokenizer.
    """
    name = config.model.name
    if config.image_set is not None:
        if name in BUNDLED_MODELS:
            raise RequestError(f"images = {config.images!r}: {name!r} is a language model, give a corpus")
        progress.begin("image")
        images = load_images(
            config.image_set,
            image_column=config.image_column,
            label_column=config.label_column,
            on_image=progress.advance,
        )
        return MeasuredClassifier(config, images)
    model = load_model(name, device=config.device.device)
    if model.tokenizer is None and not config.names_corpus:
        return MeasuredLanguageModel(config, model, None)
    corpus = corpus_of(config.text)
    if model.tokenizer is None:
        check_readable(model, corpus, config.text.corpus)
    return MeasuredLanguageModel(config, model, corpus)


def _spectra_file(folder: Path, state: State) -> Path:
    return folder / f"{state}.safetensors"


def _read(folder: Path, config: SpectraConfig, numbers: Mapping[str, float | int]) -> SpectraResult:
    spectra = {state: load_spectra(_spectra_file(folder, state)) for state in STATES}
    pictures = {
        state: load_pictures(
            folder / _PICTURES, state, weights=spectra[state].weights, activations=spectra[state].activations
        )
        for state in STATES
    }
    return SpectraResult(config, spectra, pictures, read_history(folder, Row), numbers)
