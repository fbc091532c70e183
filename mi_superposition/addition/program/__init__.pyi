from .roles import HeadRoles as HeadRoles
from .roles import head_roles as head_roles
from .rule import Program as Program
from .rule import fit_program as fit_program
from .tables import TableFidelity as TableFidelity
from .tables import model_answers as model_answers
from .tables import table_fidelity as table_fidelity
