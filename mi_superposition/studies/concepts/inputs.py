"""What a run reads: the model with its control, the texts by concept, random word lists, and a sparse autoencoder."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from mi_superposition.concepts.config import AUTO, NONE, ConceptsConfig
from mi_superposition.concepts.split import ConceptSplit, split_by_labels, split_by_words
from mi_superposition.concepts.words import load_concepts, random_lists, sentences, without_words, words_of
from mi_superposition.corpora import Corpus, corpus_of, load_labelled_texts, texts_of
from mi_superposition.corpora.labelled import columns_of
from mi_superposition.errors import RequestError
from mi_superposition.files import content_hash
from mi_superposition.models import Encode, load_model, model_record, untrained_copy
from mi_superposition.models.encoders import Encoder, is_encoder, load_encoder
from mi_superposition.models.protocol import HookedModel
from mi_superposition.sae import check_sae, load_sae
from mi_superposition.sae.files import one_sae_folder, processing_of, sae_identity
from mi_superposition.training import derived_seed

State = Literal["trained", "untrained"]
STATES: tuple[State, ...] = ("trained", "untrained")

_LABEL = "label"
# Draws of random word lists tried for each that is wanted.
_TRIES = 3


@dataclass(frozen=True)
class ConceptTexts:
    """Texts by concept. ``concepts`` has the words of each, none for labels; ``random`` has the same texts by random word lists."""

    texts: tuple[str, ...]
    concepts: Mapping[str, tuple[str, ...]]
    split: ConceptSplit
    random: list[ConceptSplit]
    identity: dict[str, str]
    # Other halvings of the same words, or of labelled texts; where concepts are words, the texts of concepts in these halvings without their
    # concept words, by index, and the words of all texts.
    halvings: list[ConceptSplit] = field(default_factory=list)
    denied: Mapping[int, str] = field(default_factory=dict)
    words: tuple[set[str], ...] = ()
    # What the texts were taken from, where that is a corpus.
    corpus: Corpus | None = None


@dataclass(frozen=True)
class StudyInputs:
    """Everything a run reads. ``encode``: what makes features of the activations at a hook; ``identity``: names and hashes of all."""

    models: Mapping[State, HookedModel | Encoder]
    tokenizer: Any
    material: ConceptTexts
    encode: Mapping[str, Encode]
    identity: dict[str, Any]


def read_inputs(config: ConceptsConfig) -> StudyInputs:
    """Load them. Raises ``RequestError`` for concepts of which there are too few texts, and as the loaders do."""
    material = _read_texts(config)
    models, tokenizer, identity = _read_models(config)
    identity |= {"corpus": material.identity, "words": dict(material.concepts)}
    encode: dict[str, Encode] = {}
    if config.sae is not None:
        if isinstance(models["trained"], Encoder):
            raise RequestError(
                f"sae = {config.sae!r}: {config.model.name!r} is an encoder; sparse autoencoders need a TransformerLens language model"
            )
        sae = load_sae(config.sae, device=config.device.device)
        encode[check_sae(sae, models["trained"])] = sae.encode
        identity["sae"] = {"name": config.sae, "sha256": sae_identity(one_sae_folder(config.sae))}
    return StudyInputs(models, tokenizer, material, encode, identity)


def _read_models(config: ConceptsConfig) -> tuple[dict[State, HookedModel | Encoder], Any, dict[str, Any]]:
    """The model and its untrained copy, their tokenizer, and the model's identity."""
    name, device, seed = config.model.name, config.device.device, config.random.seed
    models: dict[State, HookedModel | Encoder]
    if is_encoder(name):
        encoder = load_encoder(name, device=device)
        record = {"name": name, "sha256": content_hash(dict(encoder.network.state_dict()))}
        models = {"trained": encoder, "untrained": encoder.untrained(seed)}
        tokenizer = encoder.tokenizer
    else:
        processing = {} if config.sae is None else processing_of(load_sae(config.sae))
        model = load_model(name, device=device, process_weights=processing)
        if model.tokenizer is None:
            raise RequestError(f"{name!r} came without a tokenizer: it cannot read text")
        record = model_record(name, model)
        models = {"trained": model, "untrained": untrained_copy(model, seed)}
        tokenizer = model.tokenizer
    return models, tokenizer, {"model": record}


