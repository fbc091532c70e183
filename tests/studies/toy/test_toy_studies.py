"""Each study's expected outcome, trained at small scale, and the same of the bundled models."""

from dataclasses import replace
from typing import get_args

import pytest
import torch
from stopping import StopsAfter

from mi_superposition.cli import main
from mi_superposition.errors import RequestError
from mi_superposition.files import read_json
from mi_superposition.pages.toy.dropout import aligned, pairs
from mi_superposition.pages.toy.sparsity import frame
from mi_superposition.parts import SeedPart, ThreadsPart
from mi_superposition.runs import METRICS
from mi_superposition.studies.toy import absolute, correlation, directions, dropout, logic, penalties, sparsity
from mi_superposition.studies.toy.study import load, measure, trainings
from mi_superposition.toy import ToyConfig, ToyStudyConfig, bundled_study, load_toy, train_toy
from mi_superposition.toy.config import StudyName
from mi_superposition.toy.geometry import (
    angles,
    dimensions_per_feature,
    feature_norms,
    relative_interference,
    shape_counts,
)
from mi_superposition.toy.models import ToyModels
from mi_superposition.toy.network import ToyWeights
from mi_superposition.toy.polysemanticity import polysemantic_share
from mi_superposition.training import Stopped

STUDIES = get_args(StudyName)
QUICK = dict(n_instances=8, n_steps=1500, batch_size=256, learning_rate=1e-2, decay="cosine", threads=ThreadsPart(1))


def trained(**options):
    return train_toy(ToyConfig(**{**QUICK, **options}))


def test_five_features_in_two_dimensions():
    grid = dict(probability=(0.5, 0.1), importance_ratio=(0.9,))
    linear, relu = (trained(**grid, activation=kind, n_instances=16) for kind in ("linear", "relu"))
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
    grid = dict(probability=(1.0, 0.02), importance_ratio=(0.2, 5.0))
    for activation, expected in (("relu", [False, False, True, True]), ("linear", [False] * 4)):
        models = trained(n_features=2, n_hidden=1, **grid, activation=activation)
        assert (models.W_in.square().sum(dim=(1, 2)) > 1.5).tolist() == expected


def test_a_plateau_of_antipodal_pairs():
    models = trained(n_features=20, n_hidden=4, probability=(1.0, 0.4, 0.03), n_instances=4, n_steps=2500)
    dense, pairs, sparse = dimensions_per_feature(models.W_in).tolist()
    assert dense > 0.9
    assert pairs == pytest.approx(0.5, abs=0.06)
    assert shape_counts(models.W_in[1]).get("antipodal pair", 0) >= 6
    assert sparse < 0.4


def test_neurons_become_polysemantic_with_sparsity():
    models = trained(
        network="neuron", n_features=6, n_hidden=3, n_instances=24, n_steps=2000,
        probability=(1.0, 0.03), importance_ratio=(0.75,),
    )  # fmt: skip
    assert polysemantic_share(models.W_in).tolist() == [0, 1]


def test_absolute_values_by_pairs_of_neurons():
    models = trained(
        network="computation", task="abs", n_features=20, n_hidden=10, n_kept=8, n_steps=2500,
        probability=(0.5,), importance_ratio=(0.8,),
    )  # fmt: skip
    assert int(absolute.pairs_by_instance(models.weights)[0]) >= 4
    permuted = absolute.pairs_by_instance(absolute.permuted(models.weights))
    assert float(permuted.float().mean()) < 0.6 * float(absolute.pairs_by_instance(models.weights).float().mean())


def test_the_asymmetric_motif_is_learnt():
    models = trained(
        network="computation", task="abs", n_features=10, n_hidden=10, n_instances=16, n_kept=16, n_steps=2500,
        probability=(0.35,),
    )  # fmt: skip
    with_motif = sum(map(bool, absolute.motifs_by_instance(models.weights)))
    assert with_motif >= 4
    assert sum(map(bool, absolute.motifs_by_instance(absolute.permuted(models.weights)))) <= with_motif // 3


def test_relu_computes_and_of_dense_inputs_better_than_gelu():
    relu, gelu = (
        trained(
            network="computation", task="and", activation=kind, n_features=20, n_hidden=10, probability=(0.5,)
        )
        for kind in ("relu", "gelu")
    )  # fmt: skip
    assert float(relu.best_loss) < 0.01 * float(relu.constant_loss)
    assert float(relu.best_loss) < 0.3 * float(gelu.best_loss)


