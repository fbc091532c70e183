"""The report's section on the model that adds."""

from __future__ import annotations

from pathlib import Path

import torch
from transformer_lens import HookedTransformer

from mi_superposition.addition.ablation import digits_of
from mi_superposition.addition.problems import (
    answer_digits,
    answer_positions,
    column_carries,
    encode,
    fresh_operands,
    masked,
    nines_below,
    to_text,
    with_answers,
)
from mi_superposition.addition.train import AdditionAccuracy, evaluate_addition, load_addition_model, right_answers
from mi_superposition.figures.addition import (
    accuracy_by_digit,
    accuracy_over_training,
    attention_patterns,
    error_by_nines,
    training_curves,
)
from mi_superposition.heads.patterns import attention_pattern
from mi_superposition.models import load_snapshots, local_model_folder, untrained_copy
from mi_superposition.runs import MANIFEST, read_history, read_json
from mi_superposition.site import FigureRecord, Page, Section
from mi_superposition.site.records import Item, TableRecord
from mi_superposition.studies.ablation import ablation_items, ablation_study
from mi_superposition.studies.projection import all_heads_page, projection_items, projection_study
from mi_superposition.studies.request import SectionRequest
from mi_superposition.training import seeded_generator

TITLE = "Addition by 32 heads"
EXAMPLE = (277_386, 145_278)
N_FRESH = 100_000
_MODELS = {"paper": "addition", "exact": "addition-exact"}


def addition_section(request: SectionRequest) -> Section:
    """Measure the two bundled models and tell it; on ten times as many fresh problems where real data are asked for, because
    made-up problems are all there are.
    """
    on_stage = request.on_stage
    on_stage("accuracy")
    n_fresh = N_FRESH if request.real is None else 10 * N_FRESH
    models = {label: load_addition_model(name) for label, name in _MODELS.items()}
    paper = models["paper"]
    fresh = fresh_operands(n_fresh, part="test", generator=seeded_generator(0, "report"))
    accuracies = {label: evaluate_addition(model, fresh) for label, model in models.items()}
    untrained = evaluate_addition(untrained_copy(paper, seed=0), fresh)
    chance = _best_constant_guess(fresh)
    folders = {label: local_model_folder(name) for label, name in _MODELS.items()}
    on_stage("projections")
    snapshots = load_snapshots(folders["paper"])
    projections = projection_study(paper, snapshots=snapshots)
    ablation = ablation_study(paper, on_stage=on_stage)
    items: list[Item] = [
        _model_table(folders, accuracies, untrained, chance, n_fresh),
        FigureRecord(
            id="accuracy",
            title="Which digits come out right",
            look_at=(
                f"Accuracy of each answer digit on {n_fresh:,} fresh problems. The ones need no carry; every later digit "
                "needs the carry of the digits before it."
            ),
            number=f"{100 * accuracies['paper'].per_digit:.2f} % per digit (paper), {100 * accuracies['exact'].per_digit:.2f} % (exact).",
            control=f"{100 * float(chance.mean()):.1f} % for the best constant guess, {100 * untrained.per_digit:.1f} % untrained.",
            figure=accuracy_by_digit(
                {label: accuracy.by_digit.tolist() for label, accuracy in accuracies.items()}, chance.tolist()
            ),
        ),
        FigureRecord(
            id="training",
            title="Learning to carry",
            look_at=(
                "Error on held-out problems while training, logarithmic. The last fall comes with the learning rate going "
                "to zero; the exact model has two such descents, the second with larger batches."
            ),
            number=f"{100 * (1 - accuracies['paper'].per_digit):.2f} % of digits wrong at the end (paper).",
            control=f"{100 * (1 - untrained.per_digit):.1f} % untrained.",
            figure=training_curves({label: read_history(folder) for label, folder in folders.items()}),
        ),
        _snapshots_figure(snapshots, fresh[:10_000], chance),
        _nines_figure(models, fresh),
        _attention_figure(paper),
        *ablation_items(ablation),
        *projection_items(projections),
    ]
    page = Page(
        slug="addition",
        title="Thirty-two two-dimensional heads that add",
        intro=(
            "One attention layer, nothing else: no MLP, no normalisation. It reads two six-digit numbers, ones first, and "
            "writes the seven digits of their sum all at once from seven '=' signs. Each of its 32 heads has only two "
            "dimensions, so ten digits must share them."
        ),
        items=items,
    )
    return Section(
        slug="addition",
        title=TITLE,
        summary="How 32 two-dimensional attention heads add six-digit numbers, head by head.",
        number=f"{100 * accuracies['paper'].per_digit:.1f} %",
        number_is=f"of answer digits right on {n_fresh:,} fresh problems",
        control=f"{100 * float(chance.mean()):.1f} % for the best constant guess, {100 * untrained.per_digit:.1f} % untrained",
        page=page,
        more=[all_heads_page(projections)],
    )


def _best_constant_guess(operands: torch.Tensor) -> torch.Tensor:
    """Accuracy of always naming the commonest value, for each answer digit."""
    right = answer_digits(operands)
    return torch.stack([torch.bincount(digit).max() / len(digit) for digit in right.unbind(dim=1)])


