"""Options for training the story model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, Interval

from mi_superposition.config import AtLeast0, AtLeast1, Config, NonNegative, Positive, SeedNumber, Threads
from mi_superposition.parts import SeedPart


@dataclass(frozen=True)
class StoriesConfig(Config):
    """One training run; the defaults make the bundled model."""

    seed: SeedNumber = SeedPart.seed
    """Seed of everything drawn at random: initial weights, order of the stories, dropout."""
    d_vocab: Annotated[int, Ge(257)] = 4096
    """Tokens of the vocabulary: at least the 256 bytes and the end of text."""
    n_ctx: AtLeast1 = 256
    """Tokens in each row."""
    d_model: AtLeast1 = 256
    """Dimensions of the residual stream."""
    d_mlp: AtLeast1 = 1024
    """Neurons in each layer's MLP."""
    n_layers: AtLeast1 = 2
    """Layers."""
    n_heads: AtLeast1 = 8
    """Attention heads in each layer."""
    batch_size: AtLeast1 = 32
    """Rows in each step."""
    n_steps: AtLeast1 = 5000
    """Training steps."""
    warmup_steps: AtLeast0 = 100
    """Steps in which the learning rate rises to its full value; afterwards it falls linearly to 0."""
    learning_rate: Positive = 1e-2
    """Highest learning rate, of Muon and AdamW alike."""
    weight_decay: NonNegative = 0.1
    """Weight decay of the matrices inside the blocks; embeddings, biases and gains have none."""
    dropout: Annotated[float, Interval(ge=0, lt=1)] = 0.1
    """Dropout on the embeddings and on what attention and MLP write; attention patterns have none."""
    log_every_steps: AtLeast1 = 250
    """Steps from one log row and checkpoint to the next."""
    n_logged: AtLeast1 = 100
    """Held-out documents measured at each log; the final figure is over all of them."""
    threads: Threads = 2
    """CPU threads. On a CPU, results are bit-identical for the same number."""
    device: str = "cpu"
    """Device: 'cpu', or 'cuda', which ends in other last bits."""
    compile: bool = True
    """With torch.compile: twice as fast, needs a C++ compiler, ends in other last bits."""
