"""Headlines: each has its controls and the alternatives that could have refuted it, and says something else when its number does."""

import math
import re
import shlex
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from test_readme import numbers

from mi_superposition.cli import commands
from mi_superposition.files import read_json
from mi_superposition.pages.addition import chapter as addition
from mi_superposition.pages.concepts import chapter as concepts
from mi_superposition.pages.heads import chapter as heads
from mi_superposition.pages.neurons import contexts, neuroscope_chapter, order, order_chapter
from mi_superposition.pages.real import chapter as real_chapter
from mi_superposition.pages.request import ChapterRequest
from mi_superposition.pages.sae import chapter as sae
from mi_superposition.pages.sources import chapter as sources
from mi_superposition.pages.spectra import chapter as spectra
from mi_superposition.pages.toy import chapter as toy
from mi_superposition.real import load_real
from mi_superposition.site import Page, Section, write_site
from mi_superposition.site.headlines import Alternative, Headline
from mi_superposition.sources import load_claims
from mi_superposition.studies.addition.evaluate import load as load_evaluation
from mi_superposition.studies.concepts.measure import load as load_concepts
from mi_superposition.studies.heads.trigrams import load as load_trigrams
from mi_superposition.studies.neurons.contexts import load as load_contexts
from mi_superposition.studies.neurons.order import load as load_order
from mi_superposition.studies.sae.evaluate import load as load_sae
from mi_superposition.studies.sae.rows import AUTOENCODER, PURSUED_ACTIVATIONS
from mi_superposition.studies.toy.directions import TENTH
from mi_superposition.studies.toy.study import load as load_toy
from mi_superposition.subjects import chapters

ROOT = Path(__file__).parent.parent
HEADLINE = Headline(3.0, {"untrained": 1.0, "random": 2.0}, yes="It is so", no="It is not so")


# What a headline says.


def test_a_claim_holds_against_every_control():
    assert HEADLINE.claim == "It is so."
    assert replace(HEADLINE, value=1.5).claim == "It is not so (not above: random)."
    assert replace(HEADLINE, value=0.0).claim == "It is not so (not above: untrained, random)."


def test_equal_is_not_beyond():
    assert replace(HEADLINE, value=2.0).not_beaten == ["random"]
    assert replace(HEADLINE, value=3.0, margin=1.0).not_beaten == ["random"]


def test_below():
    low = replace(HEADLINE, lower=True)
    assert low.claim == "It is not so (not below: untrained, random)."
    assert replace(low, value=0.5).claim == "It is so."


def test_a_number_that_is_none_is_beyond_nothing():
    assert replace(HEADLINE, value=math.nan).not_beaten == ["untrained", "random"]
    assert replace(HEADLINE, controls={"random": math.nan}).not_beaten == ["random"]


def test_alternatives_are_the_last_table_of_the_page(tmp_path):
    alternative = Alternative("<b>another seed</b>", "the same", "pytest", "toy.md")
    section = Section(
        "s", "S", "summary", "3", "what", "2", Page("s", "S", "", []), headline=HEADLINE, alternatives=(alternative,)
    )
    write_site([section], tmp_path / "site", title="t", lead="l")
    page, index = ((tmp_path / "site" / name).read_text() for name in ("s.html", "index.html"))
    assert "&lt;b&gt;another seed&lt;/b&gt;" in page
    assert "It is so." in page
    assert '<p class="claim">It is so.</p>' in index
    assert "alternatives" not in index
    assert section.card().claim == "It is so."
    assert replace(section, headline=None).claim == ""


# Those of the chapters, from what comes with the package or from a small report, and from the same with a number on the other side.


def layer_below(measured):
    lower = {name: dict(step) for name, step in measured.metrics.items()}
    lower["order-3"]["score"] = 0.9 * lower["order-3"]["highest_control"]
    return replace(measured, metrics=lower)


