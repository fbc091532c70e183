"""The certificate: every bound against brute force, hostile weights included, and the command."""

import copy
import importlib.util
from decimal import Context, Decimal

import numpy as np
import pytest
import torch
from conftest import small_config

import mi_superposition as ms
from mi_superposition.addition.certificate import CertificateWork, certificate_tables, expansion, layout
from mi_superposition.addition.certificate.search import CertificateSearch, DigitSearch, Piece, bound_piece
from mi_superposition.addition.config import AdditionCertifyConfig, AdditionModelPart
from mi_superposition.addition.problems import (
    answer_digits,
    answer_places,
    as_read,
    masked,
    reads_in_order,
    with_answers,
)
from mi_superposition.addition.train import build_addition_model, right_answers
from mi_superposition.cli import main
from mi_superposition.errors import RequestError
from mi_superposition.files import read_json
from mi_superposition.models import save_model
from mi_superposition.parts import ThreadsPart
from mi_superposition.progress import Progress
from mi_superposition.studies.addition import certify
from mi_superposition.training import Stopped

# What the weights are drawn with. "wide": scores so far apart that most weights are zero in float64. "huge" and "tiny": logits of 1e12 and
# 1e-12. "equal": all weights zero, so that every answer is a tie. "coarse": few different values, so that many margins are exactly zero.
KINDS = ["usual", "sharp", "wide", "huge", "tiny", "equal", "coarse"]


def model_of(kind, n_digits=2, seed=0, n_heads=3, d_head=2):
    model = build_addition_model(small_config(n_digits=n_digits, n_heads=n_heads, d_head=d_head, d_model=8))
    generator = torch.Generator().manual_seed(seed)
    scale = {"usual": 0.5, "sharp": 1.0, "wide": 4.0, "huge": 0.5, "tiny": 0.5, "equal": 0.0, "coarse": 0.5}[kind]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(scale * torch.randn(parameter.shape, generator=generator))
        if kind == "huge":
            model.W_U.mul_(1e12)
            model.b_U.mul_(1e12)
        if kind == "tiny":
            model.W_U.mul_(1e-12)
            model.b_U.mul_(1e-12)
        if kind == "coarse":
            for parameter in model.parameters():
                parameter.copy_(parameter.round())
            model.blocks[0].attn.W_Q.zero_()
    return model.eval()


def problems_of(box):
    """All problems of a box, digits ``[problem, position]``."""
    axes = [range(10) if digit < 0 else [digit] for digit in box]
    return torch.cartesian_prod(*(torch.tensor(list(axis)) for axis in axes)).reshape(-1, len(box))


@torch.no_grad()
def reference_logits(model, operands):
    """The transformer's own forward pass, in float64."""
    double = copy.deepcopy(model).double()
    n_digits = operands.shape[1] // 2
    logits = double(as_read(model, masked(with_answers(operands))))
    return logits[:, answer_places(model, n_digits)]


def certain(logits, right):
    """For every problem whether the right class is above all others, and whether another is above it, beyond what float64 rounds."""
    slack = 1e-9 * logits.abs().amax(dim=(1, 2), keepdim=False)[:, None]
    own = logits.gather(2, right[:, :, None])
    others = logits.scatter(2, right[:, :, None], -torch.inf).amax(dim=2)
    margin = own[:, :, 0] - others
    return margin > slack, margin < -slack


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("order", ["ones first", "ones last"])
def test_every_box_of_a_search_is_within_brute_force(kind, order):
    model = reads_in_order(model_of(kind), order)
    tables = certificate_tables(model, 2)
    operands = problems_of([-1] * 4)
    right, wrong = certain(reference_logits(model, operands), answer_digits(operands))
    generator = np.random.default_rng(0)
    for query in range(3):
        boxes = generator.integers(-1, 10, (300, 4)).astype(np.int8)
        # The digit's own column is always fixed.
        own = min(query, 1)
        boxes[:, [own, own + 2]] = generator.integers(0, 10, (300, 2))
        bounds = bound_piece(Piece(query, boxes, np.full(300, 1023)), tables)
        inside = ((torch.from_numpy(boxes)[:, None] < 0) | (torch.from_numpy(boxes)[:, None] == operands)).all(dim=2)
        never_right = (inside & wrong[:, query]).sum(dim=1).numpy()
        never_wrong = (inside & right[:, query]).sum(dim=1).numpy()
        size = inside.sum(dim=1).numpy()
        assert (bounds.counts[:, 0] <= size - never_right).all()
        assert (bounds.counts[:, 1] <= size - never_wrong).all()
        fixed = (boxes >= 0).all(axis=1)
        if kind in ("usual", "sharp"):
            # With nothing free there is nothing to lose but ties.
            assert (bounds.counts[fixed].sum(axis=1) == 1).all()
        if kind == "equal":
            assert (bounds.counts[:, 0] == 0).all()


