"""The addition model of Thaman et al.: statements of their report as numbers, on the bundled model.

    python scripts/replicas/thaman_addition.py --out addition.json
    mi-superposition addition train --answer autoregressive --epochs 60 --out runs/autoregressive
    python scripts/replicas/thaman_addition.py --autoregressive runs/autoregressive --out addition.json

"Both input numbers project to nearly identical points": a head's keys and values of a digit at position p of the first number and at
position p of the second, their distance over the mean distance of all positions. "The second digit of the output" is not in the
bundled model's input; the second command makes one that reads it.
"""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from typing import Any

import torch
import tyro
from jaxtyping import Float, Int
from replica import THAMAN, Row, report, spread
from torch import Tensor

import mi_superposition as ms
from mi_superposition.addition.problems import answer_digits, sample_operands, with_answers
from mi_superposition.addition.train import right_answers
from mi_superposition.files import read_json
from mi_superposition.models import load_attention_only
from mi_superposition.models.protocol import HookedModel
from mi_superposition.runs import METRICS

DIGITS, BUNDLED = 6, Path(ms.__file__).parent / "bundled" / "addition"
# Its examples: a, b, their sum, each the least significant digit first.
EXAMPLES = ("4321008765002196000", "4444445555559999990", "5444445555550000001", "9006982803141909031")


def relative_distances(points: Float[Tensor, "head pos d_head"]) -> Float[Tensor, " head"]:
    """Mean distance of a's and b's digit at equal places, over the mean distance of any two of the twelve positions."""
    operands = points[:, : 2 * DIGITS]
    between = torch.cdist(operands, operands)
    return between.diagonal(offset=DIGITS, dim1=1, dim2=2).mean(dim=1) / between[:, *torch.triu_indices(12, 12, 1)].mean(dim=1)  # fmt: skip


def distances(model: HookedModel) -> dict[str, Float[Tensor, " head"]]:
    """Of keys and of values; the digit does not matter, it moves all positions alike."""
    projected = ms.project_heads(model)
    return {"keys": relative_distances(projected.key[:, :, 0]), "values": relative_distances(projected.value[:, :, 0])}


def reads_rightly(text: str) -> bool:
    """Whether an example of the report is a right sum."""
    a, b, total = (int(text[start:stop][::-1]) for start, stop in ((0, 6), (6, 12), (12, 19)))
    return a + b == total


def best_guess(known: Int[Tensor, "problem token"], wanted: Int[Tensor, " problem"]) -> float:
    """How often the most frequent answer to what is known is right."""
    key = (known * 10 ** torch.arange(known.shape[1])).sum(dim=1)
    counts = torch.zeros(10 ** known.shape[1], 10).index_put_((key, wanted), torch.ones(len(key)), accumulate=True)
    return float(counts.amax(dim=1).sum() / len(key))


@torch.no_grad()
def swapped(model: Any, operands: Int[Tensor, "problem operand_digit"]) -> dict[str, float]:
    """Accuracy of the third digit where the column below sums to nine, with the true digit below it in the input and with its
    alternative (9 for 0, 0 for 9); and the attention that the position pays to that digit, most of all heads and their mean.
    """
    chosen = operands[operands[:, 1] + operands[:, DIGITS + 1] == 9]
    tokens, wanted = with_answers(chosen)[:, :-1], answer_digits(chosen)[:, 2]
    # What predicts the third digit is the position that holds the second.
    at = 2 * DIGITS + 1
    other = tokens.clone()
    other[:, at] = 9 - other[:, at]
    logits, cache = model.run_with_cache(tokens, names_filter="blocks.0.attn.hook_pattern")
    attention = cache["blocks.0.attn.hook_pattern"][:, :, at, at].mean(dim=0)
    right, after = (one[:, at].argmax(dim=-1) == wanted for one in (logits, model(other)))
    return {"true": float(right.double().mean()), "swapped": float(after.double().mean()),
            "attention_most": float(attention.max()), "attention_mean": float(attention.mean()), "uniform": 1 / (at + 1)}  # fmt: skip


