"""Each study's expected outcome, trained at small scale, and the same of the bundled models."""

from dataclasses import replace

import pytest
import torch

from mi_superposition.errors import RequestError
from mi_superposition.runs import read_json
from mi_superposition.studies.toy import STUDIES, absolute, correlation, directions, dropout, logic, penalties, sparsity
from mi_superposition.studies.toy.study import StudySize, bundled_models, train_study
from mi_superposition.toy import ToyConfig, geometric, setting_grid, train_toy
from mi_superposition.toy.geometry import (
    angles,
    dimensions_per_feature,
    feature_norms,
    interference,
    represented,
    shape_counts,
)
from mi_superposition.toy.polysemanticity import polysemantic_share
from mi_superposition.toy.train import initial_weights

QUICK = dict(n_instances=8, n_steps=1500, batch_size=256, learning_rate=1e-2, decay="cosine", threads=1)


def trained(**options):
    return train_toy(ToyConfig(**{**QUICK, **options}))


def test_five_features_in_two_dimensions():
    settings = setting_grid(probability=[0.5, 0.1], importance=[geometric(1.0, 0.9, 5)])
    linear, relu = (trained(settings=settings, activation=kind, n_instances=16) for kind in ("linear", "relu"))
    for W in linear.W_in:
        assert feature_norms(W)[:2].tolist() == pytest.approx([1, 1], abs=0.05)
        assert feature_norms(W)[2:].max() < 0.25
        assert abs(float(angles(W)[0, 1]) - 90) < 2
    assert shape_counts(relu.W_in[0]) == {"antipodal pair": 4}
    assert shape_counts(relu.W_in[1]) == {"pentagon": 5}
    # Where interference is positive, the bias takes it back.
    assert bool((relu.b[1] < -0.1).all())
    assert bool((relu.b[0][:4] > 0).all())


def test_a_phase_change_with_sparsity_and_none_without_relu():
    settings = setting_grid(probability=[1.0, 0.02], importance=[(1.0, 0.2), (1.0, 5.0)])
    for activation, expected in (("relu", [False, False, True, True]), ("linear", [False] * 4)):
        models = trained(n_features=2, n_hidden=1, settings=settings, activation=activation)
        assert (models.W_in.square().sum(dim=(1, 2)) > 1.5).tolist() == expected


def test_a_plateau_of_antipodal_pairs():
    models = trained(
        n_features=20, n_hidden=4, settings=setting_grid(probability=[1.0, 0.4, 0.03]), n_instances=4, n_steps=2500
    )
    dense, pairs, sparse = dimensions_per_feature(models.W_in).tolist()
    assert dense > 0.9
    assert pairs == pytest.approx(0.5, abs=0.06)
    assert shape_counts(models.W_in[1]).get("antipodal pair", 0) >= 6
    assert sparse < 0.4


def test_neurons_become_polysemantic_with_sparsity():
    models = trained(
        model="neuron", n_features=10, n_hidden=5, n_instances=24, n_steps=4000, learning_rate=5e-3,
        settings=setting_grid(probability=[1.0, 0.03], importance=[geometric(1.0, 0.75, 10)]),
    )  # fmt: skip
    assert float(polysemantic_share(models.W_in[0])) <= 0.2
    assert float(polysemantic_share(models.W_in[1])) >= 0.8


def test_absolute_values_by_pairs_of_neurons():
    models = trained(
        model="computation", task="abs", n_features=20, n_hidden=10, n_kept=8, n_steps=2500,
        settings=setting_grid(probability=[0.5], importance=[geometric(1.0, 0.8, 20)]),
    )  # fmt: skip
    assert int(absolute.pairs_by_instance(models.weights)[0]) >= 4
    assert int(absolute.pairs_by_instance(initial_weights(models.config)).sum()) == 0


def test_the_asymmetric_motif_is_learnt():
    models = trained(
        model="computation", task="abs", n_features=10, n_hidden=10, n_instances=16, n_kept=16, n_steps=2500,
        settings=setting_grid(probability=[0.35]),
    )  # fmt: skip
    assert int((absolute.motifs_by_instance(models.weights) > 0).sum()) >= 3
    assert int(absolute.motifs_by_instance(initial_weights(models.config)).sum()) == 0


def test_relu_computes_and_of_dense_inputs_better_than_gelu():
    relu, gelu = (
        trained(
            model="computation", task="and", activation=kind, n_features=20, n_hidden=10, settings=setting_grid(probability=[0.5])
        )
        for kind in ("relu", "gelu")
    )  # fmt: skip
    assert float(relu.best_loss) < 0.01 * float(relu.constant_loss)
    assert float(relu.best_loss) < 0.3 * float(gelu.best_loss)


def test_neither_is_better_where_a_rank_test_cannot_tell():
    models = trained(n_steps=1, n_instances=16, settings=setting_grid(probability=[0.5]))
    low, high = (replace(models, loss=start + torch.arange(16.0)[None]) for start in (0.0, 20.0))
    close = replace(models, loss=1 + torch.arange(16.0)[None])
    assert logic.better({"or-relu": low, "or-gelu": close}, "or", 0) == "neither"
    assert logic.better({"or-relu": high, "or-gelu": low}, "or", 0) == "GELU"
    assert logic.better({"or-relu": low, "or-gelu": high}, "or", 0) == "ReLU"