@pytest.mark.parametrize("kind", ["usual", "sharp", "huge", "tiny"])
def test_a_finished_search_counts_every_problem(kind):
    model = model_of(kind)
    operands = problems_of([-1] * 4)
    right, wrong = certain(reference_logits(model, operands), answer_digits(operands))
    found = ms.certify_addition(model, seconds=60, n_sampled=2_000, threads=1)
    assert torch.allclose(found.lower, right.double().mean(dim=0), atol=1e-12)
    assert torch.allclose(1 - found.upper, wrong.double().mean(dim=0), atol=1e-12)
    least, most = found.sums
    assert least <= float(right.all(dim=1).double().mean()) <= most


def test_a_tie_is_never_right_and_never_wrong():
    found = ms.certify_addition(model_of("equal"), seconds=1, boxes=5_000, n_sampled=200, threads=1)
    assert found.lower.tolist() == [0.0] * 3
    assert found.upper.tolist() == [1.0] * 3


@pytest.mark.parametrize("kind", ["usual", "sharp", "wide", "huge", "coarse"])
@pytest.mark.parametrize("second_order", [False, True])
def test_expansion_holds_for_every_problem(kind, second_order):
    """The additive part and the interval against the margin in exact arithmetic of the tables."""
    [tables] = certificate_tables(model_of(kind, seed=3), 2)[1:2]
    generator = np.random.default_rng(1)
    room = layout.new_room(tables)
    for _ in range(25):
        box = np.where(generator.random(4) < 0.6, -1, generator.integers(0, 10, 4))
        one, other = generator.choice(10, 2, replace=False)
        rounding = expansion.prepare(box, tables, room)
        expansion.excess(box, one, other, tables, room)
        expansion.expand_margin(box, one, other, tables, room, rounding, second_order)
        problems = problems_of(box.tolist()).numpy()
        # Eighteen decimals or more where the platform has them.
        weight = tables.weight.astype(np.longdouble)
        value = (tables.value[:, :, one] - tables.value[:, :, other]).astype(np.longdouble)
        d = tables.weight_equals.astype(np.longdouble) + sum(weight[p, problems[:, p]] for p in range(4))
        n = (tables.numerator_equals[one] - tables.numerator_equals[other]).astype(np.longdouble) + sum(
            (weight * value)[p, problems[:, p]] for p in range(4)
        )
        with np.errstate(invalid="ignore"):
            margin = tables.base[one] - tables.base[other] + (n / d).sum(axis=1)
        free = np.flatnonzero(box < 0)
        low = room.found[layout.LOWEST] + sum(room.additive[p, problems[:, p]] for p in free)
        high = room.found[layout.LOWEST_HIGH] + sum(room.additive_high[p, problems[:, p]] for p in free)
        # The interval holds what rounding may do, too.
        # Where all weights of a head are below any float64 the tables say nothing; what is said there is held against the transformer above.
        known = np.isfinite(margin)
        assert ((low + room.found[layout.BELOW] <= margin) | ~known).all()
        assert ((high + room.found[layout.ABOVE] >= margin) | ~known).all()


