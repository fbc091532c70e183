"""Sphinx: subject pages in Markdown, the reference from the docstrings, the commands from their configurations.

Formulas become MathML when the pages are built, so that they show without a network.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import inspect
import re
from pathlib import Path

from docutils import nodes
from latex2mathml.converter import convert

from mi_superposition.cli import commands
from mi_superposition.cli.parsing import OUT_HELP
from mi_superposition.subjects import Study

project = "mi_superposition"
author = "The mi_superposition authors"
release = importlib.metadata.version("mi-superposition")
copyright = author

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.apidoc"]
myst_enable_extensions = ["dollarmath", "deflist"]
exclude_patterns = ["_build"]
# "--full" is an option, not a dash.
smartquotes = False
html_theme = "furo"
html_title = project
html_show_copyright = False
html_math_renderer = "mathml"

apidoc_modules = [
    {
        "path": str(Path(__file__).parent.parent / "mi_superposition"),
        "destination": "api",
        "separate_modules": True,
        "module_first": True,
        "automodule_options": {"members", "undoc-members", "show-inheritance"},
    }
]
autodoc_typehints = "signature"
autodoc_member_order = "bysource"
# What a room gives away at its door is documented where it is written.
autodoc_default_options = {"ignore-module-all": True}


def setup(app):
    """The renderer of formulas, and the page of commands."""
    app.add_html_math_renderer("mathml", inline_renderers=(_inline, None), block_renderers=(_block, None))
    app.connect("builder-inited", _write_commands)
    app.connect("autodoc-process-signature", _plain_axes)
    return {"parallel_read_safe": True}


def _inline(self, node):
    self.body.append(convert(node.astext()))
    raise nodes.SkipNode


def _block(self, node):
    self.body.append(f'<div class="math">{convert(node.astext(), display="block")}</div>')
    raise nodes.SkipNode


def _plain_axes(app, what, name, obj, options, signature, returns):  # noqa: ARG001
    """``Float[Tensor, 'neuron k']`` as it is written, not as Python shows its class."""

    def plain(text):
        return text if text is None else re.sub(r"jaxtyping\.|torch\.(?=Tensor)|~", "", text)

    return plain(signature), plain(returns)


def _write_commands(app):
    """``commands.md``: every command with its options, units and defaults, as ``--help`` has them."""
    parts = [
        "# Commands",
        "",
        "As `mi-superposition COMMAND --help` has them. Exit codes: 0 done, 1 the work failed, 2 the request was wrong, 130 stopped by you.",
        "",
    ]
    for name, command in commands().items():
        parts += [f"## `mi-superposition {name}`", "", inspect.cleandoc(command.load_config().__doc__ or ""), ""]
        if isinstance(command, Study):
            parts.append(f"`--out`\n: {OUT_HELP}\n")
        for option in command.load_config().options():
            silent = option.default in (dataclasses.MISSING, None, ()) or "Default:" in option.help
            default = "" if silent else f" Default: `{option.default}`."
            positional = "Positional" in str(option.annotation)
            flag = option.name.upper() if positional else f"--{option.name.replace('_', '-')}"
            parts.append(f"`{flag}`\n: {option.help}{default}\n")
    path = Path(app.srcdir) / "commands.md"
    text = "\n".join(parts) + "\n"
    # Written again only when it changed, so that a build after nothing changed does nothing.
    if not path.exists() or path.read_text() != text:
        path.write_text(text)
