"""Records to one static folder of pages that opens from disk and asks the network for nothing."""

from mi_superposition.site.records import FigureRecord, ImageRecord, Page, Section, TableRecord
from mi_superposition.site.write import write_site

__all__ = ["FigureRecord", "ImageRecord", "Page", "Section", "TableRecord", "write_site"]
