"""One pass over a batch of activations for a range of units, everything at once: compiled.

A thousand tokens at a time, each unit's activations are laid side by side: the matrix is read once, in pieces that stay in
the cache, and all that follows runs along a line. Counts and examples do not depend on where batches are cut, sums only in
their last bits.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mi_superposition.neurons.compiled import compiled
from mi_superposition.neurons.config import N_INTERVALS

# Tokens taken at a time, and the tile of them (by units) that is turned at a time: a line of the cache holds 16 floats.
_STRETCH, _TILE_TOKENS, _TILE_UNITS = 1024, 64, 16
# Lines 4096 bytes apart would push each other out of the cache.
_PADDING = 16
# Counts of one bin wait for each other; so neighbouring tokens count in separate tables.
_TABLES = 4
NOWHERE = -1


class Batch(NamedTuple):
    """What counts in a batch, in its order. A span is a run of tokens of one document in one sequence.

    ``at``: rows of the activations that count. ``token``: rows of the table of tokens. ``number``: a random number
    for each token, by its document and position.
    """

    at: NDArray[np.int64]
    position: NDArray[np.int64]
    token: NDArray[np.int64]
    number: NDArray[np.uint64]
    span_start: NDArray[np.int64]
    span_end: NDArray[np.int64]
    span_document: NDArray[np.int64]
    span_content: NDArray[np.int64]


class Bins(NamedTuple):
    """Where the bins of each unit's histogram lie, the number moments are taken about, and the unit's own random number."""

    low: NDArray[np.float32]
    high: NDArray[np.float32]
    centre: NDArray[np.float32]
    salt: NDArray[np.uint64]


class Sums(NamedTuple):
    """Per unit: powers 1 to 3 of the distance from the centre (``[power, unit]``), how often active, smallest and largest, counts by bin (the
    first and the last hold what is outside), and sums by token (``[token, unit]``).
    """

    powers: NDArray[np.float64]
    active: NDArray[np.int64]
    extremes: NDArray[np.float32]
    histogram: NDArray[np.int64]
    by_token: NDArray[np.float32]


class Slots(NamedTuple):
    """Examples kept of each unit, in no order. ``rank`` is what the best are chosen by: larger first, then the earlier
    document, then the earlier position. Empty ones have document -1.

    They form groups of equal size, each with examples of its own; below ``floor[unit, group]`` nothing is kept any more.
    ``value`` is the activation, ``window`` the activations around it (NaN outside the sequence), ``vector``
    the model's representation of the token.
    """

    rank: NDArray[np.float64]
    value: NDArray[np.float32]
    document: NDArray[np.int64]
    position: NDArray[np.int64]
    content: NDArray[np.int64]
    floor: NDArray[np.float64]
    window: NDArray[np.float32]
    vector: NDArray[np.float32]


@compiled()
def _extremes(line, start, end):
    """Smallest and largest, by four at a time, which need not wait for each other. A NaN shows in the sums."""
    least = least_1 = least_2 = least_3 = most = most_1 = most_2 = most_3 = line[start]
    whole = start + (end - start) // 4 * 4
    # By comparison: min and max would mind a NaN, which costs sevenfold.
    for t in range(start, whole, 4):
        value, value_1, value_2, value_3 = line[t], line[t + 1], line[t + 2], line[t + 3]
        least = value if value < least else least
        most = value if value > most else most
        least_1 = value_1 if value_1 < least_1 else least_1
        most_1 = value_1 if value_1 > most_1 else most_1
        least_2 = value_2 if value_2 < least_2 else least_2
        most_2 = value_2 if value_2 > most_2 else most_2
        least_3 = value_3 if value_3 < least_3 else least_3
        most_3 = value_3 if value_3 > most_3 else most_3
    for t in range(whole, end):
        least, most = min(least, line[t]), max(most, line[t])
    return min(min(least, least_1), min(least_2, least_3)), max(max(most, most_1), max(most_2, most_3))


@compiled()
def _before(rank, document, position, other_rank, other_document, other_position):
    """Whether an example is better than another one."""
    if rank != other_rank:
        return rank > other_rank
    if document != other_document:
        return document < other_document
    return position < other_position


@compiled()
def _worst(slots, unit, first, last):
    """The slot to be given up next: an empty one, or else the one with the worst example."""
    ranks = slots.rank[unit]
    worst = first
    for slot in range(first, last):
        # An empty slot has rank -inf, and no example has.
        if ranks[slot] < ranks[worst] or (
            ranks[slot] == ranks[worst]
            and slots.document[unit, slot] != NOWHERE
            and _before(
                ranks[worst],
                slots.document[unit, worst],
                slots.position[unit, worst],
                ranks[slot],
                slots.document[unit, slot],
                slots.position[unit, slot],
            )
        ):
            worst = slot
    return worst


@compiled()
def _slot_for(slots, unit, group, rank, document, position, content, alone):
    """Where an example goes among the slots of its group, or -1 when it is not kept.

    With ``alone`` documents of the same content share one slot, for the best of them.
    """
    slot = -1
    if alone:
        contents = slots.content[unit]
        for other in range(len(contents)):
            if contents[other] == content and slots.document[unit, other] != NOWHERE:
                slot = other
    if slot < 0:
        size = slots.rank.shape[1] // slots.floor.shape[1]
        slot = _worst(slots, unit, group * size, (group + 1) * size)
    if slots.document[unit, slot] == NOWHERE or _before(
        rank, document, position, slots.rank[unit, slot], slots.document[unit, slot], slots.position[unit, slot]
    ):
        return slot
    return -1


@compiled()
def _keep(slots, unit, slot, rank, document, content, line, start, end, t, from_token, batch, vectors):
    """``line`` holds the activations from token ``from_token`` of the batch on; ``start``, ``end`` and ``t`` count in it."""
    slots.rank[unit, slot] = rank
    slots.value[unit, slot] = line[t]
    slots.document[unit, slot] = document
    slots.position[unit, slot] = batch.position[from_token + t]
    slots.content[unit, slot] = content
    before = slots.window.shape[2] // 2
    for offset in range(slots.window.shape[2]):
        there = t + offset - before
        slots.window[unit, slot, offset] = line[there] if start <= there < end else np.nan
    for axis in range(slots.vector.shape[2]):
        slots.vector[unit, slot, axis] = vectors[batch.at[from_token + t], axis]


@compiled()
def _raise_floor(slots, unit, group):
    """After an example was kept: the rank of the one to be given up next."""
    size = slots.rank.shape[1] // slots.floor.shape[1]
    worst = _worst(slots, unit, group * size, (group + 1) * size)
    slots.floor[unit, group] = slots.rank[unit, worst]


@compiled()
def _scan_extremes(line, unit, first_span, last_span, from_token, batch, vectors, sums, top, bottom):
    """The largest and the smallest activation of each span, for the best examples of both kinds."""
    for span in range(first_span, last_span):
        start, end = batch.span_start[span] - from_token, batch.span_end[span] - from_token
        least, most = _extremes(line, start, end)
        sums.extremes[unit, 0] = min(sums.extremes[unit, 0], least)
        sums.extremes[unit, 1] = max(sums.extremes[unit, 1], most)
        if most >= top.floor[unit, 0]:
            _offer_first(line, unit, span, start, end, most, most, from_token, batch, vectors, top)
        if -least >= bottom.floor[unit, 0]:
            _offer_first(line, unit, span, start, end, least, -least, from_token, batch, vectors, bottom)


@compiled()
def _offer_first(line, unit, span, start, end, value, rank, from_token, batch, vectors, slots):
    """Offer the first token of a span with this activation."""
    t = start
    while line[t] != value and t < end - 1:
        t += 1
    document, content = batch.span_document[span], batch.span_content[span]
    slot = _slot_for(slots, unit, 0, rank, document, batch.position[from_token + t], content, True)
    if slot >= 0:
        _keep(slots, unit, slot, rank, document, content, line, start, end, t, from_token, batch, vectors)
        _raise_floor(slots, unit, 0)


@compiled()
def _find_bins(line, low, high, n_bins, bin_of):
    """The bin of every activation: 0 below the range, ``n_bins + 1`` above it."""
    scale, most = np.float32(n_bins) / (high - low), np.float32(n_bins)
    for t in range(len(line)):
        inside = min(max((line[t] - low) * scale, np.float32(-1)), most)
        b = np.int32(inside + np.float32(1))
        # The largest of the sample stands in the last bin and not beyond it.
        bin_of[t] = b - (b > n_bins and line[t] <= high)


@compiled()
def _draw(numbers, salt, rank_of):
    """A rank for every token and this unit: their random numbers mixed, the upper 53 bits."""
    for t in range(len(numbers)):
        rank_of[t] = ((numbers[t] ^ salt) * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(11)


@compiled()
def _find_drawn(rank_of, floors, bin_of, found):
    """Where a rank reaches the floor of its bin, in order; how many. In a short loop of its own without a branch, which takes a fifth less
    than deciding among everything that is then done with such a token.
    """
    n = 0
    for t in range(len(rank_of)):
        found[n] = t
        n += rank_of[t] >= floors[bin_of[t]]
    return n


@compiled()
def _scan_bins(
    line, unit, first_span, from_token, batch, vectors, bins, sums, drawn, tenth_of, bin_of, rank_of, found, tables
):
    """Counts by bin and by token, and of each tenth of the range (one of ten equal intervals) the tokens with the largest random numbers."""
    n_bins = sums.histogram.shape[1] - 2
    n = len(line)
    _find_bins(line, bins.low[unit], bins.high[unit], n_bins, bin_of)
    _draw(batch.number[from_token : from_token + n], bins.salt[unit], rank_of)
    floors = np.empty(n_bins + 2)
    for b in range(n_bins + 2):
        floors[b] = drawn.floor[unit, tenth_of[b]]
    tables[:] = 0
    for t in range(n):
        tables[t % _TABLES, bin_of[t]] += 1
    span = first_span
    for candidate in range(_find_drawn(rank_of, floors, bin_of, found)):
        t = found[candidate]
        tenth = tenth_of[bin_of[t]]
        # Floors rise as examples are kept.
        if rank_of[t] < drawn.floor[unit, tenth]:
            continue
        while batch.span_end[span] - from_token <= t:
            span += 1
        start, end = batch.span_start[span] - from_token, batch.span_end[span] - from_token
        document, content = batch.span_document[span], batch.span_content[span]
        slot = _slot_for(drawn, unit, tenth, rank_of[t], document, batch.position[from_token + t], content, False)
        if slot >= 0:
            _keep(drawn, unit, slot, rank_of[t], document, content, line, start, end, t, from_token, batch, vectors)
            _raise_floor(drawn, unit, tenth)
    for b in range(n_bins + 2):
        for table in range(_TABLES):
            sums.histogram[unit, b] += tables[table, b]


@compiled()
def _turn(activations, first, last, at, token, lines, by_token):
    """Turn the activations at some tokens, so that each unit's stand in a line, and add them to the sums by token."""
    for tile in range(0, len(at), _TILE_TOKENS):
        end = min(len(at), tile + _TILE_TOKENS)
        for left in range(first, last, _TILE_UNITS):
            width = min(_TILE_UNITS, last - left)
            for t in range(tile, end):
                row = activations[at[t], left : left + width]
                for j in range(width):
                    lines[left - first + j, t] = row[j]
        for t in range(tile, end):
            row, total = activations[at[t], first:last], by_token[token[t], first:last]
            for j in range(last - first):
                total[j] += row[j]


