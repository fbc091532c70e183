"""Every head ablated, one after the other, on text: ours, loops of ``run_with_hooks``, and the layers that must be run.

    python benchmarks/heads.py              # the bundled story model, and random weights in the shape of GPT-2 (12 layers)
    python benchmarks/heads.py --stories    # the bundled model alone

All give the change of the loss and the divergence from the whole model's prediction for every head and token. The loop takes rows of
like length together, 32 at a time as every command does by default, or as many as ours takes (1,024 tokens, which stay in the cache);
it computes the whole model's prediction once for each batch. Ours also keeps classes of tokens, examples and 1,000 resamples. Counted in
multiplications, the layers that must be run are what no order of work can save; the quotient printed last is what that alone allows against a
loop in equal pieces. Seconds can gain more: the comparison of the logits is work too.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from timing import Row, interleaved, machine, parser, write_rows
from transformers import GPT2Config, GPT2LMHeadModel

from mi_superposition import load_corpus, load_model
from mi_superposition.corpora import TokenBatch, model_batches
from mi_superposition.corpora.tokens import token_strings
from mi_superposition.heads.effects import LayerEffects, add_documents
from mi_superposition.heads.forward import Ablation, LayerForward
from mi_superposition.heads.prediction import Unembedding
from mi_superposition.heads.reference import Reference, pieces_of, reference_of
from mi_superposition.heads.token_classes import TokenClasses

OURS, LOOP, LOOP_IN_PIECES, BOUND = "ours", "loop of run_with_hooks, 32 rows", "the same, in pieces of 1,024 tokens", "the layers that must be run"  # fmt: skip


def loop(model: Any, batches: Iterable[TokenBatch], layers: Iterable[int]) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """The usual way: a forward pass with a hook for each head."""
    found = []
    for batch in batches:
        right = batch.tokens[:, 1:, None]
        whole = model(batch.tokens).log_softmax(dim=-1)[:, :-1]
        probability = whole.exp()
        loss = -whole.gather(2, right)[..., 0]
        for layer in layers:
            for head in range(model.cfg.n_heads):

                def zero(z: torch.Tensor, hook: Any, head: int = head) -> torch.Tensor:  # noqa: ARG001
                    z[:, :, head] = 0
                    return z

                logits = model.run_with_hooks(batch.tokens, fwd_hooks=[(f"blocks.{layer}.attn.hook_z", zero)])
                without = logits.log_softmax(dim=-1)[:, :-1]
                change = -without.gather(2, right)[..., 0] - loss
                divergence = (probability * (whole - without)).sum(dim=-1)
                counts = batch.mask[:, 1:]
                found.append((change[counts].sum(), divergence[counts].sum()))
    return found


def ours(model: Any, batches: list[TokenBatch], references: dict[int, Reference], classes: TokenClasses) -> None:
    """Layer by layer."""
    for layer in references:
        ablations = [Ablation("zero", head) for head in range(model.cfg.n_heads)]
        effects = LayerEffects(ablations, len(classes.names), "zero")
        add_documents(effects, LayerForward(model, layer, 0), references[layer], batches, classes)


def layers_that_must_be_run(model: Any, batches: list[TokenBatch], layers: Iterable[int]) -> None:
    """The lower bound: of each head the MLP of its layer, the layers after it, and the unembedding of the tokens that count."""
    n_layers, unembedded = model.cfg.n_layers, Unembedding(model)
    for piece in pieces_of(batches, torch.device("cpu")):
        counts = torch.nn.functional.pad(piece.batch.mask[:, 1 : piece.tokens.shape[1]], (0, 1))
        stream = model(piece.tokens, stop_at_layer=0)
        for layer in layers:
            block = model.blocks[layer]
            for _ in range(model.cfg.n_heads):
                end = block.apply_mlp(block.ln2(stream))
                if layer + 1 < n_layers:
                    end = model(end, start_at_layer=layer + 1, stop_at_layer=n_layers)
                unembedded(end[counts])


def least_share(cfg: Any, layers: Iterable[int]) -> float:
    """Multiplications of the layers that must be run over those of whole forward passes: attention's four and the MLP's two products, and the
    unembedding. What attention multiplies of keys, queries and values of a text is left out of both.
    """
    attention, mlp, unembedding = (
        4 * cfg.d_model * cfg.n_heads * cfg.d_head,
        2 * cfg.d_model * cfg.d_mlp,
        cfg.d_model * cfg.d_vocab_out,
    )
    chosen = list(layers)
    needed = [mlp + (cfg.n_layers - 1 - layer) * (attention + mlp) + unembedding for layer in chosen]
    return sum(needed) / (len(chosen) * (cfg.n_layers * (attention + mlp) + unembedding))


@dataclass(frozen=True)
class Found:
    """Seconds of every way over ``n_tokens`` with ``n_heads`` heads, and the share of multiplications that no way can save."""

    n_tokens: int
    n_heads: int
    seconds: dict[str, float]
    least_share: float

    @property
    def remark(self) -> str:
        """Beside the loop in equal pieces, and what is possible against it."""
        ratio = self.seconds[LOOP_IN_PIECES] / self.seconds[OURS]
        return f"the loop in our pieces of 1,024 tokens: {ratio:.2f} times ours, by multiplications at most {1 / self.least_share:.2f}"


def measured(model: Any, documents: list[Any], rounds: int, layers: tuple[int, ...] = ()) -> Found:
    """All ways on some documents, interleaved."""
    batches = list(model_batches(model, documents, 32, by_length=True, long="truncate"))
    in_pieces = [TokenBatch(piece.tokens, piece.batch.mask[:, : piece.tokens.shape[1]], piece.batch.document, piece.batch.place) for piece in pieces_of(batches, torch.device("cpu"))]  # fmt: skip
    classes = TokenClasses(token_strings(model.tokenizer, model.cfg.d_vocab), known=model.tokenizer is not None)
    # Zero needs none of it; the same is given to all.
    chosen = tuple(layers or range(model.cfg.n_layers))
    references = {layer: reference_of(model, layer, batches[:1]) for layer in chosen}
    ways: dict[str, Callable[[], Any]] = {
        OURS: lambda: ours(model, batches, references, classes),
        LOOP: lambda: loop(model, batches, chosen),
        LOOP_IN_PIECES: lambda: loop(model, in_pieces, chosen),
        BOUND: lambda: layers_that_must_be_run(model, batches, chosen),
    }
    n_tokens = sum(int(batch.mask.sum()) for batch in batches)
    # What is compiled at its first call.
    ours(model, list(model_batches(model, [documents[0]], 1, long="truncate")), references, classes)
    return Found(
        n_tokens, len(chosen) * model.cfg.n_heads, interleaved(ways, rounds, warm_up=0), least_share(model.cfg, chosen)
    )


def story_model(quick: bool) -> Found:
    """The bundled model on stories."""
    documents = list(itertools.islice(load_corpus("stories"), 4 if quick else 20))
    return measured(load_model("stories", device="cpu"), documents, 1)


def gpt2_shape(quick: bool) -> Found:
    """GPT-2 small with random weights, on random tokens in rows of different lengths: the heads of the first, a middle and the last layer."""
    config = GPT2Config(n_layer=2, n_embd=64, n_head=4, vocab_size=500) if quick else GPT2Config()
    with tempfile.TemporaryDirectory() as folder:
        GPT2LMHeadModel(config).save_pretrained(folder)
        model = load_model(folder, device="cpu")
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(32, 129, (2 if quick else 8,), generator=generator).tolist()
    documents = [torch.randint(model.cfg.d_vocab, (n,), generator=generator).tolist() for n in lengths]
    return measured(model, documents, 1, (0, 1) if quick else (0, 6, 11))


def rows(quick: bool) -> list[Row]:
    """For the common table."""
    made = []
    for name, found in (("story model", story_model(quick)), ("GPT-2's shape, 12 layers", gpt2_shape(quick))):
        made.append(
            Row(f"{found.n_heads} heads ablated, {name}, {found.n_tokens:,} tokens", found.seconds[OURS], "loop of run_with_hooks, 32 rows", found.seconds[LOOP],
                BOUND, found.seconds[BOUND], found.remark)
        )  # fmt: skip
    return made


def main() -> None:
    """Print the table."""
    options_of = parser(__doc__)
    options_of.add_argument("--stories", action="store_true", help="the bundled model alone")
    options = options_of.parse_args()
    with torch.no_grad():
        if options.rows:
            write_rows(options.rows, rows(options.quick))
            return
        print(machine())
        models = {"story model": story_model} | ({} if options.stories else {"GPT-2's shape": gpt2_shape})
        for name, measure in models.items():
            found = measure(options.quick)
            print(f"\n{name}: {found.n_heads} heads, {found.n_tokens:,} tokens")
            for way, seconds in found.seconds.items():
                print(f"{way:40} {seconds:8.2f} s {seconds / found.seconds[OURS]:6.2f} × ours", flush=True)
            print(found.remark)


if __name__ == "__main__":
    main()
