import pytest
import torch

from mi_superposition.toy.polysemanticity import (
    active_neurons,
    asymmetric_motifs,
    effective_map,
    features_per_neuron,
    monosemantic,
    permuted_within_neurons,
    polysemantic_share,
    signed_pairs,
)


def test_effective_number_of_features():
    W = torch.tensor([[2.0, 0, 0, 0], [1, -1, 0, 0], [1, 1, 1, 1], [0, 0, 0, 0]])
    assert features_per_neuron(W).tolist() == pytest.approx([1, 2, 4, 0])


def test_scale_and_order_of_features_do_not_matter():
    W = torch.randn(6, 9, generator=torch.Generator().manual_seed(0))
    order = torch.randperm(9, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(features_per_neuron(-3 * W[:, order]), features_per_neuron(W))
    assert torch.equal(monosemantic(-3 * W[:, order]), monosemantic(W))


def test_monosemantic_and_dead_neurons():
    W = torch.tensor([[1.0, 0.2, 0.0], [1.0, 0.5, 0.0], [0.01, 0.0, 0.0]])
    assert monosemantic(W).tolist() == [True, False, False]
    assert active_neurons(W).tolist() == [True, True, False]
    assert float(polysemantic_share(W)) == pytest.approx(1 / 2)


def test_exact_absolute_value_is_made_of_signed_pairs():
    W_in = torch.tensor([[1.0, 0], [-1, 0], [0, 2], [0, -2]])
    W_out = torch.tensor([[1.0, 1, 0, 0], [0, 0, 0.5, 0.5]])
    x = torch.randn(2, 50, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(W_out @ (W_in @ x).relu(), x.abs())
    assert [(pair.feature, pair.positive, pair.negative) for pair in signed_pairs(W_in, W_out)] == [
        (0, 0, 1),
        (1, 2, 3),
    ]
    # Each pair's linear parts cancel.
    assert torch.equal(effective_map(W_out, W_in), torch.zeros(2, 2))


def test_no_pair_when_signs_are_wrong():
    W_in = torch.tensor([[1.0, 0], [-1, 0]])
    assert signed_pairs(W_in, torch.tensor([[1.0, -1], [0, 0]])) == []
    assert signed_pairs(W_in.abs(), torch.tensor([[1.0, 1], [0, 0]])) == []


def motif():
    """Neuron 0 reads feature 0 strongly and feature 1 weakly; neuron 1 is active for feature 0 and cancels what it adds."""
    W_in = torch.tensor([[2.0, 0.5], [1.0, 0.0]])
    W_out = torch.tensor([[0.5, 0.0], [2.0, -4.0]])
    return W_in, W_out


def test_the_motif_computes_both_features():
    W_in, W_out = motif()
    outputs = W_out @ (W_in @ torch.eye(2)).relu()
    assert outputs.tolist() == [[1.0, 0.25], [0.0, 1.0]]


def test_the_motif_is_found():
    [found] = asymmetric_motifs(*motif())
    assert (found.neuron, found.strong, found.weak, found.inhibitor) == (0, 0, 1, 1)


@pytest.mark.parametrize("broken", ["no inhibitor", "inhibitor of the other sign", "even"])
def test_it_is_not_found_without_one_of_its_parts(broken):
    W_in, W_out = motif()
    if broken == "no inhibitor":
        W_out[1, 1] = -0.5
    elif broken == "inhibitor of the other sign":
        W_in[1, 0] = -1
    else:
        W_in[0], W_out[:, 0] = torch.tensor([1.0, 1.0]), torch.tensor([1.0, 1.0])
    assert asymmetric_motifs(W_in, W_out) == []


def test_permuted_features_keep_every_neuron_and_break_what_neurons_do_together():
    """The control."""
    W_in, W_out = (torch.block_diag(*(part,) * 4) for part in motif())
    assert len(asymmetric_motifs(W_in, W_out)) == 4
    generator = torch.Generator().manual_seed(0)
    found = 0
    for _ in range(20):
        permuted_in, permuted_out = permuted_within_neurons(W_in, W_out, generator)
        torch.testing.assert_close(permuted_in.sort(dim=1).values, W_in.sort(dim=1).values)
        torch.testing.assert_close((permuted_in * permuted_out.T).sum(dim=1), (W_in * W_out.T).sum(dim=1))
        found += len(asymmetric_motifs(permuted_in, permuted_out))
    assert found <= 8
