"""Evaluating autoencoders into a run folder: on held-out text, each next to its baselines and its control."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, ClassVar, TypedDict

import msgspec
import pandas as pd

from mi_superposition.corpora import TokenBatch, TokenBatches
from mi_superposition.files import write_json
from mi_superposition.progress import SILENT, Progress
from mi_superposition.results import Result
from mi_superposition.room import check_memory
from mi_superposition.runs import MANIFEST, Outcome, open_run, read_config
from mi_superposition.sae import SaeEvaluateConfig, evaluate_reconstructions
from mi_superposition.sae.baselines import (
    brought_to,
    encoding_cost,
    largest_dimensions,
    largest_projections,
    principal_components,
    pursued,
    pursuit_cost,
    random_dictionary,
    random_unit_directions,
)
from mi_superposition.sae.evaluate import Reconstruct, activation_sample, activation_statistics, reconstruct_with
from mi_superposition.sae.files import read_sae, sae_folders, sae_identity
from mi_superposition.sae.train import check_training_memory
from mi_superposition.schemas import read_as
from mi_superposition.storing import read_record, write_record
from mi_superposition.streaming import covariance_bytes
from mi_superposition.studies.sae.controls import Controls, planned_controls, trained_controls
from mi_superposition.studies.sae.features import LearnedFeatures, learned_features
from mi_superposition.studies.sae.opened import OpenEvaluation, open_evaluation
from mi_superposition.studies.sae.rows import (
    AUTOENCODER,
    COLUMNS,
    COST,
    FOREIGN,
    KINDS,
    LARGEST,
    PCA,
    PROJECTED,
    PURSUED,
    PURSUED_ACTIVATIONS,
    PURSUED_DECODER,
    PURSUED_RANDOM,
    RANDOM,
    SAME_TOKENS,
    SHUFFLED,
    Row,
    cell,
    strongest,
)
from mi_superposition.training import Stopped, fixed_arithmetic

COMMAND = "sae evaluate"
EVALUATION = "evaluation.json"
FEATURES = "features.safetensors"
# Tokens of the text trained on from which the baselines are made.
_BASELINE_TOKENS = 2**16
# An autoencoder, and what stands in its activations' place.
_Key = tuple[str, str]


class _Table(TypedDict):
    """``evaluation.json``."""

    rows: Annotated[list[Row], msgspec.Meta(min_length=1)]


@dataclass(frozen=True, repr=False)
class SaeEvaluation(Result):
    """The table of an evaluation, and the features of one of its autoencoders (``None`` in a run of version 0.1)."""

    DRAWN_BY: ClassVar[str] = "mi_superposition.pages.sae.evaluate:figure"

    config: SaeEvaluateConfig
    rows: Sequence[Row]
    features: LearnedFeatures | None

    @property
    def main(self) -> Row:
        """The autoencoder whose features are shown: the bundled one, or the one that explains most."""
        ours = [row for row in self.rows if row.kind == AUTOENCODER]
        if self.features is not None:
            return next(row for row in ours if row.sae == self.features.sae)
        return best_of(ours)

    def of(self, sae: str) -> dict[str, dict[str, float | int]]:
        """The numbers of an autoencoder and of all that it is compared with, by kind."""
        return {row.kind: row.numbers for row in self.rows if row.sae == sae}

    def summary(self) -> str:
        """Explained variance next to its controls, and cross-entropy next to those of the model and of mean ablation."""
        main, numbers = self.main, self.of(self.main.sae)
        own = main.numbers
        best = strongest(numbers)
        controls = [f"{cell(best.numbers, 'explained_variance')} by {KINDS[best.kind]}"]
        if best.autoencoder is not own:
            controls[0] += f" where the SAE explains {cell(best.autoencoder, 'explained_variance')}"
        if SHUFFLED in numbers:
            controls.append(
                f"{cell(numbers[SHUFFLED], 'explained_variance')} by an SAE of a weight-shuffled model, of that model"
            )
        losses = f"; cross-entropy {cell(own, 'ce')} nats per token"
        if "ce_clean" in own:
            losses += f" (model {own['ce_clean']:.3f}, mean ablation {own['ce_mean']:.3f})"
        return (
            f"{main.sae}: {cell(own, 'explained_variance')} of the variance of {own['tokens']:,} held-out tokens at L0 {cell(own, 'l0')} "
            f"({', '.join(controls)}){losses}"
        )

    def to_frame(self) -> pd.DataFrame:
        """One row per reconstruction: every autoencoder, and its baselines and controls."""
        index = pd.MultiIndex.from_tuples(
            [(row.sae, KINDS[row.kind]) for row in self.rows], names=["autoencoder", "reconstruction"]
        )
        return pd.DataFrame([{name: row.numbers.get(name) for name in COLUMNS} for row in self.rows], index=index)


def best_of(rows: Sequence[Row]) -> Row:
    """The one that explains most of the variance."""
    return max(rows, key=lambda row: row.numbers.get("explained_variance", -math.inf))


def measure(config: SaeEvaluateConfig, out: Path, progress: Progress = SILENT) -> Outcome:
    """Evaluate every autoencoder of a run next to its baselines.

    The control autoencoders are trained with checkpoints and kept; an interrupted run resumes from there, and
    evaluates anew. Raises ``RequestError`` for an autoencoder of another model, and ``training.Stopped`` when asked to stop.
    """
    folders = sae_folders(config.sae)
    opened = open_evaluation(config, {name: read_sae(folder) for name, folder in folders.items()})
    inputs = opened.text.identity() | {"saes": {name: sae_identity(folder) for name, folder in folders.items()}}
    opened.text.check_held_out()
    if not (out / MANIFEST).exists():
        _check_memory(opened)
    with open_run(out, COMMAND, opened.config, inputs) as run:
        # A run of version 0.1 lacks the features: they are added.
        if run.finished and (out / FEATURES).exists():
            return Outcome(out, finished_already=True)
        progress.begin("token")
        with fixed_arithmetic(config.threads.number):
            if not (out / EVALUATION).exists():
                _write_rows(out, opened, trained_controls(run, opened, progress), progress)
            table = read_rows(out)
            progress.stage("features")
            best = best_of([row for row in table if row.kind == AUTOENCODER])
            sae = opened.saes[best.sae].cpu()
            write_record(out / FEATURES, learned_features(opened.text.model, sae, best.sae, opened.hooks[best.sae]))
        numbers = {f"{row.sae}/{row.kind}/{name}": value for row in table for name, value in row.numbers.items()}
        run.finish(numbers | opened.text.corpus.losses())
    return Outcome(out, finished_already=False)


def _check_memory(opened: OpenEvaluation) -> None:
    """Raise ``RequestError`` where there is not enough for the controls' training, or for the baselines after it."""
    device, saes = opened.text.device, opened.saes
    d_read = {opened.hooks[name]: sae.cfg.d_in for name, sae in saes.items()}
    planned = planned_controls(opened)
    if planned is not None:
        buffered = 4 * sum(d_read.values()) * planned.stream.batch_size * planned.stream.buffer_batches
        what = "the training of the controls (control_tokens = 0 for none)"
        check_training_memory(planned.jobs, d_read, buffered, device, what)
    sizes = {name: 4 * sae.W_dec.numel() for name, sae in saes.items()}
    widths = {opened.targets[name]: sae.W_dec.shape[1] for name, sae in saes.items()}
    what = f"the baselines of {max(sae.cfg.d_sae for sae in saes.values()):,} features"
    # Of one hook after the other: a dictionary of each baseline (random directions and activations twice, and the decoder), the sample of
    # activations as it is drawn; the covariances of the model's activations and of the control's.
    of_hook = [sum(size for name, size in sizes.items() if opened.targets[name] == hook) for hook in widths]
    needed = 5 * max(of_hook) + 2 * max(sizes.values()) + covariance_bytes([max(widths.values())] * 2)
    check_memory(needed, what)
    # One dictionary at a time.
    check_memory(max(sizes.values()), what, device)


