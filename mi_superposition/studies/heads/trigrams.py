"""Superposition among heads: skip trigrams found in text and in the model, the heads that carry them, and controls."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mi_superposition.corpora import begins_with_token, check_readable, corpus_of, model_batches
from mi_superposition.corpora.tokens import tokenizer_identity
from mi_superposition.files import read_state, write_state
from mi_superposition.heads.trigrams.carried import FeatureEdges, edge_table, interference, measure_feature
from mi_superposition.heads.trigrams.comparison import compare_matrices
from mi_superposition.heads.trigrams.config import TrigramsConfig
from mi_superposition.heads.trigrams.edges import FrozenLogits, check_has_attention
from mi_superposition.heads.trigrams.features import Located, TrigramSearch, corrected, p_above_zero
from mi_superposition.heads.trigrams.occurrences import logit_changes, replaced
from mi_superposition.heads.trigrams.result import HeadSharing
from mi_superposition.models import load_model, model_record, untrained_copy
from mi_superposition.models.protocol import HookedModel, beginning_token
from mi_superposition.models.settings import check_heads
from mi_superposition.progress import SILENT, Progress
from mi_superposition.runs import CHECKPOINT, Outcome, open_run, read_manifest
from mi_superposition.storing import read_record, write_record
from mi_superposition.training import Stopped, fixed_arithmetic

COMMAND = "heads trigrams"
RESULT = "trigrams.safetensors"
# A run on the bundled story model and corpus (``scripts/head_trigrams.py --bundle``).
BUNDLED = Path(__file__).parents[2] / "bundled" / "heads" / "trigrams"
# Features between two checkpoints.
_FEATURES_AT_ONCE = 20


def measure(config: TrigramsConfig, out: Path, progress: Progress = SILENT) -> Outcome:
    """Run the study into a run folder, or go on with it.

    Raises ``RequestError`` for a model or a corpus that cannot be studied, and ``training.Stopped`` after it was asked to stop and had
    saved what was measured.
    """
    check_heads(config.model.name, context=config.row.document_tokens)
    model = load_model(config.model.name, device=config.device.device)
    check_has_attention(model)
    corpus = corpus_of(config.text)
    check_readable(model, corpus, config.text.corpus, context=config.row.document_tokens)
    inputs = {
        "model": model_record(config.model.name, model),
        "corpus": corpus.identity(),
        "tokenizer": tokenizer_identity(model.tokenizer),
    }
    documents = documents_of(model, corpus, config)
    search = TrigramSearch(documents, vocabulary_of(model), config)
    with open_run(out, COMMAND, config, inputs) as run, fixed_arithmetic(config.threads.number):
        if run.finished:
            return Outcome(out, finished_already=True)
        found = TrigramStudy(model, search, config, out / CHECKPOINT, progress).result()
        write_record(out / RESULT, found)
        run.finish(found.metrics() | corpus.losses(config.text.documents))
    return Outcome(out, finished_already=False)


def load(folder: Path) -> HeadSharing:
    """The result in a finished run folder. Raises ``RequestError`` where there is none."""
    read_manifest(folder, COMMAND)
    return read_record(folder / RESULT, HeadSharing)


def documents_of(model: HookedModel, corpus: Any, config: TrigramsConfig) -> list[np.ndarray]:
    """The tokens of every document, as many as the model reads at once, without its beginning token."""
    found = []
    context = config.row.document_tokens or model.cfg.n_ctx
    batches = model_batches(
        model, list(itertools.islice(corpus, config.text.documents)), 64, context=context, long="truncate"
    )
    for batch in batches:
        for tokens, mask in zip(batch.tokens, batch.mask, strict=True):
            found.append(tokens[mask].numpy().astype(np.int64))
    return found


def vocabulary_of(model: HookedModel) -> list[str]:
    """Every token's text; of a model without a tokenizer its number."""
    if model.tokenizer is None:
        return [str(token) for token in range(model.cfg.d_vocab)]
    return [model.tokenizer.decode([token]) for token in range(model.cfg.d_vocab)]