def test_a_rank_test_over_instances_decides_and_is_corrected():
    models = trained(n_steps=1, n_instances=16, probability=(0.5, 0.2, 0.05))

    def with_losses(start):
        return replace(models, loss=(start + torch.arange(16.0)).expand(3, 16))

    everything = {f"{task}-{activation}": with_losses(0.0) for task in logic.TASKS for activation in logic.ACTIVATIONS}
    everything |= {"or-gelu": with_losses(1.0), "max-relu": with_losses(20.0), "and-gelu": with_losses(20.0)}
    found = logic.comparisons(everything)
    assert found["max", 0] == ("gelu", True, "gelu")
    assert found["and", 2] == ("relu", True, "relu")
    assert not found["or", 0].significant
    assert not found["square", 0].significant


def test_dropout_shortens_weights_and_at_middling_sparsity_takes_features_out_of_superposition():
    models = trained(
        n_features=20,
        n_hidden=5,
        n_instances=4,
        n_steps=2500,
        probability=(0.1, 0.01),
        dropout=(0.0, 0.5),
    )
    few, many, few_sparse, many_sparse = dimensions_per_feature(models.W_in).tolist()
    assert many > 1.3 * few
    assert many_sparse > 1.3 * few_sparse
    middle, middle_dropped, sparse, sparse_dropped = relative_interference(models.W_in).mean(dim=1).tolist()
    assert middle_dropped < 0.75 * middle
    # However short the weights, very sparse features stay where they are.
    assert sparse_dropped == pytest.approx(sparse, rel=0.1)


def dropout_models(*W, n_hidden=8):
    """Models of the dropout study whose cells all hold these weights, an instance each."""
    n_features = W[0].shape[1]
    config = dropout.DropoutStudy.trainings(False)["even"].replace(n_features=n_features, n_hidden=n_hidden)
    n_settings = len(config.settings)
    W_in = torch.stack(W).expand(n_settings, -1, -1, -1).contiguous()
    weights = ToyWeights(W_in, W_in.transpose(-1, -2), torch.zeros(n_settings, len(W), n_features))
    ones = torch.ones(n_settings, len(W))
    kept = torch.arange(len(W)).expand(n_settings, -1)
    return ToyModels(config.resolved(), weights, kept, ones, ones, ones[:, 0], {})


def test_alignment_is_against_rotations():
    """Antipodal pairs on the axes are as aligned as can be; turned by a Hadamard matrix no dimension is read by few; at random, neither."""
    basis = torch.cat([torch.eye(8), -torch.eye(8)], dim=1)
    hadamard = torch.ones(1, 1)
    for _ in range(3):
        hadamard = torch.cat([torch.cat([hadamard, hadamard], dim=1), torch.cat([hadamard, -hadamard], dim=1)])
    turned = hadamard / 8**0.5 @ basis
    at_random = dropout.random_rotations(8)[:50] @ basis
    assert float(dropout.alignment(basis)) < -5
    assert float(dropout.alignment(turned)) > 5
    z = dropout.alignment(at_random)
    assert abs(float(z.mean())) < 0.5
    assert 0.7 < float(z.std()) < 1.3
    # The norm of all weights is no matter, and where there is nothing to turn, there is no alignment.
    assert float(dropout.alignment(0.1 * turned)) == pytest.approx(float(dropout.alignment(turned)), rel=1e-3)
    assert float(dropout.alignment(torch.zeros(8, 16))) == 0
    rotations = dropout.random_rotations(8)
    assert (rotations @ rotations.transpose(1, 2) - torch.eye(8)).abs().max() < 1e-5


def test_in_a_tight_frame_relative_interference_counts_features():
    """Of 24 features in 8 dimensions it is 2 whichever way they lie: three times the same basis, or random directions made tight."""
    drawn = torch.randn(8, 24, generator=torch.Generator().manual_seed(0))
    for _ in range(200):
        drawn = torch.linalg.svd(drawn, full_matrices=False)
        drawn = drawn.U @ drawn.Vh
        drawn = drawn / drawn.norm(dim=0)
    three = torch.eye(8).repeat(1, 3)
    found = dropout.dropout_measures(dropout_models(three, drawn))
    assert (found.relative_interference - 2).abs().max() < 0.01
    study = dropout.DropoutStudy(
        ToyStudyConfig(study="dropout"), {"even": dropout_models(three), "falling": dropout_models(drawn)}
    )
    assert max(float(beyond.abs().max()) for beyond in study.beyond_a_frame.values()) < 0.01
    # An antipodal pair beside a direction that is read twice is none: two of three dimensions are shared, one is not.
    uneven = torch.zeros(8, 24)
    uneven[:8, :8] = torch.eye(8)
    uneven[0, 8:] = 1
    assert float(dropout.dropout_measures(dropout_models(uneven)).relative_interference[0, 0, 0]) > 2 + 5


