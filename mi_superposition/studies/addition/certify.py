"""A certificate as a run folder: stopped and gone on with, here or on many machines."""

from __future__ import annotations

import time
from pathlib import Path

from mi_superposition.addition.certificate.certify import CertificateWork
from mi_superposition.addition.certificate.result import Certificate
from mi_superposition.addition.config import AdditionCertifyConfig
from mi_superposition.addition.train import load_addition_model
from mi_superposition.engine import check_engine
from mi_superposition.files import read_state, write_state
from mi_superposition.models import model_record
from mi_superposition.progress import SILENT, Progress
from mi_superposition.runs import CHECKPOINT, Outcome, open_run, read_manifest
from mi_superposition.storing import read_record, write_record
from mi_superposition.training import Stopped

COMMAND = "addition certify"
RESULT = "certificate.safetensors"
# Certificates of bundled models that took minutes, in folders of their names.
BUNDLED = Path(__file__).parents[2] / "bundled" / "certificates"
# Between two checkpoints, in seconds: writing one takes a second when millions of boxes are open.
_CHECKPOINT_EVERY = 30.0


def measure(config: AdditionCertifyConfig, out: Path, progress: Progress = SILENT) -> Outcome:
    """Search for a certificate into a run folder, or go on with one.

    Raises as ``load_addition_model`` and ``open_run`` do, ``RequestError`` for a model that is no table, and ``training.Stopped`` when asked to stop.
    """
    check_engine(config.workers.engine)
    model = load_addition_model(config.model.name, config.model.digit_order)
    work = CertificateWork(model, config.without_heads)
    inputs = {"model": model_record(config.model.name, model)}
    with open_run(out, COMMAND, config, inputs) as run:
        if run.finished:
            return Outcome(out, finished_already=True)
        checkpoint = out / CHECKPOINT
        if checkpoint.exists():
            work.load_state(read_state(checkpoint))
        progress.begin("box", config.boxes)
        progress.advance(work.search.n_boxes, "searching")
        saved_at = time.monotonic()

        def on_piece(boxes: int) -> None:
            nonlocal saved_at
            progress.advance(boxes, _state(work))
            stop = progress.should_stop()
            if stop or time.monotonic() - saved_at > _CHECKPOINT_EVERY:
                write_state(checkpoint, work.state())
                saved_at = time.monotonic()
            if stop:
                raise Stopped(work.search.n_boxes, "box")

        work.search_for(
            config.seconds,
            config.boxes,
            threads=config.threads.number,
            engine=config.workers.engine,
            ray_address=config.workers.ray_address,
            on_piece=on_piece,
        )
        progress.stage("sampling")
        result = work.certificate(config.model.name, config.n_problems, config.random.seed)
        write_record(out / RESULT, result)
        run.finish(result.metrics())
    return Outcome(out, finished_already=False)


def load(folder: Path) -> Certificate:
    """The result in a finished run folder. Raises ``RequestError`` where there is none."""
    read_manifest(folder, COMMAND)
    return read_record(folder / RESULT, Certificate)


def _state(work: CertificateWork) -> str:
    worst = max(work.search.digits, key=lambda digit: digit.open_problems)
    share = worst.open_problems / 10.0 ** (2 * work.n_digits)
    return f"{work.seconds:.0f} s, digit {worst.query}: {100 * share:.3f} % open"
