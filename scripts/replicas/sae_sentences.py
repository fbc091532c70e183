"""Stringer's other two sentences, which its code has commented out: the autoencoder of each, and whether the same features return.

    python scripts/replicas/sae_sentences.py --model smollm2-135m --out sentences.json

The recipe is that of sae_sentence.py. The features of two trainings are matched one to one so that the magnitudes of the cosines of
their decoder directions are largest in sum. Two minutes on one core.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import tyro
from jaxtyping import Float
from replica import STRINGER, Row, report, spread
from sae_sentence import FEATURES, LOSSES, SENTENCE, Trained, last_states, mixed, trained
from scipy.optimize import linear_sum_assignment
from torch import Tensor

import mi_superposition as ms
from mi_superposition.linalg import unit_rows

# Its list of four, of which it runs the first.
LINES = (
    SENTENCE,
    "To be or not to be, that is the question.",
    "In a hole in the ground there lived a hobbit.",
    SENTENCE,
)
# A feature stands for a token where so much of its activation is there.
ONE_TOKEN = 0.9


def matched(one: Float[Tensor, "feature d"], other: Float[Tensor, "feature d"]) -> float:
    """Mean magnitude of the cosines of two sets of directions in their best pairs."""
    cosines = (unit_rows(one) @ unit_rows(other).T).abs().numpy()
    rows, columns = linear_sum_assignment(cosines, maximize=True)
    return float(cosines[rows, columns].mean())


def on_one_token(run: Trained) -> int:
    """How many features have nearly all of their activation at one token."""
    total = run.encoded.sum(dim=0)
    return int(((run.encoded.amax(dim=0) >= ONE_TOKEN * total) & (total > 0)).sum())


def _mean(values: Iterable[float]) -> float:
    found = list(values)
    return sum(found) / len(found)


def main(model: str, seeds: int = 10, out: Path | None = None) -> None:
    """Train, compare.

    Args:
        model: Language model: a folder in Hugging Face layout.
        seeds: Autoencoders of each sentence, from seed 0 up, two at least.
        out: JSON file of all numbers.
    """
    network: Any = ms.load_model(model)
    states = {sentence: last_states(network, sentence)[0] for sentence in dict.fromkeys(LINES)}
    runs = {sentence: [trained(some, seed) for seed in range(seeds)] for sentence, some in states.items()}
    controls = [trained(mixed(states[SENTENCE], seed), seed) for seed in range(seeds)]
    rows = [Row("of the three more sentences one repeats the first", "yes", str(LINES.count(SENTENCE)) + " of 4 lines are the first", None, "confirmed")]  # fmt: skip
    first = [run.losses[-1] for run in runs[SENTENCE]]
    for sentence, some in list(runs.items())[1:]:
        rows.append(Row(f"last loss, '{sentence}'", None, spread([run.losses[-1] for run in some]), f"the first sentence {spread(first)} (source {LOSSES[-1]})", "ours", f"{len(states[sentence])} tokens"))  # fmt: skip
    pairs = list(itertools.permutations(runs, 2))
    other_sentence = [_mean(matched(runs[one][seed].decoder, runs[other][seed].decoder) for one, other in pairs) for seed in range(seeds)]  # fmt: skip
    following = [(seed + 1) % seeds for seed in range(seeds)]
    other_seed = [_mean(matched(some[seed].decoder, some[after].decoder) for some in runs.values()) for seed, after in enumerate(following)]  # fmt: skip
    neither = [_mean(matched(runs[one][seed].decoder, runs[other][after].decoder) for one, other in pairs) for seed, after in enumerate(following)]  # fmt: skip
    meaningless = [matched(run.decoder, control.decoder) for run, control in zip(runs[SENTENCE], controls, strict=True)]
    rows += [
        Row("the same features return in another sentence, cosine of matched directions", None, spread(other_sentence), f"the same sentence from another start {spread(other_seed)}, neither {spread(neither)}; tokens mixed, from the same start {spread(meaningless)}", "confirmed" if min(other_seed) > max(neither) and min(other_sentence) > max(meaningless) else "not confirmed", "they return because of the random start, not of the sentence"),
        Row(f"features with {100 * ONE_TOKEN:.0f} % of their activation at one token, of {FEATURES}", "patterns instead of words", spread([_mean(on_one_token(some[seed]) for some in runs.values()) for seed in range(seeds)]), f"tokens mixed {spread([on_one_token(run) for run in controls])}", "ours"),
    ]  # fmt: skip
    settings = {"model": Path(model).name, "sentences": len(runs), "features": FEATURES, "seeds": seeds}
    details = {"losses": {sentence: [run.losses for run in some] for sentence, some in runs.items()}, "other_sentence": other_sentence, "other_seed": other_seed, "neither": neither, "mixed": meaningless}  # fmt: skip
    report("sparse autoencoders of two more sentences", STRINGER, settings, rows, details, out)


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
