"""Training the story model: a small GPT-2 on short stories, as a run folder in Hugging Face layout."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypedDict

import torch
import torch.nn.functional as F
from jaxtyping import Int
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import GPT2LMHeadModel, PreTrainedTokenizerFast

from mi_superposition.corpora.corpus import END_OF_TEXT
from mi_superposition.errors import RequestError
from mi_superposition.files import text_hash
from mi_superposition.models import build_gpt2, save_hugging_face
from mi_superposition.runs import CHECKPOINT, Outcome, Run, open_run, read_history
from mi_superposition.stories.config import StoriesConfig
from mi_superposition.stories.evaluate import bits_per_character
from mi_superposition.training import GradientLearner, fixed_arithmetic, resume, seeded_generator, train, warmup_then

COMMAND = "stories train"


class _Row(TypedDict):
    step: int
    loss: float


def train_tokenizer(documents: Sequence[str], d_vocab: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE with ``<|endoftext|>`` (id 0) as beginning, end and padding: any text has a spelling."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        documents,
        trainers.BpeTrainer(
            vocab_size=d_vocab,
            special_tokens=[END_OF_TEXT],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=END_OF_TEXT, eos_token=END_OF_TEXT, pad_token=END_OF_TEXT
    )


def untrained_story_model(config: StoriesConfig, end_token: int) -> GPT2LMHeadModel:
    """The model of a run before its first step, from its seed."""
    return build_gpt2(
        d_vocab=config.d_vocab,
        n_ctx=config.n_ctx,
        d_model=config.d_model,
        d_mlp=config.d_mlp,
        n_layers=config.n_layers,
        n_heads=config.n_heads,
        dropout=config.dropout,
        end_token=end_token,
        seed=config.seed,
    )


def train_stories(
    config: StoriesConfig,
    documents: Sequence[str],
    held_out: Sequence[str],
    out: Path,
    *,
    on_log: Callable[[dict[str, float]], None] = lambda row: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Outcome:
    """Train in the run folder ``out``, going on where an earlier call was cut off.

    Leaves ``config.json``, ``model.safetensors`` (half precision) and the tokenizer as ``from_pretrained`` of
    transformers wants them. Raises ``RequestError`` when a held-out document is also trained on, and
    ``training.Stopped`` when ``should_stop()`` said so.
    """
    if not documents or not held_out:
        raise RequestError(f"{len(documents)} training and {len(held_out)} held-out documents: both need at least one")
    if shared := set(documents) & set(held_out):
        raise RequestError(f"{len(shared)} held-out documents are trained on too, such as {min(shared)[:40]!r}")
    inputs = {"documents": text_hash(documents), "held_out": text_hash(held_out)}
    with open_run(out, COMMAND, config, inputs) as run:
        if run.finished:
            return Outcome(out, finished_already=True)
        with fixed_arithmetic(config.threads):
            _train(config, run, documents, held_out, on_log, should_stop)
    return Outcome(out, finished_already=False)


class StoryRows:
    """Rows of ``n_ctx + 1`` tokens: each epoch joins all stories in a new order and cuts them into rows."""

    def __init__(self, stories: Sequence[Sequence[int]], config: StoriesConfig, end: int):
        self.config = config
        self.lengths = torch.tensor([len(story) + 1 for story in stories])
        self.starts = self.lengths.cumsum(0) - self.lengths
        self.tokens = torch.tensor([token for story in stories for token in (end, *story)], dtype=torch.int32)
        n_rows = (len(self.tokens) - 1) // config.n_ctx
        self.steps_per_epoch = n_rows // config.batch_size
        if not self.steps_per_epoch:
            raise RequestError(
                f"{n_rows} rows of {config.n_ctx} tokens do not fill a batch of {config.batch_size}: give more text"
            )
        self._epoch, self._rows = -1, self.tokens

    def __call__(self, step: int) -> Int[Tensor, "batch pos_and_next"]:
        """The rows of one step, from the step number alone."""
        epoch, batch = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch:
            self._epoch, self._rows = epoch, self._shuffled(epoch)
        return self._rows[batch * self.config.batch_size : (batch + 1) * self.config.batch_size].long()

    def _shuffled(self, epoch: int) -> Tensor:
        generator = seeded_generator(self.config.seed, "epoch", epoch)
        order = torch.randperm(len(self.lengths), generator=generator)
        lengths = self.lengths[order]
        shift = (self.starts[order] - (lengths.cumsum(0) - lengths)).repeat_interleave(lengths)
        joined = self.tokens[torch.arange(len(self.tokens)) + shift]
        return joined.unfold(0, self.config.n_ctx + 1, self.config.n_ctx)


def _optimizers(model: GPT2LMHeadModel, weight_decay: float) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the blocks, AdamW for embeddings, biases and gains."""
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and name.startswith("transformer.h.")]
    inside = set(map(id, matrices))
    others = [parameter for parameter in model.parameters() if id(parameter) not in inside]
    return [
        torch.optim.Muon(matrices, weight_decay=weight_decay, momentum=0.95, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, betas=(0.9, 0.95), weight_decay=0.0, fused=True),
    ]


