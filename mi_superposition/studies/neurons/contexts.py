"""How many different contexts each unit responds to, compared with an untrained model, random directions and permuted examples."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mi_superposition.errors import RequestError
from mi_superposition.files import read_tensors, remove, write_tensors
from mi_superposition.models import FEATURES
from mi_superposition.neurons import NeuronScan
from mi_superposition.neurons.config import ContextsConfig
from mi_superposition.neurons.scan import ENSEMBLES, drawn_directions
from mi_superposition.neurons.scan.names import layer_name, unit_word
from mi_superposition.parts import WorkersPart
from mi_superposition.progress import SILENT, Progress
from mi_superposition.results import Result
from mi_superposition.runs import Outcome, read_manifest
from mi_superposition.sae.evaluate import activation_sample, activation_statistics
from mi_superposition.storing import read_record, write_record
from mi_superposition.studies.neurons.readers import (
    joined_directions,
    reader_of,
    scanned_saes,
    spaces,
    weights_of_readers,
)
from mi_superposition.studies.neurons.scan import opened, read_request, scan_metrics
from mi_superposition.studies.neurons.shards import ScanSource, batches_of, scan_in_shards
from mi_superposition.studies.neurons.stored import read_scan

COMMAND = "neurons contexts"
RESULT = "contexts.safetensors"
UNTRAINED, RANDOM = "untrained", "random"
_DIRECTIONS = "directions.safetensors"
# Tokens from which the covariance of what units read is estimated, and from which those are drawn that directions point to.
_COVARIANCE_TOKENS, _COVARIANCE_DOCUMENTS = 2**15, 1000


@dataclass(frozen=True)
class HookContexts:
    """Effective numbers of contexts of the units of one hook, and of what they are compared with.

    ``space``: the hook of the activations that the units read, along random directions of which ``directions`` was measured, by their
    ensemble (``neurons.scan.ENSEMBLES``).
    ``often``: units with as many examples as were asked for; one that is active in fewer documents has fewer contexts for that reason
    alone. ``permuted``: examples permuted across units. ``untrained``: of the same neurons of an untrained model; of features there
    are none.
    """

    space: str
    contexts: Float[Tensor, " unit"]
    often: Bool[Tensor, " unit"]
    permuted: Float[Tensor, " unit"]
    directions: dict[str, Float[Tensor, " direction"]]
    untrained: Float[Tensor, " unit"] | None

    def against_directions(self, *, often: bool = False) -> Comparison:
        """The median next to those of all ensembles; with ``often`` that of the units with as many examples as were asked for."""
        value = _median(self.contexts[self.often] if often else self.contexts)
        return Comparison(value, {name: _median(some) for name, some in self.directions.items()})


@dataclass(frozen=True)
class Comparison:
    """A number next to those of ensembles of random directions. Rounded as they are shown: what looks equal counts as equal."""

    value: float
    ensembles: dict[str, float]

    @property
    def above(self) -> list[str]:
        """Ensembles with more."""
        return [name for name, other in self.ensembles.items() if round(other, 1) > round(self.value, 1)]

    @property
    def below(self) -> list[str]:
        """Ensembles with less."""
        return [name for name, other in self.ensembles.items() if round(other, 1) < round(self.value, 1)]

    def survives(self) -> str:
        """What holds whichever directions are drawn."""
        if len(self.above) == len(self.ensembles):
            return "fewer than along random directions of any kind"
        if len(self.below) == len(self.ensembles):
            return "more than along random directions of any kind"
        return "within the range of random directions, fewer or more by the way these are drawn"

    def told(self) -> str:
        """All numbers, the smallest first."""
        ordered = sorted(self.ensembles.items(), key=lambda one: one[1])
        return ", ".join(f"{value:.1f} ({name})" for name, value in ordered)


@dataclass(frozen=True, repr=False)
class ContextsResult(Result):
    """Contexts of the units of every hook. ``folder``: the run it was read from, which has the scan of the trained model too."""

    DRAWN_BY: ClassVar[str] = "mi_superposition.pages.neurons.contexts:figure"

    config: ContextsConfig
    n_documents: int
    n_tokens: int
    hooks: dict[str, HookContexts]
    folder: Path | None = None

    @cached_property
    def scan(self) -> NeuronScan:
        """The scan of the trained model. Raises ``RequestError`` for a result that was not read from a run."""
        if self.folder is None:
            raise RequestError("the result was not read from a run folder: load_run(folder) gives one with its scan")
        return read_scan(self.folder, self.config.kept)

    @property
    def main(self) -> str:
        """The hook whose numbers stand for the result: the last one of neurons."""
        return [hook for hook in self.hooks if not hook.endswith(FEATURES)][-1]

    def summary(self) -> str:
        """The median of the last layer with its controls."""
        main = self.hooks[self.main]
        assert main.untrained is not None
        comparison = main.against_directions()
        return (
            f"{layer_name(self.main)} of {self.config.model.name}: median of {_median(main.contexts):.1f} contexts per "
            f"{unit_word(self.main)}, {comparison.survives()}: {comparison.told()}; {_median(main.untrained):.1f} in an untrained model, "
            f"{_median(main.permuted):.1f} with permuted examples"
        )

    def to_frame(self) -> pd.DataFrame:
        """One row per hook: medians over its units and over those of each control."""
        rows = {
            hook: {
                "units": len(measured.contexts),
                "contexts": _median(measured.contexts),
                "contexts_often_active": _median(measured.contexts[measured.often]),
                **{
                    f"directions_{name.replace(' ', '_')}": _median(measured.directions.get(name, torch.zeros(0)))
                    for name in ENSEMBLES
                },
                "untrained": float("nan") if measured.untrained is None else _median(measured.untrained),
                "permuted": _median(measured.permuted),
            }
            for hook, measured in self.hooks.items()
        }
        return pd.DataFrame.from_dict(rows, orient="index").rename_axis("hook")

    def metrics(self) -> dict[str, float | int]:
        """The numbers that the scan does not have itself, as ``HOOK/NUMBER``."""
        numbers: dict[str, float | int] = {}
        for hook, measured in self.hooks.items():
            numbers |= {
                f"{hook}/units_often_active": int(measured.often.sum()),
                f"{hook}/contexts_often_active_median": _median(measured.contexts[measured.often]),
            } | {
                f"{hook}/contexts_directions_{name.replace(' ', '_')}_median": _median(some)
                for name, some in measured.directions.items()
            }
            if measured.untrained is not None:
                numbers[f"{hook}/contexts_untrained_median"] = _median(measured.untrained)
        return {name: value for name, value in numbers.items() if value == value}


def measure(config: ContextsConfig, out: Path, progress: Progress = SILENT) -> Outcome:
    """Scan the model and its controls into a run folder, or resume. Raises as ``studies.neurons.scan.measure`` does."""
    config, source = read_request(config)
    with opened(out, COMMAND, config, source) as run:
        if run.finished:
            _remove_controls(out)
            return Outcome(out, finished_already=True)
        what = "neurons and features" if config.sae else "neurons"
        trained = scan_in_shards(out, source, config, progress, stage=f"scan: trained {what}")
        reader = reader_of(source.model, config, "untrained")
        control = replace(source, reader=reader, state="untrained")
        untrained = scan_in_shards(out / UNTRAINED, control, config, progress, stage="scan: untrained neurons")
        path = out.resolve() / RANDOM / _DIRECTIONS
        directions, names = _directions(path, source, config)
        reader = reader_of(source.model, config, "random directions", directions)
        control = replace(source, reader=reader, state="random directions", directions=path)
        random = scan_in_shards(out / RANDOM, control, config, progress, stage="scan: random directions")
        result = ContextsResult(
            # Not who did the work: the result is the same bytes.
            config=replace(config, workers=WorkersPart()),
            n_documents=trained.n_documents,
            n_tokens=trained.n_tokens,
            hooks={
                hook: HookContexts(
                    space=space,
                    contexts=trained.hooks[hook].contexts,
                    often=(trained.hooks[hook].top.document >= 0).all(dim=1),
                    permuted=trained.hooks[hook].contexts_shuffled,
                    directions={
                        name: random.hooks[f"{space}{FEATURES}"].contexts[first:last]
                        for name, (first, last) in names[space].items()
                    },
                    untrained=untrained.hooks[hook].contexts if hook in untrained.hooks else None,
                )
                for hook, space in spaces(source.reader).items()
            },
        )
        write_record(out / RESULT, result)
        run.finish(scan_metrics(trained) | result.metrics() | source.corpus.losses(config.text.documents))
        _remove_controls(out)
    return Outcome(out, finished_already=False)


def load(folder: Path) -> ContextsResult:
    """The result in a finished run folder. Raises ``RequestError`` where there is none."""
    read_manifest(folder, COMMAND)
    return replace(read_record(folder / RESULT, ContextsResult), folder=folder)


def _directions(
    path: Path, source: ScanSource, config: ContextsConfig
) -> tuple[dict[str, Float[Tensor, "d direction"]], dict[str, dict[str, tuple[int, int]]]]:
    """Random directions of everything that units read, and where among them those of each ensemble are. Written down: whoever
    resumes, and every worker, uses the same.
    """
    if not path.exists():
        model, saes = source.model, scanned_saes(config.sae, source.model)
        weights = weights_of_readers(model, source.reader, saes)
        seed, n = config.kept.random.seed, config.random_directions
        drawn: dict[str, Tensor] = {}
        for space in dict.fromkeys(spaces(source.reader).values()):
            texts = itertools.islice(source.corpus, config.text.documents)
            documents = list(itertools.islice(texts, _COVARIANCE_DOCUMENTS))
            batches = batches_of(model, documents, config)
            statistics = activation_statistics(model, batches, space, most_tokens=_COVARIANCE_TOKENS)
            tokens = activation_sample(model, batches, space, n, most_tokens=_COVARIANCE_TOKENS, seed=seed)
            ensembles = drawn_directions(
                n, covariance=statistics.covariance(), tokens=tokens, mean=statistics.mean.float(),
                weights=weights.get(space), seed=seed,
            )  # fmt: skip
            drawn |= {f"{space}/{name}": some for name, some in ensembles.items()}
        write_tensors(path, drawn)
    tensors, _ = read_tensors(path)
    joined = joined_directions(path)
    places: dict[str, dict[str, tuple[int, int]]] = {}
    for space in dict.fromkeys(spaces(source.reader).values()):
        parts = {name: tensors[f"{space}/{name}"] for name in ENSEMBLES if f"{space}/{name}" in tensors}
        ends = list(itertools.accumulate(some.shape[1] for some in parts.values()))
        places[space] = dict(zip(parts, itertools.pairwise([0, *ends]), strict=True))
    return {space: joined[space] for space in places}, places


def _remove_controls(out: Path) -> None:
    """Of the controls' scans only the numbers of contexts are kept."""
    for name in (UNTRAINED, RANDOM):
        remove(out / name)


def _median(values: Tensor) -> float:
    return float(values.median()) if len(values) else float("nan")
