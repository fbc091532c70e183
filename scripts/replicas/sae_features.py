"""What features of sparse autoencoders stand for, and how many it takes: language models beside themselves with shuffled weights.

    python scripts/replicas/sae_features.py --train train.parquet --test validation.parquet --work saes --out features.json   # TinyStories

Stringer says that autoencoders seek patterns rather than words, that similar features are related, that they reduce and denoise;
Pramodith that a model needs more features than it has dimensions, and leaves open what superposition is in language models. None gives
a number. Autoencoders with equal sparsity are trained on the bundled story model (several widths) and with `--real smollm2-135m` on a
pretrained one (one width); the control is the same of a model with the entries of its weights shuffled. All are kept in a folder, so that
the script can be stopped and run again. Eight minutes on one core, and as many for the pretrained model.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import torch
import tyro
from feature_measures import ONE_TOKEN, Linear, Related, Words, cleaned, explained, relations, words
from jaxtyping import Float, Int
from replica import PRAMODITH, STRINGER, Row, report, spread
from torch import Tensor

import mi_superposition as ms
from mi_superposition.corpora import TokenBatch, model_batches
from mi_superposition.corpora.batches import TokenBatches
from mi_superposition.files import read_tensors, write_tensors
from mi_superposition.models import read_hooks, shuffled_copy
from mi_superposition.models.protocol import HookedModel
from mi_superposition.sae import (
    SaeConfig,
    SaeJob,
    evaluate_reconstructions,
    largest_projections,
    load_sae,
    pursued,
    save_sae,
    train_saes,
)
from mi_superposition.sae.baselines import random_unit_directions
from mi_superposition.sae.evaluate import reconstruct_with
from mi_superposition.training import seeded_generator

BATCH = 1024
KINDS = ("trained", "shuffled")
NOISE = (0.1, 0.3, 1.0)
# Tokens for which directions are searched by matching pursuit.
PURSUED = 4096


@dataclass(frozen=True)
class Setting:
    """A model, where it is read, widths in its dimensions (``usual`` is the one whose features are looked at), and how much is read."""

    name: str
    model: str
    hook: str
    times: tuple[int, ...]
    usual: int
    seeds: int
    tokens: int
    steps: int
    documents: int
    k: int = 32

    @property
    def same_bits(self) -> int:
        """A feature takes a value of 16 bits, and which of 2,048 it is: so many principal components take as many bits as k features."""
        return self.k * (16 + 11) // 16


class Read(NamedTuple):
    """States of the hook at tokens of real text, which tokens these are, and of which documents."""

    states: Float[Tensor, "token d"]
    tokens: Int[Tensor, " token"]
    documents: Int[Tensor, " token"]


def read(model: HookedModel, hook: str, text: TokenBatches, *, tokens: int | None = None) -> Read:
    """The hook's states at all tokens that count, or at the first so many."""
    parts, n = [], 0
    for batch in text:
        for piece in batch.pieces(model.W_E.device):
            states = read_hooks(model, piece.tokens, [hook])[hook][piece.mask].float()
            parts.append((states, piece.tokens[piece.mask], piece.document[piece.mask]))
            n += len(states)
        if tokens is not None and n >= tokens:
            break
    return Read(*(torch.cat(some)[:tokens] for some in zip(*parts, strict=True)))


class Shuffled:
    """States in batches, over and over, each time in another order: what autoencoders are trained on."""

    def __init__(self, hook: str, states: Float[Tensor, "token d"], seed: int):
        self.hooks, self.batch_size, self.states, self.seed = (hook,), BATCH, states, seed
        self.buffer_batches = len(states) // BATCH
        self._order = (-1, torch.zeros(0, dtype=torch.long))

    def batch(self, index: int) -> dict[str, Float[Tensor, "batch d"]]:
        """Batch number ``index``."""
        turn, within = divmod(index, self.buffer_batches)
        if self._order[0] != turn:
            self._order = turn, torch.randperm(len(self.states), generator=seeded_generator(self.seed, "turn", turn))
        return {self.hooks[0]: self.states[self._order[1][within * BATCH : (within + 1) * BATCH]]}


