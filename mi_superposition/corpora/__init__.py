"""Text by name: documents, read lazily, and the token batches made of them; labelled texts and labelled images."""

from mi_superposition.corpora.batches import TokenBatch, TokenBatches, TokenCounts, model_batches, token_batches
from mi_superposition.corpora.corpus import Corpus, CorpusCounts, load_corpus
from mi_superposition.corpora.images import Images, LabelledImages, load_images
from mi_superposition.corpora.labelled import LabelledTexts, load_labelled_texts

__all__ = [
    "Corpus",
    "CorpusCounts",
    "Images",
    "LabelledImages",
    "LabelledTexts",
    "TokenBatch",
    "TokenBatches",
    "TokenCounts",
    "load_corpus",
    "load_images",
    "load_labelled_texts",
    "model_batches",
    "token_batches",
]
