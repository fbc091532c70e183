"""Work in independent pieces, done here one after the other or by Ray's workers."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, TypeVar

from mi_superposition.errors import RequestError, WorkError
from mi_superposition.files import held_by_another, locks_held

Engine = Literal["local", "ray"]
Piece = TypeVar("Piece")
Result = TypeVar("Result")

# How often a piece is given to another worker when its own is lost.
_RETRIES = 3


def check_engine(engine: str) -> None:
    """Raise ``RequestError`` for an engine that is unknown or not installed."""
    if engine not in ("local", "ray"):
        raise RequestError(f"engine = {engine!r}: give 'local' or 'ray'")
    if engine == "ray" and find_spec("ray") is None:
        raise RequestError("engine = 'ray': Ray is not installed; pip install 'mi-superposition[cluster]'")


def name_for_workers(name: str, bundled: Collection[str]) -> str:
    """A name that means the same to a worker in another folder: paths are made absolute, what is bundled stays."""
    return str(Path(name).resolve()) if name not in bundled and Path(name).exists() else name


def results_of(
    work: Callable[[Piece], Result],
    pieces: Iterable[Piece],
    *,
    engine: Engine = "local",
    address: str | None = None,
    cpus: int = 1,
    gpus: int = 0,
) -> Iterator[Result]:
    """What ``work`` makes of each piece, in the order of the pieces, which are drawn only as workers come free.

    With Ray, ``address`` is that of a running cluster (default: one is started on this machine), every piece takes
    ``cpus`` cores and ``gpus`` GPUs of a worker, and the piece of a lost worker is done again by another. ``work`` and the
    pieces go to the workers pickled, and this package must be installed there. Errors of ours come through as they are. A worker writes
    nothing into a folder that this process holds once it was renamed or removed.

    Raises ``RequestError`` when the cluster cannot be reached or never had room for a piece.
    """
    check_engine(engine)
    if engine == "local":
        yield from map(work, pieces)
        return
    import ray

    began = not ray.is_initialized()
    try:
        if began:
            # Without an address one of our own, not one that somebody happens to run here.
            ray.init(address=address or "local", log_to_driver=False, include_dashboard=None if address else False)
    except (ConnectionError, OSError, ValueError) as error:
        raise RequestError(f"ray address {address!r}: {str(error).strip().splitlines()[0]}") from error
    try:
        machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        workers = sum(_fitting(machine, cpus, gpus) for machine in machines)
        if not workers:
            raise RequestError(f"a piece takes {cpus} cores and {gpus} GPUs: no machine of the cluster has so many")
        yield from _from_ray(ray, work, pieces, cpus, gpus, at_once=2 * workers)
    finally:
        if began:
            ray.shutdown()


def _fitting(machine: dict[str, float], cpus: int, gpus: int) -> int:
    """How many pieces a machine can take at once."""
    by_core = int(machine.get("CPU", 0) // cpus)
    return min(by_core, int(machine.get("GPU", 0) // gpus)) if gpus else by_core


def _from_ray(
    ray: Any, work: Callable[[Piece], Result], pieces: Iterable[Piece], cpus: int, gpus: int, at_once: int
) -> Iterator[Result]:
    locks = locks_held()

    def held_work(piece: Piece) -> Result:
        with held_by_another(locks):
            return work(piece)

    remote = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=_RETRIES)(held_work)
    waiting: list[Any] = []
    coming = iter(pieces)
    while True:
        while len(waiting) < at_once and (piece := next(coming, None)) is not None:
            waiting.append(remote.remote(piece))
        if not waiting:
            return
        try:
            yield ray.get(waiting.pop(0))
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, RequestError | WorkError):
                raise error.cause from None
            raise
        except ray.exceptions.RayError as error:
            raise WorkError(f"a worker was lost {_RETRIES + 1} times: {str(error).strip().splitlines()[0]}") from error
