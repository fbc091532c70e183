"""Models of other people's, whose numbers stand as people write them: measured as if their tokens had been written out by hand."""

import pytest
import torch
from addition.test_train import small_config

import mi_superposition as ms
from mi_superposition.addition.ablation import ablation_maps, circuit_counts, smallest_head_sets
from mi_superposition.addition.problems import fresh_operands, reads_in_order
from mi_superposition.addition.train import build_addition_model, evaluate_addition
from mi_superposition.cli import main
from mi_superposition.heads import leave_out
from mi_superposition.models import untrained_copy
from mi_superposition.runs import read_manifest
from mi_superposition.studies.addition.evaluate import load
from mi_superposition.training import seeded_generator


@pytest.fixture
def model():
    """Two digits, ones last: untrained, with weights large enough for heads to differ."""
    model = build_addition_model(small_config())
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return model


def written(a, b):
    """The tokens of a problem of two digits, as people write it."""
    return [int(digit) for digit in f"{a:02d}{b:02d}"] + [10] * 3


def by_hand(model, pairs, keep=None):
    """For each problem which digits of the sum come out right, ones first."""
    tokens = torch.tensor([written(a, b) for a, b in pairs])
    with torch.no_grad():
        logits = model(tokens) if keep is None else ms.ablate_heads(model, tokens, keep)[0]
    read = logits[:, 4:].argmax(-1)
    return torch.tensor([[int(d) for d in f"{a + b:03d}"] for a, b in pairs]).eq(read).flip(1)


def numbers(operands):
    return [(int(a + 10 * a2), int(b + 10 * b2)) for a, a2, b, b2 in operands.tolist()]


def test_accuracy_is_that_of_problems_written_out(model):
    operands = fresh_operands(500, n_digits=2, part="test", generator=seeded_generator(0, "x"))
    turned = evaluate_addition(reads_in_order(model, "ones last"), operands)
    right = by_hand(model, numbers(operands))
    torch.testing.assert_close(turned.by_digit, right.double().mean(dim=0))
    assert turned.whole_sum == float(right.all(dim=1).double().mean())
    assert not torch.equal(turned.by_digit, evaluate_addition(reads_in_order(model, "ones first"), operands).by_digit)


def test_ablations_are_those_of_problems_written_out(model):
    model = reads_in_order(model, "ones last")
    n_heads = model.cfg.n_heads
    maps = ablation_maps(model, n_problems=200)
    tokens = torch.tensor([written(a, b) for a in range(10) for b in range(10)])
    logits = ms.ablate_heads(model, tokens, leave_out(n_heads))[:, :, 6]
    found = maps.by_digit[[maps.of(f"without {head}") for head in range(n_heads)]]
    torch.testing.assert_close(found.permute(0, 2, 3, 1).flatten(1, 2), logits.cpu())
    # Which problems they are does not matter for what is asked here: all digits of all are measured.
    problems = fresh_operands(200, n_digits=2, part="test", generator=seeded_generator(0, "ablation"))
    right = by_hand(model, numbers(problems), leave_out(n_heads)[:1])
    torch.testing.assert_close(
        maps.accuracy[maps.of("without 0")].double(), right.double().mean(dim=0), atol=1e-6, rtol=0
    )
    assert circuit_counts(model).push.shape == (n_heads, 10, 10)
    assert smallest_head_sets(model, n_problems=50, n_random=5).heads.shape == (3, n_heads)


def test_an_untrained_copy_knows_the_order_too(model):
    operands = fresh_operands(100, n_digits=2, part="test", generator=seeded_generator(0, "x"))
    untrained = untrained_copy(reads_in_order(model, "ones last"), 0)
    right = by_hand(untrained, numbers(operands))
    torch.testing.assert_close(evaluate_addition(untrained, operands).by_digit, right.double().mean(dim=0))


@pytest.mark.parametrize("command", [["addition", "evaluate"], ["heads", "ablate"], ["heads", "project"]])
def test_commands_on_a_saved_model(model, command, tmp_path):
    ms.save_model(model, tmp_path / "model")
    few = {"addition": ["--n-problems", "300"], "heads": ["--n-problems", "50", "--random-sets", "3"]}[command[0]]
    if command[1] == "project":
        few = []
    request = [
        *command,
        "--model",
        str(tmp_path / "model"),
        "--digit-order",
        "ones last",
        *few,
        "--out",
        str(tmp_path / "run"),
    ]
    assert main(request) == 0
    assert read_manifest(tmp_path / "run")["config"]["digit_order"] == "ones last"
    if command == ["addition", "evaluate"]:
        operands = fresh_operands(300, n_digits=2, part="test", generator=seeded_generator(0, "report"))
        expected = by_hand(model, numbers(operands)).double().mean(dim=0)
        torch.testing.assert_close(load(tmp_path / "run").accuracy.by_digit, expected)
    # Another order is another request.
    assert main([*request[:5], "--out", str(tmp_path / "run"), *few]) == 2
