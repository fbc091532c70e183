"""The page of an order of neurons: its words, its links, and its verdict, which can go either way."""

import json
from dataclasses import replace

import pytest
import torch

import mi_superposition as ms
from mi_superposition.cli import main
from mi_superposition.neurons import NeuronVectors, OrderConfig, control_vectors
from mi_superposition.neurons.control import KINDS, WEIGHT_KINDS
from mi_superposition.pages.neurons import order_chapter
from mi_superposition.pages.neurons.order import order_section
from mi_superposition.pages.neurons.order_items import verdict
from mi_superposition.pages.request import ChapterRequest
from mi_superposition.site import Page
from mi_superposition.site.records import MatrixRecord, TableRecord
from mi_superposition.site.unit_records import neuron_address
from mi_superposition.studies.neurons.order import order_study
from mi_superposition.studies.neurons.order_sources import Source


def order(out, model, *options):
    quick = ["--controls", "3", "--window", "4", "--seconds", "0.02", "--device", "cpu"]
    return main(["neurons", "order", "--model", str(model), "--out", str(out), *quick, *map(str, options)])


@pytest.fixture(scope="module")
def run(tiny_gpt2, tmp_path_factory):
    out = tmp_path_factory.mktemp("order") / "run"
    assert order(out, tiny_gpt2.folder, "--every-layer") == 0
    return out


@pytest.fixture
def site(tmp_path):
    """A site with the page of one neuron of each layer."""
    (tmp_path / "site" / "neurons").mkdir(parents=True)
    for layer in (0, 1):
        (tmp_path / "site" / neuron_address(layer, 7)).write_text("a page")
    return tmp_path / "site"


def test_the_page_is_there_and_names_its_controls(run):
    html = (run / "page" / "order.html").read_text()
    assert all(KINDS[kind] in html for kind in WEIGHT_KINDS)
    assert "layer 0, both" in html
    assert (run / "page" / "matrix" / "similarity" / "trained" / "0" / "0-0.png").is_file()
    assert (run / "page" / "matrix" / "similarity" / "control" / "values" / "0-0.js").is_file()


def test_the_strictest_control_is_the_one_with_the_smallest_z(run):
    numbers = json.loads((run / "metrics.json").read_text())
    smallest = min(WEIGHT_KINDS, key=lambda kind: numbers[f"{kind}_z"])
    assert ms.load_run(run).strictest.kind == smallest
    assert f"z = {numbers[f'{smallest}_z']:+.1f}" in (run / "page" / "index.html").read_text()


def test_the_card_leads_with_the_effect_and_follows_the_numbers(run):
    result = ms.load_run(run)
    page = Page(slug="order", title="", intro="", items=[])
    card = order_section(result, page)
    assert card.number == f"{100 * result.gain:+.1f} %"
    assert KINDS[result.hardest.kind] in card.number_is
    # The words change where the score does.
    for score, said in ((1.5 * result.highest_control, "is above"), (0.99 * result.highest_control, "is not above")):
        moved = replace(result, order=replace(result.order, score=score))
        assert f"{score:.2f} {said} {result.highest_control:.2f}, the most" in order_section(moved, page).control
    older = replace(result, thinned=[], controls=[replace(control, bounds=None) for control in result.controls])
    assert "bound" not in order_section(older, page).control


def test_what_is_left_without_close_pairs_is_told():
    generator = torch.Generator().manual_seed(5)
    vectors = torch.randn(100, 40, generator=generator)
    vectors[90:] = vectors[:10] + 0.1 * torch.randn(10, 40, generator=generator)
    result = study_of(vectors)
    [one] = [one for one in result.thinned if one.above == 0.7]
    assert one.n_removed == 20
    assert abs(one.gain) < result.gain / 2
    assert f"{100 * one.gain:+.1f} % without the 20 in pairs above 0.7" in verdict(result)


def test_neuron_pages_are_linked_where_they_are(tiny_gpt2, tmp_path, site):
    assert order(tmp_path / "run", tiny_gpt2.folder, "--pages", site) == 0
    page = tmp_path / "run" / "page"
    html = (page / "order.html").read_text()
    address = f"../../site/{neuron_address(1, 7)}"
    assert f'"7":"{address}"' in html
    assert (page / address).is_file()
    assert "L1N8" not in html
    # From wherever else the page is written.
    elsewhere = tmp_path / "some" / "where" / "else"
    assert main(["page", str(tmp_path / "run"), "--out", str(elsewhere)]) == 0
    assert f'"7":"../../../site/{neuron_address(1, 7)}"' in (elsewhere / "order.html").read_text()