def test_dropout_lowers_interference():
    models = trained(
        n_features=20, n_hidden=5, n_instances=2, settings=setting_grid(probability=[0.1], dropout=[0.0, 0.5])
    )
    without, with_dropout = interference(models.W_in).mean(dim=1).tolist()
    assert with_dropout < 0.7 * without
    few, many = dimensions_per_feature(models.W_in).tolist()
    assert many > 1.3 * few


def test_l1_makes_neurons_monosemantic():
    models = trained(
        model="computation", task="abs", n_features=12, n_hidden=6, n_instances=6, n_kept=6, n_steps=2500,
        settings=setting_grid(probability=[0.15], l1=[0.0, 0.02]),
    )  # fmt: skip
    plain, penalised = polysemantic_share(models.weights.W_in).mean(dim=1).tolist()
    assert plain > 0.6
    assert penalised < plain - 0.3


def test_room_lets_neurons_become_monosemantic_over_training():
    options = dict(
        model="computation", task="abs", n_features=8, n_instances=4, n_kept=4, settings=setting_grid(probability=[0.1])
    )
    narrow, wide = (trained(n_hidden=width, snapshots=(0, 1500), **options) for width in (5, 24))
    assert float(polysemantic_share(wide.snapshots[0].W_in[0]).mean()) > 0.9
    assert float(polysemantic_share(wide.weights.W_in[0]).mean()) < 0.8
    assert float(polysemantic_share(narrow.weights.W_in[0]).mean()) > float(
        polysemantic_share(wide.weights.W_in[0]).mean()
    )


def test_where_pairs_of_features_go():
    together, apart = (
        correlation.cosine_within_pairs(
            trained(sets=sets, n_features=4, settings=setting_grid(probability=[0.5, 0.03]), n_instances=16).W_in
        )
        for sets in ("correlated", "anticorrelated")
    )
    assert [[correlation.relation(value) for value in row] for row in together.tolist()] == [
        ["one direction"] * 2,
        ["orthogonal"] * 2,
    ]
    assert {correlation.relation(value) for value in apart.flatten().tolist()} == {"antipodal"}


def test_relations():
    names = [correlation.relation(value) for value in (1.0, 0.5, 0.0, -0.5, -1.0, float("nan"))]
    assert names == ["one direction", "acute", "orthogonal", "obtuse", "antipodal", "one not represented"]


def test_the_bundled_models_show_what_the_studies_say():
    models = {name: bundled_models(study) for name, study in STUDIES.items()}
    relu, linear = models["directions"]["relu"], models["directions"]["linear"]
    for probability, figure in ((0.5, {"antipodal pair": 4}), (0.1, {"pentagon": 5})):
        assert shape_counts(relu.W_in[directions.PROBABILITIES.index(probability)]) == figure
    assert (angles(linear.W_in)[:, 0, 1] - 90).abs().max() < 2
    assert sparsity.superposed(models["sparsity"]["phase_linear"]).sum() == 0
    assert sparsity.superposed(models["sparsity"]["phase"])[-1].min() == 1
    share = polysemantic_share(models["neurons"]["relu"].W_in)
    assert share[0] == 0
    assert share[-1] == 1
    assert int(absolute.pairs_by_instance(models["absolute"]["pairs"].weights)[0]) == 5
    found = dropout.measured(models["dropout"]["relu"])
    assert bool((found["interference"][:, -2] < found["interference"][:, 0]).all())
    # Not as published: very sparse features stay in superposition.
    assert found["features represented"][-1, -2] == represented(models["dropout"]["relu"].W_in)[-8]
    l1 = penalties.mean_share(models["penalties"]["relu"])
    assert l1[0, -1] < l1[0, 0] - 0.3


@pytest.mark.parametrize("name", STUDIES)
def test_every_study_has_numbers_that_fit_a_run_folder_and_figures_with_controls(name):
    study = STUDIES[name]
    models = bundled_models(study)
    for value in study.metrics(models).values():
        flat = value if isinstance(value, list) else [value]
        assert all(isinstance(number, int | float) and number == number for number in flat)
    assert any(character.isdigit() for character in study.outcome(models))
    items = study.items(models)
    assert len(items) >= 2
    for item in items:
        if hasattr(item, "control"):
            assert any(character.isdigit() for character in item.control), item.id


def test_a_study_is_a_run_folder_with_a_page_and_goes_on(tmp_path):
    study, size = STUDIES["neurons"], StudySize(instances=2, steps=20)
    assert not train_study(study, tmp_path / "run", size)
    assert (tmp_path / "run" / "page" / "toy-neurons.html").exists()
    assert read_json(tmp_path / "run" / "metrics.json")["probability"] == [1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001]
    assert train_study(study, tmp_path / "run", size)
    with pytest.raises(RequestError, match="made with steps = 20, not 30"):
        train_study(study, tmp_path / "run", replace(size, steps=30))


@pytest.mark.parametrize("name", STUDIES)
def test_every_study_runs_at_the_smallest_size(name, tmp_path):
    train_study(STUDIES[name], tmp_path, StudySize(instances=1, steps=2))
    assert (tmp_path / "page" / f"toy-{name}.html").exists()


def test_a_study_of_no_steps():
    with pytest.raises(RequestError, match="steps = 0: must be at least 1"):
        StudySize(steps=0)
