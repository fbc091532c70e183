"""From a scan of heads to the records of the overview and of every head's page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from mi_superposition.corpora.tokens import running_text
from mi_superposition.heads.scan import HeadScan
from mi_superposition.heads.scan.accumulator import ROWS_SOUGHT, hook_of
from mi_superposition.heads.scan.config import HeadScanConfig
from mi_superposition.heads.scan.excerpts import HeadExcerpts
from mi_superposition.heads.scan.measures import MEASURE
from mi_superposition.heads.scan.tables import FEWEST
from mi_superposition.neurons.config import N_INTERVALS
from mi_superposition.neurons.scan.duplicates import NEAR_DUPLICATE
from mi_superposition.pages.heads.scan_ablation import HeadAblations
from mi_superposition.pages.neurons.records import interval_names
from mi_superposition.site.head_records import HeadExample, HeadLinks, HeadRecord, HeadsRecord, MeasureRecord
from mi_superposition.site.records import Link, TableRecord
from mi_superposition.site.unit_pages import shown_number

_SIMILAR_SHOWN, _TOKENS_IN_TABLE = 6, 5
_SIMILAR_BY = {
    "attention": "Most similar by attention (cosine)",
    "ov": "Most similar by OV circuit (cosine)",
    "qk": "Most similar by QK circuit (cosine)",
}


def heads_record(scan: HeadScan, config: HeadScanConfig, ablations: HeadAblations, losses: str) -> HeadsRecord:
    """The overview. Of a path on this machine it shows the last part."""
    model, corpus = (
        Path(name).name if Path(name).exists() else name for name in (config.model.name, config.text.corpus)
    )
    examples = scan.examples
    facts = [
        ("model", model),
        ("corpus", corpus),
        ("documents", f"{examples.n_documents:,}"),
        ("tokens", f"{examples.n_tokens:,}"),
        ("layers", str(len(scan.layers))),
        ("heads", str(len(scan.names))),
        *([("documents not read as they stand", losses)] if losses else []),
    ]
    measures = [
        MeasureRecord(
            name=name,
            label=_label(name),
            meaning=MEASURE[name].meaning,
            values=measured.values.tolist(),
            untrained=None if measured.untrained is None else measured.untrained.tolist(),
            permuted=None if measured.permuted is None else measured.permuted.tolist(),
            permuted_is=MEASURE[name].permuted,
        )
        for name, measured in scan.measures.items()
    ]
    measures += [
        MeasureRecord(f"ablation {label}", _ablated(label), "From the run of 'heads ablate'.", values, None, None)
        for label, values in ablations.values.items()
    ]
    vocabulary = examples.vocabulary
    attended = [
        [vocabulary[token] for token in row if token >= 0][:_TOKENS_IN_TABLE] for row in scan.attended.token.tolist()
    ]
    layers = [layer for layer in scan.layers for _ in range(scan.n_heads)]
    axes = ("previous_token", "induction", "copying" if "copying" in scan.measures else "ov_rank")
    return HeadsRecord(
        f"The heads of {model}", facts, _remarks(scan, config), scan.names, layers, measures, attended, axes
    )


def head_records(
    scan: HeadScan, ablations: HeadAblations, links: Sequence[Sequence[HeadLinks]]
) -> Iterator[HeadRecord]:
    """The records of all heads, one after the other; ``links`` lead from each to what reads it."""
    vocabulary = scan.examples.vocabulary
    texts = {
        number: running_text([vocabulary[token] for token in tokens])
        for number, tokens in scan.examples.documents.items()
    }
    for layer in scan.layers:
        units, cut = scan.examples.hooks[hook_of(layer)], scan.excerpts[hook_of(layer)]
        n_top = units.top.document.shape[1]
        titles = interval_names(units)
        for head in range(scan.n_heads):
            place = scan.place_of(layer, head)
            strengths = torch.cat([units.top.activation, units.tenths.activation], dim=1)[head].tolist()
            documents = torch.cat([units.top.document, units.tenths.document], dim=1)[head].tolist()
            examples = _Examples(cut, head, strengths, documents, texts, vocabulary)
            per_tenth = (len(documents) - n_top) // N_INTERVALS
            tenths = [
                (title, examples.some(range(n_top + tenth * per_tenth, n_top + (tenth + 1) * per_tenth)))
                for tenth, title in zip(reversed(range(N_INTERVALS)), titles[head], strict=True)
            ]
            yield HeadRecord(
                name=scan.names[place],
                layer=layer,
                head=head,
                measured=_measured(scan, place, ablations),
                top=examples.some(range(n_top)),
                tenths=tenths,
                tables=[_pairs(scan, place), _writes(scan, place)],
                links=[*_similar(scan, place), *links[place]],
            )


@dataclass(frozen=True)
class _Examples:
    """The examples of one head."""

    cut: HeadExcerpts
    head: int
    strengths: Sequence[float]
    documents: Sequence[int]
    texts: Mapping[int, Sequence[str]]
    vocabulary: Sequence[str]

    def some(self, which: range) -> list[HeadExample]:
        """Those that are there."""
        return [self._one(at) for at in which if self.documents[at] >= 0]

    def _one(self, at: int) -> HeadExample:
        cut, head = self.cut, self.head
        n = int(cut.n_shown[head, at])
        text = self.texts[self.documents[at]]
        places, tokens = cut.place[head, at, :n].tolist(), cut.token[head, at, :n].tolist()
        return HeadExample(
            strength=self.strengths[at],
            document=self.documents[at],
            tokens=[
                self.vocabulary[token] if place < 0 else text[place]
                for place, token in zip(places, tokens, strict=True)
            ],
            place=places,
            query=int(cut.query[head, at]),
            attention=cut.attention[head, at, :n, :n].float().numpy(),
            length=cut.length[head, at, :n].float().numpy(),
        )


def _label(name: str) -> str:
    measure = MEASURE[name]
    return f"{measure.label} ({measure.unit})" if measure.unit else measure.label


def _measured(scan: HeadScan, place: int, ablations: HeadAblations) -> list[tuple[str, str, str, str]]:
    rows = []
    for name, measured in scan.measures.items():
        value = float(measured.values[place])
        permuted = "–" if measured.permuted is None else _shown(float(measured.permuted[place]))
        if name == "entropy":
            permuted = f"{permuted} at most"
        untrained = (
            "–"
            if measured.untrained is None
            else f"{_shown(float(measured.untrained.min()))} to {_shown(float(measured.untrained.max()))}"
        )
        rows.append((_label(name), _shown(value), untrained, permuted))
    for label, values in ablations.values.items():
        error = f" ± {_shown(ablations.errors[label][place])}" if label in ablations.errors else ""
        rows.append((_ablated(label), f"{_shown(values[place])}{error}", "–", "–"))
    return rows


def _ablated(label: str) -> str:
    """A number of an ablation as a heading, by the last word of its column."""
    what, _, kind = label.rpartition(" ")
    said = {
        "loss": f"ablated ({what}): loss (nats a token)",
        "kl": f"ablated ({what}): KL from the whole model (nats a token)",
        "change": f"ablated: logit difference of the task '{what}' (nats)",
    }
    return said.get(kind, f"ablated: {label}")


def _shown(value: float) -> str:
    return shown_number(value, abs(value)) if abs(value) < 100 else f"{value:.0f}"


def _pairs(scan: HeadScan, place: int) -> TableRecord:
    pairs, vocabulary = scan.pairs, scan.examples.vocabulary
    rows = [
        [
            _word(vocabulary[query]),
            _word(vocabulary[key]),
            f"{attention:.3f}",
            f"{untrained:.3f}",
            f"{permuted:.3f}",
            f"{n:,}",
        ]
        for query, key, attention, untrained, permuted, n in zip(
            pairs.query[place].tolist(),
            pairs.key[place].tolist(),
            pairs.attention[place].tolist(),
            pairs.untrained[place].tolist(),
            pairs.permuted[place].tolist(),
            pairs.queries[place].tolist(),
            strict=True,
        )
        if query >= 0
    ]
    return TableRecord(
        id="pairs",
        title="Pairs of tokens it attends most",
        look_at=f"From a query token to all keys of one token together: the mean share of attention where both occur, at least {FEWEST} times. Beside it the head in the same place of an untrained model, and attention permuted among each query's keys.",
        columns=("query", "key", "attention", "untrained", "permuted", "queries"),
        rows=rows,
        words=("query", "key"),
    )


def _writes(scan: HeadScan, place: int) -> TableRecord:
    attended, vocabulary = scan.attended, scan.examples.vocabulary
    writes = attended.writes
    rows = []
    for rank, token in enumerate(attended.token[place].tolist()):
        if token < 0:
            continue
        own = int(writes.own_rank[place, rank])
        rows.append(
            [
                _word(vocabulary[token]),
                f"{float(attended.times[place, rank]):.1f} ×",
                f"{float(attended.untrained[place, rank]):.1f} ×",
                _words(vocabulary, writes.raised[place, rank].tolist()),
                _words(vocabulary, writes.lowered[place, rank].tolist()),
                f"{own:,}" if own else "–",
            ]
        )
    return TableRecord(
        id="writes",
        title="What it writes for the tokens it attends most",
        look_at=f"The keys that get the most attention relative to what they would get if each query's keys were permuted (1 ×), and the tokens whose logits the head raises and lowers most when it attends to them: the OV circuit through the unembedding, from the token's embedding alone. Last, the rank of the token itself among {len(vocabulary):,}: 1 is a copy, by chance half of all.",
        columns=("key", "attention", "untrained", "raises", "lowers", "rank of itself"),
        rows=rows,
        words=("key", "raises", "lowers"),
    )


def _word(token: str) -> str:
    return token.replace(" ", "·")


def _words(vocabulary: Sequence[str], tokens: Sequence[int]) -> str:
    return "  ".join(_word(vocabulary[token]) for token in tokens)


def _similar(scan: HeadScan, place: int) -> list[HeadLinks]:
    lists = []
    if len(scan.names) < 2:
        return []
    for name, title in _SIMILAR_BY.items():
        found = scan.similar[name]
        row = found.trained[place].clone()
        row[place] = -2
        best = row.argsort(descending=True, stable=True)[:_SIMILAR_SHOWN].tolist()
        others = found.untrained.clone().fill_diagonal_(-2).amax(dim=1)
        links = [
            (Link(scan.names[other], f"{scan.names[other]}.html"), float(row[other]))
            for other in best
            if other != place
        ]
        control = f"The nearest in an untrained model: {float(others.median()):.2f} (median over heads), at most {float(others.max()):.2f}."
        lists.append(HeadLinks(title, links, control))
    return lists


def _remarks(scan: HeadScan, config: HeadScanConfig) -> list[str]:
    kept = config.kept
    return [
        "Beginning-of-text, end-of-text and padding tokens are no queries. As a key the first token of a sequence gets attention like any other.",
        "A document longer than the context is split into sequences; each sequence is read without the text before it.",
        "Value-weighted attention: the attention times the norm of what the key would add to the head's output at full attention, W_O applied to its value (Kobayashi et al. 2020). The beginning token counts as a key of none.",
        f"Strongest attention: of each head the queries with the largest value-weighted attention, at most one per document. A document is skipped as a near-duplicate of a better example if the Jaccard similarity of their sets of token 5-grams is at least {100 * NEAR_DUPLICATE:.0f} %. The ten intervals divide the range on the first sequences into equal parts; examples are drawn uniformly within each.",
        "Shading grows with the square root of the attention, so that weak attention shows too.",
        f"Induction, previous-token and duplicate-token scores: on {kept.repeated_sequences} sequences of {scan.n_repeated} random tokens, each repeated once.",
        "Untrained: the same architecture, freshly initialised, on the same text. Its heads correspond to those of the model only by their place, so a head is to be compared with all of them.",
        "Permuted: the attention weights of each query permuted among its keys. The means over all permutations are exact; only the strongest attention is drawn.",
        f"Pairs of tokens: followed through the corpus are the {kept.pairs} pairs of each head that take most of its attention in the first {ROWS_SOUGHT} sequences.",
        "Similar by attention: cosine of the attention of two heads on "
        f"{100 * kept.query_share:.3g} % of the queries, uniform attention taken off. Similar by OV and QK circuit: cosine of the matrices W_V W_O and W_Q W_K^T.",
        "The circuits (copying, ranks, similarity, what is written) have the weight and the centring of the normalisations folded in, not their division. With rotary positions QK is taken before the rotation.",
    ]
