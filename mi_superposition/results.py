"""What every result can do: say itself in a line, become a table, become a figure."""

from __future__ import annotations

import html
from abc import ABC, abstractmethod
from importlib import import_module
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

# Rows of the table that a notebook shows.
_ROWS_SHOWN = 10
# A longer table is none that a command prints.
_ROWS_TOLD = 24


class Result(ABC):
    """A result of this package. Frozen dataclasses that derive from it are declared with ``repr=False``."""

    # "module:function" of the figure. By name: a result stands below figures, and imports none until it is asked for one.
    DRAWN_BY: ClassVar[str]
    # Columns of the table that a command prints. Default: all.
    COLUMNS_PRINTED: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def summary(self) -> str:
        """The result in one line: what was measured, the main number, its control."""

    @abstractmethod
    def to_frame(self) -> pd.DataFrame:
        """The result as a table: one row per unit, head, layer, feature or condition."""

    def plot(self) -> go.Figure:
        """The figure that shows the result, the same as on its page."""
        module, function = self.DRAWN_BY.split(":")
        return getattr(import_module(module), function)(self)

    def told(self) -> str:
        """The result as a command prints it: the table if it is a small one, and the line."""
        frame = self.to_frame()
        if self.COLUMNS_PRINTED:
            frame = frame[list(self.COLUMNS_PRINTED)]
        table = f"{frame.to_string(float_format='{:.4g}'.format)}\n" if 0 < len(frame) <= _ROWS_TOLD else ""
        return f"{table}{self.summary()}"

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.summary()})"

    def _repr_html_(self) -> str:
        """What a notebook shows: the line, and the first rows of the table."""
        frame = self.to_frame()
        more = f"<p>{len(frame) - _ROWS_SHOWN:,} more rows: .to_frame()</p>" if len(frame) > _ROWS_SHOWN else ""
        return f"<p>{html.escape(repr(self))}</p>{frame.head(_ROWS_SHOWN).to_html(float_format='{:.4g}'.format)}{more}"
