"""Text by name: documents, read lazily, and the token batches made of them."""

from mi_superposition.corpora.batches import TokenBatch, TokenBatches, TokenCounts, model_batches, token_batches
from mi_superposition.corpora.corpus import Corpus, CorpusCounts, load_corpus

__all__ = [
    "Corpus",
    "CorpusCounts",
    "TokenBatch",
    "TokenBatches",
    "TokenCounts",
    "load_corpus",
    "model_batches",
    "token_batches",
]