def load(folder: Path) -> SaeEvaluation:
    """The result in a finished run folder. Raises ``RequestError`` where there is none."""
    config = read_config(folder, SaeEvaluateConfig, COMMAND)
    features = read_record(folder / FEATURES, LearnedFeatures) if (folder / FEATURES).exists() else None
    return SaeEvaluation(config, read_rows(folder), features)


def read_rows(folder: Path) -> list[Row]:
    """The table in a run folder."""
    return read_as(folder / EVALUATION, _Table)["rows"]


def _write_rows(out: Path, opened: OpenEvaluation, controls: Controls | None, progress: Progress) -> None:
    on_tokens = _on_tokens(progress)
    hooks = dict.fromkeys(opened.targets.values())
    rows = [asdict(row) for hook in hooks for row in _rows(opened, hook, controls, on_tokens)]
    write_json(out / EVALUATION, {"model": opened.text.model_name, "corpus": opened.text.text.corpus, "rows": rows})


def _on_tokens(progress: Progress) -> Callable[[int, str], None]:
    """Tells how many tokens were read, and raises ``Stopped`` when asked to stop."""
    tokens = 0

    def on_tokens(n: int, state: str) -> None:
        nonlocal tokens
        tokens += n
        progress.advance(n, state)
        if progress.should_stop():
            raise Stopped(tokens, "token")

    return on_tokens


