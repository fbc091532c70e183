"""Concepts of a model into a run folder: the texts are read once, then measured layer by layer with every control."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from mi_superposition.concepts.config import ConceptsConfig
from mi_superposition.concepts.halves import co_occurrence_vectors, measure_halves
from mi_superposition.concepts.layer import (
    LayerMeasured,
    RandomMeasured,
    measure_features,
    measure_layer,
    measure_random,
)
from mi_superposition.concepts.pooling import layer_order, pool_texts
from mi_superposition.concepts.probe import bag_of_words_accuracy
from mi_superposition.concepts.simple import WordCorrelations, all_words, word_correlations
from mi_superposition.files import read_tensors, remove, write_tensors
from mi_superposition.models import FEATURES, device_of
from mi_superposition.progress import SILENT, Progress
from mi_superposition.room import check_memory
from mi_superposition.runs import MANIFEST, Outcome, open_run, read_manifest
from mi_superposition.storing import read_record, write_record
from mi_superposition.studies.concepts.inputs import STATES, ConceptTexts, State, StudyInputs, read_inputs
from mi_superposition.studies.concepts.result import ConceptsResult
from mi_superposition.training import Stopped, fixed_arithmetic

COMMAND = "concepts"
RESULT = "findings.safetensors"
# Activations, kept until the run is finished.
_POOLED = "pooled"
# The trained model on texts without their concept words.
_DENIED = "denied"
# Results of this command that come with the package, made by ``scripts/concepts.py``.
BUNDLED = Path(__file__).parents[2] / "bundled" / "concepts"

# Probes on shuffled labels; one alone may by luck be along what varies most.
_SHUFFLES = 5
# Words of each concept that are measured alone.
_WORDS = 5


def measure(config: ConceptsConfig, out: Path, progress: Progress = SILENT) -> Outcome:
    """Read all texts with the model and its untrained copy, measure every layer, and write the result.

    Activations are kept until the run is finished, so one that was stopped resumes. Raises ``RequestError`` for concepts of which
    there are too few texts, and as the loaders and ``open_run`` do; ``training.Stopped`` when asked to stop.
    """
    config = config.replace(device=device_of(config.device.device))
    inputs = read_inputs(config)
    if not (out / MANIFEST).exists():
        _check_memory(config, inputs)
    with open_run(out, COMMAND, config, inputs.identity) as run:
        finished_already = run.finished
        if not finished_already:
            with fixed_arithmetic(config.threads.number):
                result = _measured(config, inputs, out, progress)
            write_record(out / RESULT, result)
            corpus = inputs.material.corpus
            run.finish(result.metrics() | ({} if corpus is None else corpus.losses()))
        remove(out / _POOLED)
    return Outcome(out, finished_already)


def _check_memory(config: ConceptsConfig, inputs: StudyInputs) -> None:
    """Raise ``RequestError`` where there is not enough for the activations of all texts, or for a permutation test."""
    material = inputs.material
    one = pool_texts(inputs.models["trained"], material.texts[:1], tokenizer=inputs.tokenizer, encode=inputs.encode)
    features = sum(values.shape[1] for name, values in one.items() if name.endswith(FEATURES))
    units = sum(values.shape[1] for values in one.values()) - features
    # Both states; those without their concept words as read and in the rows of all texts; and one of them once more as it is written.
    copies = (len(STATES) + (2 if material.denied else 0) + 1) * units + 2 * features
    n = len(material.texts)
    check_memory(4 * n * copies, f"the activations of {n:,} texts at {units + features:,} units (documents)")
    groups = len(material.split.test.of_concepts().groups.unique())
    # For each permutation of each group its rank, and on which side it falls: as a truth value twice, in double precision, and the opposite.
    check_memory(config.permutations * groups * (8 + 2 + 2 * 8), f"permutations = {config.permutations:,}")


def load(folder: Path) -> ConceptsResult:
    """The result in a finished run folder. Raises ``RequestError`` where there is none, ``WorkError`` for damaged files."""
    read_manifest(folder, COMMAND)
    return read_record(folder / RESULT, ConceptsResult)


def _measured(config: ConceptsConfig, inputs: StudyInputs, out: Path, progress: Progress) -> ConceptsResult:
    material = inputs.material
    layers: dict[State, dict[str, LayerMeasured]] = {state: {} for state in STATES}
    random: dict[str, RandomMeasured] = {}
    features = None
    kinds = [*STATES, *([_DENIED] if material.denied else [])]
    unread = [kind for kind in kinds if not _pooled_file(out, kind).exists()]
    progress.begin("text", sum(len(material.denied if kind == _DENIED else material.texts) for kind in unread))
    points: dict[str, dict[str, Tensor]] = {}
    for kind in kinds:
        points[kind] = _pooled(kind, inputs, out, progress)
    for state in STATES:
        pooled = points[state]
        if state == "trained" and inputs.encode:
            [name] = (f"{hook}{FEATURES}" for hook in inputs.encode)
            progress.advance(0, name)
            features = measure_features(name, pooled.pop(name), material.split, material.random)
        for name, values in pooled.items():
            progress.advance(0, f"{state}: {name}")
            if progress.should_stop():
                raise Stopped(len(layers[state]), "layer")
            shuffles = _SHUFFLES if state == "trained" else 1
            layers[state][name] = measure_layer(values, material.split, config, shuffles=shuffles)
            if state == "trained" and material.random:
                random[name] = measure_random(values, material.random, config)
    test = material.split.test

    def on_split() -> None:
        progress.advance(0, "halvings of the words")
        if progress.should_stop():
            raise Stopped(0, "halving")

    halves = measure_halves(
        material.halvings,
        points["trained"],
        points["untrained"],
        texts=material.texts,
        without=all_words(material.concepts),
        word_vectors=co_occurrence_vectors(material.words) if material.words else None,
        denied=_in_place(points[_DENIED], material) if _DENIED in points else None,
        on_split=on_split,
    )
    return ConceptsResult(
        config=config,
        concepts=tuple(material.concepts),
        n_texts=len(material.texts),
        n_train=len(material.split.train.of_concepts().labels),
        bag_of_words=_bag_of_words(material),
        trained=layers["trained"],
        untrained=layers["untrained"],
        random=random,
        labels=test.labels,
        groups=test.groups,
        words=_words_alone(inputs, list(layers["trained"])),
        features=features,
        halves=halves,
    )


def _in_place(denied: dict[str, Tensor], material: ConceptTexts) -> dict[str, Tensor]:
    """Activations of some texts in the rows of all texts; the others are 0 and not looked at."""
    placed = {}
    for name, values in denied.items():
        placed[name] = torch.zeros(len(material.texts), values.shape[1])
        placed[name][list(material.denied)] = values
    return placed


def _bag_of_words(material: ConceptTexts) -> float:
    """Accuracy without any model, and without the words that define the concepts."""
    train, test = material.split.train.of_concepts(), material.split.test.of_concepts()
    return bag_of_words_accuracy(
        [material.texts[index] for index in train.index.tolist()],
        train.labels,
        [material.texts[index] for index in test.index.tolist()],
        test.labels,
        without=all_words(material.concepts),
    )


def _words_alone(inputs: StudyInputs, layers: Sequence[str]) -> WordCorrelations | None:
    """A few words of each concept, each alone; ``None`` where concepts are labels."""
    words = {concept: some[:_WORDS] for concept, some in inputs.material.concepts.items() if some}
    if not words:
        return None
    # After a space, as in running text: byte-level tokenizers tell a word's beginning by it.
    texts = [f" {word}" for word in all_words(words)]
    layer = middle_layer(layers)
    trained, untrained = (
        pool_texts(inputs.models[state], texts, tokenizer=inputs.tokenizer)[layer] for state in STATES
    )
    return word_correlations(words, layer, trained, untrained)


def middle_layer(layers: Sequence[str]) -> str:
    """The residual stream or hidden state in the middle of the depth."""
    states = [name for name in layers if "resid" in name or name.startswith("hidden_states")]
    return states[len(states) // 2]


def _pooled_file(folder: Path, kind: str) -> Path:
    return folder / _POOLED / f"{kind}.safetensors"


def _pooled(kind: str, inputs: StudyInputs, out: Path, progress: Progress) -> dict[str, Float[Tensor, "text d"]]:
    """Mean activations of all texts by layer, in the model's order; written, so that the texts are read once.

    ``kind``: a state of the model, or the trained model on the texts without their concept words.
    """
    state: State = "untrained" if kind == "untrained" else "trained"
    path, model = _pooled_file(out, kind), inputs.models[state]
    if not path.exists():
        read = 0

        def on_texts(n: int) -> None:
            nonlocal read
            read += n
            progress.advance(n, f"{kind}: reading")
            if progress.should_stop():
                raise Stopped(read, "text")

        # The features are the trained model's.
        encode = inputs.encode if kind == "trained" else {}
        texts = list(inputs.material.denied.values()) if kind == _DENIED else inputs.material.texts
        write_tensors(path, pool_texts(model, texts, tokenizer=inputs.tokenizer, encode=encode, on_texts=on_texts))
    pooled, _ = read_tensors(path)
    # A file keeps them by size.
    order = [*layer_order(model, list(pooled)), *(name for name in pooled if name.endswith(FEATURES))]
    return {name: pooled[name] for name in order}
