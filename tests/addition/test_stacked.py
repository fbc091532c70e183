"""Models trained side by side do what each would do alone."""

from __future__ import annotations

import torch

from mi_superposition.addition.lookup import lookup_logits, one_hot_operands
from mi_superposition.addition.problems import answer_digits, fresh_operands
from mi_superposition.addition.stacked import (
    StackedAdamW,
    right_digits,
    stack_weights,
    stacked_logits,
    stacked_loss,
)
from mi_superposition.models import untrained_copy


def test_logits_are_those_of_each_model(tiny_model):
    models = [tiny_model, untrained_copy(tiny_model, seed=4)]
    operands = torch.stack(
        [fresh_operands(20, n_digits=2, part="train", generator=torch.Generator().manual_seed(seed)) for seed in (0, 1)]
    )
    weights = stack_weights([dict(model.named_parameters()) for model in models])
    found = stacked_logits(weights, operands)
    for model, mine, problems in zip(models, found, operands, strict=True):
        torch.testing.assert_close(mine, lookup_logits(model, one_hot_operands(problems)), rtol=1e-4, atol=1e-4)
    assert torch.equal(right_digits(operands[0]), answer_digits(operands[0]))


def test_steps_are_those_of_torch(tiny_model):
    """Three steps of two models at two rates, beside AdamW of each alone."""
    operands = fresh_operands(32, n_digits=2, part="train", generator=torch.Generator().manual_seed(2))
    rates, decay = [1e-3, 5e-3], 0.1
    models = [untrained_copy(tiny_model, seed=seed) for seed in (5, 6)]
    weights = stack_weights([{name: value.detach() for name, value in model.named_parameters()} for model in models])
    optimizer = StackedAdamW(weights, 0.9, torch.full((2,), 0.98), torch.full((2,), decay))
    for step in range(3):
        logits = stacked_logits(optimizer.weights, operands.expand(2, -1, -1))
        loss = stacked_loss(logits, right_digits(operands).expand(2, -1, -1))
        optimizer.step(loss, torch.tensor(rates), torch.tensor(float(step + 1)))
    for place, (model, rate) in enumerate(zip(models, rates, strict=True)):
        alone = torch.optim.AdamW(model.parameters(), lr=rate, betas=(0.9, 0.98), weight_decay=decay)
        for _ in range(3):
            logits = lookup_logits(model, one_hot_operands(operands))
            loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), answer_digits(operands).flatten())
            alone.zero_grad()
            loss.backward()
            alone.step()
        for name, value in model.named_parameters():
            if name.endswith("b_K"):
                # It shifts all scores of a query alike, so its gradient is rounding, which Adam makes as large as any.
                continue
            mine = optimizer.weights[name.rsplit(".", 1)[-1]][place]
            torch.testing.assert_close(mine, value, rtol=1e-3, atol=2e-5)
