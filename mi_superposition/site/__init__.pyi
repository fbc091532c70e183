from .records import FigureRecord as FigureRecord
from .records import ImageRecord as ImageRecord
from .records import Page as Page
from .records import Section as Section
from .records import TableRecord as TableRecord
from .write import write_site as write_site
