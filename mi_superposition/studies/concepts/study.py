"""Concepts of a model into a run folder: pooled once, then measured layer by layer beside every control."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor

from mi_superposition.concepts.material import Material, by_labels, by_words
from mi_superposition.concepts.pooling import pool_texts
from mi_superposition.concepts.probe import bag_of_words_accuracy
from mi_superposition.concepts.words import load_concepts, random_lists, sentences, words_of
from mi_superposition.corpora import load_corpus
from mi_superposition.corpora.labelled import columns_of, load_labelled_texts
from mi_superposition.errors import RequestError
from mi_superposition.models import FEATURES, Encode, layer_hooks, load_model, untrained_copy, weights_of
from mi_superposition.models.encoders import Encoder, is_encoder, load_encoder
from mi_superposition.runs import Run, content_hash, open_run, read_manifest, read_tensors, write_tensors
from mi_superposition.sae import check_sae, load_sae
from mi_superposition.sae.files import one_sae_folder, sae_identity
from mi_superposition.site import Page, Section, write_site
from mi_superposition.studies.concepts.features import measure_features
from mi_superposition.studies.concepts.findings import (
    STATES,
    Findings,
    State,
    load_findings_file,
    save_findings,
)
from mi_superposition.studies.concepts.measure import LayerMeasured, RandomMeasured, measure_layer, measure_random
from mi_superposition.studies.concepts.page import concepts_items, intro
from mi_superposition.training import Stopped, fixed_arithmetic

COMMAND = "concepts"
AUTO, NONE = "auto", "none"
_LABEL = "label"
# Probes on shuffled labels; one alone may by luck lie along what varies most.
_SHUFFLES = 5
# Draws of random word lists for each that is wanted.
_TRIES = 3
# Words of each concept that are looked at alone.
_WORDS = 5
OnText = Callable[[int, str], None]


@dataclass(frozen=True)
class ConceptsRequest:
    """What concepts of which texts are looked for in which model.

    ``labels``: the column with each text's label; ``"none"``: concepts are word lists; ``"auto"``: the column ``label`` where a
    file has one. ``concepts``: word lists, see ``load_concepts``; default: ``sentiment`` for texts that are no stories. ``most``:
    texts (sentences, for word lists), from the first on. ``per_concept``: texts of each concept on either side at most. ``top_k``: units
    of each concept that may be shared. ``random_lists`` are the control of word lists; of the first ``random_probes`` a probe too.
    ``sae``: a sparse autoencoder of the model, whose features are looked at too.
    """

    model: str = "stories"
    corpus: str = "stories"
    split: str = "train"
    column: str | None = None
    labels: str = AUTO
    concepts: str | None = None
    most: int = 8000
    per_concept: int = 300
    top_k: int = 20
    random_lists: int = 50
    random_probes: int = 3
    permutations: int = 1000
    seed: int = 0
    threads: int = 2
    device: str = "cpu"
    sae: str | None = None

    def __post_init__(self) -> None:
        least = {
            "most": 1,
            "per_concept": 1,
            "top_k": 1,
            "random_lists": 1,
            "random_probes": 1,
            "permutations": 1,
            "threads": 1,
            "seed": 0,
        }
        for name, value in least.items():
            if getattr(self, name) < value:
                raise RequestError(f"{name} = {getattr(self, name)}: must be at least {value}")
        if self.random_probes > self.random_lists:
            raise RequestError(f"random_probes = {self.random_probes}: there are {self.random_lists} random lists")


@dataclass(frozen=True)
class _Opened:
    """Everything a run reads."""

    models: dict[State, Any]
    tokenizer: Any
    texts: tuple[str, ...]
    concepts: dict[str, tuple[str, ...]]
    material: Material
    random: list[Material]
    identity: dict[str, Any]
    encode: dict[str, Encode]


def write_concepts_run(
    out: Path,
    request: ConceptsRequest,
    *,
    on_text: OnText = lambda by, state: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> bool:
    """Pool, measure, and write numbers and a page; false when it was done already.

    What was pooled is kept until the run is finished, so one that was stopped goes on. ``on_text`` is told of texts read by the
    models. Raises ``RequestError`` for concepts of which there are too few texts, and as the loaders do; ``training.Stopped``
    when asked to stop.
    """
    opened = _open(request)
    with open_run(out, COMMAND, asdict(request), opened.identity) as run:
        if run.finished:
            for state in STATES:
                _pooled_file(run, state).unlink(missing_ok=True)
            return False
        with fixed_arithmetic(request.threads):
            findings = _measured(run, request, opened, on_text, should_stop)
        save_findings(findings, run.path)
        write_site([_section(findings)], run.path / "page", title="mi_superposition", lead="")
        run.finish(findings.metrics())
        for state in STATES:
            _pooled_file(run, state).unlink(missing_ok=True)
    return True


def load_findings(folder: Path) -> Findings:
    """What a finished run found. Raises ``RequestError`` for a folder that is no such run, ``WorkError`` for damaged files."""
    read_manifest(folder, COMMAND)
    return load_findings_file(folder)


def _open(request: ConceptsRequest) -> _Opened:
    texts, concepts, material, random, corpus = _texts(request)
    trained: Any
    if is_encoder(request.model):
        trained = load_encoder(request.model, device=request.device)
        weights = content_hash(dict(trained.network.state_dict()))
        models: dict[State, Any] = {"trained": trained, "untrained": trained.untrained(request.seed)}
    else:
        trained = load_model(request.model, device=request.device)
        if trained.tokenizer is None:
            raise RequestError(f"{request.model!r} came without a tokenizer: it can read no text")
        weights = content_hash(weights_of(trained))
        models = {"trained": trained, "untrained": untrained_copy(trained, request.seed)}
    identity: dict[str, Any] = {
        "model": {"name": request.model, "sha256": weights},
        "corpus": corpus,
        "words": concepts,
    }
    encode = {}
    if request.sae is not None:
        if isinstance(trained, Encoder):
            raise RequestError(
                f"sae = {request.sae!r}: {request.model!r} is an encoder; autoencoders read hooked language models"
            )
        sae = load_sae(request.sae, device=request.device)
        encode[check_sae(sae, trained)] = sae.encode
        identity["sae"] = {"name": request.sae, "sha256": sae_identity(one_sae_folder(request.sae))}
    return _Opened(models, trained.tokenizer, texts, concepts, material, random, identity, encode)


def _texts(
    request: ConceptsRequest,
) -> tuple[tuple[str, ...], dict[str, tuple[str, ...]], Material, list[Material], dict[str, str]]:
    """Texts, concepts with their words, who is where, the same of random lists, and what was read."""
    columns = columns_of(request.corpus, request.split)
    labels = request.labels
    if labels == AUTO:
        labels = _LABEL if _LABEL in columns else NONE
    if labels != NONE:
        if request.concepts is not None:
            raise RequestError(
                f"concepts = {request.concepts!r}: texts go by their labels; give --labels none for word lists"
            )
        found = load_labelled_texts(
            request.corpus, label_column=labels, column=request.column, split=request.split, most=request.most
        )
        material = by_labels(found.labels, names=found.classes, per_concept=request.per_concept, seed=request.seed)
        names = [found.classes[label] for label in sorted(set(found.labels))]
        return found.texts, dict.fromkeys(names, ()), material, [], found.identity()
    concepts = load_concepts(request.concepts or ("stories" if request.corpus == "stories" else "sentiment"))
    column = request.column or next((usual for usual in ("text", "sentence") if usual in columns), "text")
    corpus = load_corpus(request.corpus, split=request.split, column=column)
    texts = tuple(itertools.islice(_different(sentences(corpus)), request.most))
    found_words = [words_of(text) for text in texts]
    lists = list(concepts.values())
    material = by_words(found_words, lists, names=list(concepts), per_concept=request.per_concept, seed=request.seed)
    random = _random_material(request, found_words, lists)
    return texts, concepts, material, random, corpus.identity()


def _different(texts: Iterable[str]) -> Iterator[str]:
    """Each text once, read as far as is asked for."""
    seen = set()
    for text in texts:
        if text not in seen:
            seen.add(text)
            yield text


def _random_material(
    request: ConceptsRequest, found: Sequence[set[str]], lists: Sequence[Sequence[str]]
) -> list[Material]:
    """Texts by random word lists; a draw with too few texts is made again. Raises ``RequestError`` where most are so."""
    drawn: list[Material] = []
    for number in itertools.count():
        try:
            words = random_lists(found, lists, request.seed + number)
            names = [f"random {place}" for place in range(len(lists))]
            drawn.append(by_words(found, words, names=names, per_concept=request.per_concept, seed=request.seed))
        except RequestError as error:
            if number >= _TRIES * request.random_lists:
                raise RequestError(f"too few texts for random word lists ({error}): ask for more (most)") from error
        if len(drawn) == request.random_lists:
            return drawn
    raise AssertionError("unreachable")


def _measured(
    run: Run, request: ConceptsRequest, opened: _Opened, on_text: OnText, should_stop: Callable[[], bool]
) -> Findings:
    layers: dict[State, dict[str, LayerMeasured]] = {}
    random: dict[str, RandomMeasured] = {}
    features = None
    for state in STATES:
        pooled = _pooled(run, state, opened, on_text, should_stop)
        if state == "trained" and opened.encode:
            [name] = (f"{hook}{FEATURES}" for hook in opened.encode)
            on_text(0, name)
            features = measure_features(name, pooled.pop(name), opened.material, opened.random)
        layers[state] = {}
        for name, points in pooled.items():
            on_text(0, f"{state}: {name}")
            if should_stop():
                raise Stopped(len(layers[state]), "layer")
            layers[state][name] = measure_layer(
                points, opened.material, top_k=request.top_k, permutations=request.permutations, seed=request.seed,
                shuffles=_SHUFFLES if state == "trained" else 1,
            )  # fmt: skip
            if state == "trained" and opened.random:
                random[name] = measure_random(
                    points, opened.random, top_k=request.top_k, n_probes=request.random_probes
                )
    words = {concept: some[:_WORDS] for concept, some in opened.concepts.items() if some}
    # After a space, as in running text: byte-level tokenizers tell a word's beginning by it.
    alone = [f" {word}" for some in words.values() for word in some]
    word_layer = _middle(list(layers["trained"]))
    train, test = opened.material.train.of_concepts(), opened.material.test.of_concepts()

    def texts_of(places: Tensor) -> list[str]:
        return [opened.texts[place] for place in places.tolist()]

    return Findings(
        request=asdict(request),
        concepts=tuple(opened.concepts),
        by_words=bool(opened.random),
        n_texts=len(opened.texts),
        n_train=len(train.labels),
        bag_of_words=bag_of_words_accuracy(
            texts_of(train.places),
            train.labels,
            texts_of(test.places),
            test.labels,
            without=[word for some in opened.concepts.values() for word in some],
        ),
        layers=layers,
        random=random,
        labels=opened.material.test.labels,
        groups=opened.material.test.groups,
        words=words,
        word_layer=word_layer,
        word_points={
            state: pool_texts(opened.models[state], alone, tokenizer=opened.tokenizer)[word_layer]
            for state in STATES
            if alone
        },
        features=features,
    )


def _middle(layers: Sequence[str]) -> str:
    """The state of the residual stream or hidden state in the middle of the depth."""
    states = [name for name in layers if "resid" in name or name.startswith("hidden_states")]
    return states[len(states) // 2]


def _pooled_file(run: Run, state: State) -> Path:
    return run.path / f"pooled-{state}.safetensors"


def _pooled(
    run: Run, state: State, opened: _Opened, on_text: OnText, should_stop: Callable[[], bool]
) -> dict[str, Float[Tensor, "text d"]]:
    """What the model makes of all texts; written, so that it is made once."""
    path = _pooled_file(run, state)
    model = opened.models[state]
    if not path.exists():
        read = 0

        def on_texts(n: int) -> None:
            nonlocal read
            read += n
            on_text(n, f"{state}: reading")
            if should_stop():
                raise Stopped(read, "text")

        # An untrained model has no features of the trained one's.
        encode = opened.encode if state == "trained" else {}
        write_tensors(
            path, pool_texts(model, opened.texts, tokenizer=opened.tokenizer, encode=encode, on_texts=on_texts)
        )
    pooled, _ = read_tensors(path)
    # A file keeps them by size; layers come in the model's order.
    order = [*_layer_order(model, list(pooled)), *(name for name in pooled if name.endswith(FEATURES))]
    return {name: pooled[name] for name in order}


def _layer_order(model: Any, names: Sequence[str]) -> list[str]:
    if not isinstance(model, Encoder):
        return [name for name in layer_hooks(model) if name in names]
    modules = [name for name, _ in model.network.named_modules() if name in names]
    states = sorted((name for name in names if name not in modules), key=lambda name: int(name.split(".")[-1]))
    # The neurons of a layer stand before the state it gives.
    ordered = states[:1]
    for number, state in enumerate(states[1:]):
        ordered += [*modules[number : number + 1], state]
    return ordered


def _section(findings: Findings) -> Section:
    title = f"Concepts in {findings.request['model']}"
    return Section(
        slug="concepts",
        title=title,
        summary="What a model keeps of concepts, beside untrained models, random word lists and permuted labels.",
        number="",
        number_is=intro(findings),
        control="",
        page=Page(slug="concepts", title=title, intro=intro(findings), items=concepts_items(findings)),
    )