@pytest.fixture(scope="module")
def cases(report_site):
    """By chapter: the section's headline as it is measured, and as it would be with another number."""
    runs = report_site / "runs"
    request = ChapterRequest(list(chapters()))

    study = load_toy(toy.jobs(request)["directions"].bundled)
    fewer = study.represented["relu"].clone()
    fewer[TENTH] = 2
    fewer = {"relu": fewer, "linear": study.represented["linear"]}
    evaluation = load_evaluation(runs / "addition-paper")
    guessing = replace(evaluation.accuracy, by_digit=evaluation.chance)
    shared = load_trigrams(heads.jobs(request)["trigrams"].bundled)
    ordered = load_order(runs / "neuron-order-order")
    scanned = load_contexts(runs / "neuroscope-contexts")
    main = scanned.hooks[scanned.main]
    real = load_sae(sae.jobs(request)["real"].bundled)
    better = [
        replace(row, numbers=row.numbers | {"explained_variance": 0.99}) if row.kind == AUTOENCODER else row
        for row in real.rows
    ]
    ranks = {"trained": 118, "untrained": 125, "random": 125}
    words = load_concepts(concepts.jobs(request)["stories"].bundled)
    claims = load_claims()
    return {
        "toy": (
            toy.headline(study),
            toy.headline(SimpleNamespace(represented=fewer, untrained_represented=study.untrained_represented)),
        ),
        "addition": (addition.headline(evaluation), addition.headline(replace(evaluation, accuracy=guessing))),
        "heads": (heads.headline(shared), heads.headline(replace(shared, words=shared.words[:16]))),
        "neuron-order": (
            order.headline(replace(ordered, order=replace(ordered.order, score=2 * ordered.highest_control))),
            order.headline(replace(ordered, order=replace(ordered.order, score=0.99 * ordered.highest_control))),
        ),
        "neuroscope": (
            contexts.headline(replace(main, contexts=torch.ones_like(main.contexts)), "neuron"),
            contexts.headline(replace(main, contexts=torch.full_like(main.contexts, 20.0)), "neuron"),
        ),
        "sae": (sae.headline(real), sae.headline(replace(real, rows=tuple(better)))),
        "spectra": (spectra.headline(ranks), spectra.headline(ranks | {"trained": 125})),
        "concepts": (
            concepts.headline(words),
            concepts.headline(replace(words, halves=replace(words.halves, trained=words.halves.bag_of_words))),
        ),
        "real": (real_chapter.headline(load_real()), real_chapter.headline(layer_below(load_real()))),
        "sources": (
            sources.headline(claims),
            sources.headline([replace(claim, verdict="refuted") for claim in claims]),
        ),
    }


@pytest.mark.parametrize("name", chapters())
def test_the_sentence_changes_when_the_number_does(cases, name):
    measured, other = cases[name]
    assert bool(measured.not_beaten) != bool(other.not_beaten)
    assert measured.claim != other.claim
    assert measured.claim.startswith(measured.no if measured.not_beaten else measured.yes)
    assert measured.yes != measured.no


@pytest.mark.parametrize("name", chapters())
def test_every_control_can_refute_it(cases, name):
    """A headline that is beyond all its controls, with any one of these on its other side, is refuted by that one."""
    [holding] = [one for one in cases[name] if not one.not_beaten]
    assert len(holding.controls) >= 1
    sign = -1 if holding.lower else 1
    for control in holding.controls:
        refuted = replace(holding, controls=holding.controls | {control: holding.value + sign})
        assert refuted.not_beaten == [control]
        assert control in refuted.claim
        assert refuted.claim.startswith(holding.no)


@pytest.mark.parametrize("name", ["toy", "heads", "sae", "concepts", "real", "sources"])
def test_the_number_shown_is_the_one_compared(cases, name):
    """Of the chapters whose results come with the package; the whole report is compared with these findings in tests/test_readme.py."""
    card, headline = read_json(ROOT / "docs" / "findings.json")["sections"][name], cases[name][0]
    assert numbers(card["number"])[0] == pytest.approx(headline.value, abs=0.00051)
    assert card["claim"] == headline.claim


# Their alternatives.

ALTERNATIVES = {
    "toy": toy.ALTERNATIVES,
    "addition": addition.ALTERNATIVES,
    "heads": heads.ALTERNATIVES,
    "neuron-order": order_chapter.ALTERNATIVES,
    "neuroscope": neuroscope_chapter.ALTERNATIVES,
    "sae": sae.ALTERNATIVES,
    "spectra": spectra.ALTERNATIVES,
    "concepts": concepts.ALTERNATIVES,
    "real": real_chapter.ALTERNATIVES,
    "sources": sources.alternatives(load_claims()),
}


@pytest.mark.parametrize("name", chapters())
def test_alternatives_stand_in_docs_and_can_be_repeated(name):
    assert len(ALTERNATIVES[name]) >= 2
    assert max(Counter(one.tried for one in ALTERNATIVES[name]).values()) == 1
    for one in ALTERNATIVES[name]:
        in_docs = set(numbers(plain((ROOT / "docs" / one.page).read_text())))
        told = numbers(plain(one.found))
        assert set(told) <= in_docs, (one, set(told) - in_docs)
        program, *words = shlex.split(one.command)
        if program == "mi-superposition":
            assert any(name in commands() for name in (" ".join(words[:2]), words[0])), one
        elif words[0] == "-c":
            compile(words[1], one.tried, "exec")
        else:
            assert program in ("python", "pytest")
            assert (ROOT / words[0]).is_file(), one


def plain(text):
    """A text whose signs of minus are those of numbers, without thousands' commas; a hyphen between words is none."""
    return re.sub(r"(?<=\w)-", " ", text.replace("−", "-").replace(",", "").replace("+", ""))


def test_the_report_has_them(report_site):
    for name in chapters():
        page = (report_site / f"{name}.html").read_text()
        assert page.count('id="alternatives"') == 1
        assert page.count('href="#alternatives"') == 1
    assert (report_site / "index.html").read_text().count('class="claim"') == len(chapters())


def test_the_pursued_dictionary_is_what_the_headline_of_the_autoencoder_is_compared_with():
    real = load_sae(sae.jobs(ChapterRequest(["sae"]))["real"].bundled)
    explained = real.of(real.main.sae)[PURSUED_ACTIVATIONS]["explained_variance"]
    assert round(explained, 3) in sae.headline(real).controls.values()
