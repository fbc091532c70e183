"""The report's section on effective rank: a classifier trained here, runs on real images that come with the package, and the
bundled language model.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from mi_superposition.runs import read_manifest
from mi_superposition.site import Page, Section
from mi_superposition.site.records import Item, Link, TableRecord
from mi_superposition.spectra import effective_ranks, weight_spectrum
from mi_superposition.spectra.classifier import ClassifierTraining
from mi_superposition.studies.request import SectionRequest
from mi_superposition.studies.spectra.findings import RANDOM, STATES, Findings
from mi_superposition.studies.spectra.page import CAUTION, intro, mean_ratio, spectra_items
from mi_superposition.studies.spectra.study import (
    COMMAND,
    SpectraRequest,
    load_findings,
    open_subject,
    write_spectra_run,
)
from mi_superposition.studies.toy import directions
from mi_superposition.studies.toy.study import bundled_models
from mi_superposition.toy.geometry import represented

TITLE = "Effective rank"
BUNDLED = Path(__file__).parents[2] / "bundled" / "spectra"
# Made by scripts/effective_rank.py.
STORIES = "stories"
# On real images.
REAL = {"simplenet-mnist": "SimpleNet on MNIST", "resnet50-cifar100": "ResNet-50 on CIFAR-100"}
# What the chapter gives for its SimpleNet after training on MNIST; of what matrix is not known to us.
_CHAPTER = {"fc1": "110 (113)", "fc2": "54"}


def spectra_section(request: SectionRequest) -> Section:
    """Measure, and tell it beside what was found on real images."""
    request.on_stage("digits")
    digits = _measured(SpectraRequest())
    stories = load_findings(BUNDLED / STORIES)
    real = {name: _on_real_images(name, request) for name in REAL}
    pages = {
        "spectra-stories": ("The bundled story model", stories),
        **{f"spectra-{name}": (title, real[name]) for name, title in REAL.items()},
    }
    ranks = {
        state: spectra.weights["fc1"].ranks(0.99) for state, spectra in real["simplenet-mnist"].all_spectra().items()
    }
    items: list[Item] = [
        _overview({"digits": ("SimpleNet on digits (below)", digits), **pages}),
        _reproduction(real["simplenet-mnist"]),
        _counterexample(),
        *spectra_items(digits),
    ]
    return Section(
        slug="spectra",
        title=TITLE,
        summary="How many directions layers use, in weights and in activations, beside the same layers before training.",
        number=f"{ranks['trained'].energy_rank} of {ranks['trained'].n}",
        number_is="directions that hold 99 % of the first layer's weights, SimpleNet trained on MNIST",
        control=f"{ranks['untrained'].energy_rank} untrained, {ranks[RANDOM].energy_rank} at random",
        page=Page(slug="spectra", title=TITLE, intro=f"{CAUTION} Below the tables: {intro(digits)}", items=items),
        more=[
            Page(slug=slug, title=f"Effective rank: {title}", intro=intro(findings), items=spectra_items(findings))
            for slug, (title, findings) in pages.items()
        ],
    )


def _measured(request: SpectraRequest) -> Findings:
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "run"
        write_spectra_run(out, request, open_subject(request))
        return load_findings(out)


def _on_real_images(name: str, request: SectionRequest) -> Findings:
    """What comes with the package, or the same asked again of real images."""
    if request.real is None:
        return load_findings(BUNDLED / name)
    asked = read_manifest(BUNDLED / name, COMMAND)["config"]
    training = ClassifierTraining(**asked.pop("training"))
    asked |= {"training": training, "layers": tuple(asked["layers"]), "images": request.real.images(asked["images"])}
    again = SpectraRequest(**asked)
    out = request.real.runs / f"spectra-{name}"
    write_spectra_run(
        out,
        again,
        open_subject(again, on_image=lambda by, state: request.on_progress(f"{name}: {state}")),
        on_step=lambda by, state: request.on_progress(f"{name}: {state}"),
        should_stop=request.should_stop,
    )
    return load_findings(out)


def _overview(runs: dict[str, tuple[str, Findings]]) -> TableRecord:
    rows = []
    for slug, (title, findings) in runs.items():
        accuracy = findings.numbers.get("test_accuracy")
        rows.append(
            [
                Link(title, f"{slug}.html") if slug.startswith("spectra-") else title,
                "–" if accuracy is None else f"{100 * accuracy:.1f} %",
                *(
                    f"{mean_ratio(findings, state, kind):.2f}"
                    for kind in ("weights", "activations")
                    for state in (*STATES, RANDOM)
                ),
            ]
        )
    return TableRecord(
        id="networks",
        title="The networks",
        look_at=(
            "Energy rank over the most there could be, mean of all layers: of weights and of activations, trained, untrained and of random "
            "matrices of the same shapes. Each name leads to its figures."
        ),
        columns=["network", "test accuracy", "weights", "untrained", "random", "activations", "untrained", "random"],
        rows=rows,
    )


def _counterexample() -> TableRecord:
    """Toy models whose features are known: one in superposition, one not, one rank."""
    models = bundled_models(directions.STUDY)
    place = directions.PROBABILITIES.index(0.1)
    rows = []
    for name, label in (("linear", "without ReLU"), ("relu", "with ReLU")):
        W = models[name].W_in[place]
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
        title="One rank, with superposition and without",
        look_at=(
            "Two toy models of five features in two dimensions, at sparsity 0.9. One keeps two features at right angles, the other all five as a "
            "pentagon. Their weights have the same ranks, so rank does not tell them apart."
        ),
        columns=["toy model", "features represented", "energy rank", "entropy rank", "stable rank"],
        rows=rows,
    )  # fmt: skip


def _reproduction(mnist: Findings) -> TableRecord:
    rows = []
    everything = mnist.all_spectra()
    for kind in ("weights", "activations"):
        for layer in ("fc1", "fc2"):
            found = {state: spectra.of(kind)[layer].ranks(0.99) for state, spectra in everything.items()}
            rows.append(
                [
                    f"{layer}, {kind}",
                    f"{found['trained'].n}",
                    _CHAPTER[layer],
                    *(f"{ranks.energy_rank}" for ranks in found.values()),
                    *(f"{ranks.sum_rank}" for ranks in found.values()),
                ]
            )
    return TableRecord(
        id="reproduction",
        title="Beside the chapter",
        look_at=(
            "The chapter trained this network on MNIST and gives one rank a layer. Whether of weights or of activations, and whether its 99 % were of "
            "squared values or of the values, is not known to us: all four are here. What training takes away is the difference to the "
            "untrained network, which is the larger the fewer small values count."
        ),
        columns=[
            "layer", "largest", "chapter", "99 % of squares, trained", "untrained", "random", "99 % of the sum, trained", "untrained",
            "random",
        ],
        rows=rows,
    )  # fmt: skip
