"""A scan of heads against loops over queries and keys written out here, on models of several kinds."""

import itertools
import math
import shutil

import pytest
import torch
import transformers as T

from mi_superposition import load_model
from mi_superposition.corpora import TokenBatch, model_batches
from mi_superposition.errors import RequestError
from mi_superposition.heads.scan import (
    HeadReader,
    HeadScanSettings,
    HeadWeights,
    RepeatedTokens,
    calibrate_heads,
    circuit_ranks,
    circuit_similarity,
    copying_scores,
    repeated_scores,
    scan_batches,
    scan_heads,
    written_directions,
)
from mi_superposition.heads.scan.accumulator import TRAINED, hook_of
from mi_superposition.heads.scan.circuits import token_writes
from mi_superposition.heads.scan.reader import LayerReading
from mi_superposition.heads.scan.reading import readers_of_heads
from mi_superposition.models import untrained_copy
from mi_superposition.models.bridge import bridge_of
from mi_superposition.models.norms import folded
from mi_superposition.neurons.effects import logit_directions
from mi_superposition.spectra import effective_ranks, weight_spectrum

WORDS = ["cat", "dog", "fox", "time", "there", "was", "liked", "to", "run", "play"]
TEXTS = [" ".join(WORDS[(7 * i + i * j + j * j) % 10] for j in range(2 + 3 * i % 9)) for i in range(40)]
KINDS = {
    "gpt2": None,
    "llama": T.LlamaConfig(
        vocab_size=300, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=32, bos_token_id=0, eos_token_id=0,
    ),
    "gpt-neox": T.GPTNeoXConfig(
        vocab_size=300, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=32, bos_token_id=0, eos_token_id=0,
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def models(tiny_gpt2, tmp_path_factory):
    """A model of every kind, and the Llama as a bridge too."""
    found = {"gpt2": tiny_gpt2.hooked}
    for kind, config in KINDS.items():
        if config is None:
            continue
        folder = tmp_path_factory.mktemp("models") / kind
        with torch.random.fork_rng(), torch.no_grad():
            torch.manual_seed(0)
            network = T.AutoModelForCausalLM.from_config(config)
            for parameter in network.parameters():
                parameter.add_(0.2 * torch.randn_like(parameter))
        network.save_pretrained(folder)
        for file in tiny_gpt2.folder.glob("tokenizer*"):
            shutil.copy(file, folder)
        found[kind] = load_model(folder, device="cpu")
        if kind == "llama":
            found["bridge"] = bridge_of(network.eval(), found[kind].tokenizer, name=str(folder), n_ctx=32)
    return found


def batches_of(model, texts=TEXTS):
    return model_batches(model, texts, 8)


def heard(model, tokens, layer):
    """What hooks say of a layer: pattern, values of every head, and what the heads write."""
    kept = {}

    def keep(name):
        def listen(activation, hook):
            kept[name] = activation.detach().double()

        return listen

    names = ("hook_v", "hook_pattern", "hook_z")
    model.run_with_hooks(tokens, fwd_hooks=[(f"blocks.{layer}.attn.{name}", keep(name)) for name in names])
    n_heads = model.cfg.n_heads
    values = kept["hook_v"].repeat_interleave(n_heads // kept["hook_v"].shape[2], dim=2)
    output = model.blocks[layer].attn.W_O.detach().double()
    return kept["hook_pattern"], values, output, torch.einsum("bphd,hdm->bphm", kept["hook_z"], output)


@pytest.mark.parametrize("kind", ["gpt2", "llama", "gpt-neox", "bridge"])
def test_means_over_queries_are_those_of_loops(models, kind):
    model = models[kind]
    reader, untrained = HeadReader(model), HeadReader(untrained_copy(model, 0))
    settings = HeadScanSettings(query_share=1.0)
    batches = batches_of(model)
    sums = scan_batches(reader, untrained, batches, calibrate_heads(reader, batches, settings), settings).sums[TRAINED]
    n_layers, n_heads = model.cfg.n_layers, model.cfg.n_heads
    total = {name: torch.zeros(n_layers * n_heads, dtype=torch.float64) for name in (*sums.means(), "uniform")}
    received = torch.zeros(model.cfg.d_vocab, n_layers * n_heads, dtype=torch.float64)
    n = 0
    for batch in batches:
        for layer in range(n_layers):
            pattern, values, output, written = heard(model, batch.tokens, layer)
            for row, query in batch.mask.nonzero().tolist():
                n += layer == 0
                for head in range(n_heads):
                    at = layer * n_heads + head
                    weights = pattern[row, head, query, : query + 1]
                    strongest = 0.0
                    for key, weight in enumerate(weights.tolist()):
                        total["entropy"][at] -= weight * math.log(weight) if weight else 0
                        total["distance"][at] += weight * (query - key)
                        if batch.mask[row, key]:
                            strongest = max(strongest, weight * float((values[row, key, head] @ output[head]).norm()))
                            received[batch.tokens[row, key], at] += weight
                    total["first"][at] += float(weights[0])
                    total["itself"][at] += float(weights[query])
                    total["previous"][at] += float(weights[query - 1]) if query else 0
                    total["strongest"][at] += strongest
                    total["written"][at] += float(written[row, query, head].square().sum())
                    total["uniform"][at] += 1 / (query + 1)
    means = sums.means()
    for name, found in means.items():
        wanted = total[name] / n
        torch.testing.assert_close(found.square() if name == "written" else found, wanted, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(sums.sums["received"], received, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(sums.permuted_means()["first"], total["uniform"] / n, rtol=1e-9, atol=0)


def test_the_control_is_the_mean_over_all_permutations_of_each_querys_keys(models):
    """All 24 permutations of four keys, and fewer of fewer, one after the other."""
    model = models["gpt2"]
    reader = HeadReader(model)
    settings = HeadScanSettings()
    [batch] = batches_of(model, ["cat dog fox"])
    tokens, mask = batch.tokens[:, :4], batch.mask[:, :4]
    piece = TokenBatch(tokens, mask, batch.document[:, :4], batch.place[:, :4], batch.content)
    calibration = calibrate_heads(reader, batches_of(model), settings)
    sums = scan_batches(reader, HeadReader(untrained_copy(model, 0)), [piece], calibration, settings).sums[TRAINED]
    found = sums.permuted_means()
    for layer in range(model.cfg.n_layers):
        pattern, values, output, _ = heard(model, tokens, layer)
        for head in range(model.cfg.n_heads):
            wanted = {"distance": 0.0, "first": 0.0, "itself": 0.0, "previous": 0.0, "written": 0.0}
            queries = mask[0].nonzero()[:, 0].tolist()
            for query in queries:
                weights = pattern[0, head, query, : query + 1].tolist()
                orders = list(itertools.permutations(range(query + 1)))
                for order in orders:
                    permuted = torch.tensor([weights[key] for key in order], dtype=torch.float64)
                    one = {
                        "distance": float((permuted * (query - torch.arange(query + 1))).sum()),
                        "first": float(permuted[0]),
                        "itself": float(permuted[query]),
                        "previous": float(permuted[query - 1]) if query else 0.0,
                        "written": float((permuted @ values[0, : query + 1, head] @ output[head]).square().sum()),
                    }
                    for name, value in one.items():
                        wanted[name] += value / len(orders) / len(queries)
            at = layer * model.cfg.n_heads + head
            for name, value in wanted.items():
                measured = float(found[name][at])
                assert (measured**2 if name == "written" else measured) == pytest.approx(value, rel=1e-4), name


@pytest.mark.parametrize("kind", ["gpt2", "llama", "bridge"])
def test_scores_on_repeated_tokens(models, kind):
    model = models[kind]
    repeated = RepeatedTokens.of(model, HeadScanSettings(repeated_sequences=3, repeated_length=6))
    start, n = repeated.start, repeated.length
    tokens = repeated.tokens[:, start:]
    assert torch.equal(tokens[:, :n], tokens[:, n:])
    scores = repeated_scores(HeadReader(model), repeated)
    expected = dict.fromkeys(scores, 0.0)
    for layer in range(model.cfg.n_layers):
        pattern = heard(model, repeated.tokens, layer)[0]
        for head in range(model.cfg.n_heads):
            found = {name: [] for name in scores}
            for row in range(len(tokens)):
                for query in range(2 * n):
                    weights = pattern[row, head, start + query, start:]
                    if query >= n:
                        found["induction"].append(float(weights[query - n + 1]))
                        found["duplicate_token"].append(float(weights[query - n]))
                    if query:
                        found["previous_token"].append(float(weights[query - 1]))
            for name, values in found.items():
                wanted = sum(values) / len(values)
                assert float(scores[name][layer * model.cfg.n_heads + head]) == pytest.approx(wanted, rel=1e-4), name
    for query in range(2 * n):
        expected["previous_token"] += (query > 0) / (start + query + 1) / (2 * n - 1)
        expected["induction"] += (query >= n) / (start + query + 1) / n
    expected["duplicate_token"] = expected["induction"]
    assert repeated.expected() == pytest.approx(expected)


def test_a_head_that_looks_back_one_token_scores_one(models):
    """A planted pattern: the scores of heads that attend to one place only."""
    repeated = RepeatedTokens.of(models["gpt2"], HeadScanSettings(repeated_sequences=2, repeated_length=5))
    width = repeated.tokens.shape[1]

    class Planted(HeadReader):
        def __init__(self):
            self.layers = [0]

        def read(self, tokens, hear):
            place = torch.arange(width)
            backs = (1, repeated.length, repeated.length - 1)
            pattern = torch.stack([(place[:, None] - back == place).float() for back in backs])
            n = len(tokens)
            values, written, entering = torch.zeros(n, width, 3, 1), torch.zeros(n, width, 3), torch.zeros(n, width, 1)
            hear(LayerReading(0, pattern.expand(n, -1, -1, -1), values, written, entering))

    scores = repeated_scores(Planted(), repeated)
    assert scores["previous_token"].tolist() == [1, 0, 0]
    assert scores["duplicate_token"].tolist() == [0, 1, 0]
    assert scores["induction"].tolist() == [0, 0, 1]


@pytest.mark.parametrize("kind", ["gpt2", "llama", "gpt-neox", "bridge"])
def test_circuits_are_those_of_whole_matrices(models, kind):
    model = models[kind]
    weights = HeadWeights.of(model)
    copying, ranks = copying_scores(model, weights), circuit_ranks(weights)
    directions, shares = written_directions(weights, 2)
    unembedding, embedding = logit_directions(model).double(), model.W_E.detach().double()
    whole = {"ov": [], "qk": []}
    for layer, head in itertools.product(range(model.cfg.n_layers), range(model.cfg.n_heads)):
        at, attn, norm = layer * model.cfg.n_heads + head, model.blocks[layer].attn, model.blocks[layer].ln1
        query, key, value = (
            folded(norm, getattr(attn, f"W_{letter}").detach()[head * len(getattr(attn, f"W_{letter}")) // model.cfg.n_heads].float())
            for letter in "QKV"
        )  # fmt: skip
        ov, qk = (value @ attn.W_O[head]).detach(), (query @ key.T).detach()
        whole["ov"].append(ov)
        whole["qk"].append(qk)
        eigenvalues = torch.linalg.eigvals(embedding @ ov.double() @ unembedding)
        eigenvalues = eigenvalues[eigenvalues.abs().argsort(descending=True)[: model.cfg.d_head]]
        assert float(copying["copying"][at]) == pytest.approx(
            float(eigenvalues.real.sum() / eigenvalues.abs().sum()), abs=1e-3
        )
        assert float(copying["positive"][at]) == pytest.approx(float((eigenvalues.real > 0).double().mean()), abs=1e-6)
        for name, matrix in (("qk_rank", qk), ("ov_rank", ov)):
            spectrum = weight_spectrum(matrix)[: model.cfg.d_head]
            assert float(ranks[name][at]) == pytest.approx(effective_ranks(spectrum).entropy_rank, rel=1e-4)
        _, values, right = torch.linalg.svd(ov.double())
        assert (directions[at].double() @ right[:2].T).abs().diagonal().tolist() == pytest.approx([1, 1], abs=1e-3)
        assert shares[at].tolist() == pytest.approx((values[:2] / values.square().sum().sqrt()).tolist(), rel=1e-3)
    for name, left, right in (
        ("ov", weights.value, weights.output),
        ("qk", weights.query, weights.key.transpose(1, 2)),
    ):
        flat = torch.stack(whole[name]).flatten(1).double()
        flat = flat / flat.norm(dim=1, keepdim=True)
        torch.testing.assert_close(circuit_similarity(left, right), flat @ flat.T, rtol=0, atol=1e-4)


def test_a_head_that_copies_has_only_positive_eigenvalues(models):
    """W_V and W_O such that W_O W_U W_E W_V is a projection seen from some directions, so positive, or its negative."""
    model = models["gpt2"]
    weights = HeadWeights.of(model)
    d_head = weights.value.shape[2]
    tied = torch.linalg.qr(
        torch.randn(len(weights.query), model.cfg.d_model, d_head, generator=torch.Generator().manual_seed(0))
    )[0]
    through = (logit_directions(model) @ model.W_E.detach()).double()
    symmetric = torch.linalg.pinv(through, rtol=1e-6).float()
    up = HeadWeights(weights.query, weights.key, symmetric @ tied, tied.transpose(1, 2))
    down = HeadWeights(weights.query, weights.key, -symmetric @ tied, tied.transpose(1, 2))
    for head_weights, copying, positive in ((up, 1, 1), (down, -1, 0)):
        scores = copying_scores(model, head_weights)
        assert scores["copying"].tolist() == pytest.approx([copying] * len(tied), abs=1e-3)
        assert scores["positive"].tolist() == [positive] * len(tied)


def test_what_is_written_for_a_token(models):
    model = models["gpt2"]
    weights = HeadWeights.of(model)
    tokens = torch.tensor([[3, 40]] * len(weights.query))
    writes = token_writes(model, weights, tokens, 3)
    for head, at in itertools.product(range(len(tokens)), range(2)):
        row = model.W_E[tokens[head, at]].detach()
        row = row - row.mean()
        row = row / row.square().mean().sqrt()
        effects = row @ weights.value[head] @ weights.output[head] @ logit_directions(model)
        order = effects.argsort(descending=True).tolist()
        assert writes.raised[head, at].tolist() == order[:3]
        assert writes.lowered[head, at].tolist() == order[::-1][:3]
        assert int(writes.own_rank[head, at]) == 1 + order.index(int(tokens[head, at]))


def test_parts_merge_to_one_pass_and_states_come_back(models):
    model = models["gpt2"]
    reader, untrained, settings = HeadReader(model), HeadReader(untrained_copy(model, 0)), HeadScanSettings()
    calibration = calibrate_heads(reader, batches_of(model), settings)
    whole = scan_batches(reader, untrained, batches_of(model), calibration, settings)
    parts = [
        scan_batches(reader, untrained, model_batches(model, TEXTS[a:b], 8, first_document=a), calibration, settings)
        for a, b in ((0, 13), (13, 40))
    ]
    parts[0].merge(parts[1])
    again = scan_batches(reader, untrained, [], calibration, settings)
    again.load_state(parts[0].state())
    for found in (parts[0], again):
        assert (found.n_documents, found.n_tokens) == (whole.n_documents, whole.n_tokens) == (40, whole.n_tokens)
        one, other = whole.state(), found.state()
        assert one.keys() == other.keys()
        for name, value in one.items():
            if name.startswith(("trained", "untrained")):
                torch.testing.assert_close(other[name], value, rtol=1e-5, atol=1e-6)
    other = scan_batches(reader, untrained, [], calibration, settings.replace(top_k=3))
    with pytest.raises(RequestError, match="only with the same settings"):
        whole.merge(other)


@pytest.mark.parametrize("kind", ["gpt2", "bridge"])
def test_a_scan_shows_pairs_tokens_and_texts_as_they_are(models, kind):
    model = models[kind]
    scan = scan_heads(model, TEXTS, query_share=1.0, pairs=20)
    batches = list(batches_of(model))
    n_heads = model.cfg.n_heads
    patterns = [[heard(model, batch.tokens, layer)[0] for layer in range(model.cfg.n_layers)] for batch in batches]
    for place in (0, len(scan.names) - 1):
        layer, head = divmod(place, n_heads)
        for rank in range(3):
            query_token, key_token = int(scan.pairs.query[place, rank]), int(scan.pairs.key[place, rank])
            attention, uniform = [], []
            for batch, pattern in zip(batches, patterns, strict=True):
                for row, query in (batch.mask & (batch.tokens == query_token)).nonzero().tolist():
                    keys = (batch.tokens[row, : query + 1] == key_token) & batch.mask[row, : query + 1]
                    if bool(keys.any()):
                        attention.append(float(pattern[layer][row, head, query, : query + 1][keys].sum()))
                        uniform.append(int(keys.sum()) / (query + 1))
            assert int(scan.pairs.queries[place, rank]) == len(attention) >= 10
            assert float(scan.pairs.attention[place, rank]) == pytest.approx(sum(attention) / len(attention), rel=1e-3)
            assert float(scan.pairs.permuted[place, rank]) == pytest.approx(sum(uniform) / len(uniform), rel=1e-4)
        units, cut = scan.examples.hooks[hook_of(layer)], scan.excerpts[hook_of(layer)]
        for example in range(3):
            document, position = int(units.top.document[head, example]), int(units.top.position[head, example])
            batch = batches[document // 8]
            [[row, query]] = ((batch.document == document) & (batch.place == position)).nonzero().tolist()
            n = int(cut.n_shown[head, example])
            # All of so short a text is shown.
            wanted = patterns[document // 8][layer][row, head, :n, :n]
            torch.testing.assert_close(cut.attention[head, example, :n, :n].double(), wanted, rtol=0, atol=1e-3)
            assert int(cut.query[head, example]) == query
            key = int(cut.key[head, example])
            norm = float(cut.length[head, example, key])
            assert float(wanted[query, key]) * norm == pytest.approx(
                float(units.top.activation[head, example]), rel=1e-2
            )
    rows = len(scan.names)
    flat = torch.zeros(rows, 0, dtype=torch.float64)
    for batch, pattern in zip(batches, patterns, strict=True):
        width = batch.tokens.shape[1]
        uniform = torch.ones(width, width).tril() / torch.arange(1, width + 1)[:, None]
        stacked = torch.cat(pattern, dim=1)[:, :, :, :] - uniform
        flat = torch.cat([flat, stacked.transpose(0, 1)[:, batch.mask].flatten(1)], dim=1)
    flat = flat / flat.norm(dim=1, keepdim=True)
    torch.testing.assert_close(scan.similar["attention"].trained.double(), flat @ flat.T, rtol=0, atol=1e-4)


def test_a_bridge_gives_what_the_same_weights_give(models):
    one, other = (scan_heads(models[kind], TEXTS).measures for kind in ("llama", "bridge"))
    for name, measured in one.items():
        torch.testing.assert_close(other[name].values, measured.values, rtol=1e-3, atol=1e-4)


def test_a_planted_reader_is_found_and_random_ones_are_as_near_as_the_control():
    generator = torch.Generator().manual_seed(0)
    written = torch.linalg.qr(torch.randn(2, 24, 3, generator=generator))[0].transpose(1, 2)
    # Directions that lie mostly in a few dimensions, of which the head writes into none more than into others.
    shape = torch.linspace(2, 0.1, 24)[:, None]
    reading = {
        "a": shape * torch.randn(24, 400, generator=generator),
        "b": shape * torch.randn(24, 400, generator=generator),
    }
    reading["b"][:, 7] = 3 * written[0, 1]
    first, second = readers_of_heads(written, reading, [["a", "b"], ["a"]], 4, seed=0)
    assert (first.nearest[0].hook, first.nearest[0].unit, first.nearest[0].direction) == ("b", 7, 1)
    assert first.nearest[0].cosine == pytest.approx(1, abs=1e-5)
    assert first.nearest[1].cosine < first.nearest[0].cosine
    assert abs(abs(second.nearest[0].cosine) - second.chance) < 4 * second.chance_deviation + 0.02
    assert readers_of_heads(written, reading, [[], ["a"]], 4, seed=0)[0] is None


def test_wrong_requests(models, monkeypatch):
    model = models["gpt2"]
    with pytest.raises(RequestError, match="no token follows another"):
        scan_heads(model, ["a", "b"])
    with pytest.raises(RequestError, match="top_k = 0"):
        scan_heads(model, TEXTS, top_k=0)
    scan = scan_heads(model, TEXTS[:10])
    with pytest.raises(RequestError, match="layer = 2: the scan has heads in the layers 0 to 1"):
        scan.strongest(2, 0)
    with pytest.raises(RequestError, match="head = 9: each layer has heads 0 to 1"):
        scan.place_of(0, 9)
    assert scan.strongest(1, 1).largest
    assert list(scan.to_frame().index.names) == ["layer", "head"]

    with pytest.raises(RequestError, match="repeated tokens need 5 positions"):
        RepeatedTokens.of(model, HeadScanSettings(), context=4)
    monkeypatch.setattr(model, "hook_dict", {"blocks.0.hook_resid_pre": None})
    with pytest.raises(RequestError, match="no attention heads"):
        HeadReader(model)
