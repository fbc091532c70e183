"""The order of neurons: measured, bounded, and compared with random matrices that are ordered by the same search."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from mi_superposition.corpora import Corpus, check_readable, corpus_of
from mi_superposition.errors import RequestError
from mi_superposition.files import write_file
from mi_superposition.models import device_of, load_model, model_record
from mi_superposition.models.protocol import HookedModel
from mi_superposition.neurons import Control, Spot, cluster_neurons, find_spots, measure_control, order_neurons
from mi_superposition.neurons.config import OrderConfig
from mi_superposition.neurons.control import KINDS
from mi_superposition.neurons.order import path_score
from mi_superposition.neurons.similarity import check_layer
from mi_superposition.progress import SILENT, Progress
from mi_superposition.room import check_memory
from mi_superposition.runs import Outcome, open_run, read_config
from mi_superposition.storing import read_record, write_record
from mi_superposition.studies.neurons.order_result import OrderResult, ShortOrder, Thinned, hardest_of, strictest_of
from mi_superposition.studies.neurons.order_sources import Source, activation_source, weight_source
from mi_superposition.studies.neurons.packed import PackedSimilarity
from mi_superposition.training import Stopped

COMMAND = "neurons order"
RESULT, SPOTS = "order.safetensors", "spots.csv"
ACTIVATIONS = "activations"
# Neurons by their weights; other names of weights are of matrices whose rows need not be neurons.
NEURON_WEIGHTS = ("in", "out", "gate", "both")
# Those that every model has, for --every-layer.
_EVERY = ("in", "out", "both")
# Above so many neurons a sample takes seconds, so fewer are drawn; so too where each is a pass over a corpus.
MANY_NEURONS = 2048
_CONTROLS, FEW_CONTROLS = 20, 5
# Samples of each control that are clustered too.
_CLUSTERED, _CLUSTERED_FEW = 5, 2
# With fewer neurons left without close pairs, there is no order to speak of.
_FEWEST_LEFT = 10
# Of every layer, whose scores are only to be compared in sign with those of their controls.
_SHORT_SEARCH = 0.05
_Item = TypeVar("_Item")


def measure(config: OrderConfig, out: Path, progress: Progress = SILENT) -> Outcome:
    """Run the study into a run folder. Raises as ``load_model``, ``load_corpus`` and ``open_run`` do, and ``training.Stopped`` when
    asked to stop.
    """
    model = load_model(config.model.name, device=config.device.device)
    config = _resolved(config, model)
    source, corpus = _source(model, config)
    if source.n_neurons < 2:
        raise RequestError(f"layer {config.layer} has {source.n_neurons} neuron: an order needs two at least")
    if config.window > source.n_neurons:
        raise RequestError(f"window = {config.window}: must be 2 to the number of neurons, {source.n_neurons}")
    # The matrix, its distances in double precision as they are clustered, those of a control, and what is drawn
    # (``tests/robustness/test_room.py`` measures it).
    check_memory(80 * source.n_neurons**2, f"the order of {source.n_neurons:,} neurons")
    inputs = {"model": model_record(config.model.name, model)}
    if corpus is not None:
        inputs["corpus"] = corpus.identity()
    with open_run(out, COMMAND, config, inputs) as run:
        if run.finished:
            return Outcome(out, finished_already=True)
        result = order_study(source, config, progress)
        if config.every_layer:
            result = replace(result, every_layer=list(_short_orders(model, config, progress)))
        write_record(out / RESULT, result)
        write_file(out / SPOTS, _spots_csv(result.spots))
        losses = {} if corpus is None else corpus.losses(config.text.documents)
        run.finish(result.metrics() | losses)
    return Outcome(out, finished_already=False)


def load(folder: Path) -> OrderResult:
    """The result in a finished run folder. Raises ``RequestError`` where there is none."""
    config = read_config(folder, OrderConfig, COMMAND)
    # The manifest's configuration: the pages that are linked to may have changed since it was measured.
    return replace(read_record(folder / RESULT, OrderResult), config=config)


def order_study(source: Source, config: OrderConfig, progress: Progress = SILENT) -> OrderResult:
    """Order, bound and cluster neurons, do the same with every control, and rank the spots. ``config`` says how; what is ordered
    comes from ``source``.

    All orders are searched with the same number of steps.
    """
    seed, seconds = config.random.seed, config.seconds
    few = source.costly or source.n_neurons > MANY_NEURONS
    n_samples = config.controls or (FEW_CONTROLS if few else _CONTROLS)
    progress.begin("order", 1 + n_samples * len(source.samples))
    progress.advance(0, "trained")
    similarity = source.trained()
    order = order_neurons(similarity, seed=seed, seconds=seconds)
    clusters = cluster_neurons(similarity, seed=seed)
    progress.advance(1, "trained")
    controls: list[Control] = []
    examples: dict[str, PackedSimilarity] = {}
    control_clusters: dict[str, list[int]] = {}
    for kind, samples_of in source.samples.items():
        samples = _watched(samples_of(n_samples), f"{KINDS[kind]}, sample", progress)
        first = next(samples)
        examples[kind] = PackedSimilarity.of(first)
        counts = control_clusters[kind] = []
        clustered = _clustered(chain([first], samples), counts, _CLUSTERED_FEW if few else _CLUSTERED, seed)
        controls.append(measure_control(kind, clustered, seed=seed, seconds=seconds, window=config.window))
    spot_control = max(controls, key=lambda control: float(control.window_max.mean()))
    return OrderResult(
        config=config,
        order=order,
        own_order_score=path_score(similarity.square(), torch.arange(len(similarity))),
        clusters=clusters,
        controls=controls,
        example_clusters={kind: counts[0] for kind, counts in control_clusters.items()},
        control_clusters=control_clusters,
        spots=find_spots(similarity, order.order, spot_control, window=config.window),
        spot_kind=spot_control.kind,
        similarity=PackedSimilarity.of(similarity),
        example=examples[strictest_of(controls, order.score).kind],
        thinned=list(_without_close(source, similarity, hardest_of(controls).kind, n_samples, config, progress)),
    )


def _clustered(samples: Iterable[Tensor], counts: list[int], most: int, seed: int) -> Iterator[Tensor]:
    """The samples, the number of clusters in each of the first ones written down as they pass."""
    for sample in samples:
        if len(counts) < most:
            counts.append(cluster_neurons(sample, seed=seed, search_seconds=0.0).n_clusters)
        yield sample


def _without_close(
    source: Source, similarity: Tensor, kind: str, n_samples: int, config: OrderConfig, progress: Progress
) -> Iterator[Thinned]:
    """Orders without the neurons of close pairs, where there are such and enough neurons are left."""
    if source.part is None:
        return
    seed, seconds = config.random.seed, config.seconds
    nearest = similarity.abs().fill_diagonal_(0).amax(dim=1)
    for above in config.without_above:
        kept = (nearest <= above).nonzero().flatten()
        if len(kept) == len(similarity) or len(kept) < _FEWEST_LEFT:
            continue
        rest = source.part(kept)
        what = f"without |similarity| above {above:g}"
        progress.begin("order", 1 + n_samples)
        order = order_neurons(rest.trained(), seed=seed, seconds=seconds, bound=False)
        progress.advance(1, what)
        samples = _watched(rest.samples[kind](n_samples), f"{what}: {KINDS[kind]}, sample", progress)
        control = measure_control(kind, samples, seed=seed, seconds=seconds, window=config.window)
        yield Thinned(
            above=above,
            n_removed=len(similarity) - len(kept),
            score=order.score,
            kind=kind,
            samples=n_samples,
            mean=float(control.scores.mean()),
            deviation=float(control.scores.std()),
            highest=control.highest,
        )


def _resolved(config: OrderConfig, model: HookedModel) -> OrderConfig:
    """The configuration with the device, the layer and the folder that it means.

    Raises ``RequestError`` for those that are not there.
    """
    layer = model.cfg.n_layers - 1 if config.layer is None else config.layer
    pages = None if config.links.pages is None else config.links.pages.resolve()
    if pages is not None and not pages.is_dir():
        raise RequestError(f"pages = {str(pages)!r}: there is no such folder; give one that 'neurons pages' wrote")
    config = config.replace(device=device_of(config.device.device), layer=layer, pages=pages)
    if config.weights in (*NEURON_WEIGHTS, ACTIVATIONS) or config.every_layer:
        check_layer(model, layer)
    return config


def _source(model: HookedModel, config: OrderConfig) -> tuple[Source, Corpus | None]:
    """What is ordered, and the corpus that it was measured on, if any."""
    assert config.layer is not None
    seed = config.random.seed
    if config.weights != ACTIVATIONS:
        return weight_source(model, config.layer, config.weights, config.measure, seed), None
    corpus = corpus_of(config.text)
    check_readable(model, corpus, config.text.corpus)
    return activation_source(model, config.layer, corpus, config.text.documents, seed), corpus


def _short_orders(model: HookedModel, config: OrderConfig, progress: Progress) -> Iterator[ShortOrder]:
    """Every layer by each choice of weights, with a short search and few samples."""
    seed = config.random.seed
    cases = [(layer, weights) for layer in range(model.cfg.n_layers) for weights in _EVERY]
    progress.begin("order", len(cases))
    for layer, weights in _watched(cases, "every layer, order", progress):
        source = weight_source(model, layer, weights, config.measure, seed)
        order = order_neurons(source.trained(), seed=seed, seconds=_SHORT_SEARCH)
        z = {
            kind: measure_control(
                kind, samples(FEW_CONTROLS), seed=seed, seconds=_SHORT_SEARCH, window=config.window, bound=False
            ).z_score(order.score)
            for kind, samples in source.samples.items()
        }
        yield ShortOrder(layer, weights, order.score, order.gap, z)


def _watched(items: Iterable[_Item], what: str, progress: Progress) -> Iterator[_Item]:
    """The items, each counted when the next is asked for. Raises ``Stopped`` when asked to stop."""
    for number, item in enumerate(items):
        if progress.should_stop():
            raise Stopped(number, what)
        progress.advance(0, what)
        yield item
        progress.advance(1, what)


def _spots_csv(spots: list[Spot]) -> bytes:
    """One row per spot, the most similar first."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["position", "mean_squared_similarity", "excess_sd", "p", "neurons"])
    for spot in spots:
        neurons = " ".join(map(str, spot.neurons))
        writer.writerow([spot.start, f"{spot.similarity:.6f}", f"{spot.excess:.4f}", f"{spot.p:.4f}", neurons])
    return text.getvalue().encode()
