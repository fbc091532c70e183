"""Stringer's sparse autoencoder of one sentence, on a real language model, beside the same on activations that mean nothing.

    python scripts/replicas/sae_sentence.py --model smollm2-135m --out sae.json --picture sae.html

Sixteen features, 500 steps of Adam, L1 weight 0.01, the states of the last layer at the fourteen tokens of one sentence. The source
reads GPT-2 and fixes no seed. Of two controls, one shuffles the values of each dimension over the tokens, the other mixes the tokens
at random, which keeps mean and covariance: neither says anything of the sentence.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
import tyro
from jaxtyping import Float
from replica import STRINGER, Heatmap, Number, Row, Verdict, draw, report, spread
from torch import Tensor, nn

import mi_superposition as ms
from mi_superposition.models import read_hooks
from mi_superposition.models.protocol import HookedModel

SENTENCE = "It was the best of times, it was the worst of times."
FEATURES, L1, STEPS, EVERY = 16, 0.01, 500, 100
HOOK = "ln_final.hook_normalized"
# Its losses after 100, 200, … steps.
LOSSES = (10.9564, 2.0957, 1.4265, 1.3351, 1.3095)


class Trained(NamedTuple):
    """Losses at every hundredth step, what the features are at the end, the encoder's weights before and after, the decoder's after."""

    losses: list[float]
    encoded: Float[Tensor, "token feature"]
    before: Float[Tensor, "feature d"]
    after: Float[Tensor, "feature d"]
    left: float
    decoder: Float[Tensor, "feature d"]


def trained(states: Float[Tensor, "token d"], seed: int) -> Trained:
    """Train as the source does: Adam at 0.001, halved every hundred steps, mean squared error and mean magnitude."""
    torch.manual_seed(seed)
    encoder, decoder = nn.Linear(states.shape[1], FEATURES), nn.Linear(FEATURES, states.shape[1])
    before = encoder.weight.detach().clone()
    optimizer = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], lr=1e-3)
    halve = torch.optim.lr_scheduler.StepLR(optimizer, step_size=EVERY, gamma=0.5)
    losses = []
    for step in range(STEPS):
        encoded = torch.relu(encoder(states))
        loss = (decoder(encoded) - states).square().mean() + L1 * encoded.mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        halve.step()
        if (step + 1) % EVERY == 0:
            losses.append(float(loss.detach()))
    with torch.no_grad():
        encoded = torch.relu(encoder(states))
        left = float((decoder(encoded) - states).square().mean() / states.var(dim=0, correction=0).mean())
    return Trained(losses, encoded, before, encoder.weight.detach(), left, decoder.weight.detach().T)


def last_states(network: HookedModel, sentence: str) -> tuple[Float[Tensor, "token d"], list[int]]:
    """With the gain, what transformers calls the last hidden state; and the tokens."""
    tokens = network.to_tokens(sentence, prepend_bos=False)
    norm: Any = network.ln_final
    with torch.no_grad():
        return read_hooks(network, tokens, [HOOK])[HOOK][0] * norm.w + getattr(norm, "b", 0), tokens[0].tolist()


def shuffled(states: Float[Tensor, "token d"], seed: int) -> Float[Tensor, "token d"]:
    """The control: each dimension keeps its values, at tokens drawn anew."""
    generator = torch.Generator().manual_seed(seed)
    return states.gather(0, torch.rand(states.shape, generator=generator).argsort(dim=0))


def mixed(states: Float[Tensor, "token d"], seed: int) -> Float[Tensor, "token d"]:
    """The control that keeps mean and covariance: a random rotation of the tokens about their mean."""
    generator = torch.Generator().manual_seed(seed)
    n = len(states)
    # Orthonormal vectors that are orthogonal to the vector of ones.
    basis = torch.linalg.qr(torch.cat([torch.ones(n, 1), torch.eye(n)[:, 1:]], dim=1)).Q[:, 1:]
    turn = torch.linalg.qr(torch.randn(n - 1, n - 1, generator=generator)).Q
    return states.mean(dim=0) + basis @ turn @ basis.T @ (states - states.mean(dim=0))


def strong(encoded: Float[Tensor, "token feature"]) -> int:
    """Features whose mean over the tokens is at least a tenth of the largest."""
    return int((encoded.mean(dim=0) >= 0.1 * encoded.mean(dim=0).amax()).sum())


def main(
    model: str, seeds: int = 10, sentence: str = SENTENCE, out: Path | None = None, picture: Path | None = None
) -> None:
    """Train, compare.

    Args:
        model: Language model: a folder in Hugging Face layout.
        seeds: Autoencoders, from seed 0 up.
        sentence: The source's, unless another is given.
        out: JSON file of all numbers.
        picture: HTML file of the source's two pictures, and of the activations at each token.
    """
    network: Any = ms.load_model(model)
    states, tokens = last_states(network, sentence)
    kinds = {"the sentence": lambda seed: states, "shuffled": lambda seed: shuffled(states, seed), "mixed": lambda seed: mixed(states, seed)}  # fmt: skip
    runs = {kind: [trained(make(seed), seed) for seed in range(seeds)] for kind, make in kinds.items()}
    n, d = states.shape
    variance = states - states.mean(dim=0)
    half = float(torch.linalg.svdvals(variance)[: n // 2].square().sum() / variance.square().sum())

    def row(claim: str, printed: Number, measure: Callable[[Trained], float], verdict: Verdict, why: str = "") -> Row:
        mine, *controls = ([measure(run) for run in some] for some in runs.values())
        names = list(runs)[1:]
        return Row(claim, printed, spread(mine), ", ".join(f"{name} {spread(values)}" for name, values in zip(names, controls, strict=True)), verdict, why)  # fmt: skip

    rows = []
    for number, printed in enumerate(LOSSES):
        why = "" if number else "another model, GPT-2"
        rows.append(row(f"loss after {EVERY * (number + 1)} steps", printed, lambda run: run.losses[number], "cannot be tested here", why))  # noqa: B023  # fmt: skip
    few = {kind: sum(strong(run.encoded) for run in some) / seeds for kind, some in runs.items()}
    mine, *others = ([run.left for run in some] for some in runs.values())
    wins = " and ".join(f"{sum(map(operator.lt, mine, other))} of {seeds} {kind}" for other, kind in zip(others, list(runs)[1:], strict=True))  # fmt: skip
    rows += [
        row("the loss falls to a plateau: last over first", LOSSES[-1] / LOSSES[0], lambda run: run.losses[-1] / run.losses[0], "confirmed", "so it does in the controls"),
        row("share of the variance left at the end", None, lambda run: run.left, "ours", f"{n} tokens: {n - 1} directions hold all variance, {n // 2} hold {100 * half:.0f} %"),
        row("few of 16 features are strong (mean at least a tenth of the largest)", "a few", lambda run: strong(run.encoded), "confirmed" if few["the sentence"] < 0.8 * min(few["shuffled"], few["mixed"]) else "not confirmed", "as few in the controls"),
        row("active features per token, of 16", None, lambda run: float((run.encoded > 0).sum(dim=1).double().mean()), "ours"),
        row("cosine of a feature's encoder weights with its random start", None, lambda run: float(torch.cosine_similarity(run.before, run.after).mean()), "ours", "how much of the first picture is the start"),
        Row("the features separate what the model superposes", "yes", f"{100 * sum(mine) / seeds:.0f} % of the variance left", f"less than {wins}", "not confirmed", f"{FEATURES} features could hold all of {n} tokens, and in {d} dimensions need not share any"),
    ]  # fmt: skip
    settings = {"model": Path(model).name, "sentence": sentence, "tokens": n, "d": d, "features": FEATURES, "L1": L1, "steps": STEPS, "seeds": seeds}  # fmt: skip
    strings = [network.tokenizer.decode([token]) for token in tokens]
    first = {kind: some[0] for kind, some in runs.items()}
    details = {
        "tokens": strings,
        "losses": {kind: [run.losses for run in some] for kind, some in runs.items()},
        "variance_left": {kind: [run.left for run in some] for kind, some in runs.items()},
        "activation_strengths_seed_0": {kind: run.encoded.mean(dim=0).tolist() for kind, run in first.items()},
        "activations_by_token_seed_0": first["the sentence"].encoded.tolist(),
    }
    report("sparse autoencoder of one sentence", STRINGER, settings, rows, details, out)
    shown = first["the sentence"]
    maps = [Heatmap("Encoder weights", shown.after.tolist(), "dimension", "feature"),
            Heatmap("Encoder weights before training", shown.before.tolist(), "dimension", "feature"),
            Heatmap("Activations at each token", shown.encoded.T.tolist(), "token", "feature")]  # fmt: skip
    draw(picture, maps, {f"Mean activations: {kind}": run.encoded.mean(dim=0).tolist() for kind, run in first.items()})


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