def test_opposite_features_are_counted_among_those_kept():
    basis = torch.cat([torch.eye(8), -torch.eye(8)], dim=1)
    short = basis.clone()
    short[:, 8] *= 0.3
    beside = basis.clone()
    # Cosine -0.89: not opposite.
    beside[:, 8] = 0
    beside[0, 8], beside[1, 8] = -1.0, (1 / 0.89**2 - 1) ** 0.5
    found = dropout.dropout_measures(dropout_models(basis, short, beside))
    assert found.opposite[0, 0].tolist() == [16, 14, 14]
    assert found.kept[0, 0].tolist() == [16, 15, 16]


def test_what_dropout_does_is_said_as_the_numbers_have_it(bundled):
    study = bundled["dropout"]
    falling, even = study.means["falling"], study.means["even"]
    # Thaman et al.: dropout aligns features with dimensions, or turns them away. Both, by importance.
    assert float(even.alignment[1, dropout.HALF]) < -5
    assert float(falling.alignment[1:4, dropout.HALF].min()) > 4
    assert "Dropout aligns features with dimensions at sparsity 0.70 (equally important" in aligned(study)
    assert "anti-aligned, as Thaman et al. report" in aligned(study)
    assert f"0.90 (of decreasing importance: {float(falling.alignment[2, 1:].max()):+.1f} at dropout" in aligned(study)
    assert float(falling.opposite[3].max()) > float(falling.opposite[3, 0]) + 2
    assert "raises their number at sparsity 0.97, of decreasing importance" in pairs(study)
    # Where all cells are alike, nothing is said to change.
    plain = dropout_models(torch.cat([torch.eye(8), -torch.eye(8)], dim=1))
    same = dropout.DropoutStudy(study.config, {"even": plain, "falling": plain})
    assert "nowhere by more than two" in pairs(same)
    assert "Dropout changes it nowhere" in aligned(same)
    assert "Thaman" not in aligned(same)


def test_l1_makes_neurons_monosemantic():
    models = trained(
        network="computation", task="abs", n_features=12, n_hidden=6, n_instances=6, n_kept=6, n_steps=2500,
        probability=(0.15,), l1=(0.0, 0.02),
    )  # fmt: skip
    plain, penalised = polysemantic_share(models.weights.W_in).mean(dim=1).tolist()
    assert plain > 0.6
    assert penalised < plain - 0.3


def test_neurons_with_room_for_all_features_stay_polysemantic_unless_activity_is_dear():
    models = trained(
        network="neuron", n_features=8, n_hidden=24, n_instances=4, n_kept=4, n_steps=2500, snapshots=(0, 2500),
        probability=(0.1,), l1=(0.0, 3e-3),
    )  # fmt: skip
    assert float(models.best_loss[0]) < 0.01 * float(models.constant_loss[0])
    plain, dear = polysemantic_share(models.weights.W_in).mean(dim=1).tolist()
    assert plain > 0.6
    assert dear < plain - 0.3


