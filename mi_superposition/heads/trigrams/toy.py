"""A toy whose features are known: skip trigrams that no single head's OV circuit can hold, in one layer of attention alone.

Every A goes with another C for each B (OV-incoherent skip trigrams; Olah, Batson & Carter, Circuits Updates, May 2023), so a head that
attends from every B to A writes the same for all of them, and only heads that look from some B's alone can tell these apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor
from transformer_lens import HookedTransformer

from mi_superposition.errors import RequestError
from mi_superposition.heads.trigrams.carried import EdgeTable, FeatureEdges, edge_table
from mi_superposition.heads.trigrams.edges import DocumentEdges, FrozenLogits
from mi_superposition.heads.trigrams.features import Located
from mi_superposition.models.attention_only import build_attention_only_model
from mi_superposition.training import seeded_generator

_D_MODEL = 48


@dataclass(frozen=True)
class ToyTask:
    """``n_a`` tokens A, ``n_b`` tokens B and as many tokens C as A: ``n_a * n_b`` trigrams, C = ``table[A, B]``. Every B permutes the A's
    into C's in its own random way. Texts: a beginning token, then ``length - 2`` fillers of which one is replaced by an A, then B.
    """

    n_a: int = 8
    n_b: int = 8
    n_fillers: int = 8
    length: int = 8
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.n_a, self.n_b) < 2 or self.n_fillers < 1 or self.length < 4:
            raise RequestError(f"{self}: give 2 or more A and B, 1 or more fillers and a length of 4 or more")

    @property
    def table(self) -> Int[Tensor, "a b"]:
        """C of every A and B."""
        generator = seeded_generator(self.seed, "table")
        return torch.stack([torch.randperm(self.n_a, generator=generator) for _ in range(self.n_b)], dim=1)

    def draw(
        self, n: int, generator: torch.Generator
    ) -> tuple[Int[Tensor, "text pos"], Int[Tensor, " text"], Int[Tensor, "text 3"]]:
        """Texts, the C of each, and for each the numbers of A and B and the position of A."""
        a = torch.randint(self.n_a, (n,), generator=generator)
        b = torch.randint(self.n_b, (n,), generator=generator)
        where = torch.randint(1, self.length - 1, (n,), generator=generator)
        texts = 1 + self.n_a + self.n_b + torch.randint(self.n_fillers, (n, self.length), generator=generator)
        texts[:, 0], texts[:, -1] = 0, 1 + self.n_a + b
        texts[torch.arange(n), where] = 1 + a
        return texts, self.table[a, b], torch.stack([a, b, where], dim=1)


def train_toy_heads(
    task: ToyTask, n_heads: int, *, seed: int, d_head: int = 2, n_steps: int = 2000, batch: int = 256
) -> tuple[HookedTransformer, float]:
    """An attention-only model of one layer trained on the task, and its loss (nats) on 4,096 fresh texts."""
    model = build_attention_only_model(
        n_layers=1, n_heads=n_heads, d_head=d_head, d_model=_D_MODEL, n_ctx=task.length,
        d_vocab=1 + task.n_a + task.n_b + task.n_fillers, d_vocab_out=task.n_a, seed=seed,
    )  # fmt: skip
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 5e-3, total_steps=n_steps)
    for step in range(n_steps):
        texts, wanted, _ = task.draw(batch, seeded_generator(seed, "texts", step))
        loss = torch.nn.functional.cross_entropy(model(texts)[:, -1], wanted)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        texts, wanted, _ = task.draw(4096, seeded_generator(seed, "test"))
        return model.eval(), float(torch.nn.functional.cross_entropy(model(texts)[:, -1], wanted))


def toy_edges(model: HookedTransformer, task: ToyTask, *, texts_each: int = 6, seed: int = 0) -> EdgeTable:
    """Every trigram's edge cut head by head, as ``heads trigrams`` does, in texts of its own."""
    generator = seeded_generator(seed, "measured")
    logits, located, measured = FrozenLogits(model), [], []
    for a in range(task.n_a):
        for b in range(task.n_b):
            c = int(task.table[a, b])
            texts, _, drawn = task.draw(texts_each, generator)
            own = []
            for text, where in zip(texts, drawn[:, 2].tolist(), strict=True):
                text[where], text[-1] = 1 + a, 1 + task.n_a + b
                found = DocumentEdges(model, text, logits).effects(task.length - 1, [where], torch.tensor([c]))
                own.append(torch.stack([part[:, 0] for part in found]))
            located.append(Located((a, b, c), 1.0, [], []))
            measured.append(FeatureEdges(torch.stack(own), torch.zeros(texts_each, 0)))
    return edge_table(located, measured, model.cfg.n_heads)


def best_of(
    task: ToyTask, n_heads: int, seeds: Sequence[int], *, d_head: int = 2, n_steps: int = 2000
) -> tuple[HookedTransformer, list[float]]:
    """The model of the seed with the lowest loss, and the losses of all."""
    trained = [train_toy_heads(task, n_heads, seed=seed, d_head=d_head, n_steps=n_steps) for seed in seeds]
    return min(trained, key=lambda one: one[1])[0], [loss for _, loss in trained]
