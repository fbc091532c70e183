"""Ablation on text in shards: one layer on some documents, done here or by Ray's workers and merged in their order.

The result is the same bytes with either engine and however often the work was stopped or killed. A layer that is done is kept in a file.
"""

from __future__ import annotations

import functools
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mi_superposition.corpora import Content, Corpus, TokenBatches, model_batches
from mi_superposition.corpora.tokens import token_strings
from mi_superposition.engine import name_for_workers, results_of
from mi_superposition.errors import RequestError, WorkError
from mi_superposition.files import content_hash, read_state, read_tensors, remove, write_state, write_tensors
from mi_superposition.heads.config import FEWEST_DOCUMENTS, AblateConfig
from mi_superposition.heads.effects import LayerEffects, add_documents, layer_ablations
from mi_superposition.heads.forward import LayerForward
from mi_superposition.heads.reference import Reference, reference_of
from mi_superposition.heads.token_classes import TokenClasses
from mi_superposition.models import BUNDLED_MODELS, load_model, untrained_copy, weights_of
from mi_superposition.models.protocol import HookedModel
from mi_superposition.progress import Progress
from mi_superposition.training import Stopped, fixed_arithmetic

State = Literal["trained", "untrained"]
LAYERS = "layers"
_ROWS = 32
# Between two checkpoints, in seconds.
_CHECKPOINT_EVERY = 30.0


@dataclass(frozen=True)
class Shard:
    """One layer on some documents, with everything that a worker needs; it leaves the result in ``out``."""

    number: int
    layer: int
    state: State
    first_document: int
    documents: list[Content]
    config: AblateConfig
    reference: Path
    model_sha256: str
    out: Path


def batches_of(
    model: HookedModel, documents: Sequence[Content], config: AblateConfig, first_document: int = 0
) -> TokenBatches:
    """Documents as the study reads them: each is one row, cut at the context."""
    return model_batches(
        model, documents, _ROWS, context=config.on_text.row.document_tokens, long="truncate", by_length=True, first_document=first_document
    )  # fmt: skip


def reference_documents(corpus: Corpus, config: AblateConfig, name: str) -> list[Content]:
    """The documents that give means and others' outputs: the first of the corpus, of a short one half.

    Raises ``RequestError`` for a corpus too short to measure anything after them.
    """
    wanted = config.on_text.reference_documents
    first = list(itertools.islice(corpus, wanted + FEWEST_DOCUMENTS))
    n = wanted if len(first) == wanted + FEWEST_DOCUMENTS else len(first) // 2
    if n < FEWEST_DOCUMENTS:
        raise RequestError(
            f"the corpus {name!r} has {len(first)} documents: too few to resample from, give at least {2 * FEWEST_DOCUMENTS} "
            "(half of them give means, on the others effects are measured)"
        )
    if config.text.documents is not None and config.text.documents < FEWEST_DOCUMENTS:
        raise RequestError(
            f"documents = {config.text.documents}: too few to resample from, give at least {FEWEST_DOCUMENTS}"
        )
    return first[:n]


def classes_of(model: HookedModel) -> TokenClasses:
    """Classes of the tokens of a model."""
    return TokenClasses(token_strings(model.tokenizer, model.cfg.d_vocab), known=model.tokenizer is not None)


def empty_effects(model: HookedModel, config: AblateConfig, state: State) -> LayerEffects:
    """Of a layer nothing of which was measured."""
    asked = config.on_text
    ablations = layer_ablations(model.cfg.n_heads, asked.text_replacement, control=state == "untrained")
    return LayerEffects(
        ablations, len(classes_of(model).names), asked.text_replacement,
        n_examples=asked.examples, n_resamples=asked.resamples, seed=config.random.seed,
    )  # fmt: skip


def ablate_shard(shard: Shard) -> Path:
    """What a worker does; a result that is there already, of a run that was stopped, is left as it is.

    Raises ``WorkError`` when the worker's model is another one than the driver's.
    """
    if not shard.out.exists():
        model, sha256 = _worker_model(shard.config, shard.state)
        if sha256 != shard.model_sha256:
            raise WorkError(
                f"{shard.config.model.name!r}: the model on a worker differs from the one the run was started with"
            )
        with fixed_arithmetic(shard.config.threads.number):
            write_state(shard.out, _measured(model, shard, lambda tokens: None).state())
    return shard.out


@functools.lru_cache(maxsize=2)
def _worker_model(config: AblateConfig, state: State) -> tuple[HookedModel, str]:
    model = load_model(config.model.name, device=config.device.device)
    sha256 = content_hash(weights_of(model))
    return (model if state == "trained" else untrained_reader(model, config.random.seed)), sha256


def untrained_reader(model: HookedModel, seed: int) -> HookedModel:
    """The untrained control, which reads texts as the trained model does."""
    control = untrained_copy(model, seed)
    control.tokenizer = model.tokenizer
    return control


