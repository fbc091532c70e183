"""The command line: one dataclass a command; the field's docstring is the option's help.

Exit codes: 0 done, 1 the work failed, 2 the request was wrong, 130 stopped by the user (run the command again to go
on). Heavy imports stand inside ``run`` so that help needs none of them.
"""

from __future__ import annotations

import contextlib
import difflib
import io
import signal
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from mi_superposition.errors import RequestError, WorkError


class Command(ABC):
    """A parsed command line."""

    @abstractmethod
    def run(self) -> str:
        """Do the work; the returned line says where the result is."""


@dataclass(frozen=True)
class Report(Command):
    """Build the whole study from the bundled models as one static site."""

    out: Path = Path("site")
    """Folder of the site; written over if it holds an earlier one."""

    def run(self) -> str:
        """Write the site."""
        from mi_superposition.report import write_report

        with _progress("stage") as advance:
            written = write_report(self.out, on_stage=lambda stage: advance(1, stage))
        return f"{'report' if written else 'finished already'}: {self.out / 'index.html'}"


@dataclass(frozen=True)
class AdditionTrain(Command):
    """Train a one-layer attention-only model to add; run again on the same folder to go on where it stopped."""

    out: Path
    """Run folder."""
    preset: Literal["paper", "exact"] = "paper"
    """Recipe: 'paper' has 25,000 fixed problems, 'exact' draws fresh ones at every step."""
    seed: int = 0
    """Seed of problems, order and initial weights."""
    epochs: int | None = None
    """Passes over the problems (for 'exact': blocks of 100 steps). Default: the preset's."""
    answer: Literal["masked", "autoregressive"] = "masked"
    """'masked': all answer digits at once from '='. 'autoregressive': each from the digits before it."""
    digits: int = 6
    """Digits of each summand, 1 to 9; with 1 or 2 ask for fewer problems too."""
    train_problems: int | None = None
    """Fixed training problems. Default: the preset's (25,000 for 'paper', endless for 'exact')."""
    test_problems: int | None = None
    """Held-out problems. Default: the preset's (2,000 for 'paper', 10,000 for 'exact')."""
    heads: int = 32
    """Attention heads."""
    d_head: int = 2
    """Dimensions of each head."""
    d_model: int = 128
    """Dimensions of the residual stream."""
    batch_size: int | None = None
    """Problems in each step. Default: the preset's."""
    threads: int = 1
    """CPU threads. The weights are bit-identical between runs with the same number."""

    def run(self) -> str:
        """Train, or go on, or say that it is finished."""
        from mi_superposition.addition.config import preset_config
        from mi_superposition.addition.train import train_addition

        config = preset_config(
            self.preset,
            seed=self.seed,
            epochs=self.epochs,
            answer=self.answer,
            n_digits=self.digits,
            n_heads=self.heads,
            d_head=self.d_head,
            d_model=self.d_model,
            n_train=self.train_problems,
            n_test=self.test_problems,
            batch_size=self.batch_size,
            threads=self.threads,
        )
        with _stop_on_signal() as stopping, _progress("step", config.n_steps) as advance:
            done = 0

            def on_log(row: dict[str, float]) -> None:
                nonlocal done
                advance(int(row["step"]) - done, f"loss {row['loss']:.4f}, test {100 * row['test_accuracy']:.2f} %")
                done = int(row["step"])

            was_finished = not train_addition(config, self.out, on_log=on_log, should_stop=stopping)
        return f"{'finished already' if was_finished else 'trained model'}: {self.out}"


@dataclass(frozen=True)
class HeadsAblate(Command):
    """Keep each head of an addition model alone, and leave each out; find small sets that still add."""

    out: Path
    """Run folder."""
    model: str = "addition"
    """Bundled model or run folder of 'addition train'."""
    replace_with: Literal["zero", "mean", "resample"] = "zero"
    """What stands in for an ablated head: zero, its mean over problems, or its output on another problem."""
    problems: int = 2000
    """Random problems on which accuracies are measured."""
    random_sets: int = 500
    """Random head sets that each small set is compared with."""
    seed: int = 0
    """Seed of problems, random sets and resampling."""

    def run(self) -> str:
        """Write the study's tensors, numbers, animation and page."""
        from mi_superposition.studies.ablation import STAGES, write_ablation_run

        with _progress("stage", len(STAGES)) as advance:
            finished = write_ablation_run(
                self.out,
                model_name=self.model,
                replace_with=self.replace_with,
                n_problems=self.problems,
                n_random=self.random_sets,
                seed=self.seed,
                on_stage=lambda stage: advance(1, stage),
            )
        return _where(finished, self.out)


@dataclass(frozen=True)
class HeadsProject(Command):
    """Project digits and positions onto the queries, keys, values and outputs of every head."""

    out: Path
    """Run folder."""
    model: str = "addition"
    """Bundled model or run folder of 'addition train'."""
    head: int | None = None
    """Head shown large. Default: the one whose values are most circular."""
    position: int = 0
    """Position at which the digits are shown."""
    digit: int = 5
    """Digit for which the positions are shown."""

    def run(self) -> str:
        """Write the projections, their circularity and the page."""
        from mi_superposition.studies.projection import STAGES, write_projection_run

        with _progress("stage", len(STAGES)) as advance:
            finished = write_projection_run(
                self.out,
                model_name=self.model,
                head=self.head,
                position=self.position,
                digit=self.digit,
                on_stage=lambda stage: advance(1, stage),
            )
        return _where(finished, self.out)


