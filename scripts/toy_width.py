"""Whether neurons become monosemantic when there are enough of them.

    python scripts/toy_width.py

`mi-superposition toy study width` does the same into a run folder, with figures.
"""

from __future__ import annotations

import tyro

from mi_superposition.studies.toy.study import StudySize, study_models
from mi_superposition.studies.toy.width import STUDY
from mi_superposition.toy.polysemanticity import polysemantic_share


def main() -> None:
    """Print the study."""
    models = study_models(STUDY, tyro.cli(StudySize, description=__doc__))
    first = next(iter(models.values()))
    print(f"polysemantic share at step  {'  '.join(f'{step:5d}' for step in first.snapshots)}")
    for trained in models.values():
        shares = [float(polysemantic_share(weights.W_in[0]).mean()) for weights in trained.snapshots.values()]
        print(f"{trained.config.n_hidden:4d} neurons                {'  '.join(f'{share:5.2f}' for share in shares)}")
    print(f"\n{STUDY.outcome(models)}")


if __name__ == "__main__":
    main()