@functools.lru_cache(maxsize=1)
def _reference(path: Path, written: int, device: str) -> Reference:  # noqa: ARG001 - one that was written again is another
    import torch

    tensors, _ = read_tensors(path)
    return Reference(**tensors).to(torch.device(device))


def _measured(model: HookedModel, shard: Shard, on_tokens: Callable[[int], None]) -> LayerEffects:
    effects = empty_effects(model, shard.config, shard.state)
    forward = LayerForward(model, shard.layer, shard.config.random.seed)
    batches = batches_of(model, shard.documents, shard.config, shard.first_document)
    reference = _reference(shard.reference, shard.reference.stat().st_mtime_ns, str(model.W_E.device))
    add_documents(effects, forward, reference, batches, classes_of(model), on_tokens)
    return effects


@dataclass
class TextAblationWork:
    """The layers of one model, trained or not, on a corpus: which are done, and what they gave.

    ``folder`` is that of the run, ``model`` the one measured, ``model_sha256`` the hash of the trained one's weights.
    """

    folder: Path
    model: HookedModel
    model_sha256: str
    corpus: Corpus
    reference: list[Content]
    config: AblateConfig
    progress: Progress
    state: State = "trained"

    def layers(self) -> dict[int, LayerEffects]:
        """All layers asked for; those that a run before had finished are read.

        Raises ``Stopped`` after it was asked to stop and had saved what was done.
        """
        asked = self.config.on_text.layer or range(self.model.cfg.n_layers)
        return {layer: self._layer(layer) for layer in sorted(set(asked))}

    def _layer(self, layer: int) -> LayerEffects:
        name = f"{self.state}-{layer:03d}"
        folder = self.folder.resolve() / LAYERS
        done, begun = folder / f"{name}.safetensors", folder / f"{name}-begun.safetensors"
        effects = empty_effects(self.model, self.config, self.state)
        if done.exists():
            effects.load_state(read_state(done))
            self.progress.advance(effects.means.n_documents, "resuming")
            return effects
        self.progress.advance(0, f"layer {layer}, {self.state}")
        reference = folder / f"{name}-reference.safetensors"
        if not reference.exists():
            found = reference_of(self.model, layer, batches_of(self.model, self.reference, self.config))
            write_tensors(reference, vars(found))
        n_done = 0
        if begun.exists():
            saved = read_state(begun)
            effects.load_state(saved["effects"])
            n_done = saved["shards"]
            self.progress.advance(effects.means.n_documents, "resuming")
        self._run(effects, n_done, self._shards(layer, reference, folder / name), begun)
        write_state(done, effects.state())
        for left in (begun, reference, folder / name):
            remove(left)
        return effects

    def _run(self, effects: LayerEffects, n_done: int, shards: Iterator[Shard], begun: Path) -> None:
        def save() -> None:
            write_state(begun, {"shards": n_done, "effects": effects.state()})

        def stop_if_asked() -> None:
            if self.progress.should_stop():
                save()
                raise Stopped(n_done, "shard")

        def here(shard: Shard) -> LayerEffects:
            return _measured(self.model, shard, lambda tokens: stop_if_asked())

        saved_at = time.monotonic()
        local = self.config.workers.engine == "local"
        work: Callable[[Shard], LayerEffects | Path] = here if local else ablate_shard
        results = results_of(
            work, itertools.islice(shards, n_done, None), engine=self.config.workers.engine, address=self.config.workers.ray_address,
            cpus=self.config.threads.number, gpus=int(self.config.device.device == "cuda"),
        )  # fmt: skip
        for result in results:
            part = self._read(result) if isinstance(result, Path) else result
            effects.merge(part)
            n_done += 1
            self.progress.advance(part.means.n_documents)
            if time.monotonic() - saved_at > _CHECKPOINT_EVERY:
                save()
                saved_at = time.monotonic()
            stop_if_asked()

    def _read(self, path: Path) -> LayerEffects:
        if not path.exists():
            raise WorkError(f"{str(path)!r} is not there: all workers must share the file system of the run folder")
        part = empty_effects(self.model, self.config, self.state)
        part.load_state(read_state(path))
        return part

    def _shards(self, layer: int, reference: Path, folder: Path) -> Iterator[Shard]:
        config = self.config.replace(
            model=name_for_workers(self.config.model.name, BUNDLED_MODELS),
            device=self.config.device.device.split(":")[0],
        )
        n = len(self.reference)
        end = None if self.config.text.documents is None else n + self.config.text.documents
        documents = itertools.islice(iter(self.corpus), n, end)
        for number in itertools.count():
            first = n + number * self.config.on_text.shard
            texts = list(itertools.islice(documents, self.config.on_text.shard))
            if not texts:
                return
            yield Shard(
                number,
                layer,
                self.state,
                first,
                texts,
                config,
                reference,
                self.model_sha256,
                folder / f"{number:06d}.safetensors",
            )
