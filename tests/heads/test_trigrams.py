"""Skip trigrams, edges and how heads share features: against brute force, planted answers and nothing at all."""

import itertools
import warnings

import numpy as np
import pytest
import torch
from scipy.stats import fisher_exact

from mi_superposition.errors import RequestError
from mi_superposition.heads.trigrams.carried import EdgeTable
from mi_superposition.heads.trigrams.comparison import OBSERVED, compare_matrices
from mi_superposition.heads.trigrams.config import TrigramsConfig
from mi_superposition.heads.trigrams.counting import choose_candidates, count_triples, draw_queries, holm
from mi_superposition.heads.trigrams.edges import DocumentEdges, FrozenLogits
from mi_superposition.heads.trigrams.features import TrigramSearch, corrected, p_above_zero
from mi_superposition.heads.trigrams.matching import MatchedTokens, token_class
from mi_superposition.heads.trigrams.occurrences import OccurrenceIndex, logit_changes
from mi_superposition.heads.trigrams.sharing import (
    carriers,
    disjoint,
    factorise,
    identified,
    participation_ratio,
    permuted,
    spectrum_ratio,
    unbiased_participation_ratio,
)


def documents(n=60, length=30, vocabulary=12, seed=0):
    generator = np.random.default_rng(seed)
    return [generator.integers(vocabulary, size=length) for _ in range(n)]


def test_counts_are_those_of_loops():
    some, window = documents(20, 14, 5), 4
    queries = draw_queries(some, np.random.default_rng(3))
    counts = count_triples(some, window, np.random.default_rng(3))
    n_b, n_bc, n_ab, n_abc = {}, {}, {}, {}
    for d, q, b, c in zip(queries.document, queries.position, queries.current, queries.following, strict=True):
        assert some[d][q] == b
        assert some[d][q + 1] == c
        n_b[b] = n_b.get(b, 0) + 1
        n_bc[b, c] = n_bc.get((b, c), 0) + 1
        for a in {int(some[d][q - k]) for k in range(2, window + 1) if q >= k}:
            n_ab[a, b] = n_ab.get((a, b), 0) + 1
            n_abc[a, b, c] = n_abc.get((a, b, c), 0) + 1
    # One query a document and token.
    assert len({(d, b) for d, b in zip(queries.document, queries.current, strict=True)}) == len(queries.document)
    assert {tuple(map(int, row)) for row in counts.triples} == set(n_abc)
    for row, abc, ab, bc, of_b, p in zip(
        counts.triples, counts.n_abc, counts.n_ab, counts.n_bc, counts.n_b, counts.p, strict=True
    ):
        a, b, c = map(int, row)
        assert (abc, ab, bc, of_b) == (n_abc[a, b, c], n_ab[a, b], n_bc[b, c], n_b[b])
        table = [[abc, ab - abc], [bc - abc, of_b - ab - bc + abc]]
        assert p == pytest.approx(fisher_exact(table, alternative="greater").pvalue, rel=1e-6)
    again = count_triples(some, window, np.random.default_rng(3), among=counts.triples[::3])
    assert np.array_equal(again.n_abc, counts.n_abc[::3])
    assert np.array_equal(again.n_ab, counts.n_ab[::3])


def test_text_without_structure_gives_nothing_and_its_p_is_not_too_small():
    """Nominal rate: of documents of independent tokens at most the level's share of p is below it."""
    counts = count_triples(documents(600, 40, 8), 6, np.random.default_rng(1))
    assert len(counts.p) > 300
    assert (counts.p < 0.05).mean() <= 0.06
    false = 0
    for seed in range(20):
        search = TrigramSearch(
            documents(160, 30, 8, seed),
            [str(t) for t in range(8)],
            TrigramsConfig.of(seed=seed, tried=200, correction="holm"),
        )
        false += len(search.in_text().counts.triples) > 0
    assert false <= 4


def planted_documents(n=400, seed=0):
    """Independent tokens, but 1 … 2 is followed by 3 and 4 … 5 by 6."""
    some = documents(n, 24, 40, seed)
    generator = np.random.default_rng(seed + 1)
    for number, tokens in enumerate(some):
        a, b, c = ((1, 2, 3), (4, 5, 6), (7, 2, 8), (9, 5, 10))[number % 4]
        place = generator.integers(4, 18)
        tokens[place - 3], tokens[place], tokens[place + 1] = a, b, c
    return some


def test_planted_trigrams_are_found():
    search = TrigramSearch(planted_documents(), [str(t) for t in range(40)], TrigramsConfig.of(window=6, tried=50))
    found = {tuple(map(int, row)) for row in search.in_text().counts.triples}
    assert {(1, 2, 3), (4, 5, 6), (7, 2, 8), (9, 5, 10)} <= found
    assert len(found) <= 6