def _model_table(
    folders: dict[str, Path],
    accuracies: dict[str, AdditionAccuracy],
    untrained: AdditionAccuracy,
    chance: torch.Tensor,
    n_fresh: int,
) -> TableRecord:
    rows = []
    for label, folder in folders.items():
        config = read_json(folder / MANIFEST)["config"]
        problems = f"{config['n_train']:,} fixed" if config["n_train"] else "fresh at every step"
        per_epoch, first = config["steps_per_epoch"], config["restart_epoch"] or config["epochs"]
        steps = f"{first * per_epoch:,} × {config['batch_size']}"
        if first < config["epochs"]:
            steps += f" + {(config['epochs'] - first) * per_epoch:,} × {config['restart_batch_size']}"
        accuracy = accuracies[label]
        rows.append(
            [
                label,
                problems,
                steps,
                _percent(accuracy.per_digit),
                _percent(accuracy.whole_sum),
            ]
        )
    rows.append(["untrained", "none", "0", _percent(untrained.per_digit), _percent(untrained.whole_sum)])
    rows.append(["best constant guess", "none", "0", _percent(float(chance.mean())), "0.00 %"])
    return TableRecord(
        id="models",
        title="The two models",
        look_at=f"The same architecture, trained two ways; accuracy on {n_fresh:,} problems that neither has seen.",
        columns=["model", "training problems", "steps × batch", "digits right", "whole sums right"],
        rows=rows,
    )


def _nines_figure(models: dict[str, HookedTransformer], operands: torch.Tensor) -> FigureRecord:
    nines = nines_below(operands).clamp_max(3)
    # Digit 0 has nothing below it.
    asked = [nines[:, 1:] == length for length in range(4)]
    carry = column_carries(operands)[:, 1:].double()
    guess = [min(float(carry[some].mean()), 1 - float(carry[some].mean())) for some in asked]
    errors = {}
    for label, model in models.items():
        wrong = ~right_answers(model, operands)[:, 1:]
        errors[label] = [float(wrong[some].double().mean()) for some in asked]
    return FigureRecord(
        id="nines",
        title="What it gets wrong: carries through a nine",
        look_at=(
            "A column that sums to 9 hands its carry on, so the digit above depends on a column further down. Error of "
            "answer digits 1 to 6 by how many such columns lie directly below (last group: three or more). The marks are the "
            "error of somebody who knows everything but the carry and names the likelier one."
        ),
        number=" ".join(
            f"{100 * values[0]:.2f} % wrong without a nine below, {100 * values[1]:.1f} % with one ({label})."
            for label, values in errors.items()
        ),
        control=f"{100 * guess[0]:.0f} % and {100 * guess[1]:.0f} % for all known but the carry.",
        figure=error_by_nines(errors, guess, [int(some.sum()) for some in asked]),
    )


def _snapshots_figure(
    snapshots: list[tuple[int, HookedTransformer]], operands: torch.Tensor, chance: torch.Tensor
) -> FigureRecord:
    epochs = [epoch for epoch, _ in snapshots]
    by_digit = torch.stack([evaluate_addition(model, operands).by_digit for _, model in snapshots]).float()
    halfway = (by_digit > 0.5).int().argmax(dim=0)
    named = ", ".join(str(epochs[int(index)]) for index in halfway[:-1])
    return FigureRecord(
        id="digits-over-training",
        title="One digit after another",
        look_at=(
            f"Accuracy of each answer digit at {len(epochs)} snapshots of the paper model, epochs logarithmic (epoch 0 drawn "
            "at a half). Each line rises when its digit is learnt."
        ),
        number=f"Digits 0 to {by_digit.shape[1] - 2} first pass 50 % at the snapshots of epochs {named}.",
        control=f"{100 * float(by_digit[0].mean()):.1f} % at epoch 0, {100 * float(chance.mean()):.1f} % for the best constant guess.",
        figure=accuracy_over_training(epochs, by_digit),
    )


def _attention_figure(model: HookedTransformer) -> FigureRecord:
    n_digits = digits_of(model)
    a, b = EXAMPLE
    tokens = masked(encode([a], [b], n_digits))
    at = answer_positions(n_digits)
    pattern = attention_pattern(model, tokens)[0][:, at]
    text = to_text(tokens)[0]
    many = masked(with_answers(fresh_operands(500, part="test", generator=seeded_generator(0, "attention"))))
    return FigureRecord(
        id="attention",
        title=f"Attention while adding {a:,} + {b:,}",
        look_at=(
            "Rows are the seven answer positions, columns the positions they look at: six digits of each number, ones "
            "first, then '='. Two dark cells six columns apart are a head reading one column of the sum."
        ),
        number=(
            f"{100 * _own_column(model, many):.0f} % of attention falls on the answer digit's own column "
            f"(mean over heads and {len(many)} sums)."
        ),
        control=f"{100 * _own_column(untrained_copy(model, seed=0), many):.0f} % in an untrained model.",
        figure=attention_patterns(pattern, list(text), [f"digit {d}" for d in range(n_digits + 1)]),
    )


def _own_column(model: HookedTransformer, tokens: torch.Tensor) -> float:
    """Mean share of attention that answer digits give to the two digits of their own column."""
    n_digits = digits_of(model)
    pattern = attention_pattern(model, tokens)[:, :, answer_positions(n_digits)]
    return float(torch.stack([pattern[..., q, [q, q + n_digits]].sum(dim=-1) for q in range(n_digits)]).mean())


def _percent(value: float) -> str:
    return f"{100 * value:.2f} %"