def test_rounding_bound_covers_what_rounding_does():
    """With nothing free, all that separates the expansion from exact arithmetic is rounding: the stated bound is above it, by far and not without end."""
    for kind in ("usual", "sharp", "huge", "tiny"):
        tables = certificate_tables(model_of(kind, seed=5), 2)[1]
        room = layout.new_room(tables)
        for box in np.random.default_rng(2).integers(0, 10, (50, 4)):
            bound = expansion.prepare(box, tables, room)
            expansion.excess(box, 0, 1, tables, room)
            expansion.expand_margin(box, 0, 1, tables, room, bound, False)
            exact = Context(prec=50)
            margin = Decimal(float(tables.base[0])) - Decimal(float(tables.base[1]))
            for h in range(tables.weight.shape[2]):
                d, n = Decimal(float(tables.weight_equals[h])), Decimal(0)
                n = Decimal(float(tables.numerator_equals[0, h])) - Decimal(float(tables.numerator_equals[1, h]))
                for p, digit in enumerate(box):
                    w = Decimal(float(tables.weight[p, digit, h]))
                    d = exact.add(d, w)
                    v = Decimal(float(tables.value[p, digit, 0, h])) - Decimal(float(tables.value[p, digit, 1, h]))
                    n = exact.add(n, exact.multiply(w, v))
                margin = exact.add(margin, exact.divide(n, d))
            off = abs(float(margin) - room.found[layout.LOWEST])
            assert off <= bound
            assert bound <= 1e-9 * (np.abs(tables.base).max() + tables.largest.sum())


def test_tables_are_rounded_once():
    model = model_of("sharp", seed=7)
    tables = certificate_tables(model, 2)[2]
    attn = model.blocks[0].attn
    exact = Context(prec=60)

    def number(tensor):
        return np.vectorize(lambda value: Decimal(float(value)), otypes=[object])(tensor.detach().numpy())

    w_e, w_pos = number(model.W_E), number(model.W_pos)
    head, query, scale = 1, 4 + 2, Decimal(float(model.cfg.attn_scale))
    asked = (w_e[10] + w_pos[query]) @ number(attn.W_Q[head]) + number(attn.b_Q[head])
    rows = [w_e[digit] + w_pos[position] for position in range(4) for digit in range(10)]
    rows += [w_e[10] + w_pos[position] for position in range(4, 7)]
    scores = [(row @ number(attn.W_K[head]) + number(attn.b_K[head])) @ asked for row in rows]
    weights = [float(exact.exp(exact.divide(score - max(scores), scale))) for score in scores]
    assert tables.weight[:, :, head].flatten() == pytest.approx(weights[:40], rel=1e-15)
    assert tables.weight_equals[head] == pytest.approx(sum(weights[40:]), rel=1e-15)


def test_a_carry_that_is_not_decided_is_counted():
    """A model that always answers with the own column's sum: right exactly where nothing is carried into the column."""
    tables = certificate_tables(model_of("equal", n_digits=3), 3)[2]
    # Only the own column speaks: bias for the digit of its sum.
    box = np.full((1, 6), -1, np.int8)
    box[0, [2, 5]] = [3, 4]
    base = np.zeros(10)
    base[7] = 1.0
    bounds = bound_piece(Piece(2, box, np.array([1023])), [tables._replace(base=base)] * 4)
    operands = problems_of(box[0].tolist())
    right = int((answer_digits(operands)[:, 2] == 7).sum())
    assert bounds.counts.tolist() == [[right, 10**4 - right]]
    assert right == 5050


def test_threads_and_pauses_change_nothing():
    model = model_of("sharp", n_digits=3)
    whole = CertificateWork(model)
    whole.search_for(600, boxes=60_000, threads=1)
    assert whole.search.n_boxes >= 60_000

    class Asked(Exception):
        pass

    def stop(boxes):
        raise Asked

    stopped = CertificateWork(model)
    for _ in range(6):
        paused = CertificateWork(model)
        paused.load_state(copy.deepcopy(stopped.state()))
        with pytest.raises(Asked):
            paused.search_for(600, boxes=60_000, threads=2, on_piece=stop)
        stopped = paused
    stopped.search_for(600, boxes=60_000, threads=2)
    for one, other in zip(whole.search.digits, stopped.search.digits, strict=True):
        assert one.proven() == other.proven()
        assert (one.cells() == other.cells()).all()


