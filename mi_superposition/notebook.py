"""circuitsvis in a notebook, without the network.

circuitsvis asks the network how to draw, then either loads its script from a CDN or puts 1.3 MB of it into every
widget. Its wheel carries the script; run once as a classic script it defines a global ``CircuitsVis`` that every
later view can use.
"""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from importlib.util import find_spec

from jaxtyping import Float
from torch import Tensor

from mi_superposition.errors import RequestError

_number = itertools.count()


@dataclass(frozen=True)
class View:
    """HTML that a notebook shows when it is the value of a cell."""

    html: str

    def _repr_html_(self) -> str:
        return self.html


def load_circuitsvis() -> View:
    """The script, once for a notebook: display it before the first view. Raises ``RequestError`` without circuitsvis."""
    return View(_script())


def attention_heads(tokens: Sequence[str], attention: Float[Tensor, "head query key"]) -> View:
    """circuitsvis's attention heads for one sequence: choose a head, then hover a token."""
    return _view("AttentionHeads", tokens=list(tokens), attention=attention.tolist())


def topk_samples(samples: Mapping[str, Sequence[tuple[Sequence[str], Sequence[float]]]]) -> View:
    """circuitsvis's samples, the strongest first: by a neuron's name the tokens and activations of its examples."""
    return _view(
        "TopkSamples",
        tokens=[[[list(tokens) for tokens, _ in some] for some in samples.values()]],
        activations=[[[list(values) for _, values in some] for some in samples.values()]],
        zerothDimensionName="Scan",
        firstDimensionName="Neuron",
        firstDimensionLabels=list(samples),
    )


def _script() -> str:
    if find_spec("circuitsvis") is None:
        raise RequestError("circuitsvis is not installed; pip install 'mi-superposition[notebook]'")
    script = files("circuitsvis").joinpath("dist/cdn/iife.js").read_text(encoding="utf-8")
    script = script.replace("</script>", "<\\/script>")
    # Some notebooks run a cell's script inside a function, where `var` would not reach the next cell.
    return f"<script>{script}\n;window.CircuitsVis = CircuitsVis;</script>"


def _view(element: str, **properties: object) -> View:
    place = f"circuits-vis-{next(_number)}"
    # A token may be `</script>`: nothing that a page could read as markup stays in the JSON.
    data = json.dumps(properties).replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
    # Colab shows each cell in a frame of its own, which knows nothing of the cell that loaded the script.
    script = _script() if "google.colab" in sys.modules else ""
    return View(
        f'{script}<div id="{place}" style="margin: 15px 0; background: white; color: black"></div>'
        f'<script>CircuitsVis.render("{place}", CircuitsVis.{element}, {data});</script>'
    )