def test_candidates_share_no_two_tokens():
    counts = count_triples(planted_documents(), 6, np.random.default_rng(0), least=3)
    chosen = counts.triples[choose_candidates(counts, 20, 1)]
    for pair in ((0, 1), (0, 2), (1, 2)):
        assert len({tuple(row[list(pair)]) for row in chosen}) == len(chosen)


def test_holm_is_the_textbook():
    assert holm(np.array([0.01, 0.04, 0.03])) == pytest.approx([0.03, 0.06, 0.06])
    assert len(corrected(np.zeros(0), "holm")) == len(corrected(np.zeros(0), "bh")) == 0


def test_matched_tokens_are_of_the_class_and_frequency():
    texts = [" dog", " cat", " Tim", "ing", ".", " 12", " cow", " pig"]
    assert [token_class(text) for text in texts[:6]] == [
        "start, small",
        "start, small",
        "start, capital",
        "piece, small",
        "other",
        "digits",
    ]
    matched = MatchedTokens(np.array([100, 90, 5, 5, 5, 5, 3, 0]), [token_class(text) for text in texts])
    assert matched.pool(0).tolist() == [1, 6]
    assert matched.pool(0, [1]).tolist() == [6]


def test_occurrences_are_where_they_should_be():
    some = documents(50, 20, 6)
    for occurrence in OccurrenceIndex(some).occurrences(1, 2, 5, np.random.default_rng(0), 100):
        tokens = some[occurrence.document]
        assert tokens[occurrence.query] == 2
        assert occurrence.keys == tuple(np.flatnonzero(tokens[: occurrence.query] == 1))
        assert tokens[occurrence.query - 1] != 1
        assert any(2 <= occurrence.query - key <= 5 for key in occurrence.keys)


SIZES = dict(n_layers=2, n_heads=4, d_head=4, d_model=16, n_ctx=12, d_vocab=19, seed=0, device="cpu")
KINDS = {
    "GPT-2": dict(d_mlp=32, act_fn="gelu", normalization_type="LN"),
    "grouped queries, rotary, gated": dict(
        d_mlp=32, act_fn="silu", normalization_type="RMS", positional_embedding_type="rotary", rotary_dim=4,
        n_key_value_heads=2, gated_mlp=True, final_rms=True,
    ),
    "parallel": dict(d_mlp=32, act_fn="gelu", normalization_type="LN", parallel_attn_mlp=True, positional_embedding_type="rotary", rotary_dim=2),
    "attention only": dict(attn_only=True, normalization_type=None),
}  # fmt: skip


def hooked(kind):
    from transformer_lens import HookedTransformer, HookedTransformerConfig

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = HookedTransformer(HookedTransformerConfig(**SIZES, **KINDS[kind]))
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def bridge(tmp_path):
    import transformers

    from mi_superposition import load_model

    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        config = transformers.LlamaConfig(
            vocab_size=19, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
            max_position_embeddings=12, attention_bias=True,
        )  # fmt: skip
        network = transformers.LlamaForCausalLM(config)
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(0.2 * torch.randn_like(parameter))
        network.save_pretrained(tmp_path)
    return load_model(tmp_path, device="cpu")


def knocked_out(model, tokens, query, keys, target, cuts, cut, frozen):
    """Written out: one forward pass a condition, every hook by itself; the logit of the target with the clean run's scale."""
    end = f"blocks.{model.cfg.n_layers - 1}.hook_resid_post"
    mlps = [] if model.cfg.attn_only else [f"blocks.{layer}.hook_mlp_out" for layer in range(model.cfg.n_layers)]
    clean = {}

    def keep(value, hook, name):
        clean[name] = value.clone()

    from functools import partial

    model.run_with_hooks(tokens[None], fwd_hooks=[(name, partial(keep, name=name)) for name in [end, *mlps]])
    last = []
    hooks = [(end, lambda value, hook: last.append(value[0, query]))]
    for layer, head in cuts:

        def zero(pattern, hook, head=head):
            pattern = pattern.clone()
            whole = pattern[0, head, query].sum()
            pattern[0, head, query, keys] = 0
            if cut == "renormalise":
                pattern[0, head, query] *= whole / pattern[0, head, query].sum()
            return pattern

        hooks.append((f"blocks.{layer}.attn.hook_pattern", zero))
    if frozen:
        hooks += [(name, lambda value, hook, name=name: clean[name]) for name in mlps]
    model.run_with_hooks(tokens[None], fwd_hooks=hooks)
    norm = getattr(model, "ln_final", None) if model.cfg.normalization_type else None
    unembedding = model.W_U - model.W_U.mean(dim=1, keepdim=True)
    before = clean[end][0, query]
    if norm is None:
        return float((before - last[0]) @ unembedding[:, target])
    # The normalisation is linear once its scale is held: in the change, scaled to the clean run's scale.
    centred = model.cfg.normalization_type.startswith("LN")

    def scale(x):
        x = x - x.mean() if centred else x
        return (x.square().mean() + model.cfg.eps).sqrt()

    def frozen_norm(x):
        return (
            norm(x[None, None])[0, 0] * 1.0
            if norm is None
            else (norm(x[None, None])[0, 0] - bias) * scale(x) / scale(before)
        )

    bias = norm(torch.zeros(1, 1, model.cfg.d_model))[0, 0]
    return float((frozen_norm(before) - frozen_norm(last[0])) @ unembedding[:, target])