@pytest.fixture(scope="module")
def ones_and_tens():
    """Tables of the bundled model, and the bounds of its ones and tens from the first boxes."""
    model = ms.load_model("addition-exact", device="cpu")
    tables = certificate_tables(model, 6)
    return model, tables


def bounds_of(tables, query, pieces=1):
    search = DigitSearch(query, 6)
    piece = search.first_piece(10)
    for _ in range(pieces):
        search.add(piece, bound_piece(piece, tables))
        piece = search.take()
        if piece is None:
            break
    return search


@pytest.mark.parametrize(
    "frees", [[2, 2, 2, 2, 2, 2, 4, 8], pytest.param([2, 3, 3, 3, 4, 5, 6, 7, 8] * 3, marks=pytest.mark.slow)]
)
def test_boxes_of_the_bundled_model(ones_and_tens, frees):
    """Random boxes with so many free positions: the small ones problem by problem, larger ones on samples of their problems."""
    model, tables = ones_and_tens
    generator = np.random.default_rng(3)
    for query in range(7):
        boxes = np.full((len(frees), 12), -1, np.int8)
        own = {min(query, 5), max(min(query, 5) - 1, 0)}
        fixed = [p for column in own for p in (column, column + 6)]
        for free, box in zip(frees, boxes, strict=True):
            rest = generator.permutation([p for p in range(12) if p not in fixed])
            chosen = [*fixed, *rest[: 12 - free - len(fixed)]]
            box[chosen] = generator.integers(0, 10, len(chosen))
        bounds = bound_piece(Piece(query, boxes, np.full(len(boxes), 1023)), tables)
        for free, box, counts in zip(frees, boxes, bounds.counts, strict=True):
            operands = problems_of(box.tolist()) if free <= 3 else None
            if operands is None:
                operands = torch.from_numpy(np.where(box < 0, generator.integers(0, 10, (1_000, 12)), box))
            right, wrong = certain(reference_logits(model, operands), answer_digits(operands))
            right, wrong = right[:, query].double().mean(), wrong[:, query].double().mean()
            # A sample's share is off by four standard errors, 0.063, at most.
            slack = 1e-9 if free <= 3 else 0.063
            assert counts[0] / 10.0**free <= 1 - wrong + slack
            assert counts[1] / 10.0**free <= 1 - right + slack


def test_a_broken_model_is_caught(ones_and_tens):
    """Two answers swapped: the tens digit is proven wrong where it is a 3 or a 4, a fifth of all problems."""
    model, tables = ones_and_tens
    right, wrong = bounds_of(tables, 1).proven()
    assert right > 0.999
    broken = copy.deepcopy(model)
    with torch.no_grad():
        broken.W_U[:, [3, 4]] = broken.W_U[:, [4, 3]]
        broken.b_U[[3, 4]] = broken.b_U[[4, 3]]
    right, wrong = bounds_of(certificate_tables(broken, 6), 1).proven()
    assert right < 0.801
    assert 0.199 < wrong < 0.201


def test_bounds_and_samples_agree(ones_and_tens):
    model, tables = ones_and_tens
    search = bounds_of(tables, 1, pieces=3)
    right, wrong = search.proven()
    generator = torch.Generator().manual_seed(9)
    operands = torch.randint(10, (50_000, 12), generator=generator)
    share = float(right_answers(model, operands)[:, 1].double().mean())
    error = 4 * (share * (1 - share) / 50_000) ** 0.5
    assert right - error <= share <= 1 - wrong + error


def test_heads_can_be_left_out():
    model = model_of("sharp", seed=11)
    silenced = copy.deepcopy(model)
    with torch.no_grad():
        silenced.blocks[0].attn.W_O[1] = 0
    one = ms.certify_addition(model, seconds=60, without_heads=[1], n_sampled=500, threads=1)
    other = ms.certify_addition(silenced, seconds=60, n_sampled=500, threads=1)
    assert one.lower.tolist() == pytest.approx(other.lower.tolist(), abs=1e-12)
    assert one.upper.tolist() == pytest.approx(other.upper.tolist(), abs=1e-12)
    assert one.without_heads == [1]
    nothing = ms.certify_addition(model, seconds=60, without_heads=[0, 1, 2], n_sampled=500, threads=1)
    # Without heads every problem has the same answer.
    assert float(nothing.lower.max()) <= 0.6