def _rows(
    opened: OpenEvaluation, hook: str, controls: Controls | None, on_tokens: Callable[[int, str], None]
) -> list[Row]:
    """The autoencoders that predict one hook, and the baselines of each with as many features per token."""
    model, held_out = opened.text.model, opened.text.batches(held_out=True, documents=opened.config.text.documents)
    trained_on = opened.text.batches(held_out=False)
    statistics = activation_statistics(model, trained_on, hook, most_tokens=_BASELINE_TOKENS)
    mean = statistics.mean.float()
    saes = {name: sae for name, sae in opened.saes.items() if opened.targets[name] == hook}
    seed = opened.config.random.seed
    sample = activation_sample(
        model, trained_on, hook, max(sae.cfg.d_sae for sae in saes.values()), most_tokens=_BASELINE_TOKENS, seed=seed
    )
    ways: dict[_Key, Reconstruct] = {(name, AUTOENCODER): reconstruct_with(sae) for name, sae in saes.items()}
    reads = {(name, kind): opened.hooks[name] for name in saes for kind in (AUTOENCODER, SAME_TOKENS)}
    # How sparse they are decides how sparse the baselines have to be.
    alone = evaluate_reconstructions(
        model, held_out, hook, ways, mean, reads=reads, losses=False, on_tokens=lambda n: on_tokens(n, "autoencoders")
    )
    own: dict[_Key, Reconstruct] = {}
    searched: dict[_Key, Reconstruct] = {}
    costs: dict[_Key, int] = {}
    if controls is not None:
        reread = activation_statistics(controls.model, trained_on, hook, most_tokens=_BASELINE_TOKENS)
    for name, sae in saes.items():
        n_features, d = sae.cfg.d_sae, len(mean)
        activations = sample[:n_features] - mean
        # Rounded up, and so never less than the autoencoder has.
        k = min(max(math.ceil(alone[name, AUTOENCODER].l0), 1), d)
        ways[name, PCA] = principal_components(statistics, k)
        ways[name, LARGEST] = largest_dimensions(statistics, k)
        ways[name, RANDOM] = random_dictionary(statistics, n_features, k, seed=seed)
        # Of a text with fewer tokens there are fewer activations.
        ways[name, PROJECTED] = largest_projections(mean, activations, min(k, len(activations)))
        if controls is not None and name in controls.saes:
            ways[name, FOREIGN] = brought_to(reconstruct_with(controls.saes[name], k), statistics, reread)
            own[name, SHUFFLED] = reconstruct_with(controls.saes[name])
        searched[name, PURSUED_ACTIVATIONS] = pursued(mean, activations, min(k, len(activations)))
        searched[name, PURSUED_RANDOM] = pursued(mean, random_unit_directions(n_features, d, seed=seed), k)
        searched[name, PURSUED_DECODER] = pursued(mean, sae.W_dec.detach().float(), k)
        costs |= {(name, kind): pursuit_cost(d, n_features, k) for kind in PURSUED}
        costs |= {(name, kind): encoding_cost(sae.cfg.d_in, n_features) for kind in (AUTOENCODER, SAME_TOKENS)}
    some = _first(held_out, opened.config.pursuit_tokens)
    every = sum(int(batch.mask.sum()) for batch in some) >= alone[next(iter(ways))].n_tokens
    if every:
        ways |= searched
    fidelities = evaluate_reconstructions(
        model, held_out, hook, ways, mean, reads=reads, on_tokens=lambda n: on_tokens(n, "autoencoders and baselines")
    )
    if some and not every:
        same = {(name, SAME_TOKENS): ways[name, AUTOENCODER] for name in saes}
        fidelities |= evaluate_reconstructions(
            model, some, hook, same | searched, mean, reads=reads, on_tokens=lambda n: on_tokens(n, "matching pursuit")
        )
    if controls is not None and own:
        # What a shuffled model expects of text means nothing: no losses.
        fidelities |= evaluate_reconstructions(
            controls.model, held_out, hook, own, reread.mean.float(), losses=False,
            on_tokens=lambda n: on_tokens(n, "control, on its own model"),
        )  # fmt: skip
    return [
        Row(*key, hook, fidelities[key].numbers() | ({COST: costs[key]} if key in costs else {}))
        for name in saes
        for kind in KINDS
        if (key := (name, kind)) in fidelities
    ]


def _first(batches: TokenBatches, n_tokens: int) -> list[TokenBatch]:
    """The first batches with so many tokens that count together, or somewhat more."""
    some: list[TokenBatch] = []
    for batch in batches:
        if n_tokens <= 0:
            break
        some.append(batch)
        n_tokens -= int(batch.mask.sum())
    return some