def main(autoregressive: Path | None = None, seeds: int = 20, out: Path | None = None) -> None:
    """Measure.

    Args:
        autoregressive: Run folder of an addition model that reads the digits of its answer.
        seeds: Untrained models.
        out: JSON file of all numbers.
    """
    model, told = ms.load_model("addition"), read_json(BUNDLED / METRICS)
    trained, untrained = distances(model), [distances(ms.untrained_copy(model, seed)) for seed in range(seeds)]
    rows = [
        Row("accuracy of the test digits, per cent", 98.0, 100 * told["test_accuracy"], "notebooks 97.99, 97.95, 98.13", "not confirmed", "not like for like: ours is the bundled model, another recipe (warm-up, decay, all problems), the best of five"),
        Row("accuracy of the training digits, per cent", 98.5, 100 * told["train_accuracy"], None, "not confirmed", "as above"),
    ]  # fmt: skip
    for name, values in trained.items():
        controls = [float(value) for one in untrained for value in one[name]]
        near = int((values < min(controls)).sum())
        rows.append(Row(f"{name}: both numbers at nearly the same points, distance / mean distance", "nearly identical (head 19)", f"median {float(values.median()):.3f}, nearest {float(values.min()):.3f} (head {int(values.argmin())})", f"untrained {spread(controls)}", "confirmed" if near == len(values) else "not confirmed", f"{near} of {len(values)} heads are below every untrained head, {int((values < 0.25).sum())} below 0.25; its checkpoint is not public"))  # fmt: skip
    operands = sample_operands(200_000, n_digits=DIGITS, part="test", generator=torch.Generator().manual_seed(0))
    answers = answer_digits(operands)
    known = torch.stack([operands[:, 2], operands[:, 8], operands[:, 1], operands[:, 7], answers[:, 1]], dim=1)
    by_count = {n: max(best_guess(known[:, list(some)], answers[:, 2]) for some in combinations(range(5), n)) for n in (3, 4, 5)}  # fmt: skip
    sums = sum(x + y <= 9 for x in range(10) for y in range(10))
    rows += [
        Row("three tokens are enough to know the carries", "3", f"{100 * by_count[3]:.1f} % with the best 3, {100 * by_count[4]:.1f} % with 4, {100 * by_count[5]:.1f} % with the 5 of its list", None, "refuted", "best guess of the third digit"),
        Row("solutions of x + y ≤ 9 with digits x and y", 45, sums, "30 without order", "refuted", "10 choose 2 is 45, but counts pairs of different digits"),
        Row("its examples are right sums", 4, sum(map(reads_rightly, EXAMPLES)), None, "confirmed"),
        Row("number of heads", "32, and 31 in one place", model.cfg.n_heads, None, "confirmed"),
    ]  # fmt: skip
    details: dict[str, Any] = {name: values.tolist() for name, values in trained.items()} | {
        "best_guess_by_tokens_known": by_count
    }
    if autoregressive is not None:
        reader = load_attention_only(autoregressive).eval()
        accuracy = 100 * float(right_answers(reader, operands[:10_000], "autoregressive").double().mean())
        tried = swapped(reader, operands[:20_000])
        fresh = swapped(ms.untrained_copy(reader, 0), operands[:20_000])
        uses = tried["true"] - tried["swapped"] > 0.5
        rows.append(Row("it reads the second output digit for the third (below: a sum of nine), accuracy", "needed", f"{100 * tried['true']:.1f} %, {100 * tried['swapped']:.1f} % with 0 and 9 swapped", f"untrained {100 * fresh['true']:.1f} %, {100 * fresh['swapped']:.1f} %", "confirmed" if uses else "not confirmed", f"attention to it: mean {tried['attention_mean']:.3f}, most {tried['attention_most']:.3f}, uniform {tried['uniform']:.3f}; {accuracy:.1f} % of all digits"))  # fmt: skip
        details |= {"autoregressive": tried, "autoregressive_untrained": fresh, "autoregressive_accuracy_percent": accuracy}  # fmt: skip
    settings = {"model": "addition", "heads": model.cfg.n_heads, "untrained models": seeds}
    report("addition by 32 heads", THAMAN, settings, rows, details, out)


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
