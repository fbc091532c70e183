"""Nine studies of toy models, each from one command: ``mi-superposition toy study NAME``."""

from mi_superposition.studies.toy import (
    absolute,
    correlation,
    directions,
    dropout,
    logic,
    neurons,
    penalties,
    sparsity,
    width,
)

STUDIES = {
    study.name: study
    for study in (
        directions.STUDY,
        sparsity.STUDY,
        neurons.STUDY,
        absolute.STUDY,
        logic.STUDY,
        dropout.STUDY,
        penalties.STUDY,
        width.STUDY,
        correlation.STUDY,
    )
}