def test_a_finished_run_is_linked_when_it_is_asked_for_again(tiny_gpt2, tmp_path, site, monkeypatch, capsys):
    out, address = tmp_path / "run", neuron_address(1, 7)
    assert order(out, tiny_gpt2.folder) == 0
    before = {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()}
    assert address not in (out / "page" / "order.html").read_text()
    # A relative path means the same wherever the page is written from later.
    monkeypatch.chdir(tmp_path)
    assert order(out, tiny_gpt2.folder, "--pages", "site") == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"finished already: {out}"
    assert address in (out / "page" / "order.html").read_text()
    assert json.loads((out / "manifest.json").read_text())["config"]["pages"] == str(site.resolve())
    assert ms.load_run(out).config.links.pages == site.resolve()
    after = {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()}
    assert {name for name in before if before[name] != after[name]} == {"manifest.json"}


@pytest.mark.parametrize(("weights", "linked"), [("in", True), ("embed.W_E", False)])
def test_rows_of_a_matrix_are_not_taken_for_neurons(tiny_gpt2, tmp_path, site, weights, linked):
    options = ["--weights", weights, "--layer", 0, "--measure", "inner", "--pages", site]
    assert order(tmp_path / "run", tiny_gpt2.folder, *options) == 0
    html = (tmp_path / "run" / "page" / "order.html").read_text()
    assert (neuron_address(0, 7) in html) == linked
    assert "Inner product of the" in html


@pytest.mark.parametrize("chapters", [("neuron-order",), ("neuron-order", "neuroscope")])
def test_the_chapter_is_made_of_its_run(run, chapters):
    section = order_chapter.section({"neuron-order": {"order": run}}, ChapterRequest(chapters))
    [matrix] = [item for item in section.page.items if isinstance(item, MatrixRecord)]
    result = ms.load_run(run)
    assert torch.equal(matrix.views[0].order, result.order.order)
    pages = {neuron: neuron_address(1, neuron) for neuron in range(48)} if "neuroscope" in chapters else {}
    assert matrix.pages == pages
    close = ["without-close"] if result.thinned else []
    assert [item.id for item in section.page.items if isinstance(item, TableRecord)] == [
        "controls",
        *close,
        "every-layer",
        "spots",
    ]
    assert order_chapter.address_in_order(3, 8) == f"{section.page.slug}.html#{matrix.id}=3,8"


def test_the_job_of_the_chapter_orders_every_layer():
    [job] = order_chapter.jobs(ChapterRequest(["neuron-order"])).values()
    assert job.config == OrderConfig().replace(seconds=0.2, every_layer=True, device="cpu")


def source_of(vectors, kinds):
    held = NeuronVectors((vectors,))

    def samples_of(kind):
        return lambda n: (sample.similarity() for sample in control_vectors(held, kind, n, seed=0))

    return Source(
        len(vectors),
        held.similarity,
        {kind: samples_of(kind) for kind in kinds},
        part=lambda some: source_of(vectors[some], kinds),
    )


def study_of(vectors, kinds=("gaussian", "spectrum")):
    return order_study(source_of(vectors, kinds), OrderConfig(controls=10, seconds=0.05, without_above=(0.7,)))


def test_the_verdict_on_noise_is_not_different_from_chance():
    noise = torch.randn(100, 40, generator=torch.Generator().manual_seed(5))
    assert verdict(study_of(noise)).startswith("Not different from chance")


def test_the_verdict_on_planted_pairs_is_more_than_ordering():
    generator = torch.Generator().manual_seed(5)
    vectors = torch.randn(100, 40, generator=generator)
    vectors[50:] = vectors[:50] + 0.4 * torch.randn(50, 40, generator=generator)
    result = study_of(vectors)
    said = verdict(result)
    assert said.startswith("Neighbours are more parallel or antiparallel than ordering alone produces")
    assert f"{100 * result.gain:.1f} % above the mean of the hardest control" in said
    assert "less evidence for groups" in said
    assert result.strictest.z_score(result.order.score) > 3


def test_the_verdict_on_planted_groups_names_them():
    generator = torch.Generator().manual_seed(5)
    vectors = torch.randn(100, 40, generator=generator)
    vectors[40:] = torch.randn(6, 40, generator=generator).repeat(10, 1) + 0.3 * torch.randn(
        60, 40, generator=generator
    )
    result = study_of(vectors)
    assert result.clusters.n_clusters >= 5
    assert "There is evidence for groups, too" in verdict(result)


def test_the_verdict_on_an_orthogonal_frame_is_less_than_chance():
    frame = torch.linalg.qr(torch.randn(64, 64, generator=torch.Generator().manual_seed(5)))[0]
    spread = torch.cat(
        [frame, frame @ torch.linalg.qr(torch.randn(64, 64, generator=torch.Generator().manual_seed(6)))[0]]
    )
    assert verdict(study_of(spread, ["gaussian"])).startswith("Neighbours are less parallel or antiparallel")
