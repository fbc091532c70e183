"""Neuroscope, step by step: scan a corpus, compare the number of contexts with its controls, name the neurons that stand out.

    python scripts/neuroscope.py                             # the bundled story model on the bundled corpus
    python scripts/neuroscope.py --out runs/scan --model roneneldan/TinyStories-2Layers-33M --corpus train.parquet

With --out it also writes the pages of all neurons, as `mi-superposition neurons scan` and `neurons pages` do, into a run folder
that can be stopped and resumed. That scan measures the range of each neuron on the first documents instead.
"""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path

import mi_superposition as ms
from mi_superposition.neurons import ScanConfig
from mi_superposition.pages.render import write_page
from mi_superposition.studies.neurons.scan import measure


def main() -> None:
    """Scan, print the neurons whose examples form the fewest and the most contexts, write the pages."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="run folder; its pages are in the folder 'page' of it")
    parser.add_argument("--model", default="stories")
    parser.add_argument("--corpus", default="stories")
    parser.add_argument("--documents", type=int, default=2500)
    parser.add_argument("--named", type=int, default=5, help="neurons of each layer named here")
    options = parser.parse_args()

    model = ms.load_model(options.model)
    texts = list(itertools.islice(ms.load_corpus(options.corpus), options.documents))
    # Longest sequences first: little padding; ranges are then measured on the longest documents.
    batches = list(ms.model_batches(model, texts, 32, by_length=True))
    scan = ms.scan_neurons(model, batches)
    untrained = ms.scan_neurons(ms.untrained_copy(model, seed=0), batches)
    print(f"{scan.n_documents:,} documents, {scan.n_tokens:,} tokens")

    for hook, found in scan.hooks.items():
        print(
            f"{hook}: {found.contexts.median():.1f} contexts (median), {untrained.hooks[hook].contexts.median():.1f} untrained, "
            f"{found.contexts_shuffled.median():.1f} when examples are permuted across neurons"
        )
        frame = scan.to_frame().loc[hook].sort_values("contexts")
        for name, some in (("fewest", frame.head(options.named)), ("most", frame.tail(options.named))):
            for neuron, row in some.iterrows():
                print(f"  {name} {row['contexts']:5.1f}  neuron {neuron:4}  fires on: {row['top_tokens']}")

    if options.out is not None:
        config = ScanConfig().replace(model=options.model, corpus=options.corpus, documents=options.documents)
        measure(config, options.out)
        print(f"pages: {write_page(options.out)}")


if __name__ == "__main__":
    main()