def test_where_pairs_of_features_go():
    together, apart = (
        correlation.cosine_within_pairs(trained(sets=sets, n_features=4, probability=(0.5, 0.03), n_instances=16).W_in)
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


@pytest.fixture(scope="module")
def bundled():
    return {name: load(bundled_study(name)) for name in STUDIES}


def test_the_bundled_models_show_what_the_studies_say(bundled):
    relu, linear = bundled["directions"].models["relu"], bundled["directions"].models["linear"]
    for probability, shape in ((0.5, {"antipodal pair": 4}), (0.1, {"pentagon": 5})):
        assert shape_counts(relu.W_in[directions.PROBABILITIES.index(probability)]) == shape
    assert (angles(linear.W_in)[:, 0, 1] - 90).abs().max() < 2
    assert sparsity.superposed(bundled["sparsity"].models["phase_linear"]).sum() == 0
    assert sparsity.superposed(bundled["sparsity"].models["phase"])[-1].min() == 1
    share = polysemantic_share(bundled["neurons"].models["relu"].W_in)
    assert share[0] == 0
    assert share[-1] == 1
    assert int(bundled["absolute"].pairs[0]) == 5
    relative = bundled["dropout"].means["even"].relative_interference
    # Not as published: very sparse features stay in superposition.
    assert (relative[-2:, dropout.HALF] / relative[-2:, 0] - 1).abs().max() < 0.1
    assert relative[2, dropout.HALF] < 0.8 * relative[2, 0]
    l1 = penalties.mean_share(bundled["penalties"].models["relu"])
    assert l1[0, -1] < l1[0, 0] - 0.3


def test_the_staircase_ends_in_a_tight_frame_and_the_sentence_follows(bundled):
    study = bundled["sparsity"]
    last, control = study.stairs[-1], study.random_frames[-1]
    assert last.frame_condition < 1.1 < 2 < float(control.frame_condition.min())
    # Only opposite features come near to one line.
    assert last.largest_cosine < 0.5 < 0.75 < float(control.largest_cosine.min())
    assert last.coherence > 0.9
    assert "not arranged at random" in frame(study)
    assert f"is {last.frame_condition:.2f}, against" in frame(study)
    # The same study of random directions, of an orthonormal basis ten times over, and of random directions made a tight frame.
    drawn = sparsity.random_directions(3, 10, 100)[2]
    copies = torch.eye(10).repeat(1, 10)
    tight = torch.linalg.svd(drawn, full_matrices=False).Vh * 10**0.5
    for W, said, largest in (
        (drawn, "no better arranged than random directions", "0.9"),
        (copies, "nearer to a tight frame than any random draw, but keep no farther apart", "1.00"),
        (tight, "nearer to a tight frame than any random draw, but keep no farther apart", "0.9"),
    ):
        models = study.models["staircase"]
        W_in = models.weights.W_in.clone()
        W_in[-1, 0] = W
        changed = replace(models, weights=replace(models.weights, W_in=W_in))
        other = sparsity.SparsityStudy(study.config, {**study.models, "staircase": changed})
        assert said in frame(other)
        assert f"largest cosine between two features {largest}" in frame(other)


def flat(metrics):
    """Lists of numbers as an entry each."""
    return {
        f"{name}.{at}": value
        for name, values in metrics.items()
        for at, value in enumerate(values if isinstance(values, list) else [values])
    }


@pytest.mark.parametrize("name", STUDIES)
def test_what_is_bundled_is_a_finished_run_of_its_study(name, bundled):
    study = bundled[name]
    # To the last bit with one version of Python: from 3.12 on it adds up numbers more exactly.
    assert flat(study.metrics()) == pytest.approx(
        flat(read_json(bundled_study(name) / METRICS)), rel=1e-12, nan_ok=True
    )
    asked = trainings(ToyStudyConfig(study=name))
    assert {run: trained.config for run, trained in study.models.items()} == {
        # Some were trained with two threads.
        run: config.resolved().replace(threads=study.models[run].config.threads.number)
        for run, config in asked.items()
    }
    # Nothing lies there that no study reads.
    assert {path.name for path in (bundled_study(name) / "runs").iterdir()} == set(asked)


@pytest.mark.parametrize("name", STUDIES)
def test_every_study_has_numbers_that_fit_a_run_folder_and_a_result_that_says_itself(name, bundled):
    study = bundled[name]
    for value in study.metrics().values():
        flat = value if isinstance(value, list) else [value]
        assert all(isinstance(number, int | float) and number == number for number in flat)
    assert len(repr(study)) < 400
    # A number and its control.
    assert sum(character.isdigit() for character in study.summary()) >= 2
    assert len(study.to_frame()) == sum(trained.kept.numel() for trained in study.models.values())
    assert "<table" in study._repr_html_()


def test_a_study_goes_on_where_it_stopped(tmp_path):
    config = ToyStudyConfig(study="penalties", n_instances=2, n_steps=20, random=SeedPart(1), threads=ThreadsPart(1))
    measure(config, tmp_path / "whole")
    # In the second of its two trainings.
    with pytest.raises(Stopped):
        measure(config, tmp_path / "parts", StopsAfter(30))
    assert not measure(config, tmp_path / "parts").finished_already
    assert measure(config, tmp_path / "parts").finished_already
    for name in (METRICS, "runs/relu/weights.safetensors", "runs/gelu/weights.safetensors"):
        assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert load_toy(tmp_path / "whole" / "runs" / "gelu").config.random == SeedPart(1)
    with pytest.raises(RequestError, match="made with n_steps = 20, not 30"):
        measure(config.replace(n_steps=30), tmp_path / "whole")


def test_a_study_from_the_command_line(tmp_path, capsys):
    request = ["toy", "study", "neurons", "--out", str(tmp_path / "run"), "--n-instances", "2", "--n-steps", "20"]
    assert main(request) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"results: {tmp_path / 'run'}"
    assert (tmp_path / "run" / "page" / "toy-neurons.html").exists()
    metrics = (tmp_path / "run" / METRICS).read_bytes()
    assert read_json(tmp_path / "run" / METRICS)["probability"] == [1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001]
    assert main(request) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"finished already: {tmp_path / 'run'}"
    again = [
        "toy",
        "study",
        "--config",
        str(tmp_path / "run" / "manifest.json"),
        "neurons",
        "--out",
        str(tmp_path / "again"),
    ]
    assert main(again) == 0
    assert (tmp_path / "again" / METRICS).read_bytes() == metrics


def test_the_help_says_what_each_study_asks(capsys):
    with pytest.raises(SystemExit):
        main(["toy", "study", "--help", "--out", "x"])
    [said] = [option.help for option in ToyStudyConfig.options() if option.name == "study"]
    for name in STUDIES:
        assert f"{name}: " in said


def test_a_study_of_no_steps():
    with pytest.raises(RequestError, match="n_steps = 0: must be at least 1"):
        ToyStudyConfig(study="width", n_steps=0)