COMMANDS: dict[str, type[Command]] = {
    "report": Report,
    "addition train": AdditionTrain,
    "heads ablate": HeadsAblate,
    "heads project": HeadsProject,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the exit code."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not arguments or arguments in (["--help"], ["-h"]):
        print(_overview(list(COMMANDS)))
        return 0 if arguments else 2
    try:
        print(_parse(arguments).run())
    except RequestError as error:
        return _fail(2, error)
    except WorkError as error:
        return _fail(1, error)
    except OSError as error:
        where = f" {error.filename!r}" if error.filename else ""
        return _fail(1, f"{error.strerror or error}{where}")
    except _StoppedByUser as error:
        return _fail(130, error)
    except MemoryError:
        return _fail(1, "not enough memory: ask for less at once")
    except RuntimeError as error:
        # torch says so of its own allocations, and of nothing else.
        if "allocate memory" not in str(error) and "out of memory" not in str(error):
            raise
        return _fail(1, "not enough memory: ask for less at once")
    except KeyboardInterrupt:
        return _fail(130, "stopped; run the same command again")
    return 0


class _StoppedByUser(Exception):
    pass


def _fail(code: int, message: object) -> int:
    print(f"mi-superposition: {message}", file=sys.stderr)
    return code


def _overview(names: Sequence[str]) -> str:
    width = max(map(len, names))
    lines = [f"  {name:<{width}}  {_first_line(COMMANDS[name])}" for name in names]
    return "\n".join(
        [
            "usage: mi-superposition COMMAND [OPTIONS]",
            "",
            *lines,
            "",
            "mi-superposition COMMAND --help lists the options.",
        ]
    )


def _first_line(command: type[Command]) -> str:
    return (command.__doc__ or "").splitlines()[0]


def _parse(arguments: Sequence[str]) -> Command:
    group = [name for name in COMMANDS if name.startswith(f"{arguments[0]} ")]
    if group and arguments[1:] in (["--help"], ["-h"]):
        print(_overview(group))
        raise SystemExit(0)
    for words in (1, 2):
        name = " ".join(arguments[:words])
        if name in COMMANDS:
            return _parse_options(name, arguments[words:])
    asked = " ".join(word for word in arguments[:2] if not word.startswith("-"))
    if group:
        raise RequestError(f"{asked!r} needs one more word: {' or '.join(map(repr, group))}")
    near = difflib.get_close_matches(asked, COMMANDS, n=1)
    known = f"did you mean {near[0]!r}?" if near else f"commands are {', '.join(map(repr, COMMANDS))}"
    raise RequestError(f"{asked!r} is not a command: {known}")


def _parse_options(name: str, options: Sequence[str]) -> Command:
    """Parse with tyro; its boxed complaint becomes one line like every other error of ours."""
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            return tyro.cli(COMMANDS[name], prog=f"mi-superposition {name}", args=list(options))
    except SystemExit as stop:
        if not stop.code:
            raise
        # The box's first line is its title, the last ones point to the help; what is between is the complaint.
        inside = [line.strip("\u2502 ") for line in complaint.getvalue().splitlines()[1:]]
        text = " ".join(line for line in inside if line and not line.startswith("\u2500"))
        text = text.split("For full helptext")[0].strip("\u2500\u256d\u256e\u2570\u256f ")
        raise RequestError(f"{name}: {text} (see --help)") from None


def _where(finished_already: bool, out: Path) -> str:
    return f"{'finished already' if finished_already else 'results'}: {out}"


@contextlib.contextmanager
def _progress(unit: str, total: int | None = None) -> Iterator[Callable[[int, str], None]]:
    """A progress bar on standard error; the function it gives advances it and says where the work is.

    The bar appears with the first step, so a request that is refused shows none.
    """
    from tqdm import tqdm

    bar: tqdm | None = None

    def advance(by: int, state: str) -> None:
        nonlocal bar
        if bar is None:
            bar = tqdm(total=total, unit=unit, dynamic_ncols=True, smoothing=0.1)
        bar.set_postfix_str(state, refresh=False)
        bar.update(by)

    try:
        yield advance
    finally:
        if bar is not None:
            bar.close()


@contextlib.contextmanager
def _stop_on_signal() -> Iterator[Callable[[], bool]]:
    """Turn the first Ctrl-C (or SIGTERM) into a request to stop at the next step, where a checkpoint is taken."""
    from mi_superposition.training import Stopped

    asked = False

    def ask(number: int, frame: object) -> None:  # noqa: ARG001
        nonlocal asked
        asked = True
        # A second Ctrl-C does what it always does.
        signal.signal(signal.SIGINT, signal.default_int_handler)

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: asked
    except Stopped as stop:
        raise _StoppedByUser(f"{stop}; run the same command again to go on") from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


if __name__ == "__main__":
    sys.exit(main())