@pytest.mark.parametrize("kind", [*KINDS, "bridge"])
@pytest.mark.parametrize("cut", ["zero", "renormalise"])
def test_edges_are_those_of_hooks_written_out(kind, cut, tmp_path):
    model = bridge(tmp_path) if kind == "bridge" else hooked(kind)
    tokens = torch.randint(19, (9,), generator=torch.Generator().manual_seed(4))
    query, keys, target = 7, [2, 5], 3
    heads = list(itertools.product(range(2), range(4)))
    methods = ["hooks"] if kind == "bridge" else ["last token", "hooks"]
    with torch.no_grad():
        wanted = {
            frozen: torch.tensor(
                [
                    knocked_out(model, tokens, query, keys, target, cuts, cut, frozen)
                    for cuts in [*([one] for one in heads), heads]
                ]
            )
            for frozen in (False, True)
        }
    assert wanted[False].abs().max() > 1e-2
    for method in methods:
        found = DocumentEdges(model, tokens, method=method).effects(query, keys, torch.tensor([target]), cut=cut)
        assert (found.total[:, 0] - wanted[False]).abs().max() < 2e-4
        assert (found.mlps_frozen[:, 0] - wanted[True]).abs().max() < 2e-4
        small = DocumentEdges(model, tokens, method=method, memory_budget=1).effects(
            query, keys, torch.tensor([target]), cut=cut
        )
        assert (small.total - found.total).abs().max() < 2e-4
        # Nothing comes after the last layer's heads but its MLP: with MLPs held, all of it is direct.
        assert (found.direct[4:8, 0] - found.mlps_frozen[4:8, 0]).abs().max() < 2e-4


def test_in_one_attention_only_layer_heads_add_and_all_is_direct():
    from mi_superposition.models import build_attention_only_model

    model = build_attention_only_model(
        n_layers=1, n_heads=3, d_head=4, d_model=16, n_ctx=8, d_vocab=11, d_vocab_out=11, seed=1
    )
    tokens = torch.arange(8)
    found = DocumentEdges(model, tokens).effects(7, [3], torch.tensor([2, 4]))
    assert (found.total[:3].sum(0) - found.total[3]).abs().max() < 1e-5
    assert (found.direct - found.total).abs().max() < 1e-5


