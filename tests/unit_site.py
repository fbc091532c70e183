"""Records of a small site of units, with hostile tokens, shared by the tests of both of its layouts."""

import math

import numpy as np

from mi_superposition.corpora.tokens import visible
from mi_superposition.neurons.scan import Excerpt
from mi_superposition.site.folder import UNITS, SiteFolder
from mi_superposition.site.unit_pages import write_unit_pages
from mi_superposition.site.unit_records import (
    DocumentRecord,
    LayerRecord,
    ScanRecord,
    TokenValue,
    UnitRecord,
    UnitValue,
)

HOSTILE = [
    "</script><script>window.broken = 1</script>",
    '<img src=x onerror="window.broken = 2">',
    "&amp; & &lt;",
    "\"quoted\" 'twice' `thrice`",
    "\u202egnirts\u202c\u200f",
    "{{ 7 * 7 }} {% raw %}",
    "x" * 10_000,
    "\u2028line\nends\r\n\ttab\x00",
    "\ud800",
    "é😀 中文",
    "--><!--",
]
SHOWN = [visible(token) for token in HOSTILE]
DOCUMENT = [*SHOWN, *(f" word{i}" for i in range(60))]
HOOK, OTHER = "blocks.0.mlp.hook_post", "blocks.1.hook_resid_pre"


def example(place, values, first=0, last=None):
    last = len(DOCUMENT) if last is None else last
    return Excerpt(70, place, float(values[place]), first, DOCUMENT[first:last], 0, values.astype(np.float32))


def record(hook, unit, n):
    values = np.linspace(-1, 3, len(DOCUMENT))
    values[5] = np.nan
    return UnitRecord(
        hook=hook,
        unit=unit,
        top=[example(len(DOCUMENT) - 1, values, 40), example(2, values, 0, 12)],
        bottom=[example(0, values, 0, 4)],
        tenths=[("0 to 1: 3 tokens", [example(9, values, 3, 14)]), ("up to 0: no tokens", [])],
        histogram=np.array([0, 10, 1000, 1, 0]),
        edges=(-1.0, 3.0),
        maximum=3.0,
        minimum=-1.0,
        mean=0.5,
        deviation=1.0,
        skewness=0.1,
        fraction_active=0.25,
        contexts=2.5,
        contexts_shuffled=9.0,
        token_lists={"Fires on": [TokenValue(token, 1.5, 7) for token in SHOWN], "Raises": [TokenValue(" dog", -0.5)]},
        unit_lists={"Most alike": [UnitValue((unit + 1) % n, 0.5), UnitValue(0, -0.25)]},
    )


def records():
    for hook, n in ((HOOK, 300), (OTHER, 3)):
        for unit in range(n):
            yield record(hook, unit, n)


def layer(hook, n, planted=None):
    fires = [[" common", *SHOWN[:3]] for _ in range(n)]
    if planted is not None:
        fires[planted].insert(1, " planted")
    columns = {"max": [float(unit * 37 % n) for unit in range(n)], "skew": [math.nan] * n}
    return LayerRecord(hook, columns, fires, [[" dog"]] * n)


def scan_record():
    facts = [("model", HOSTILE[0]), ("tokens", "1,000")]
    return ScanRecord(f"Neurons of {HOSTILE[1]}", facts, [HOSTILE[0]], [layer(HOOK, 300, 123), layer(OTHER, 3)])


def write(out, *, together=False):
    documents = [DocumentRecord(2, ["a"]), DocumentRecord(70, DOCUMENT)]
    write_unit_pages(
        scan_record(),
        records(),
        documents,
        SiteFolder(out, UNITS),
        site_title="<Site>",
        index="index.html",
        together=together,
    )