class TrigramStudy:
    """The study of one model, part by part; what is measured of features is saved as it comes."""

    def __init__(
        self, model: HookedModel, search: TrigramSearch, config: TrigramsConfig, checkpoint: Path, progress: Progress
    ):
        self.model, self.search, self.config = model, search, config
        self.checkpoint, self.progress = checkpoint, progress
        self.beginning = beginning_token(model) if begins_with_token(model) else None
        self.state: dict[str, Any] = read_state(checkpoint) if checkpoint.exists() else {}
        self.logits = FrozenLogits(model)

    def result(self) -> HeadSharing:
        """All of it."""
        config, search = self.config, self.search
        self.progress.begin("feature")
        self.progress.stage("skip trigrams of the text")
        text = search.in_text()
        self.progress.stage("skip trigrams of the model")
        triples = [(int(a), int(b), int(c)) for a, b, c in text.counts.triples]
        differences = text.counts.difference
        located: list[Located] = []
        random: list[Located] = []
        taken = set(triples)
        for number, triple in enumerate(triples):
            if len(located) == config.features:
                break
            one = search.located(triple, float(differences[number]), "occurrences", number)
            if one is not None and len(search.pool(triple)):
                located.append(one)
        for number, one in enumerate(located):
            if len(random) == config.controls:
                break
            other = search.random_trigram(one.trigram, taken, number)
            if other is not None and len(search.pool(other.trigram)):
                random.append(other)
                taken.add(other.trigram)
        effects = self._replacements("replaced", located)
        random_effects = self._replacements("replaced random", random)
        level = config.level
        kept = corrected(np.array([p_above_zero(one) for one in effects]), config.correction) < level
        random_kept = corrected(np.array([p_above_zero(one) for one in random_effects]), config.correction) < level
        features = [one for one, keep in zip(located, kept, strict=True) if keep]
        measuring_effects = self._replacements("replaced measuring", features, measuring=True)
        targets = sorted({one.trigram[2] for one in features})
        measured = self._edges("edges", self.model, features, targets)
        random_measured = self._edges("edges of random trigrams", self.model, random, [])
        untrained = untrained_copy(self.model, seed=config.random.seed)
        untrained_measured = self._edges("edges, untrained", untrained, features[: config.controls], [])
        n_heads = self.model.cfg.n_layers * self.model.cfg.n_heads
        vocabulary = vocabulary_of(self.model)
        edges = edge_table(features, measured, n_heads)
        self.progress.stage("permuted matrices")
        return HeadSharing(
            config=config,
            n_layers=self.model.cfg.n_layers,
            n_heads=self.model.cfg.n_heads,
            n_documents=len(search.first) + len(search.second),
            n_tried=text.n_tried,
            n_in_text=len(text.counts.triples),
            n_tested=len(located),
            n_random_kept=int(random_kept.sum()),
            tested_effect=torch.tensor([float(one.mean()) for one in effects]),
            random_effect=torch.tensor([float(one.mean()) for one in random_effects]),
            words=[(vocabulary[a], vocabulary[b], vocabulary[c]) for a, b, c in (one.trigram for one in features)],
            difference=torch.tensor([one.difference for one in features]),
            replaced=torch.tensor([float(one.mean()) for one in measuring_effects]),
            edges=edges,
            compared=compare_matrices(edges, n_permuted=config.permutations, seed=config.random.seed)
            if len(features) >= 4
            else {},
            random=edge_table(random, random_measured, n_heads),
            untrained=edge_table(features[: config.controls], untrained_measured, n_heads),
            interference=interference(search.second, features, measured, targets, config.window),
        )

    def _replacements(self, name: str, located: Sequence[Located], *, measuring: bool = False) -> list[Tensor]:
        """The effect on the logit of C of A against matched tokens, by feature and document."""
        if name not in self.state:
            pairs, targets, owner = [], [], []
            for number, one in enumerate(located):
                pool, generator = self.search.pool(one.trigram), self.search.generator(name, number)
                for occurrence in one.measuring if measuring else one.testing:
                    tokens = self.search.second[occurrence.document]
                    other = replaced(tokens, occurrence, pool, generator)
                    if other is not None:
                        pairs.append((tokens[: occurrence.query + 1], other))
                        targets.append(one.trigram[2])
                        owner.append(number)
            self.progress.stage(name)
            changes = logit_changes(self.model, self.logits, pairs, targets, self.beginning)
            self._save(name, {"changes": changes, "owner": torch.tensor(owner, dtype=torch.long)})
        saved = self.state[name]
        return [saved["changes"][saved["owner"] == number] for number in range(len(located))]

    def _edges(
        self, name: str, model: HookedModel, located: Sequence[Located], targets: Sequence[int]
    ) -> list[FeatureEdges]:
        """The edges of every feature cut."""
        found: list[FeatureEdges] = [FeatureEdges(one["own"], one["others"]) for one in self.state.get(name, [])]
        logits = self.logits if model is self.model else FrozenLogits(model)
        self.progress.begin("feature", len(located))
        self.progress.stage(name)
        self.progress.advance(len(found))
        while len(found) < len(located):
            for one in located[len(found) : len(found) + _FEATURES_AT_ONCE]:
                found.append(
                    measure_feature(
                        model, logits, self.search.second, one, targets, self.beginning, cut=self.config.cut
                    )
                )
                self.progress.advance(1)
            self._save(name, [{"own": one.own, "others": one.others} for one in found])
            if self.progress.should_stop() and len(found) < len(located):
                raise Stopped(len(found), "feature")
        return found

    def _save(self, name: str, value: Any) -> None:
        self.state[name] = value
        write_state(self.checkpoint, self.state)
