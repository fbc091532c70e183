import math

import pytest
import torch
from transformer_lens import HookedTransformer, HookedTransformerConfig

from mi_superposition import load_model
from mi_superposition.errors import RequestError
from mi_superposition.heads import circularity, fourier_plane, project_heads
from mi_superposition.heads.patterns import attention_pattern
from mi_superposition.models.attention_only import without_deprecations


def test_projections_are_what_the_hooks_see(tiny_model):
    """A sequence of one token at each position: the model's own hook_q, hook_k and hook_v."""
    projections = project_heads(tiny_model)
    for token in (0, 7, 10):
        tokens = torch.full((1, 7), token)
        _, cache = tiny_model.run_with_cache(tokens)
        for letter, points in [("q", projections.query), ("k", projections.key), ("v", projections.value)]:
            seen = cache[f"blocks.0.attn.hook_{letter}"][0].transpose(0, 1)
            assert (points[:, :, token] - seen).abs().max() < 1e-5


def test_output_directions_leave_the_bias_out(tiny_model):
    projections = project_heads(tiny_model)
    for head in range(4):
        for digit in range(10):
            expected = tiny_model.blocks[0].attn.W_O[head] @ tiny_model.W_U[:, digit]
            assert (projections.output[head, digit] - expected).abs().max() < 1e-5


def test_ov_circuit_and_its_singular_directions(tiny_model):
    projections = project_heads(tiny_model)
    rebuilt = torch.einsum("hri,hr,hro->hio", projections.ov_read, projections.ov_singular_values, projections.ov_write)
    assert (rebuilt - projections.ov).abs().max() < 1e-4
    # Intervention: swap token 3 for token 5 as what head 1 reads; what it writes moves by the rows' difference, up to a
    # constant that a softmax does not see.
    attn = tiny_model.blocks[0].attn
    moved = (tiny_model.W_E[5] - tiny_model.W_E[3]) @ attn.W_V[1] @ attn.W_O[1] @ tiny_model.W_U
    expected = projections.ov[1, 5] - projections.ov[1, 3]
    assert (moved - moved.mean() - expected).abs().max() < 1e-4
    assert projections.ov.sum(dim=1).abs().max() < 1e-3


def test_chosen_tokens_and_positions(tiny_model):
    some = project_heads(tiny_model, tokens=[4, 2], positions=[6])
    everything = project_heads(tiny_model)
    assert torch.allclose(some.key[:, 0], everything.key[:, 6][:, [4, 2]], atol=1e-6)
    for request, quoted in [
        ({"tokens": [12]}, "token 12"),
        ({"positions": [-1]}, "position -1"),
        ({"layer": 3}, "layer = 3"),
    ]:
        with pytest.raises(RequestError, match=quoted):
            project_heads(tiny_model, **request)


@pytest.mark.parametrize("frequency", [1, 2, 3, 4])
def test_circles_are_circles(frequency):
    angle = 2 * math.pi * frequency * torch.arange(10) / 10
    measured = circularity(torch.stack([angle.cos(), angle.sin()], dim=1) * 3 + 5)
    assert measured.share == pytest.approx(1, abs=1e-5)
    assert measured.frequency == frequency
    assert measured.roundness == pytest.approx(1, abs=1e-5)


def test_a_ramp_is_no_circle():
    measured = circularity(torch.stack([torch.arange(10.0), 2 * torch.arange(10.0)], dim=1))
    # Closed form: power of a ramp at frequency k goes as 1 / sin^2(pi k / 10).
    power = [2 / math.sin(math.pi * k / 10) ** 2 for k in range(1, 5)] + [1.0]
    assert measured.share == pytest.approx(power[0] / sum(power), abs=1e-5)
    assert measured.roundness == pytest.approx(0, abs=1e-5)


def test_circularity_does_not_see_scale_place_or_turning():
    points = torch.randn(3, 10, 2, generator=torch.Generator().manual_seed(0))
    turn = torch.tensor([[0.6, -0.8], [0.8, 0.6]])
    before, after = circularity(points), circularity(7 * points @ turn + 2)
    assert (before.share - after.share).abs().max() < 1e-5
    assert (before.roundness - after.roundness).abs().max() < 1e-5


def test_points_that_do_not_move_have_no_circle():
    assert circularity(torch.ones(10, 2)).share == 0


