"""Every command in small: a request that does all it does in a few seconds, on models and texts made for the purpose."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mi_superposition.cli import main
from mi_superposition.site.folder import LIST
from mi_superposition.subjects import chapters, subjects

# Processes are forked from one that has imported everything and computed nothing, so that what is killed is the work.
PROCESSES = multiprocessing.get_context("forkserver")
STUDIES = [study for subject in subjects() for study in subject.studies]
PROCESSES.set_forkserver_preload(
    [
        "sklearn.linear_model",
        "mi_superposition.report.write",
        "mi_superposition.cli.__main__",
        # Imported when they are used, and so named here: what is killed or short of memory is to be the work alone.
        "mi_superposition.neurons.scan.kernel",
        *(module for study in STUDIES for module in (study.studies, study.pages)),
        *(tool.module for subject in subjects() for tool in subject.tools),
        *(chapter.pages for chapter in chapters().values()),
    ]
)

# Seconds after which a small request is taken to hang.
_LONGEST = 240
_NAMES = [
    "Tim",
    "Sue",
    "Max",
    "Ann",
    "Ben",
    "Amy",
    "Sam",
    "Lily",
    "Tom",
    "Mia",
    "Jack",
    "Lucy",
    "Fred",
    "Rose",
    "Anna",
    "Mark",
]
_THINGS = [
    "ball",
    "kite",
    "book",
    "boat",
    "drum",
    "ring",
    "coat",
    "lamp",
    "door",
    "sock",
    "star",
    "rope",
    "nest",
    "bell",
    "leaf",
    "shoe",
]
_DEEDS = ["jumped", "danced", "looked", "waited", "played", "sang", "slept", "laughed"]
_PLACES = ["park", "tree", "lake", "hill", "town", "shop", "barn", "road"]
TEXTS = [
    f"Once upon a time there was a {animal} named {_NAMES[n % 16]} in house {n}. {_NAMES[n % 16]} was {mood} at the {_PLACES[n % 8]} for {n} days. "
    f"They ate {food} with {n} birds. {_NAMES[n % 16]} {_DEEDS[n // 2 % 8]} and {_DEEDS[n // 3 % 8]} with the {_THINGS[n // 5 % 16]} and the "
    f"{_THINGS[n // 7 % 16]} {n} times. The end."
    for n, (animal, mood, food) in enumerate(
        (animal, mood, food)
        for _ in range(4)
        for animal in ("cat", "dog", "fox", "owl")
        for mood in ("happy", "sad", "glad", "angry")
        for food in ("cake", "fish", "bread", "soup")
    )
]
CONCEPTS = {
    "animals": ["cat", "dog", "fox", "owl"],
    "moods": ["happy", "sad", "glad", "angry"],
    "food": ["cake", "fish", "bread", "soup"],
}


# Commands that answer on the terminal.
WRITES_NOTHING = {"neurons try"}


def with_options(words, more):
    """The words of a command with some options added, or given another value."""
    words, more = [str(word) for word in words], [str(word) for word in more]
    for flag in (word for word in more if word.startswith("--") and word in words):
        at = words.index(flag)
        after = next((n for n in range(at + 1, len(words)) if words[n].startswith("--")), len(words))
        del words[at:after]
    return [*words, *more]


@dataclass(frozen=True)
class Workshop:
    """A folder with what small requests read: a model with its texts, and finished runs that later commands take."""

    root: Path
    model: Path

    @property
    def texts(self) -> Path:
        """A corpus of 256 short stories."""
        return self.root / "texts.txt"

    def request(self, command: str, out: Path) -> list[str]:
        """The words of a small request."""
        folder = [] if command in WRITES_NOTHING else ["--out", str(out)]
        return [*command.split(), *folder, *map(str, self._options(command))]

    def _options(self, command: str) -> list[Any]:
        reads = ["--model", self.model, "--corpus", self.texts]
        match command:
            case "report":
                return ["--sections", "toy"]
            case "page":
                return [self.root / "addition"]
            case "addition train":
                return [
                    "--n-digits", 2, "--n-heads", 4, "--d-model", 16, "--n-train", 200, "--n-test", 20, "--epochs", 6,
                ]  # fmt: skip
            case "addition evaluate":
                return ["--model", self.root / "addition", "--n-problems", 1000]
            case "addition certify":
                return ["--model", self.root / "addition", "--boxes", 2000, "--n-problems", 500, "--threads", 1]
            case "addition program":
                return [
                    "--model", self.root / "addition", "--n-fit", 1000, "--n-problems", 200, "--members", 2, "--random-sets", 5,
                ]  # fmt: skip
            case "heads trigrams":
                return [
                    *reads, "--features", 12, "--controls", 2, "--tried", 40, "--occurrences", 4, "--level", 0.5, "--permutations", 2, "--threads", 1,
                ]  # fmt: skip
            case "heads ablate":
                return ["--model", self.root / "addition", "--n-problems", 200, "--random-sets", 50]
            case "heads project":
                return ["--model", self.root / "addition"]
            case "heads scan":
                return [
                    *reads, "--documents", 96, "--shard", 32, "--threads", 1, "--top-k", 3, "--per-tenth", 1, "--pairs", 10,
                    "--repeated-sequences", 2,
                ]  # fmt: skip
            case "heads pages":
                return ["--scan", self.root / "heads"]
            case "neurons order":
                return ["--model", self.model, "--layer", 0, "--controls", 3, "--seconds", 0.05]
            case "neurons scan":
                return [*reads, "--shard", 64, "--threads", 1]
            case "neurons contexts":
                return [*reads, "--shard", 64, "--threads", 1, "--random-directions", 8]
            case "neurons try":
                return ["--model", self.model, "--neuron", "1.5", "a cat ran"]
            case "neurons pages":
                return ["--scan", self.root / "small-scan"]
            case "toy train":
                return ["--n-instances", 2, "--n-steps", 13, "--probability", 1, 0.1, "--threads", 1]
            case "toy study":
                return ["directions", "--n-instances", 2, "--n-steps", 3]
            case "sae train":
                return [
                    *reads, "--hook", "blocks.1.hook_resid_pre", "--d-sae", 64, "--k", 4, "--tokens", 1_664,
                    "--batch-size", 128, "--buffer-batches", 4, "--threads", 1,
                ]  # fmt: skip
            case "sae evaluate":
                return ["--sae", self.root / "sae", "--corpus", self.texts, "--threads", 1]
            case "sae recover":
                return ["--toy-steps", 200, "--sae-steps", 50, "--threads", 1]
            case "spectra":
                return ["--model", "simplenet", "--images", "digits", "--epochs", 1, "--threads", 1]
            case "concepts":
                lists = self.root / "concepts.json"
                options = ["--labels", "none", "--concepts", lists, "--random-lists", 4, "--permutations", 50]
                return [*reads, *options, "--random-probes", 1, "--threads", 1]
        raise AssertionError(f"no small request for {command!r}")


def furnish(root: Path, model: Path) -> Workshop:
    """Write the texts and make the runs that other commands read."""
    workshop = Workshop(root, model)
    root.mkdir(parents=True, exist_ok=True)
    workshop.texts.write_text("<|endoftext|>".join(TEXTS))
    (root / "concepts.json").write_text(json.dumps(CONCEPTS))
    for command, name, more in (
        ("addition train", "addition", []),
        ("neurons scan", "scan", []),
        ("neurons scan", "small-scan", ["--hook", "blocks.0.hook_resid_pre", "--documents", 40]),
        ("sae train", "sae", []),
        ("heads scan", "heads", []),
    ):
        code, _, error = finish(with_options(workshop.request(command, root / name), more))
        assert code == 0, error
    return workshop


def start(words: list[str], said: Path, *, before: Any = None) -> Any:
    """The command in a process of its own; what it says goes to the files ``said`` with the endings .out and .err."""
    process = PROCESSES.Process(target=_run, args=(words, str(said), before))
    process.start()
    return process


def _run(words: list[str], said: str, before: Any) -> None:
    os.environ["HF_HUB_OFFLINE"] = "1"
    with open(f"{said}.out", "w") as out, open(f"{said}.err", "w") as error:
        # Below Python too: libraries in C have their own way to the terminal.
        os.dup2(out.fileno(), 1)
        os.dup2(error.fileno(), 2)
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(error):
            if before is not None:
                before()
            code = main(words)
    sys.exit(code)


def finish(words: list[str], said: Path | None = None, *, before: Any = None) -> tuple[int, str, str]:
    """The command to its end: exit code, standard output, standard error."""
    if said is None:
        said = Path(words[words.index("--out") + 1])
        said = said.with_name(f"{said.name}-said")
    process = start(words, said, before=before)
    process.join(_LONGEST)
    if process.exitcode is None:
        process.kill()
        raise AssertionError(f"still at it after {_LONGEST} seconds: {words}")
    code = process.exitcode
    process.close()
    return code, *(Path(f"{said}.{ending}").read_text(errors="replace") for ending in ("out", "err"))


def contents(folder: Path) -> dict[str, Any]:
    """Every file of a result; of its metrics all but how fast it was, and of a site's list which files there are."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        if not path.is_file():
            continue
        name = path.relative_to(folder).as_posix()
        found[name] = path.read_bytes()
        if path.name == LIST:
            found[name] = [json.loads(line)[:1] for line in found[name].rpartition(b"\n")[0].splitlines()[1:]]
        if path.name == "metrics.json":
            metrics = json.loads(found[name])
            found[name] = {key: value for key, value in metrics.items() if not key.endswith(("_per_second", "seconds"))}
    return found