def saes(
    kind: str, model: HookedModel, known: Path, text: TokenBatches, work: Path, setting: Setting, seed: int
) -> dict[int, Any]:
    """By width the autoencoders of one seed, from the folder where they are there; so are the states that they are trained on."""
    folders = {time: work / f"{setting.name}-{kind}-{time}-{seed}" for time in setting.times}
    jobs = [SaeJob(str(time), setting.hook, SaeConfig(d_sae=time * model.cfg.d_model, k=setting.k, seed=seed)) for time in setting.times if not folders[time].exists()]  # fmt: skip
    if jobs:
        with torch.enable_grad():
            trained = train_saes(
                jobs, Shuffled(setting.hook, states_of(model, known, text, setting), seed), setting.steps
            )
        for name, sae in trained.items():
            save_sae(sae, folders[int(name)])
    return {time: load_sae(folder) for time, folder in folders.items()}


def states_of(model: HookedModel, known: Path, text: TokenBatches, setting: Setting) -> Float[Tensor, "token d"]:
    """The states that autoencoders are trained on, read once."""
    if not known.exists():
        write_tensors(known, {"states": read(model, setting.hook, text, tokens=setting.tokens).states.half()})
    return read_tensors(known)[0]["states"].float()


class Bundled(NamedTuple):
    """The same of the autoencoder that comes with the package, which was trained on three million tokens."""

    words: Words
    noise: dict[float, float]


class Measured(NamedTuple):
    """Of a setting: variance explained by kind, width and seed, and what else is asked of features."""

    explained: dict[str, dict[int, list[float]]]
    untrained: dict[int, float]
    words: dict[str, list[Words]]
    other_words: dict[str, Words]
    related: dict[str, dict[str, list[Related]]]
    noise: dict[float, dict[str, list[float]]]
    components: dict[int, float]
    recovered: dict[str, float]
    bundled: Bundled | None


@torch.no_grad()
def measured(setting: Setting, train: Path, test: Path, work: Path) -> Measured:
    """Train what is not there, and measure all."""
    model: Any = ms.load_model(setting.model)
    # Copies of a model come without its tokenizer, so the texts are read by the original's.
    learnt_from, judged_on = (model_batches(model, ms.load_corpus(name, documents=some), 32) for name, some in ((train, None), (test, setting.documents)))  # fmt: skip
    held = read(model, setting.hook, judged_on)
    variance: dict[str, dict[int, list[float]]] = {kind: {time: [] for time in setting.times} for kind in KINDS}
    alone: dict[str, list[Words]] = {kind: [] for kind in KINDS}
    pairs: dict[str, dict[str, list[Related]]] = {kind: {"tokens": [], "documents": []} for kind in KINDS}
    usual = []
    for seed in range(setting.seeds):
        for kind in KINDS:
            own = model if kind == "trained" else shuffled_copy(model, seed)
            known = work / f"{setting.name}-{kind}{'' if kind == 'trained' else f'-{seed}'}.safetensors"
            found = saes(kind, own, known, learnt_from, work, setting, seed)
            of = held if kind == "trained" else read(own, setting.hook, judged_on)
            for time, sae in found.items():
                made, acts = reconstruct_with(sae)(of.states)
                variance[kind][time].append(explained(of.states, made))
                if time == setting.usual:
                    alone[kind].append(words(acts, of.tokens))
                    for what, numbers in (("tokens", of.tokens), ("documents", of.documents)):
                        pairs[kind][what].append(relations(sae, acts, numbers, seed))
                    usual += [sae] if kind == "trained" else []
            print(
                f"{setting.name}, seed {seed}, {kind}: {[round(one[-1], 3) for one in variance[kind].values()]}",
                flush=True,
            )
    states = states_of(model, work / f"{setting.name}-trained.safetensors", learnt_from, setting)
    mean, d = states.mean(dim=0), states.shape[1]
    places = torch.randperm(len(states), generator=torch.Generator().manual_seed(0))
    atoms = {time: states[places[: time * d]] - mean for time in setting.times}
    some = held.states[:PURSUED]
    linear = Linear.of(states)
    others = (("training activations", atoms[setting.usual]), ("random directions", random_unit_directions(setting.usual * d, d)))  # fmt: skip
    ways = {"the autoencoder": reconstruct_with(usual[0]), "training activations by matching pursuit": pursued(mean, atoms[setting.usual], setting.k)}  # fmt: skip
    batches: list[TokenBatch] = list(islice((piece for batch in judged_on for piece in batch.pieces(torch.device("cpu"))), 5))  # fmt: skip
    fidelities = evaluate_reconstructions(model, batches, setting.hook, ways, mean)
    return Measured(
        variance,
        {time: explained(some, pursued(mean, one, setting.k)(some)[0]) for time, one in atoms.items()},
        alone,
        {name: words(largest_projections(mean, one, setting.k)(held.states)[1], held.tokens) for name, one in others},
        pairs,
        {share: cleaned(held.states, share, usual, linear, setting.k) for share in NOISE},
        {k: explained(held.states, linear.first(held.states, k)) for k in (setting.k, setting.same_bits)},
        {name: float(one.numbers()["recovered"]) for name, one in fidelities.items()},
        bundled_one(held, linear, setting.k) if setting.name == "stories" else None,
    )


