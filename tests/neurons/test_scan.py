"""The scan against a brute-force pass over all activations, and the laws it promises."""

import gc
import itertools
import weakref

import numpy as np
import pytest
import torch
from conftest import TINY_TEXT
from hypothesis import given, settings
from hypothesis import strategies as st

from mi_superposition.corpora import TokenBatch, token_batches
from mi_superposition.errors import RequestError, WorkError
from mi_superposition.neurons import ScanSettings, scan_neurons
from mi_superposition.neurons.scan import UnitReader, calibrate, read_batches, scan_batches, scan_result
from mi_superposition.neurons.scan.calibration import RangeAccumulator
from mi_superposition.neurons.scan.duplicates import NEAR_DUPLICATE, min_hashes
from mi_superposition.neurons.scan.hashing import mixed, salts

WORDS = ["cat", "dog", "fox", "owl", "sun", "ran", "big", "red", "the", "and", "sat", "saw"]
HOOKS = ["blocks.0.mlp.hook_post", "blocks.1.mlp.hook_post"]
SMALL = ScanSettings(spare=3, per_tenth=2, reach=3, n_bins=20)


def random_documents(seed, n, longest=60):
    """Of five words at least: none shares many runs of five tokens with another."""
    generator = np.random.default_rng(seed)
    return [" ".join(generator.choice(WORDS, generator.integers(5, longest))) for _ in range(n)]


def batches_of(model, documents, batch=4, **options):
    return list(token_batches(documents, model.tokenizer, batch, model.cfg.n_ctx, **options))


def calibrated(reader, batches):
    calibrations, _ = calibrate(lambda: read_batches(reader, batches))
    return calibrations


def all_activations(model, batches, hook, encode=None):
    """Every token that counts: (document, place) to (activations, token, row of the corpus)."""
    found = {}
    hook = hook.removesuffix(".features")
    for number, batch in enumerate(batches):
        _, cache = model.run_with_cache(batch.tokens, names_filter=hook)
        activations = cache[hook].flatten(2) if encode is None else encode(cache[hook].flatten(2))
        for row, place in itertools.product(*map(range, batch.tokens.shape)):
            if batch.mask[row, place]:
                key = (int(batch.document[row, place]), int(batch.place[row, place]))
                found[key] = (activations[row, place].detach(), int(batch.tokens[row, place]), (number, row))
    return found


def best_of(activations, unit, sign, documents, top_k):
    """By definition: the best token of every document, from the best on, near-duplicates of a better one passed over."""
    by_document = {}
    for (document, place), (values, *_) in activations.items():
        value = sign * float(values[unit])
        rank = (-value, document, place)
        by_document[document] = min(by_document.get(document, rank), rank)
    chosen = []
    for _, document, place in sorted(by_document.values()):
        if not any(near_duplicates(documents[document], documents[other]) for other, _ in chosen):
            chosen.append((document, place))
        if len(chosen) == top_k:
            break
    return chosen


def near_duplicates(a, b):
    return (min_hashes(a) == min_hashes(b)).mean() >= NEAR_DUPLICATE


