"""Neuroscope, step by step: scan a corpus, write a page for every neuron, name those that tell most.

    python scripts/neuroscope.py --out site                  # the bundled story model on the bundled corpus
    python scripts/neuroscope.py --out site --model roneneldan/TinyStories-2Layers-33M --corpus train.parquet

`mi-superposition neurons scan` and `neurons pages` do it with a run folder that can be stopped and gone on with, and find
the ranges of the tenths in the first documents instead.
"""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path

from mi_superposition import load_corpus, load_model
from mi_superposition.corpora import model_batches
from mi_superposition.neurons import scan_neurons
from mi_superposition.studies.neuron_records import neuron_records
from mi_superposition.studies.neuroscope import scan_record, write_scan_pages


def main() -> None:
    """Scan, write the pages, print the neurons whose examples form the fewest and the most contexts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", default="stories")
    parser.add_argument("--corpus", default="stories")
    parser.add_argument("--documents", type=int, default=2500)
    parser.add_argument("--named", type=int, default=5, help="neurons of each layer named here")
    options = parser.parse_args()

    model = load_model(options.model)
    texts = list(itertools.islice(load_corpus(options.corpus), options.documents))
    # Longest rows first: little padding; ranges are then found in the longest documents.
    batches = list(model_batches(model, texts, 32, by_length=True))
    scan = scan_neurons(model, batches, top_k=20)
    print(f"{scan.n_documents:,} documents, {scan.n_tokens:,} tokens")

    record = scan_record(scan, model, model_name=options.model, corpus_name=options.corpus)
    write_scan_pages(scan, model, record, options.out, site_title="Neuroscope", index="index.html")
    print(f"pages: {options.out / 'index.html'}")

    for hook, found in scan.hooks.items():
        print(
            f"{hook}: {found.contexts.median():.1f} contexts (median), {found.contexts_shuffled.median():.1f} dealt at random"
        )
        order = found.contexts.argsort().tolist()
        for name, units in (("fewest", order[: options.named]), ("most", order[-options.named :])):
            for neuron in neuron_records(scan, model, hooks=[hook], units={hook: units}):
                tokens = " ".join(value.token.strip() for value in neuron.token_lists["Fires on"][:6])
                print(f"  {name} {neuron.contexts:5.1f}  neuron {neuron.unit:4}  fires on: {tokens}")


if __name__ == "__main__":
    main()