def planted_model():
    """Two trigrams by hand: head 0 looks from B=2 to A=1 and writes C=3, head 1 from B=5 to A=4 and writes C=6, head 2 does nothing."""
    from mi_superposition.models import build_attention_only_model

    model = build_attention_only_model(
        n_layers=1, n_heads=3, d_head=1, d_model=10, n_ctx=10, d_vocab=10, d_vocab_out=10, seed=0
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.embed.W_E.copy_(torch.eye(10))
        model.unembed.W_U.copy_(torch.eye(10))
        attn = model.blocks[0].attn
        for head, (a, b, c) in enumerate([(1, 2, 3), (4, 5, 6)]):
            attn.W_Q[head, b, 0], attn.W_K[head, a, 0] = 4.0, 4.0
            attn.W_V[head, a, 0], attn.W_O[head, 0, c] = 1.0, 5.0
    return model


def test_planted_carriers_are_exactly_those_found():
    model = planted_model()
    generator = torch.Generator().manual_seed(0)
    rows = []
    for a, b, c in [(1, 2, 3), (4, 5, 6)]:
        one = []
        for _ in range(8):
            tokens = torch.randint(7, 10, (10,), generator=generator)
            place = int(torch.randint(0, 7, (1,), generator=generator))
            tokens[place], tokens[9] = a, b
            one.append(DocumentEdges(model, tokens).effects(9, [place], torch.tensor([c])).total[:, 0])
        rows.append(torch.stack(one))
    heads = torch.stack([row.mean(0) for row in rows])[:, :3]
    errors = torch.stack([row.std(0) / 8**0.5 for row in rows])[:, :3]
    assert carriers(heads, errors, torch.tensor([8, 8])).tolist() == [[True, False, False], [False, True, False]]
    assert participation_ratio(heads).tolist() == pytest.approx([1, 1])
    assert heads[0, 0] > 4


def test_logit_changes_are_those_of_the_model():
    model = hooked("GPT-2")
    generator = np.random.default_rng(0)
    pairs = [(generator.integers(19, size=n), generator.integers(19, size=n)) for n in (4, 9, 6, 9)]
    targets = [3, 1, 4, 1]
    found = logit_changes(model, FrozenLogits(model), pairs, targets, 0, tokens_at_once=40)
    for change, (one, other), target in zip(found, pairs, targets, strict=True):
        logits = [model(torch.tensor([[0, *text]]))[0, -1].detach() for text in (one, other)]
        centred = [float(some[target] - some.mean()) for some in logits]
        # The bias of the unembedding is the same in both.
        assert float(change) == pytest.approx(centred[0] - centred[1], abs=1e-4)


def test_participation_ratio_counts_equal_heads_and_noise_is_taken_out():
    assert participation_ratio(torch.tensor([[1.0, -1, 0, 0], [3, 0, 0, 0]])).tolist() == pytest.approx([2, 1])
    generator = torch.Generator().manual_seed(0)
    truth = torch.zeros(4000, 16)
    truth[:, :2] = 1
    noisy = truth + 0.15 * torch.randn(4000, 16, generator=generator)
    unbiased = unbiased_participation_ratio(noisy, torch.full_like(noisy, 0.15))
    assert float(unbiased.mean()) == pytest.approx(2, abs=0.1)
    assert float(participation_ratio(noisy).mean()) > 4


def test_carriers_of_noise_are_few():
    generator = torch.Generator().manual_seed(1)
    samples = torch.randn(12, 200, 16, generator=generator)
    found = carriers(samples.mean(0), samples.std(0) / 12**0.5, torch.full((200,), 12))
    assert found.float().mean() < 0.005


def test_disjoint_trigrams_share_no_token():
    chosen = disjoint([(" a", " b", " c"), ("A", " d", " e"), (" f", " g", " h"), (" h", " i", " j")])
    assert len(chosen) == 2
    assert not {0, 1} <= set(chosen)
    assert not {2, 3} <= set(chosen)


def test_groups_and_profiles_of_planted_matrices():
    generator = torch.Generator().manual_seed(0)
    atoms = torch.nn.functional.normalize(torch.randn(3, 12, generator=generator), dim=1)
    rows = atoms[torch.arange(60) % 3] * (1 + torch.rand(60, 1, generator=generator))
    first, second = (rows + 0.01 * torch.randn(60, 12, generator=generator) for _ in range(2))
    factored = factorise(first, second, [1, 2, 3, 6], 0)
    assert factored.needed(0.95) == 3
    assert factored.explained[2] > 0.99
    # Three profiles for sixty features: they cannot be told apart; sixty of their own can.
    assert identified(first, second).float().mean() < 0.5
    own = torch.randn(60, 12, generator=generator)
    assert identified(own, own + 0.01 * torch.randn(60, 12, generator=generator)).all()
    assert spectrum_ratio(rows) < 3.01


def test_permuted_matrices_keep_what_they_should():
    matrix = torch.randn(20, 5, generator=torch.Generator().manual_seed(0))
    [by_row, twice] = permuted([matrix, 2 * matrix], "heads", torch.Generator().manual_seed(1))
    assert torch.equal(by_row.sort(1).values, matrix.sort(1).values)
    assert torch.equal(2 * by_row, twice)
    [by_column] = permuted([matrix], "features", torch.Generator().manual_seed(1))
    assert torch.equal(by_column.sort(0).values, matrix.sort(0).values)
    table = EdgeTable(
        torch.zeros(20, 3, dtype=torch.long), torch.full((20,), 4),
        torch.cat([matrix, matrix[:, :1]], 1).expand(3, -1, -1), torch.ones(3, 20, 6), torch.cat([matrix, matrix[:, :1]], 1).expand(2, -1, -1),
    )  # fmt: skip
    found = compare_matrices(table, n_permuted=2, seed=0)
    assert found[OBSERVED].told_apart == 20


def test_p_of_effects():
    assert p_above_zero(torch.tensor([1.0, 2.0, 3.0, 2.0])) < 0.01
    assert p_above_zero(torch.zeros(5)) == p_above_zero(torch.ones(1)) == 1


@pytest.mark.parametrize("keys", [[], [7], [-1], [8]])
def test_keys_must_stand_before_the_query(keys):
    with pytest.raises(RequestError, match="must stand before it"):
        DocumentEdges(hooked("attention only"), torch.arange(9)).effects(7, keys, torch.tensor([1]))


def test_too_few_documents():
    with pytest.raises(RequestError, match="give 4 or more"):
        TrigramSearch(documents(3), [str(t) for t in range(12)], TrigramsConfig())
