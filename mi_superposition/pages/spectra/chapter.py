"""The report's chapter on effective rank: a classifier trained here, runs on real images that come with the package, and the bundled
language model.
"""

from __future__ import annotations

from collections.abc import Mapping

from mi_superposition.pages.request import ChapterRequest, Job, Runs
from mi_superposition.pages.spectra.measure import CAUTION, intro, items
from mi_superposition.runs import read_config
from mi_superposition.site import Page, Section
from mi_superposition.site.headlines import Alternative, Headline
from mi_superposition.site.records import Item, Link, TableRecord
from mi_superposition.spectra import SpectraConfig, effective_ranks, weight_spectrum
from mi_superposition.spectra.result import KINDS
from mi_superposition.studies.spectra.measure import BUNDLED, COMMAND, RANDOM, SpectraResult, load
from mi_superposition.studies.spectra.network import STATES
from mi_superposition.toy import bundled_study, load_toy
from mi_superposition.toy.geometry import represented

_TITLE = "Effective rank"
# Runs made by scripts/effective_rank.py.
_STORIES = "stories"
_MNIST = "simplenet-mnist"
_REAL = {_MNIST: "SimpleNet on MNIST", "resnet50-cifar100": "ResNet-50 on CIFAR-100"}
# Stringer's network and rank.
_LAYERS, _ENERGY = ("fc1", "fc2"), 0.99
# Of the weights, 99 % of squares, one fewer than ours; 113 in the text.
_STRINGER = {"fc1": "110 (113)", "fc2": "54"}
# 1 - sparsity of the toy models that are compared.
_TOY_PROBABILITY = 0.1
_COMMAND = "mi-superposition spectra --model simplenet --images mnist --epochs 10 --batch-size 128 --out RUN"
ALTERNATIVES = (
    Alternative(
        "Stringer's recipe and ten seeds, not one run of ours",
        "the same: 113.3 (113 to 114), beside 125 untrained and 125 for random matrices",
        "python scripts/replicas/simplenet_ranks.py",
        "sources.md",
    ),
    Alternative(
        "another rank: singular values summed without squaring",
        "weights 125 and 62 of 128 and 64, so next to nothing is seen; activations 111 and 58",
        _COMMAND,
        "effective-rank.md",
    ),
    Alternative(
        "activations, not weights",
        "a larger difference: 38 of 128 trained, 105 untrained",
        _COMMAND,
        "effective-rank.md",
    ),
    Alternative(
        "a deeper network: does training lower the rank of every layer's weights?",
        "no: over the layers of ResNet-50 on CIFAR-100 0.963 of the largest possible rank, trained, and 0.964 untrained",
        "python scripts/effective_rank.py --model resnet50 --images cifar100",
        "effective-rank.md",
    ),
    Alternative(
        "may rank measure superposition?",
        "no: toy models with two orthogonal features and with five features as a pentagon have the same ranks",
        "mi-superposition toy study directions --out RUN",
        "effective-rank.md",
    ),
)


def jobs(request: ChapterRequest) -> dict[str, Job]:
    """The digits are measured; the others come with the package, those on real images unless these are at hand."""
    jobs = {
        "digits": Job(COMMAND, SpectraConfig()),
        _STORIES: Job(COMMAND, bundled=BUNDLED / _STORIES),
    }
    for name in _REAL:
        if request.real is None:
            jobs[name] = Job(COMMAND, bundled=BUNDLED / name)
        else:
            config = read_config(BUNDLED / name, SpectraConfig, COMMAND)
            assert config.images is not None, name
            jobs[name] = Job(COMMAND, config.replace(images=request.real.images(config.images)), kept=True)
    return jobs


def section(runs: Runs, request: ChapterRequest) -> Section:  # noqa: ARG001
    """The chapter, from the folders of its runs."""
    results = {name: load(folder) for name, folder in runs["spectra"].items()}
    digits, mnist = results["digits"], results[_MNIST]
    further = {_STORIES: "The bundled story model", **_REAL}
    ranks = {state: spectra.weights["fc1"].ranks(_ENERGY) for state, spectra in mnist.all_spectra.items()}
    page_items: list[Item] = [
        _networks(results, further),
        _reproduction(mnist),
        _counterexample(runs),
        *items(digits),
    ]
    page = Page(
        slug="spectra",
        title=_TITLE,
        intro=(
            f"{CAUTION} The comparison follows R. A. Stringer, “Unravelling Superposition” (chapter 2). Figures below the "
            f"tables: {intro(digits)}"
        ),
        items=page_items,
    )
    return Section(
        slug="spectra",
        title=_TITLE,
        summary="Effective rank of weights and activations per layer, compared with the same layers before training.",
        number=f"{ranks['trained'].energy_rank} of {ranks['trained'].n}",
        number_is=(
            f"energy rank (99 %) of the first layer's weights, SimpleNet trained on MNIST; {ranks['trained'].energy_rank - 1} by Stringer's "
            "count, which stops below 99 %"
        ),
        control=f"{ranks['untrained'].energy_rank} untrained, {ranks[RANDOM].energy_rank} random matrix",
        page=page,
        more=[
            Page(
                slug=f"spectra-{name}",
                title=f"Effective rank: {title}",
                intro=intro(results[name]),
                items=items(results[name]),
            )
            for name, title in further.items()
        ],
        headline=headline({state: one.energy_rank for state, one in ranks.items()}),
        alternatives=ALTERNATIVES,
    )