def _read_texts(config: ConceptsConfig) -> ConceptTexts:
    text, seed = config.text, config.random.seed
    labels = config.labels
    if labels == AUTO:
        labels = _LABEL if _LABEL in columns_of(text.corpus, text.split) else NONE
    if labels != NONE:
        if config.concepts is not None:
            raise RequestError(
                f"concepts = {config.concepts!r}: the texts have labels; give --labels none to use word lists"
            )
        labelled = load_labelled_texts(
            text.corpus, label_column=labels, column=text.column, split=text.split, limit=text.documents
        )
        names = [labelled.classes[label] for label in sorted(set(labelled.labels))]
        split = split_by_labels(labelled.labels, names=labelled.classes, per_concept=config.per_concept, seed=seed)
        halvings = [
            split_by_labels(
                labelled.labels,
                names=labelled.classes,
                per_concept=config.per_concept,
                seed=derived_seed(seed, "halving", number) % 2**63,
            )
            for number in range(config.halvings)
        ]
        return ConceptTexts(labelled.texts, dict.fromkeys(names, ()), split, [], labelled.identity(), halvings)
    concepts = load_concepts(config.concepts or ("stories" if text.corpus == "stories" else "sentiment"))
    corpus = corpus_of(text)
    texts = tuple(itertools.islice(_different(sentences(texts_of(corpus))), text.documents))
    words = [words_of(one) for one in texts]
    lists = list(concepts.values())
    split = split_by_words(words, lists, names=list(concepts), per_concept=config.per_concept, seed=seed)
    every = {word for some in lists for word in some}
    halvings = _halvings(config, words, lists, list(concepts), split)
    used = {index for one in halvings for side in (one.train, one.test) for index in side.of_concepts().index.tolist()}
    return ConceptTexts(
        texts,
        concepts,
        split,
        _random_splits(config, words, lists),
        corpus.identity(),
        halvings,
        {index: without_words(texts[index], every) for index in sorted(used)},
        tuple(words),
        corpus,
    )


def _different(texts: Iterable[str]) -> Iterator[str]:
    """Each text once, read as far as is asked for."""
    seen = set()
    for text in texts:
        if text not in seen:
            seen.add(text)
            yield text


def _halvings(
    config: ConceptsConfig,
    words: Sequence[set[str]],
    lists: Sequence[Sequence[str]],
    names: Sequence[str],
    split: ConceptSplit,
) -> list[ConceptSplit]:
    """Random halvings of the words; one with too few texts on a side is drawn again. ``split`` alone where hardly any has enough."""
    seed, splits = config.random.seed, []
    for number in range(_TRIES * config.halvings):
        try:
            splits.append(
                split_by_words(
                    words,
                    lists,
                    names=names,
                    per_concept=config.per_concept,
                    seed=seed,
                    random_halves=derived_seed(seed, "halving", number) % 2**63,
                )
            )
        except RequestError:
            continue
        if len(splits) == config.halvings:
            break
    return splits or [split]


def _random_splits(
    config: ConceptsConfig, words: Sequence[set[str]], lists: Sequence[Sequence[str]]
) -> list[ConceptSplit]:
    """Texts by random word lists; a draw with too few texts is drawn again. Raises ``RequestError`` where most are so."""
    seed = config.random.seed
    names = [f"random {number}" for number in range(len(lists))]
    splits: list[ConceptSplit] = []
    for number in itertools.count():
        try:
            drawn = random_lists(words, lists, seed + number)
            splits.append(split_by_words(words, drawn, names=names, per_concept=config.per_concept, seed=seed))
        except RequestError as error:
            if number >= _TRIES * config.random_lists:
                raise RequestError(f"too few texts for random word lists ({error}): give more --documents") from error
        if len(splits) == config.random_lists:
            break
    return splits
