"""The command about concepts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mi_superposition.cli.command import Command, progress, stop_on_signal, text_table, where


@dataclass(frozen=True)
class Concepts(Command):
    """Look for concepts in every layer of a model: probes, directions, and the units that concepts share, with controls.

    Concepts are the labels of texts, or word lists of which one half serves to learn and the other to test.
    """

    out: Path
    """Run folder; the page is page/index.html below it."""
    model: str = "stories"
    """Language model (bundled, run folder, folder in Hugging Face layout, id on the hub) or encoder such as DistilBERT."""
    corpus: str = "stories"
    """Bundled corpus, file, folder, or dataset id on the hub."""
    split: str = "train"
    """Split of the corpus, where it has several."""
    column: str | None = None
    """Column with the text. Default: 'text' or 'sentence'."""
    labels: str = "auto"
    """Column with each text's label; 'none' for word lists; 'auto': the column 'label' of a file that has one."""
    concepts: str | None = None
    """Word lists: 'stories', 'sentiment', or a JSON file {"concept": ["word", ...]}. Default: stories for the bundled corpus."""
    most: int = 8000
    """Texts (sentences, for word lists) from the first on."""
    per_concept: int = 300
    """Texts of each concept to learn from, and to test on, at most."""
    top_k: int = 20
    """Units of each concept that may be shared with another."""
    random_lists: int = 50
    """Draws of random word lists, the control."""
    random_probes: int = 3
    """Draws of them on which a probe is trained too."""
    permutations: int = 1000
    """Random assignments of the permutation test."""
    seed: int = 0
    """Seed of what is held out, and of the controls."""
    threads: int = 2
    """CPU threads."""
    device: str = "auto"
    """'cpu', 'cuda', or 'auto': cuda where there is one."""

    sae: str | None = None
    """Sparse autoencoder of the model, whose features are looked at too: run of 'sae train', folder, or 'stories'."""

    def run(self) -> str:
        """Read and measure, or go on, or say that it is finished; the table."""
        from mi_superposition.models import device_of
        from mi_superposition.studies.concepts.page import accuracy_rows, intro
        from mi_superposition.studies.concepts.study import ConceptsRequest, load_findings, write_concepts_run

        request = ConceptsRequest(
            model=self.model,
            corpus=self.corpus,
            split=self.split,
            column=self.column,
            labels=self.labels,
            concepts=self.concepts,
            most=self.most,
            per_concept=self.per_concept,
            top_k=self.top_k,
            random_lists=self.random_lists,
            random_probes=self.random_probes,
            permutations=self.permutations,
            seed=self.seed,
            threads=self.threads,
            device=device_of(self.device),
            sae=self.sae,
        )
        with stop_on_signal() as stopping, progress("text") as on_text:
            done = write_concepts_run(self.out, request, on_text=on_text, should_stop=stopping)
        findings = load_findings(self.out)
        return f"{text_table(*accuracy_rows(findings))}\n{intro(findings)}\n{where(not done, self.out)}"