def check_against_brute_force(model, batches, found, hook, top_k, calibration, encode=None):
    activations = all_activations(model, batches, hook, encode)
    places = sorted(activations)
    values = torch.stack([activations[key][0] for key in places])
    tokens = torch.tensor([activations[key][1] for key in places])
    documents = {d: [activations[key][1] for key in places if key[0] == d] for d in {d for d, _ in places}}
    unit_scan = found.hooks[hook]
    assert found.n_tokens == len(places)
    assert found.n_documents == len(documents)
    assert found.top_activations[hook].shape == (unit_scan.n_units, top_k)
    for unit in range(0, unit_scan.n_units, 5):
        for sign, examples in ((1, unit_scan.top), (-1, unit_scan.bottom)):
            wanted = best_of(activations, unit, sign, documents, top_k)
            n = len(wanted)
            assert (
                list(zip(examples.document[unit].tolist(), examples.position[unit].tolist(), strict=True))[:n] == wanted
            )
            assert (examples.document[unit, n:] == -1).all()
            assert examples.activation[unit, n:].isnan().all()
            for slot, key in enumerate(wanted):
                assert examples.activation[unit, slot] == activations[key][0][unit]
                assert found.documents[key[0]] == documents[key[0]]
                check_window(examples.window[unit, slot], activations, key, unit)
    np.testing.assert_allclose(unit_scan.mean, values.double().mean(0), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(unit_scan.variance, values.double().var(0, unbiased=False), rtol=1e-4, atol=1e-8)
    centred = values.double() - values.double().mean(0)
    skewness = centred.pow(3).mean(0) / centred.pow(2).mean(0).pow(1.5)
    skewness = skewness.nan_to_num()  # Of what never varies.
    np.testing.assert_allclose(unit_scan.skewness, skewness, rtol=1e-3, atol=1e-4)
    assert torch.equal(unit_scan.maximum, values.amax(0))
    assert torch.equal(unit_scan.minimum, values.amin(0))
    np.testing.assert_allclose(unit_scan.fraction_active, (values > 0).double().mean(0), rtol=1e-6)
    check_bins_and_tenths(found, hook, places, values, calibration)
    often = [token for token in tokens.unique().tolist() if (tokens == token).sum() >= 5]
    means = torch.stack([values[tokens == token].mean(0) for token in often])
    order = means.argsort(dim=0, descending=True, stable=True)[:20].T
    np.testing.assert_allclose(unit_scan.top_token_mean, means.gather(0, order.T).T, rtol=1e-4, atol=1e-5)
    assert (unit_scan.top_token_count == torch.stack([(tokens == t).sum() for t in often])[order]).float().mean() > 0.95


def check_window(window, activations, key, unit):
    document, place = key
    reach = len(window) // 2
    for offset in range(-reach, reach + 1):
        other = activations.get((document, place + offset))
        if other is None or other[2] != activations[key][2]:
            assert window[reach + offset].isnan()
        else:
            assert window[reach + offset] == other[0][unit]


def check_bins_and_tenths(found, hook, places, values, calibration):
    unit_scan, n_bins = found.hooks[hook], found.settings.n_bins
    low, high = calibration.low, calibration.high
    place = (values - low) * (torch.tensor(float(n_bins)) / (high - low))
    bins = (place.clamp(-1, n_bins) + 1).int()
    bins -= ((bins > n_bins) & (values <= high)).int()
    wanted = torch.stack([(bins == b).sum(0) for b in range(n_bins + 2)], dim=1)
    assert torch.equal(unit_scan.histogram, wanted)
    assert torch.equal(unit_scan.histogram.sum(1), torch.full((unit_scan.n_units,), len(places)))
    # Bin b lies between edges b - 1 and b, but for the rounding of the edge itself.
    inside = (bins > 0) & (bins <= n_bins)
    left = unit_scan.edges.T.gather(0, (bins - 1).clamp(0, n_bins - 1).long())
    right = unit_scan.edges.T.gather(0, bins.clamp(1, n_bins).long())
    slack = 1e-5 * (high - low)
    assert ((left - slack <= values) & (values <= right + slack))[inside].all()
    tenth = ((bins - 1).clamp(0, n_bins - 1) * 10 // n_bins).long()
    numbers = np.array([_number(d, p) for d, p in places])
    per = found.settings.per_tenth
    for unit in range(0, unit_scan.n_units, 7):
        salt = salts(found.settings.random.seed, hook, unit_scan.n_units)[unit]
        with np.errstate(over="ignore"):
            ranks = ((numbers ^ salt) * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(11)
        for which in range(10):
            members = np.flatnonzero(tenth[:, unit].numpy() == which)
            wanted = {places[i] for i in members[np.argsort(ranks[members])[::-1][:per]]}
            slots = slice(which * per, (which + 1) * per)
            document, at = unit_scan.tenths.document[unit, slots], unit_scan.tenths.position[unit, slots]
            assert {(d, p) for d, p in zip(document.tolist(), at.tolist(), strict=True) if d >= 0} == wanted
            drawn = unit_scan.tenths.activation[unit, slots][document >= 0]
            assert torch.equal(drawn, drawn.sort(descending=True).values)


def _number(document, place):
    with np.errstate(over="ignore"):
        start = mixed(np.array([document], np.uint64)) + np.uint64(place)
    return mixed(start)[0]


@settings(max_examples=6, deadline=None)
@given(
    seed=st.integers(0, 1000),
    n=st.sampled_from([2, 9, 40]),
    batch=st.integers(1, 9),
    join=st.booleans(),
    kept=st.sampled_from([(1, 5), (3, 3), (40, 0)]),
)
def test_equals_brute_force(tiny_gpt2, seed, n, batch, join, kept):
    """Masks, documents longer than the context of 32, several in a row; fewer kept than there are, and more asked for."""
    model, (top_k, spare) = tiny_gpt2.hooked, kept
    batches = batches_of(model, random_documents(seed, n), batch, join=join)
    settings = ScanSettings(spare=spare, per_tenth=2, reach=3, n_bins=20)
    found = scan_neurons(model, batches, top_k=top_k, settings=settings)
    calibrations = calibrated(UnitReader.of(model), batches)
    for hook in HOOKS:
        check_against_brute_force(model, batches, found, hook, top_k, calibrations[hook])


def test_ties_go_to_the_earlier_document_and_place(tiny_gpt2):
    model, hook = tiny_gpt2.hooked, HOOKS[1]
    batches = batches_of(model, random_documents(5, 30))

    # Never 0: where a feature is, it has no example.
    def coarse(activations):
        return (activations * 2).round() / 2 + 1

    options = dict(hooks={hook: coarse}, top_k=4, settings=ScanSettings(spare=6, per_tenth=2, reach=3, n_bins=20))
    found = scan_neurons(model, batches, **options)
    features = f"{hook}.features"
    calibration = calibrated(UnitReader.of(model, {hook: coarse}), batches)[features]
    assert (found.hooks[features].top.activation.diff(dim=1) == 0).any()
    check_against_brute_force(model, batches, found, features, 4, calibration, coarse)


def equal(a, b, tolerance=1e-5):
    """The same examples, counts and tokens; sums and activations but for rounding."""
    assert (a.n_documents, a.n_tokens) == (b.n_documents, b.n_tokens)
    first, second = a.tensors(), b.tensors()
    assert first.keys() == second.keys()
    for name, value in first.items():
        counted = value.shape == second[name].shape and not any(part in name for part in ("document", "place"))
        if not value.is_floating_point() and counted:
            # A token or two may change its bin where the last bits differ, and partners or tokens that tie their order.
            assert (value != second[name]).float().mean() < 0.01, name
        elif value.is_floating_point() and "window" not in name:
            np.testing.assert_allclose(value, second[name], rtol=tolerance, atol=tolerance, err_msg=name)
    for hook, found in a.hooks.items():
        other = b.hooks[hook]
        for mine, theirs in ((found.top, other.top), (found.bottom, other.bottom), (found.tenths, other.tenths)):
            same = (mine.document == theirs.document) & (mine.position == theirs.position)
            # Documents that begin alike tie but for the last bits, which depend on what shares their batch.
            tied = (mine.activation[:, :, None] - mine.activation[:, None, :]).abs() < tolerance
            assert (same | (tied.sum(dim=2) > 1)).float().mean() > 0.99
            np.testing.assert_allclose(
                mine.window[same].float(), theirs.window[same].float(), atol=tolerance, rtol=tolerance
            )


@pytest.mark.parametrize("batch", [1, 3, 50])
def test_the_batch_size_changes_nothing(tiny_gpt2, batch):
    model, documents = tiny_gpt2.hooked, random_documents(1, 40)
    scans = [scan_neurons(model, batches_of(model, documents, b), top_k=5, settings=SMALL) for b in (7, batch)]
    equal(*scans, tolerance=1e-4)


def test_the_order_of_batches_and_of_rows_changes_nothing(tiny_gpt2):
    model, documents = tiny_gpt2.hooked, random_documents(2, 40)
    batches = batches_of(model, documents, 1)
    reader = UnitReader.of(model)
    calibrations = calibrated(reader, batches)
    wanted = scan_batches(read_batches(reader, batches), calibrations, SMALL)
    shuffled = [batches[i] for i in np.random.default_rng(0).permutation(len(batches))]
    got = scan_batches(read_batches(reader, shuffled), calibrations, SMALL)
    tokens = {d: model.tokenizer(text, add_special_tokens=False)["input_ids"] for d, text in enumerate(documents)}
    equal(scan_result(wanted, tokens), scan_result(got, tokens))


@pytest.mark.parametrize(("size", "n_again"), [(50, 0), (32, 0), (8, 32), (1, 32), (31, 62)])
def test_the_sample_of_the_calibration_is_read_once_if_one_batch_has_it(tiny_gpt2, size, n_again, monkeypatch):
    """Of smaller batches no more than two are held at a time; the ranges are those of the first 32 sequences all the same."""
    model, read, alive = tiny_gpt2.hooked, [], weakref.WeakSet()
    most = 0
    run = UnitReader.read

    def counted(self, tokens):
        nonlocal most
        read.append(len(tokens))
        readings = run(self, tokens)
        for activations, _ in readings.values():
            alive.add(activations)
        gc.collect()
        most = max(most, len(alive))
        return readings

    monkeypatch.setattr(UnitReader, "read", counted)
    batches = batches_of(model, random_documents(1, 80, longest=20), size)
    scan_neurons(model, batches, hooks=HOOKS[0], settings=SMALL)
    assert sum(read) == sum(len(batch.tokens) for batch in batches) + n_again
    if size == 1:
        assert most <= 3


@pytest.mark.parametrize("cuts", [[10], [1, 2, 39], [0, 40]])
def test_merged_parts_equal_one_pass(tiny_gpt2, cuts):
    model, documents = tiny_gpt2.hooked, random_documents(3, 40)
    documents[17] = documents[31] = documents[4]
    batches = batches_of(model, documents, 1)
    reader = UnitReader.of(model)
    calibrations = calibrated(reader, batches)
    rows = {b: int(batch.document.max()) for b, batch in enumerate(batches)}
    whole = scan_batches(read_batches(reader, batches), calibrations, SMALL)
    merged = None
    for first, last in itertools.pairwise([0, *cuts, 41]):
        part = scan_batches(
            read_batches(reader, [batches[b] for b, d in rows.items() if first <= d < last]), calibrations, SMALL
        )
        if merged is None:
            merged = part
        else:
            merged.merge(part)
    tokens = {d: model.tokenizer(text, add_special_tokens=False)["input_ids"] for d, text in enumerate(documents)}
    equal(scan_result(merged, tokens), scan_result(whole, tokens))


def test_scans_that_differ_cannot_be_merged(tiny_gpt2):
    model = tiny_gpt2.hooked
    batches = batches_of(model, random_documents(3, 6))
    reader = UnitReader.of(model)
    calibrations = calibrated(reader, batches)
    a = scan_batches(read_batches(reader, batches), calibrations, SMALL)
    with pytest.raises(RequestError, match="same settings"):
        a.merge(scan_batches(read_batches(reader, batches), calibrations, ScanSettings()))
    with pytest.raises(RequestError, match="same calibration"):
        a.merge(scan_batches(read_batches(reader, batches), calibrated(reader, batches[1:]), SMALL))


def test_copies_and_near_duplicates_are_passed_over(tiny_gpt2):
    model = tiny_gpt2.hooked
    documents = random_documents(4, 12, longest=15)
    near = documents[0] + " and"
    copies = [documents[0]] * 30
    found = scan_neurons(
        model, batches_of(model, [*copies, near, *documents[1:]]), top_k=12, settings=ScanSettings(spare=2)
    )
    alone = scan_neurons(model, batches_of(model, documents), top_k=12, settings=ScanSettings(spare=2))
    for hook in HOOKS:
        numbers = found.hooks[hook].top.document
        for row in numbers.tolist():
            shown = [found.documents[d] for d in row if d >= 0]
            assert len(shown) >= 10
            for one, other in itertools.combinations(shown, 2):
                assert not near_duplicates(one, other)
        # Thirty copies count thirty times in the mean, and once among the examples.
        assert ((numbers >= 0) & (numbers < 31)).sum(1).max() <= 1
        assert not torch.allclose(found.hooks[hook].mean, alone.hooks[hook].mean)


def test_tokens_that_are_masked_never_count(tiny_gpt2):
    model = tiny_gpt2.hooked
    batches = batches_of(model, random_documents(6, 9))
    masked = [TokenBatch(b.tokens, b.mask & (b.place != 2), b.document, b.place, b.content) for b in batches]
    found = scan_neurons(model, masked, top_k=9, settings=SMALL)
    for hook in HOOKS:
        for examples in (found.hooks[hook].top, found.hooks[hook].bottom, found.hooks[hook].tenths):
            assert (examples.position != 2).all()
    assert found.n_tokens == sum(int(b.mask.sum()) for b in masked)


def test_correlations_are_those_of_the_tokens_drawn(tiny_gpt2):
    model, hook = tiny_gpt2.hooked, HOOKS[0]
    batches = batches_of(model, random_documents(7, 30))
    values = torch.stack([value for value, *_ in all_activations(model, batches, hook).values()])
    wanted = torch.corrcoef(values.double().T).fill_diagonal_(0)
    found = scan_neurons(model, batches, settings=ScanSettings(correlation_share=1.0)).hooks[hook]
    order = wanted.abs().argsort(dim=1, descending=True)[:, :10]
    np.testing.assert_allclose(found.partner_correlation, wanted.gather(1, order), atol=1e-4)
    none = scan_neurons(model, batches, settings=ScanSettings(correlation_share=0.0)).hooks[hook]
    assert none.partners.shape == (48, 0)


def test_any_hook_and_any_encoding(tiny_gpt2):
    """The residual stream itself, the heads' outputs taken together, and features made of them."""
    model = tiny_gpt2.hooked
    batches = batches_of(model, random_documents(8, 6))
    directions = torch.randn(16, 5, generator=torch.Generator().manual_seed(0))
    hooks = {
        "blocks.1.hook_resid_pre": lambda stream: (stream @ directions).relu(),
        "blocks.0.attn.hook_z": None,
    }
    found = scan_neurons(model, batches, hooks=hooks, settings=SMALL)
    assert found.hooks["blocks.0.attn.hook_z"].n_units == 16
    features = found.hooks["blocks.1.hook_resid_pre.features"]
    activations = all_activations(
        model, batches, "blocks.1.hook_resid_pre", lambda stream: (stream @ directions).relu()
    )
    wanted = torch.stack([value for value, *_ in activations.values()])
    np.testing.assert_allclose(features.maximum, wanted.amax(0), rtol=1e-5)
    np.testing.assert_allclose(features.fraction_active, (wanted > 0).float().mean(0), rtol=1e-6)


def test_a_bridge_model_gives_the_same(tiny_gpt2):
    from transformer_lens.model_bridge import TransformerBridge

    bridge = TransformerBridge.boot_transformers(str(tiny_gpt2.folder), device="cpu")
    batches = batches_of(tiny_gpt2.hooked, random_documents(9, 10))
    equal(
        scan_neurons(bridge, batches, top_k=4, settings=SMALL),
        scan_neurons(tiny_gpt2.hooked, batches, top_k=4, settings=SMALL),
        tolerance=1e-4,
    )


def test_half_precision_moves_activations_a_little(tiny_gpt2):
    model = tiny_gpt2.hooked
    batches = batches_of(model, random_documents(10, 20))
    full = scan_neurons(model, batches, settings=SMALL).hooks[HOOKS[1]]
    half = scan_neurons(model, batches, settings=SMALL, precision="bfloat16").hooks[HOOKS[1]]
    apart = (full.maximum - half.maximum).abs() / full.maximum.abs().clamp_min(0.1)
    assert 0 < apart.median() < 0.02


@pytest.mark.parametrize(
    ("change", "quoted"),
    [
        (dict(hooks=["blocks.9.mlp.hook_post"]), "blocks.9.mlp.hook_post"),
        (dict(hooks=[]), "at least one"),
        (dict(hooks=["blocks.0.attn.hook_pattern"]), "hook_pattern"),
        (dict(precision="float16"), "float16"),
        (dict(top_k=0), "top_k = 0"),
        (dict(hooks={HOOKS[0]: lambda a: a.sum(2)}), "encode"),
    ],
)
def test_wrong_requests_are_refused(tiny_gpt2, change, quoted):
    batches = batches_of(tiny_gpt2.hooked, TINY_TEXT)
    with pytest.raises(RequestError, match=quoted):
        scan_neurons(tiny_gpt2.hooked, batches, **change)


def test_wrong_input_is_refused(tiny_gpt2, paper_model):
    batches = batches_of(tiny_gpt2.hooked, TINY_TEXT)
    with pytest.raises(RequestError, match="only once"):
        scan_neurons(tiny_gpt2.hooked, iter(batches))
    with pytest.raises(RequestError, match="nothing to scan"):
        scan_neurons(tiny_gpt2.hooked, [])
    with pytest.raises(RequestError, match="attention only"):
        scan_neurons(paper_model, batches)
    with pytest.raises(RequestError, match="n_bins = 25"):
        ScanSettings(n_bins=25)
    with pytest.raises(RequestError, match="correlation_share = 2"):
        ScanSettings(correlation_share=2.0)
    with pytest.raises(WorkError, match="NaN"):
        scan_neurons(tiny_gpt2.hooked, batches, hooks={HOOKS[0]: lambda a: a / 0 * 0})
    with pytest.raises(RequestError, match="gives nothing"):
        scan_neurons(tiny_gpt2.hooked, batches, hooks=["blocks.0.attn.hook_result"])
    reader = UnitReader.of(tiny_gpt2.hooked)
    calibrations = calibrated(reader, batches)

    class Broken(UnitReader):
        def read(self, tokens):
            return {hook: (a.where(a < a.max(), torch.nan), v) for hook, (a, v) in super().read(tokens).items()}

    broken = Broken.of(tiny_gpt2.hooked)
    with pytest.raises(WorkError, match="unit \\d+ hold a NaN"):
        scan_batches(read_batches(broken, batches), calibrations, SMALL)


def test_the_model_stops_at_the_last_layer_needed(tiny_gpt2):
    model, ran = tiny_gpt2.hooked, []
    names = ["blocks.0.hook_resid_mid", "blocks.0.hook_mlp_out", "blocks.1.hook_resid_pre"]
    with model.hooks(fwd_hooks=[(name, lambda value, hook: ran.append(hook.name)) for name in names]):
        UnitReader.of(model, [HOOKS[0]]).read(torch.zeros(1, 3, dtype=torch.long))
    assert ran == names[:1]


def test_hooks_of_different_widths_keep_their_own_representations(tiny_gpt2):
    """Each as if it had been scanned alone."""
    model = tiny_gpt2.hooked
    batches = batches_of(model, random_documents(11, 12))
    hooks = ["blocks.0.hook_resid_pre", "blocks.0.ln1.hook_scale", "blocks.0.mlp.hook_pre"]
    together = scan_neurons(model, batches, hooks=hooks, settings=SMALL)
    for hook in hooks:
        alone = scan_neurons(model, batches, hooks=[hook], settings=SMALL)
        torch.testing.assert_close(together.hooks[hook].contexts, alone.hooks[hook].contexts)


def test_attention_beside_the_mlp_is_scanned_too(tmp_path):
    """GPT-NeoX has no residual stream between the two."""
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    from mi_superposition import load_model

    config = GPTNeoXConfig(
        vocab_size=300, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=32,
    )  # fmt: skip
    GPTNeoXForCausalLM(config).save_pretrained(tmp_path / "neox")
    model = load_model(tmp_path / "neox", device="cpu")
    tokens = torch.randint(300, (4, 9), generator=torch.Generator().manual_seed(0))
    place = torch.arange(9).expand(4, 9)
    batch = TokenBatch(tokens, place >= 0, torch.arange(4)[:, None].expand(4, 9), place)
    found = scan_neurons(model, [batch], top_k=3).hooks[HOOKS[0]]
    assert found.top.activation.shape == (32, 3)
    assert found.contexts.min() >= 1


def test_long_scans_are_summed_in_parts(tiny_gpt2, monkeypatch):
    from mi_superposition.neurons.scan import scan as module

    batches = batches_of(tiny_gpt2.hooked, random_documents(12, 30), 1)
    whole = scan_neurons(tiny_gpt2.hooked, batches, settings=SMALL)
    monkeypatch.setattr(module, "_TOKENS_IN_A_PART", 50)
    equal(scan_neurons(tiny_gpt2.hooked, batches, settings=SMALL), whole)


@pytest.mark.parametrize("constant", [0.0, 1e-30, 2e7, -3.0])
def test_a_unit_that_never_moves_still_has_bins(tiny_gpt2, constant):
    batches = batches_of(tiny_gpt2.hooked, random_documents(13, 5))
    hooks = {HOOKS[0]: lambda activations: torch.full_like(activations, constant)}
    found = scan_neurons(tiny_gpt2.hooked, batches, hooks=hooks, settings=SMALL).hooks[f"{HOOKS[0]}.features"]
    assert (found.edges[:, -1] > found.edges[:, 0]).all()
    assert (found.histogram[:, 1] == sum(int(batch.mask.sum()) for batch in batches)).all()


def test_a_unit_that_hardly_moves_gets_the_widest_range_of_the_others():
    ranges = RangeAccumulator()
    ranges.update(torch.tensor([[0.0, 1.0]]), torch.zeros(1, 1))
    ranges.update(torch.tensor([[0.0, 3.0]]), torch.ones(1, 1))
    found = ranges.calibration()
    assert found.high.tolist() == [2.0, 3.0]
    assert found.mean.tolist() == [0.0, 2.0]
    assert found.representation.tolist() == [0.5]
