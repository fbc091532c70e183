"""Ablation of every head of any model on text and on tasks, with an untrained model and random directions as controls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mi_superposition.corpora import check_readable, corpus_of
from mi_superposition.corpora.tokens import tokenizer_identity, visible_tokens
from mi_superposition.engine import check_engine
from mi_superposition.errors import RequestError
from mi_superposition.files import content_hash, file_hash, remove
from mi_superposition.heads.ablation import ablate_heads
from mi_superposition.heads.config import AblateConfig
from mi_superposition.heads.effects import REPLACEMENTS, LayerEffects, LosingToken
from mi_superposition.heads.forward import Ablation
from mi_superposition.heads.sets import head_pairs
from mi_superposition.heads.tasks import BUNDLED_TASKS, induction_task, read_lines, read_tasks
from mi_superposition.models import device_of, load_model, model_record, weights_of
from mi_superposition.models.protocol import HookedModel
from mi_superposition.models.settings import check_heads
from mi_superposition.parts import WorkersPart
from mi_superposition.progress import SILENT, Progress
from mi_superposition.runs import Outcome, check_run, open_run, read_manifest
from mi_superposition.storing import read_record, write_record
from mi_superposition.studies.heads.ablate_text_result import (
    UNTRAINED,
    Effects,
    Example,
    Pairs,
    TextAblation,
)
from mi_superposition.studies.heads.ablate_text_shards import (
    LAYERS,
    TextAblationWork,
    batches_of,
    classes_of,
    reference_documents,
    untrained_reader,
)
from mi_superposition.studies.heads.ablate_text_tasks import TaskWork
from mi_superposition.training import fixed_arithmetic

COMMAND = "heads ablate"
RESULT = "text_ablation.safetensors"
# A run on the bundled story model and corpus (``scripts/head_effects.py --model stories --bundle``).
BUNDLED = Path(__file__).parents[2] / "bundled" / "heads" / "ablation"


def measure(config: AblateConfig, out: Path, progress: Progress = SILENT) -> Outcome:
    """Ablate into a run folder, or resume.

    Raises ``RequestError`` for a request that cannot be met, as far as possible before a model is downloaded, and ``training.Stopped``
    after it was asked to stop and had saved what was done.
    """
    asked = config.on_text
    check_engine(config.workers.engine)
    if asked.tasks is not None:
        read_lines(Path(asked.tasks))
    check_heads(config.model.name, layers=asked.layer, context=asked.row.document_tokens)
    corpus = corpus_of(config.text)
    reference = reference_documents(corpus, config, config.text.corpus)
    threads = config.threads.threads or (1 if config.workers.engine == "ray" else torch.get_num_threads())
    config = config.replace(device=device_of(config.device.device), threads=threads)
    model = load_model(config.model.name, device=config.device.device)
    check_readable(model, corpus, config.text.corpus, context=asked.row.document_tokens)
    if hooks := [
        hook
        for hook in (f"blocks.{layer}.attn.hook_z" for layer in range(model.cfg.n_layers))
        if hook not in model.hook_dict
    ]:
        raise RequestError(
            f"{config.model.name!r} has layers without attention heads ({hooks[0]} is not there): it cannot be ablated"
        )
    for layer in asked.layer:
        if layer >= model.cfg.n_layers:
            raise RequestError(f"layer = {layer}: the model has layers 0 to {model.cfg.n_layers - 1}")
    tasks = read_tasks(model, None if asked.tasks is None else Path(asked.tasks))
    induction = induction_task(model, config.random.seed)
    tasks = tasks if induction is None else [induction, *tasks]
    inputs: dict[str, Any] = {
        "model": model_record(config.model.name, model),
        "corpus": corpus.identity(),
        "tokenizer": tokenizer_identity(model.tokenizer),
        # The bundled ones too: another version may bring others.
        "tasks": {"name": asked.tasks, "sha256": file_hash(Path(asked.tasks or BUNDLED_TASKS))},
    }
    check_run(out, COMMAND, config, inputs)
    with open_run(out, COMMAND, config, inputs) as run, fixed_arithmetic(config.threads.number):
        if run.finished:
            remove(out / LAYERS)
            return Outcome(out, finished_already=True)
        n_layers = len(set(asked.layer)) or model.cfg.n_layers
        progress.begin("document", None if config.text.documents is None else 2 * n_layers * config.text.documents)
        untrained = untrained_reader(model, config.random.seed)
        sha256 = content_hash(weights_of(model))
        work = TextAblationWork(out, model, sha256, corpus, reference, config, progress)
        trained = work.layers()
        control = replace(work, model=untrained, state=UNTRAINED).layers()
        result = _result(config, model, trained, control)
        progress.stage("tasks and sets of heads")
        on_tasks = TaskWork(out.resolve() / LAYERS, model, untrained, config, result.layers, progress)
        result = replace(result, tasks=on_tasks.effects(tasks))
        progress.stage("pairs of heads")
        documents = list(islice(iter(corpus), len(reference), len(reference) + asked.pair_documents))
        result = replace(result, pairs=_pairs(model, documents, result))
        write_record(out / RESULT, result)
        run.finish(
            result.metrics()
            | corpus.losses(None if config.text.documents is None else len(reference) + config.text.documents)
        )
        remove(out / LAYERS)
    return Outcome(out, finished_already=False)


def load(folder: Path) -> TextAblation:
    """The result in a finished run folder. Raises ``RequestError`` where there is none."""
    read_manifest(folder, COMMAND)
    return read_record(folder / RESULT, TextAblation)


def _result(
    config: AblateConfig, model: HookedModel, trained: Mapping[int, LayerEffects], control: Mapping[int, LayerEffects]
) -> TextAblation:
    n_heads, default = model.cfg.n_heads, config.on_text.text_replacement
    heads: list[int | None] = [*range(n_heads), None]
    done = {name: (trained, name) for name in (*REPLACEMENTS, "random direction")} | {UNTRAINED: (control, default)}
    means = {
        id(one): (one.means.means(), one.means.standard_errors()) for one in (*trained.values(), *control.values())
    }

    def stacked(layers: Mapping[int, LayerEffects], name: Any, quantity: int | slice, which: int) -> Tensor:
        rows = [
            [means[id(one)][which][one.of(Ablation(name, head)), quantity] for head in heads] for one in layers.values()
        ]
        return torch.stack([torch.stack(row) for row in rows])

    def of_layer(layers: Mapping[int, LayerEffects]) -> Tensor:
        rows = [[means[id(one)][which][one.of(Ablation("layer")), 0] for which in (0, 1)] for one in layers.values()]
        return torch.tensor([[float(value) for value in row] for row in rows])

    first = next(iter(trained.values()))
    counts = first.means.counts
    if not counts[0]:
        raise RequestError(f"the corpus {config.text.corpus!r} has no two tokens in a row: nothing is predicted")
    shown = visible_tokens(model.tokenizer, model.cfg.d_vocab)
    return TextAblation(
        # Not who did the work: the result is the same bytes.
        config=replace(config, workers=WorkersPart()),
        n_documents=first.means.n_documents,
        n_tokens=int(counts[0]),
        loss=float(means[id(first)][0][0, 0]),
        layers=list(trained),
        classes=list(classes_of(model).names),
        class_share=counts[2:] / counts[0],
        class_loss=means[id(first)][0][0, 2:].clone(),
        effects={
            name: Effects(*(stacked(layers, kind, quantity, which) for quantity in (0, 1) for which in (0, 1)))
            for name, (layers, kind) in done.items()
        },
        whole_layer=of_layer(trained),
        untrained_layer=of_layer(control),
        by_class=stacked(trained, default, slice(2, None), 0)[:, :n_heads].clone(),
        by_class_error=stacked(trained, default, slice(2, None), 1)[:, :n_heads].clone(),
        examples=[[_shown(one.examples[head], shown) for head in range(n_heads)] for one in trained.values()],
        tasks={},
        pairs=None,
    )


def _shown(examples: Sequence[LosingToken], strings: Sequence[str]) -> list[Example]:
    return [
        Example(
            one.change,
            one.document,
            one.position - one.first,
            [strings[token] for token in one.tokens],
            list(one.changes),
        )
        for one in examples
    ]


def _pairs(model: HookedModel, documents: list[Any], result: TextAblation) -> Pairs | None:
    """All pairs of the heads with the largest effects, on documents each of which counts the same."""
    asked = result.config.on_text
    n = min(asked.pair_heads, len(result.layers) * result.n_heads)
    if n < 2 or len(documents) < 2:
        return None
    chosen = result.main.loss[:, :-1].flatten().argsort(descending=True, stable=True)[:n]
    heads = torch.stack([torch.tensor(result.layers)[chosen // result.n_heads], chosen % result.n_heads], dim=1)
    pairs = head_pairs(heads)
    keep = torch.ones(1 + n + len(pairs), model.cfg.n_layers, model.cfg.n_heads, dtype=torch.bool)
    for at, (layer, head) in enumerate(heads.tolist()):
        rows = [1 + at, *(1 + n + (pairs == at).any(dim=1).nonzero()[:, 0]).tolist()]
        keep[rows, layer, head] = False
    # Of so few documents a position has no mean of its own.
    replacement = "overall mean" if asked.text_replacement == "mean" else asked.text_replacement
    rows = list(batches_of(model, documents, result.config))
    loss = torch.cat(
        [ablate_heads(model, [batch], keep, replace_with=replacement, reduce="loss", seed=result.config.random.seed).cpu() for batch in rows], dim=1
    ).double()  # fmt: skip
    first, second = loss[1 + pairs[:, 0]], loss[1 + pairs[:, 1]]
    excess = loss[1 + n :] + loss[:1] - first - second
    excess = excess[:, excess.isfinite().all(dim=0)]
    return Pairs(heads, pairs, excess.mean(dim=1), excess.std(dim=1) / max(excess.shape[1], 1) ** 0.5)