def _train(
    config: StoriesConfig,
    run: Run,
    documents: Sequence[str],
    held_out: Sequence[str],
    on_log: Callable[[dict[str, float]], None],
    should_stop: Callable[[], bool],
) -> None:
    tokenizer = train_tokenizer(documents, config.d_vocab)
    end = tokenizer.eos_token_id
    rows = StoryRows(
        [encoding.ids for encoding in tokenizer.backend_tokenizer.encode_batch(list(documents))], config, end
    )
    model = untrained_story_model(config, end)
    model.to(torch.device(config.device))  # type: ignore[arg-type]

    def mean_loss(tokens: Tensor) -> Tensor:
        with torch.autocast(config.device, dtype=torch.bfloat16):
            logits = model(input_ids=tokens[:, :-1]).logits
        return F.cross_entropy(logits.flatten(0, 1).float(), tokens[:, 1:].flatten())

    fast_loss = torch.compile(mean_loss) if config.compile else mean_loss

    def loss(step: int) -> Tensor:
        # Dropout draws from the global generator: seeded by the step, so that a resumed run draws the same.
        torch.manual_seed(seeded_generator(config.seed, "dropout", step).initial_seed() % 2**63)
        return fast_loss(rows(step).to(config.device))

    rate = warmup_then("linear", config.learning_rate, config.warmup_steps, config.n_steps)
    learner = GradientLearner(model, _optimizers(model, config.weight_decay), loss, rate)
    start = resume(learner, run.path / CHECKPOINT)
    run.rewind_history(start, _Row)
    began = time.perf_counter()

    def after_step(done: int) -> None:
        if done % config.log_every_steps and done != config.n_steps:
            return
        row = {
            "step": done,
            "epoch": done / rows.steps_per_epoch,
            "loss": learner.take_mean_loss(),
            "held_out_bits_per_character": bits_per_character(model, tokenizer, held_out[: config.n_logged]),
            "learning_rate": rate(done - 1),
        }
        run.append_history(row)
        on_log(row)

    model.train()
    train(
        learner,
        start,
        config.n_steps,
        checkpoint=run.path / CHECKPOINT,
        checkpoint_every=config.log_every_steps,
        after_step=after_step,
        should_stop=should_stop,
    )
    seconds = time.perf_counter() - began
    save_hugging_face(model, tokenizer, run.path)
    tokens_per_step = config.batch_size * config.n_ctx
    run.finish(
        {
            # Of the weights as saved, in half precision.
            "held_out_bits_per_character": bits_per_character(model.half().float(), tokenizer, held_out),
            "n_held_out": len(held_out),
            "train_loss": read_history(run.path, _Row)[-1]["loss"],
            "tokens_seen": config.n_steps * tokens_per_step,
            "tokens_distinct": len(rows.tokens),
            "epochs": config.n_steps / rows.steps_per_epoch,
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
            # Of this call alone: a run that was interrupted does not know how long it waited.
            "tokens_per_second": (config.n_steps - start) * tokens_per_step / seconds,
        }
    )