def test_attention_patterns_are_the_models_own(tiny_model):
    tokens = torch.randint(12, (2, 7), generator=torch.Generator().manual_seed(0))
    pattern = attention_pattern(tiny_model, tokens)
    _, cache = tiny_model.run_with_cache(tokens)
    assert torch.equal(pattern, cache["blocks.0.attn.hook_pattern"])
    assert (pattern.sum(dim=-1) - 1).abs().max() < 1e-5


def rotary(**changes):
    sizes = dict(n_layers=1, d_model=16, n_heads=4, d_head=4, n_ctx=8, d_vocab=20, d_mlp=24, device="cpu", seed=0)
    with without_deprecations():
        return HookedTransformer(
            HookedTransformerConfig(
                **sizes,
                act_fn="silu",
                positional_embedding_type="rotary",
                rotary_dim=4,
                normalization_type=None,
                **changes,
            )
        )


def test_without_learnt_positions_the_embedding_alone_is_projected():
    """What the hooks see before the rotation."""
    model = rotary()
    projections = project_heads(model, tokens=range(6), positions=[0, 3])
    _, cache = model.run_with_cache(torch.arange(6)[None])
    assert torch.allclose(projections.query[:, 0], cache["blocks.0.attn.hook_q"][0].transpose(0, 1), atol=1e-6)
    assert torch.allclose(projections.key[:, 0], cache["blocks.0.attn.hook_k"][0].transpose(0, 1), atol=1e-6)
    assert torch.equal(projections.value[:, 0], projections.value[:, 1])


def test_keys_that_heads_share_are_those_of_each():
    projections = project_heads(rotary(n_key_value_heads=2), tokens=range(6), positions=[0])
    assert projections.key.shape == projections.query.shape
    assert torch.equal(projections.key[0], projections.key[1])
    assert not torch.equal(projections.key[1], projections.key[2])


def test_half_precision_is_worked_out_in_single(tiny_gpt2):
    half = load_model(tiny_gpt2.folder, device="cpu", dtype="bfloat16")
    wanted = project_heads(tiny_gpt2.hooked, tokens=range(5), positions=[0])
    found = project_heads(half, tokens=range(5), positions=[0])
    assert found.query.dtype == torch.float32
    assert torch.allclose(found.ov_singular_values, wanted.ov_singular_values, rtol=0.05, atol=1e-5)


def test_the_plane_drawn_is_the_one_measured():
    """Digits on a circle in two of six dimensions, beside larger movements that are no circle."""
    angle = 2 * math.pi * 3 * torch.arange(10) / 10
    circle = torch.stack([angle.cos(), angle.sin()], dim=1)
    basis = torch.linalg.qr(torch.randn(6, 6, generator=torch.Generator().manual_seed(0)))[0]
    noise = 0.3 * torch.randn(10, 4, generator=torch.Generator().manual_seed(1))
    points = torch.cat([circle, noise], dim=1) @ basis.T + 5
    measured = circularity(points)
    assert int(measured.frequency) == 3
    centred = points - points.mean(dim=0)
    drawn = centred @ fourier_plane(points).T
    # The strongest component lies in it whole, and the first two coordinates show less.
    assert float(circularity(drawn).share) > 0.95
    share = float(drawn.square().sum() / centred.square().sum())
    assert share > float(measured.share) - 1e-6
    assert float(centred[:, :2].square().sum() / centred.square().sum()) < share
    # Two dimensions and one are drawn as they are.
    assert torch.equal(fourier_plane(torch.randn(10, 2)), torch.eye(2))
    assert (torch.randn(10, 1) @ fourier_plane(torch.randn(10, 1)).T).shape == (10, 2)


def test_a_component_that_is_a_line_has_the_rest_as_its_second_axis():
    """Even and odd digits: the other axis is where they vary most beside it, and not any."""
    points = torch.zeros(10, 5)
    points[:, 2] = torch.tensor([1.0, -1.0] * 5)
    points[:, 4] = 0.3 * torch.arange(10) / 10
    axes = fourier_plane(points)
    assert abs(float(axes[0, 2])) > 0.99
    assert abs(float(axes[1, 4])) > 0.99
    assert fourier_plane(points[:, :2].double()).dtype == torch.float64
