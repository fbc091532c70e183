import pytest
import torch
import torch.nn.functional as F
from conftest import small_config

from mi_superposition.addition.lookup import check_lookup_form, lookup_logits, one_hot_operands
from mi_superposition.addition.problems import answer_digits, fresh_operands, masked, with_answers
from mi_superposition.addition.train import build_addition_model
from mi_superposition.errors import RequestError

SHAPES = [(1, 2, 4), (3, 4, 8), (6, 32, 2), (6, 4, 16), (4, 8, 8), (2, 1, 64)]


def model_and_problems(n_digits, n_heads, d_head, scale):
    model = build_addition_model(small_config(n_digits=n_digits, n_heads=n_heads, d_head=d_head, d_model=48))
    generator = torch.Generator().manual_seed(n_heads)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(scale * torch.randn(parameter.shape, generator=generator))
    return model, fresh_operands(40, n_digits=n_digits, part="train", generator=generator)


def reference_logits(model, operands):
    """The transformer's own forward pass at the answer positions."""
    return model(masked(with_answers(operands)))[:, operands.shape[1] :]


@pytest.mark.parametrize(("n_digits", "n_heads", "d_head"), SHAPES)
# 0.2 gives scores of a few nats, 0.9 a spread that float32 weights cannot hold: both routes of the table.
@pytest.mark.parametrize("scale", [0.05, 0.2, 0.9])
def test_logits_equal_the_transformers(n_digits, n_heads, d_head, scale):
    model, operands = model_and_problems(n_digits, n_heads, d_head, scale)
    expected = reference_logits(model, operands).detach()
    got = lookup_logits(model, one_hot_operands(operands))
    # 1e-5 in logits where logits are of order one; relative to the largest where they are larger.
    assert (got - expected).abs().max() <= 1e-5 * max(1.0, float(expected.abs().max()))


@pytest.mark.parametrize(("n_digits", "n_heads", "d_head"), SHAPES)
@pytest.mark.parametrize("scale", [0.05, 0.2, 0.9])
def test_gradients_equal_the_transformers(n_digits, n_heads, d_head, scale):
    model, operands = model_and_problems(n_digits, n_heads, d_head, scale)
    right = answer_digits(operands).flatten()
    gradients = []
    for logits in (reference_logits(model, operands), lookup_logits(model, one_hot_operands(operands))):
        model.zero_grad()
        F.cross_entropy(logits.flatten(0, 1), right).backward()
        gradients.append({name: parameter.grad.clone() for name, parameter in model.named_parameters()})
    expected, got = gradients
    overall = torch.cat([gradient.flatten() for gradient in expected.values()]).norm()
    for name, gradient in expected.items():
        # b_K moves every score of a query alike, so its true gradient is zero and both sides are rounding.
        floor = 1e-6 * overall if name.endswith("b_K") else 0.0
        assert (got[name] - gradient).norm() <= 1e-4 * gradient.norm() + floor, name


def test_both_routes_are_taken(monkeypatch):
    import mi_superposition.addition.lookup as lookup

    taken = []
    original = lookup._softmax_for_each_problem
    monkeypatch.setattr(lookup, "_softmax_for_each_problem", lambda *args: taken.append(1) or original(*args))
    for scale, expected in [(0.2, 0), (0.9, 1)]:
        model, operands = model_and_problems(6, 32, 2, scale)
        lookup_logits(model, one_hot_operands(operands))
        assert len(taken) == expected


def test_the_written_gradient_is_the_true_one():
    from mi_superposition.addition.lookup import _RatioOfSums

    generator = torch.Generator().manual_seed(0)
    one_hot = F.one_hot(torch.randint(0, 5, (4,), generator=generator), 5).double()
    table = torch.rand(5, 12, generator=generator, dtype=torch.double) + 0.1
    constant = torch.rand(12, generator=generator, dtype=torch.double) + 0.1
    torch.autograd.gradcheck(
        lambda t, c: _RatioOfSums.apply(one_hot, t, c, (2, 3, 2)), (table.requires_grad_(), constant.requires_grad_())
    )


def test_one_hot_rows():
    one_hot = one_hot_operands(torch.tensor([[3, 7]]))
    assert one_hot.nonzero()[:, 1].tolist() == [3, 17]


def test_other_models_are_refused():
    model, _ = model_and_problems(2, 4, 2, 0.1)
    with pytest.raises(RequestError, match="n_ctx = 7"):
        check_lookup_form(model, 3)
    model.cfg.n_layers = 2
    with pytest.raises(RequestError, match="n_layers = 2"):
        check_lookup_form(model, 2)
