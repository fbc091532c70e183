import copy

import pytest
import torch

from mi_superposition.addition.ablation import (
    ablation_conditions,
    ablation_maps,
    circuit_counts,
    digits_of,
    head_effects,
    one_digit_operands,
    smallest_head_sets,
)
from mi_superposition.addition.problems import masked, with_answers
from mi_superposition.errors import RequestError
from mi_superposition.heads import ablate_heads


def test_one_digit_problems_are_all_hundred():
    operands = one_digit_operands(3)
    assert {(int(row[0]), int(row[3])) for row in operands} == {(a, b) for a in range(10) for b in range(10)}
    assert operands[:, [1, 2, 4, 5]].sum() == 0


def test_maps_read_the_first_answer_position(tiny_model):
    maps = ablation_maps(tiny_model, n_problems=20)
    tokens = masked(with_answers(one_digit_operands(2)))
    logits = tiny_model(tokens)[:, 4].detach()
    everything = maps.of("all")
    for a in range(10):
        for b in range(10):
            row = logits[10 * a + b]
            assert maps.correct[everything, a, b] == pytest.approx(float(row[(a + b) % 10]), abs=1e-5)
            assert (maps.by_digit[everything, :, a, b] - row).abs().max() < 1e-5
    assert maps.conditions[:3] == ["all", "none", "only 0"]
    assert len(maps.conditions) == 2 + 2 * 4
    # With every head silent the digits cannot be told apart: the control of all the maps.
    assert maps.by_digit[maps.of("none")].std(dim=(1, 2)).max() < 1e-5
    assert maps.by_digit[everything].std(dim=(1, 2)).max() > 1e-2


def test_pushes_are_what_ablation_takes_away(tiny_model):
    """Intervention: a head's push is the fall of the right logit over the mean when the head alone is left out."""
    counts = circuit_counts(tiny_model)
    maps = ablation_maps(tiny_model, n_problems=20)

    def above_mean(row):
        return maps.correct[row] - maps.by_digit[row].mean(dim=0)

    for head in range(4):
        fall = above_mean(maps.of("all")) - above_mean(maps.of(f"without {head}"))
        assert (fall - counts.push[head]).abs().max() < 1e-4
    assert torch.equal(counts.n_up + counts.n_down, torch.full((10, 10), 4))


def planted_model(tiny_model):
    """A model whose head 2 alone writes: it always answers 0 to the ones digit, every other head is silent."""
    planted = copy.deepcopy(tiny_model)
    attn = planted.blocks[0].attn
    with torch.no_grad():
        for parameter in planted.parameters():
            parameter.zero_()
        attn.b_V[2, 0] = 1.0
        attn.W_O[2, 0, 0] = 1.0
        planted.unembed.W_U[0, 0] = 5.0
        planted.unembed.b_U[1] = 1.0
    return planted


def test_small_head_sets_find_the_head_that_answers(tiny_model):
    """Without head 2 every answer is 1, with it 0: no set holds a head that says nothing."""
    planted = planted_model(tiny_model)
    sets = smallest_head_sets(planted, n_random=50, n_problems=400)
    everything, nothing = torch.ones(1, 4, dtype=torch.bool), torch.zeros(1, 4, dtype=torch.bool)
    tokens = masked(with_answers(one_digit_operands(2)))
    for keep, answer in [(everything, 0), (nothing, 1)]:
        assert (ablate_heads(planted, tokens, keep).argmax(dim=-1) == answer).all()
    assert not sets.heads[:, [0, 1, 3]].any()
    assert (sets.size == sets.heads[:, 2]).all()


def test_a_head_that_is_needed_is_kept(tiny_model):
    planted = planted_model(tiny_model)
    with torch.no_grad():
        # Now silence answers 9 everywhere, which the last digit never is.
        planted.unembed.b_U[1], planted.unembed.b_U[9] = 0.0, 1.0
    sets = smallest_head_sets(planted, n_random=50, n_problems=400)
    assert sets.heads[2].tolist() == [False, False, True, False]
    assert sets.accuracy[2] == sets.accuracy_of_all[2] > 0.3
    # A random set of one head is the right one a quarter of the time.
    assert 0.5 < sets.percentile[2] < 1


def test_sets_of_the_bundled_model_hold_their_promise(paper_model):
    sets = smallest_head_sets(paper_model, n_random=200, n_problems=1000)
    # Chosen on one sample at 95 %, measured on another: a little may be lost.
    assert (sets.accuracy >= 0.93 * sets.accuracy_of_all).all()
    assert (sets.size < 32).all()
    # Of 31 heads there are only 32 sets, and a random one is often the very same: smaller sets are the comparison.
    comparable = sets.size <= 28
    assert comparable.sum() >= 4
    assert (sets.percentile[comparable] > 0.95).all()


def test_effects_see_what_a_softmax_sees(tiny_model):
    """Neither the scale of all logits nor a constant added to them, nor a head's constant push, is an effect."""
    base = head_effects(ablation_maps(tiny_model, n_problems=2))
    louder, shifted, pushing = (copy.deepcopy(tiny_model) for _ in range(3))
    with torch.no_grad():
        louder.unembed.W_U *= 7
        shifted.unembed.W_U += torch.randn(16, 1, generator=torch.Generator().manual_seed(0))
        # The same for every problem: values move by a constant, attention weights sum to one.
        pushing.blocks[0].attn.b_V[1] += 3
    for changed, scale in [(louder, 7), (shifted, 1), (pushing, 1)]:
        effects = head_effects(ablation_maps(changed, n_problems=2))
        assert effects.share == pytest.approx(base.share, rel=1e-3)
        assert effects.of_all == pytest.approx(scale * base.of_all, rel=1e-3)


def test_all_conditions_come_from_one_forward_pass(paper_model, monkeypatch):
    from transformer_lens import HookedTransformer

    passes = []
    forward = HookedTransformer.forward
    monkeypatch.setattr(HookedTransformer, "forward", lambda self, *a, **k: passes.append(1) or forward(self, *a, **k))
    _, keep = ablation_conditions(32)
    ablate_heads(paper_model, masked(with_answers(one_digit_operands(6))), keep)
    assert len(passes) == 1
    ablate_heads(paper_model, masked(with_answers(one_digit_operands(6))), keep[:3], method="hooks")
    assert len(passes) > 2


def test_wrong_requests(tiny_model):
    with pytest.raises(RequestError, match=r"share = 1\.5"):
        smallest_head_sets(tiny_model, share=1.5)
    assert digits_of(tiny_model) == 2
