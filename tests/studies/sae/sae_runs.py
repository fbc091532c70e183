"""Small runs of 'sae train' and 'sae evaluate', made from the command line and left alone."""

import numpy as np
import pytest

from mi_superposition.cli import main
from mi_superposition.runs import read_manifest

WORDS = ["cat", "dog", "fox", "time", "there", "was", "liked", "to", "run", "play"]
HOOK = "blocks.1.hook_resid_pre"
NEURONS = "blocks.0.mlp.hook_post"


@pytest.fixture(scope="session")
def sae_corpus(tmp_path_factory):
    """Documents of five to thirty words, one in ten of which is held out."""
    generator = np.random.default_rng(0)
    documents = [" ".join(generator.choice(WORDS, generator.integers(5, 30))) for _ in range(300)]
    path = tmp_path_factory.mktemp("corpus") / "words.txt"
    path.write_text("<|endoftext|>".join(documents))
    return path


@pytest.fixture(scope="session")
def sae_command(tiny_gpt2, sae_corpus):
    """The command line of a small training."""

    def arguments(out, *more):
        options = {
            "--model": tiny_gpt2.folder, "--corpus": sae_corpus, "--d-sae": 48, "--k": 4, "--tokens": 4000, "--batch-size": 64,
            "--buffer-batches": 8, "--warmup-steps": 5, "--learning-rate": 0.01, "--threads": 1, "--out": out,
        }  # fmt: skip
        given = {str(word) for word in more}
        kept = [str(word) for name, value in options.items() if name not in given for word in (name, value)]
        return ["sae", "train", *kept, *map(str, more)]

    return arguments


@pytest.fixture(scope="session")
def trained_sae(sae_command, tmp_path_factory):
    """One autoencoder."""
    out = tmp_path_factory.mktemp("saes") / "one"
    assert main(sae_command(out)) == 0
    return out


@pytest.fixture(scope="session")
def sae_grid(sae_command, tmp_path_factory):
    """Two hooks with two sparsities, in one pass over the text."""
    out = tmp_path_factory.mktemp("saes") / "grid"
    assert main(sae_command(out, "--hook", HOOK, NEURONS, "--k", 2, 4)) == 0
    return out


@pytest.fixture(scope="session")
def evaluated_sae(trained_sae):
    """The evaluation of one autoencoder, with its control."""
    assert main(evaluation_of(trained_sae)) == 0
    return trained_sae / "evaluation"


def corpus_of(run):
    """The corpus that a run was trained on."""
    return read_manifest(run)["inputs"]["corpus"]["name"]


def evaluation_of(sae, *more, corpus=None):
    """The command line of an evaluation on the held-out part of the text trained on."""
    corpus = corpus or corpus_of(sae)
    return ["sae", "evaluate", "--sae", str(sae), "--corpus", str(corpus), "--threads", "1", *map(str, more)]