def bundled_one(held: Read, linear: Linear, k: int) -> Bundled:
    """What is known of the bundled autoencoder."""
    sae = load_sae("stories")
    noise = {share: cleaned(held.states, share, [sae], linear, k)["autoencoder"][0] for share in NOISE}
    return Bundled(words(reconstruct_with(sae)(held.states)[1], held.tokens), noise)


def main(
    train: Path,
    test: Path,
    work: Path,
    real: str | None = None,
    tokens: int = 204_800,
    steps: int = 250,
    seeds: int = 2,
    documents: int = 100,
    times: tuple[int, ...] = (1, 4, 8),
    hook: str = "blocks.10.hook_resid_pre",
    real_tokens: int = 61_440,
    out: Path | None = None,
) -> None:
    """Train what is not there, measure.

    Args:
        train: Text that autoencoders are trained on.
        test: Text that they are measured on.
        work: Folder of the autoencoders, and of the states that they are trained on.
        real: Pretrained language model: a folder in Hugging Face layout.
        tokens: Tokens whose states autoencoders of the story model are trained on.
        steps: Steps of 1,024 tokens.
        seeds: Autoencoders of each width, from seed 0 up, of the story model; each has a model with shuffled weights of its own.
        documents: Documents of the test text; of the pretrained model a fifth.
        times: Widths, in dimensions of the story model.
        hook: Where the pretrained model is read.
        real_tokens: Tokens whose states the pretrained model's autoencoders are trained on.
        out: JSON file of all numbers.
    """
    usual = 4 if 4 in times else times[-1]
    settings = [Setting("stories", "stories", "blocks.1.hook_resid_pre", times, usual, seeds, tokens, steps, documents)]
    if real is not None:
        settings.append(Setting(Path(real).name, real, hook, (4,), 4, 1, real_tokens, steps, documents // 5))
    found = {setting.name: measured(setting, train, test, work) for setting in settings}
    rows = [row for setting in settings for row in _rows(setting, found[setting.name])]
    shown = {"k": settings[0].k, "batch": BATCH, "steps": steps} | {setting.name: f"{setting.hook}, {setting.tokens} tokens, {setting.seeds} seeds" for setting in settings}  # fmt: skip
    report(
        "features of sparse autoencoders",
        f"{STRINGER}; {PRAMODITH}",
        shown,
        rows,
        {name: one._asdict() for name, one in found.items()},
        out,
    )


def _rows(setting: Setting, of: Measured) -> list[Row]:
    rows = [*_widths(setting, of), *_words(of), *_relations(of), *_noise(of), *_whole(setting, of)]
    return [
        Row(f"{setting.name}: {row.claim}", row.source, row.ours, row.control, row.verdict, row.why) for row in rows
    ]


def _widths(setting: Setting, of: Measured) -> list[Row]:
    times, variance, untrained = setting.times, of.explained, of.untrained
    rows = [
        Row(f"variance explained by {time} feature{'s' * (time > 1)} a dimension", "more features than dimensions", spread(variance["trained"][time]), f"weights shuffled {spread(variance['shuffled'][time])}; training activations by matching pursuit {untrained[time]:.3f}", "ours")
        for time in times
    ]  # fmt: skip
    if len(times) == 1:
        return rows
    first, last = times[0], times[-1]
    gains = {kind: [more - less for less, more in zip(some[first], some[last], strict=True)] for kind, some in variance.items()}  # fmt: skip
    more = min(gains["trained"]) > max(gains["shuffled"])
    rows.append(Row(f"variance gained from {first} to {last} features a dimension", "needed", spread(gains["trained"]), f"weights shuffled {spread(gains['shuffled'])}; training activations {untrained[last] - untrained[first]:.3f}", "confirmed" if more else "not confirmed", "" if more else "a model that has learnt nothing gains as much"))  # fmt: skip
    return rows


def _words(of: Measured) -> list[Row]:
    mine, control = ([100 * one.alone for one in of.words[kind]] for kind in KINDS)
    others = "".join(f", {name} {100 * one.alone:.1f}" for name, one in of.other_words.items())
    rows = [Row(f"features with {100 * ONE_TOKEN:.0f} % of their activation on one token, %", "patterns instead of words", spread(mine), f"weights shuffled {spread(control)}{others}", "confirmed" if max(mine) < 10 else "refuted" if min(mine) > 50 else "not confirmed", "" if of.bundled is None else f"the bundled autoencoder {100 * of.bundled.words.alone:.1f}")]  # fmt: skip
    median, shuffled = ([one.effective for one in of.words[kind]] for kind in KINDS)
    others = "".join(f", {name} {one.effective:.1f}" for name, one in of.other_words.items())
    rows.append(Row("effective number of tokens of the median feature", None, spread(median), f"weights shuffled {spread(shuffled)}{others}", "ours"))  # fmt: skip
    return rows


def _relations(of: Measured) -> list[Row]:
    rows = []
    for what in ("tokens", "documents"):
        mine, control = (of.related[kind][what] for kind in KINDS)
        for name, field in (("nearest directions", "near"), ("the same activation level", "level")):
            own, foreign = ([getattr(one, field) for one in some] for some in (mine, control))
            equal, its_equal = ([getattr(one, f"{field}_control") for one in some] for some in (mine, control))
            more = min(own) > max(equal) and min(own) - max(equal) > max(foreign) - min(its_equal)
            rows.append(Row(f"features of {name}: overlap of their {what}", "related", spread(own), f"others as often active {spread(equal)}; weights shuffled {spread(foreign)} against {spread(its_equal)}", "confirmed" if more else "not confirmed"))  # fmt: skip
    return rows


def _noise(of: Measured) -> list[Row]:
    rows = []
    for share, errors in of.noise.items():
        mine, none, *linear = errors.values()
        beats = max(mine) < min(none)
        controls = ", ".join(
            f"{name} {spread(some)}" for name, some in zip(list(errors)[1:], (none, *linear), strict=True)
        )
        verdict = (
            "confirmed" if beats and max(mine) < min(map(min, linear)) else "not confirmed" if beats else "refuted"
        )
        rows.append(Row(f"error after noise of {100 * share:.0f} %, of the variance", "denoised", spread(mine), controls, verdict, "" if of.bundled is None else f"the bundled autoencoder {of.bundled.noise[share]:.3f}"))  # fmt: skip
    return rows


def _whole(setting: Setting, of: Measured) -> list[Row]:
    mine, components = of.explained["trained"][setting.usual], of.components
    told = ", ".join(f"{name} {value:.3f}" for name, value in list(of.recovered.items())[1:])
    return [
        Row(f"variance explained by {setting.k} numbers a token", "reduces dimensions", spread(mine), f"{setting.k} principal components {components[setting.k]:.3f}, {setting.same_bits} (as many bits) {components[setting.same_bits]:.3f}", "confirmed" if min(mine) > max(components.values()) else "not confirmed"),
        Row("loss recovered", "left open", of.recovered["the autoencoder"], told, "ours"),
    ]  # fmt: skip


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