# Sums may be taken in any order, so that several are taken at once.
@compiled(fastmath={"reassoc", "contract"})
def _moments(line, centre, active_above):
    """Sums of the powers 1 to 3 of the distance from the centre, and how many are above a threshold."""
    one = two = three = 0.0
    active = 0
    for t in range(len(line)):
        distance = np.float64(line[t]) - centre
        one += distance
        two += distance * distance
        three += distance * distance * distance
        active += line[t] > active_above
    return one, two, three, active


@compiled()
def scan_units(activations, vectors, first, last, active_above, batch, bins, sums, top, bottom, drawn):
    """Take up the activations ``[position, unit]`` of units ``first`` to ``last - 1`` into the sums and slots."""
    n_spans = len(batch.span_start)
    tables = np.empty((_TABLES, sums.histogram.shape[1]), np.int64)
    n_bins = sums.histogram.shape[1] - 2
    # The bins outside belong to the outermost tenths.
    tenth_of = np.minimum(np.maximum((np.arange(n_bins + 2) - 1) * N_INTERVALS // n_bins, 0), N_INTERVALS - 1)
    longest = _STRETCH
    for span in range(n_spans):
        longest = max(longest, batch.span_end[span] - batch.span_start[span])
    # Allocated once: fresh memory costs more than what is done with it.
    lines = np.empty((last - first, longest + _PADDING), np.float32)
    bins_of, ranks_of, found = np.empty(longest, np.int32), np.empty(longest), np.empty(longest, np.int64)
    first_span = 0
    while first_span < n_spans:
        from_token, last_span = batch.span_start[first_span], first_span + 1
        while last_span < n_spans and batch.span_end[last_span] - from_token <= _STRETCH:
            last_span += 1
        at = batch.at[from_token : batch.span_end[last_span - 1]]
        n = len(at)
        bin_of, rank_of = bins_of[:n], ranks_of[:n]
        _turn(activations, first, last, at, batch.token[from_token : from_token + n], lines, sums.by_token)
        for unit in range(first, last):
            line = lines[unit - first, :n]
            one, two, three, active = _moments(line, np.float64(bins.centre[unit]), active_above)
            sums.powers[0, unit] += one
            sums.powers[1, unit] += two
            sums.powers[2, unit] += three
            sums.active[unit] += active
            if np.isfinite(one):
                _scan_extremes(line, unit, first_span, last_span, from_token, batch, vectors, sums, top, bottom)
                _scan_bins(
                    line, unit, first_span, from_token, batch, vectors, bins, sums, drawn,
                    tenth_of, bin_of, rank_of, found, tables,
                )  # fmt: skip
        first_span = last_span


@compiled()
def merge_slots(into, other, alone):
    """Offer every example of ``other`` to ``into``."""
    size = into.rank.shape[1] // into.floor.shape[1]
    for unit in range(into.rank.shape[0]):
        for offered in range(into.rank.shape[1]):
            document, content = other.document[unit, offered], other.content[unit, offered]
            if document == NOWHERE:
                continue
            rank, position, group = other.rank[unit, offered], other.position[unit, offered], offered // size
            slot = _slot_for(into, unit, group, rank, document, position, content, alone)
            if slot >= 0:
                into.rank[unit, slot] = rank
                into.value[unit, slot] = other.value[unit, offered]
                into.document[unit, slot] = document
                into.position[unit, slot] = position
                into.content[unit, slot] = content
                into.window[unit, slot] = other.window[unit, offered]
                into.vector[unit, slot] = other.vector[unit, offered]
                _raise_floor(into, unit, group)


@compiled()
def choose_different(signatures, rows, order, how_many, n_chosen, too_alike):
    """Of each unit's first ``how_many`` slots in their ``order`` the first ``n_chosen`` whose documents, by their
    signatures (``rows`` of them), have fewer than ``too_alike`` numbers in common with a better one's. -1 where there are
    fewer.
    """
    chosen = np.full((len(order), n_chosen), NOWHERE)
    kept = np.empty(n_chosen, np.int64)
    for unit in range(len(order)):
        n_kept = 0
        for candidate in range(how_many[unit]):
            if n_kept == n_chosen:
                break
            signature, alike = signatures[rows[unit, candidate]], False
            for better in range(n_kept):
                common = (signatures[kept[better]] == signature).sum()
                alike = alike or common >= too_alike
            if not alike:
                kept[n_kept] = rows[unit, candidate]
                chosen[unit, n_kept] = order[unit, candidate]
                n_kept += 1
    return chosen