def headline(ranks: Mapping[str, int]) -> Headline:
    """Whether a layer's weights have a lower rank than before training and than random ones; ``ranks`` by state of the network."""
    return Headline(
        ranks["trained"],
        {"untrained": ranks["untrained"], "random matrix": ranks[RANDOM]},
        yes="Training takes a few directions out of the weights; this says nothing about superposition",
        no="Training takes no directions out of the weights",
        lower=True,
    )


def _networks(results: Mapping[str, SpectraResult], further: Mapping[str, str]) -> TableRecord:
    rows: list[list[str | Link]] = []
    for name in ("digits", *further):
        accuracy = results[name].numbers.get("test_accuracy")
        rows.append(
            [
                Link(further[name], f"spectra-{name}.html") if name in further else "SimpleNet on digits (below)",
                "–" if accuracy is None else f"{100 * accuracy:.1f} %",
                *(f"{results[name].mean_ratio(state, kind):.2f}" for kind in KINDS for state in (*STATES, RANDOM)),
            ]
        )
    return TableRecord(
        id="networks",
        title="The networks",
        look_at=(
            "Energy rank divided by the largest possible rank, mean over all layers, for weights and activations of the trained network, "
            "the untrained network and random matrices of the same shapes and possible ranks. Each link opens the network's figures."
        ),
        columns=["network", "test accuracy", "weights", "untrained", "random", "activations", "untrained", "random"],
        rows=rows,
    )


def _counterexample(runs: Runs) -> TableRecord:
    """Toy models whose features are known: one in superposition and one not, of the same rank."""
    study = runs.get("toy", {}).get("directions") or bundled_study("directions")
    rows = []
    for name, label in (("linear", "without ReLU"), ("relu", "with ReLU")):
        models = load_toy(study / "runs" / name)
        setting = [one.probability for one in models.config.settings].index(_TOY_PROBABILITY)
        W = models.W_in[setting]
        ranks = effective_ranks(weight_spectrum(W))
        rows.append(
            [
                label,
                f"{int(represented(W))}",
                f"{ranks.energy_rank} of {ranks.n}",
                f"{ranks.entropy_rank:.2f}",
                f"{ranks.stable_rank:.2f}",
            ]
        )
    return TableRecord(
        id="same-rank",
        title="The same rank with and without superposition",
        look_at=(
            "Two toy models with five features in two dimensions, at sparsity 0.9. One represents two orthogonal features, the other all "
            "five as a pentagon. Their weights have the same ranks, so rank cannot tell superposition from its absence."
        ),
        columns=["toy model", "features represented", "energy rank", "entropy rank", "stable rank"],
        rows=rows,
    )


def _reproduction(mnist: SpectraResult) -> TableRecord:
    rows = []
    for layer in _LAYERS:
        ranks = {state: spectra.weights[layer].ranks(_ENERGY) for state, spectra in mnist.all_spectra.items()}
        rows.append(
            [
                layer,
                f"{ranks['trained'].n}",
                _STRINGER[layer],
                f"{ranks['trained'].energy_rank - 1}",
                *(f"{one.energy_rank}" for one in ranks.values()),
            ]
        )
    return TableRecord(
        id="reproduction",
        title="Comparison with Stringer, Unravelling Superposition",
        look_at=(
            "R. A. Stringer trains this network on MNIST and reports one rank per layer, of the weights, from squared singular values at 99 %: "
            "110 for fc1 (113 in its text) and 54 for fc2. Stringer counts the singular values below 99 %, which is one fewer than the energy "
            "rank here. Stringer trains with Adam for 5 epochs and batches of 64, this run with AdamW for "
            f"{mnist.config.training.epochs} and {mnist.config.training.batch_size}; in Stringer's settings: "
            "scripts/replicas/simplenet_ranks.py. Compare trained with untrained to see what training changes."
        ),
        columns=[
            "layer, weights",
            "maximum",
            "Stringer",
            "ours by Stringer's count",
            "energy rank (99 %), trained",
            "untrained",
            "random",
        ],
        rows=rows,
    )