@pytest.mark.parametrize(
    ("changes", "said"),
    [({"without_heads": [3]}, "without_heads = 3"), ({"without_heads": [-1]}, "without_heads = -1")],
)
def test_wrong_requests(changes, said):
    with pytest.raises(RequestError, match=said):
        ms.certify_addition(model_of("usual"), **changes)


def test_too_many_digits_are_refused():
    with pytest.raises(RequestError, match="n_digits = 8"):
        certificate_tables(build_addition_model(small_config(n_digits=8)), 8)


def test_the_command(tmp_path):
    model = tmp_path / "model"
    save_model(model_of("sharp"), model)
    words = ["addition", "certify", "--model", str(model), "--boxes", "2000", "--n-problems", "500", "--threads", "1"]
    assert main([*words, "--out", str(tmp_path / "run")]) == 0
    assert main([*words, "--out", str(tmp_path / "again")]) == 0
    first, second = (read_json(tmp_path / name / "metrics.json") for name in ("run", "again"))
    assert first == second
    # Nothing of the clock: the very same bytes.
    stored = [(tmp_path / name / certify.RESULT).read_bytes() for name in ("run", "again")]
    assert stored[0] == stored[1]
    found = ms.load_run(tmp_path / "run")
    assert found.lower.tolist() == first["at_least"]
    assert len(found.to_frame()) == 3
    assert (tmp_path / "run" / "page" / "index.html").exists()
    assert main([*words, "--out", str(tmp_path / "none"), "--without-heads", "7"]) == 2


def test_a_command_stopped_at_every_piece_goes_on_as_one_never_stopped(tmp_path):
    class Stopping(Progress):
        def should_stop(self):
            return True

    save_model(model_of("sharp"), tmp_path / "model")
    config = AdditionCertifyConfig(
        model=AdditionModelPart(model=str(tmp_path / "model")), n_problems=500, threads=ThreadsPart(threads=1)
    )
    # After the first boxes of each of three digits: at the first the others have no box yet.
    for n_boxes in (100, 10_100, 20_100):
        with pytest.raises(Stopped, match=f"{n_boxes}"):
            certify.measure(config, tmp_path / "stopped", Stopping())
    certify.measure(config, tmp_path / "stopped")
    certify.measure(config, tmp_path / "whole")
    stopped, whole = (read_json(tmp_path / name / "metrics.json") for name in ("stopped", "whole"))
    del stopped["search_seconds"], whole["search_seconds"]
    assert stopped == whole
    assert sum(whole["boxes"]) > 20_100


def test_all_digits_begin_even_without_time():
    search = CertificateSearch(certificate_tables(model_of("usual"), 2))
    assert sum(search.run(lambda: False)) == 100 + 10_000 + 10_000


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed: pip install -e '.[cluster]'")
def test_workers_of_ray_prove_as_much(tmp_path):
    """Not the same boxes, as workers are given some ahead; bounds as true, and nearly as close."""
    words = [
        "addition",
        "certify",
        "--model",
        "addition-exact",
        "--boxes",
        "60000",
        "--n-problems",
        "20000",
        "--threads",
        "1",
    ]
    assert main([*words, "--out", str(tmp_path / "here")]) == 0
    assert main([*words, "--engine", "ray", "--out", str(tmp_path / "ray")]) == 0
    here, there = (ms.load_run(tmp_path / name) for name in ("here", "ray"))
    assert here.holds
    assert there.holds
    assert int(there.boxes.sum()) >= 60_000
    # Neither contradicts the other, and in all digits together hardly more is open.
    assert bool((there.lower <= here.upper).all())
    assert bool((here.lower <= there.upper).all())
    open_here, open_there = (float((one.upper - one.lower).sum()) for one in (here, there))
    assert open_there <= 1.1 * open_here
