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
    relative_interference,
    shape_counts,
)
from mi_superposition.toy.polysemanticity import polysemantic_share

QUICK = dict(n_instances=8, n_steps=1500, batch_size=256, learning_rate=1e-2, decay="cosine", threads=1)


def trained(**options):
    return train_toy(ToyConfig(**{**QUICK, **options}))


def test_five_features_in_two_dimensions():
    settings = setting_grid(probability=[0.5, 0.1], importance=[geometric(1.0, 0.9, 5)])
    linear, relu = (trained(settings=settings, activation=kind, n_instances=16) for kind in ("linear", "relu"))
    for W in linear.W_in:
        assert feature_norms(W)[:2].tolist() == pytest.approx([1, 1], abs=0.05)
        assert feature_norms(W)[2:].max() < 0.1
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
        model="neuron", n_features=6, n_hidden=3, n_instances=24, n_steps=2000,
        settings=setting_grid(probability=[1.0, 0.03], importance=[geometric(1.0, 0.75, 6)]),
    )  # fmt: skip
    assert polysemantic_share(models.W_in).tolist() == [0, 1]


def test_absolute_values_by_pairs_of_neurons():
    models = trained(
        model="computation", task="abs", n_features=20, n_hidden=10, n_kept=8, n_steps=2500,
        settings=setting_grid(probability=[0.5], importance=[geometric(1.0, 0.8, 20)]),
    )  # fmt: skip
    assert int(absolute.pairs_by_instance(models.weights)[0]) >= 4
    dealt_anew = absolute.pairs_by_instance(absolute.dealt_anew(models.weights))
    assert float(dealt_anew.float().mean()) < 0.6 * float(absolute.pairs_by_instance(models.weights).float().mean())


def test_the_asymmetric_motif_is_learnt():
    models = trained(
        model="computation", task="abs", n_features=10, n_hidden=10, n_instances=16, n_kept=16, n_steps=2500,
        settings=setting_grid(probability=[0.35]),
    )  # fmt: skip
    with_motif = int((absolute.motifs_by_instance(models.weights) > 0).sum())
    assert with_motif >= 4
    assert int((absolute.motifs_by_instance(absolute.dealt_anew(models.weights)) > 0).sum()) <= with_motif // 3


def test_relu_computes_and_of_dense_inputs_better_than_gelu():
    relu, gelu = (
        trained(
            model="computation", task="and", activation=kind, n_features=20, n_hidden=10, settings=setting_grid(probability=[0.5])
        )
        for kind in ("relu", "gelu")
    )  # fmt: skip
    assert float(relu.best_loss) < 0.01 * float(relu.constant_loss)
    assert float(relu.best_loss) < 0.3 * float(gelu.best_loss)


def test_a_rank_test_over_instances_decides_and_is_corrected():
    models = trained(n_steps=1, n_instances=16, settings=setting_grid(probability=[0.5, 0.2, 0.05]))

    def with_losses(start):
        return replace(models, loss=(start + torch.arange(16.0)).expand(3, 16))

    everything = {f"{task}-{activation}": with_losses(0.0) for task in logic.TASKS for activation in logic.ACTIVATIONS}
    everything |= {"or-gelu": with_losses(1.0), "max-relu": with_losses(20.0), "and-gelu": with_losses(20.0)}
    found = logic.comparisons(everything)
    assert found["max", 0] == ("GELU", True, "GELU")
    assert found["and", 2] == ("ReLU", True, "ReLU")
    assert not found["or", 0].sure
    assert not found["square", 0].sure


def test_dropout_shortens_weights_and_at_middling_sparsity_takes_features_out_of_superposition():
    models = trained(
        n_features=20,
        n_hidden=5,
        n_instances=4,
        n_steps=2500,
        settings=setting_grid(probability=[0.1, 0.01], dropout=[0.0, 0.5]),
    )
    few, many, few_sparse, many_sparse = dimensions_per_feature(models.W_in).tolist()
    assert many > 1.3 * few
    assert many_sparse > 1.3 * few_sparse
    middle, middle_dropped, sparse, sparse_dropped = relative_interference(models.W_in).mean(dim=1).tolist()
    assert middle_dropped < 0.75 * middle
    # However short the weights, very sparse features stay where they are.
    assert sparse_dropped == pytest.approx(sparse, rel=0.1)


def test_l1_makes_neurons_monosemantic():
    models = trained(
        model="computation", task="abs", n_features=12, n_hidden=6, n_instances=6, n_kept=6, n_steps=2500,
        settings=setting_grid(probability=[0.15], l1=[0.0, 0.02]),
    )  # fmt: skip
    plain, penalised = polysemantic_share(models.weights.W_in).mean(dim=1).tolist()
    assert plain > 0.6
    assert penalised < plain - 0.3


def test_neurons_with_room_for_all_features_stay_polysemantic_unless_activity_is_dear():
    models = trained(
        model="neuron", n_features=8, n_hidden=24, n_instances=4, n_kept=4, n_steps=2500, snapshots=(0, 2500),
        settings=setting_grid(probability=[0.1], l1=[0.0, 3e-3]),
    )  # fmt: skip
    assert float(models.best_loss[0]) < 0.01 * float(models.constant_loss[0])
    plain, dear = polysemantic_share(models.weights.W_in).mean(dim=1).tolist()
    assert plain > 0.6
    assert dear < plain - 0.3


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
    found = dropout.measured(models["dropout"]["even"])["relative interference"]
    half = dropout.DROPOUT.index(0.5)
    # Not as published: very sparse features stay in superposition.
    assert (found[-2:, half] / found[-2:, 0] - 1).abs().max() < 0.1
    assert found[2, half] < 0.8 * found[2, 0]
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
