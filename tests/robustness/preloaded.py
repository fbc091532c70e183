"""All that a command imports when it is used, imported at once: what is killed or short of memory is then the work alone."""

import sklearn.linear_model  # noqa: F401

import mi_superposition.neurons.scan.kernel
import mi_superposition.report.write  # noqa: F401
from mi_superposition.cli import commands
from mi_superposition.subjects import Study, chapters

for command in commands().values():
    if isinstance(command, Study):
        command.measuring()
        command.showing()
    else:
        command.running()
for chapter in chapters().values():
    chapter.showing()
