"""Three scores of heads on random tokens that are repeated: the text has no meaning, so only the repetition can be attended to.

Source: Olsson et al. 2022, "In-context learning and induction heads", for induction and previous-token heads on repeated random tokens;
duplicate-token heads: Wang et al. 2022, "Interpretability in the wild".
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mi_superposition.corpora import begins_with_token
from mi_superposition.errors import RequestError
from mi_superposition.heads.scan.config import HeadScanSettings
from mi_superposition.heads.scan.reader import HeadReader, LayerReading
from mi_superposition.models.protocol import HookedModel, beginning_token
from mi_superposition.training import seeded_generator

SCORES = ("induction", "previous_token", "duplicate_token")
_SEQUENCES_AT_ONCE = 8


@dataclass(frozen=True)
class RepeatedTokens:
    """Sequences of random tokens that come twice, ``length`` tokens each time, after a beginning token where the model reads one."""

    tokens: Int[Tensor, "batch pos"]
    start: int
    length: int

    @classmethod
    def of(cls, model: HookedModel, settings: HeadScanSettings, context: int | None = None) -> RepeatedTokens:
        """Tokens drawn uniformly from those that are not special. Raises ``RequestError`` where the context has no room for two repeated
        tokens or the vocabulary has fewer than two tokens.
        """
        start = int(begins_with_token(model))
        context = min(context or model.cfg.n_ctx, model.cfg.n_ctx)
        length = min(settings.repeated_length, (context - start) // 2)
        if length < 2:
            raise RequestError(f"context = {context}: repeated tokens need {4 + start} positions")
        special = set() if model.tokenizer is None else set(model.tokenizer.all_special_ids)
        allowed = torch.tensor([token for token in range(model.cfg.d_vocab) if token not in special])
        if len(allowed) < 2:
            raise RequestError(f"a vocabulary of {model.cfg.d_vocab} tokens: random tokens need at least 2")
        generator = seeded_generator(settings.random.seed, "repeated tokens")
        drawn = allowed[torch.randint(len(allowed), (settings.repeated_sequences, length), generator=generator)]
        rows = [drawn, drawn]
        if start:
            rows.insert(0, torch.full((len(drawn), 1), beginning_token(model) or 0))
        return cls(torch.cat(rows, dim=1), start, length)

    def expected(self) -> dict[str, float]:
        """Each score of a head whose attention is permuted among the keys of each query, the mean over all permutations: of ``n`` keys
        each gets 1 / n.
        """
        uniform = 1 / torch.arange(1, self.tokens.shape[1] + 1, dtype=torch.float64)
        second = float(uniform[self.start + self.length :].mean())
        after_first = float(uniform[self.start + 1 :].mean())
        return {"induction": second, "previous_token": after_first, "duplicate_token": second}


@torch.no_grad()
def repeated_scores(reader: HeadReader, repeated: RepeatedTokens) -> dict[str, Float[Tensor, " head"]]:
    """Mean attention weights, layer after layer: ``induction``, from the tokens of the second time to the token after their first
    occurrence; ``duplicate_token``, to that first occurrence itself; ``previous_token``, from every token to the one before.
    """
    total: dict[int, Tensor] = {}
    start, length = repeated.start, repeated.length

    def hear(reading: LayerReading) -> None:
        pattern = reading.pattern[:, :, start:, start:].cpu().double()

        def diagonal(back: int, first: int) -> Float[Tensor, " head"]:
            along = pattern.diagonal(offset=-back, dim1=2, dim2=3)
            # The diagonal begins with the query at position ``back``.
            return along[..., first - back :].mean(dim=2).sum(dim=0)

        scores = torch.stack([diagonal(length - 1, length), diagonal(1, 1), diagonal(length, length)])
        total[reading.layer] = total.get(reading.layer, 0) + scores

    for some in repeated.tokens.split(_SEQUENCES_AT_ONCE):
        reader.read(some, hear)
    means = torch.cat([total[layer] for layer in reader.layers], dim=1) / len(repeated.tokens)
    return dict(zip(SCORES, means, strict=True))
