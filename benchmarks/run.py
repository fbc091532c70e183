"""Run every benchmark and write one table: ours, the usual way, the ratio, the lower bound.

    python benchmarks/run.py                        # about ten minutes on two cores; let the machine do nothing else
    python benchmarks/run.py --only toy sae

Each benchmark runs in a process of its own. Its rows go to results.json as soon as it is done, and the table in README.md is made
from that file, so one that was stopped goes on: what was measured with the same code and versions is not measured again (--anew
measures all of it).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tqdm import tqdm

from mi_superposition.files import write_file, write_json
from mi_superposition.provenance import versions

HERE = Path(__file__).parent
BENCHMARKS = ("addition", "order", "scan", "toy", "sae", "spectra", "heads")
RESULTS, README = "results.json", "README.md"
BEGIN, END = "<!-- the table of run.py -->\n", "<!-- its end -->\n"
_COLUMNS = ("task", "ours", "the usual way", "", "times faster", "the lower bound", "", "ours / lower bound", "remark")


def fingerprint(name: str, *, quick: bool) -> str:
    """Changes with the benchmark's code, the package's, the versions and the size."""
    digest = hashlib.sha256(json.dumps([versions(), quick]).encode())
    package = HERE.parent / "mi_superposition"
    for path in (HERE / f"{name}.py", HERE / "timing.py", *sorted(package.rglob("*.py"))):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def table(results: dict[str, Any]) -> str:
    """What stands in the README: the rows of all benchmarks measured, parted by machine and versions."""
    lines = []
    for place in sorted({_place(found) for found in results.values()}):
        lines += [f"{place}:", "", f"| {' | '.join(_COLUMNS)} |", "|---|---:|---|---:|---:|---|---:|---:|---|"]
        for name in BENCHMARKS:
            if name not in results or _place(results[name]) != place:
                continue
            for row in results[name]["rows"]:
                cells = [
                    row["task"], seconds(row["ours"]), row["usual_way"], seconds(row["usual"]), f"{row['usual'] / row['ours']:.2f}",
                    row["lower_bound_is"], seconds(row["lower_bound"]), f"{row['ours'] / row['lower_bound']:.2f}", row["remark"],
                ]  # fmt: skip
                lines.append(f"| {' | '.join(cells)} |")
        lines.append("")
    return "\n".join(lines)


def _place(found: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    return f"{found['machine']} ({versions})"


def seconds(value: float) -> str:
    """With a unit that keeps three digits before the point at most."""
    if value < 1e-3:
        return f"{1e6 * value:.0f} µs"
    return f"{1e3 * value:.3g} ms" if value < 1 else f"{value:.3g} s"


def between_marks(text: str, begin: str, end: str, content: str) -> str:
    """The text with ``content`` between its two marks. Raises ``ValueError`` unless each stands there once, in this order."""
    if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
        raise ValueError(f"the marks {begin.strip()!r} and {end.strip()!r} must each stand there once, in this order")
    before, _, rest = text.partition(begin)
    return f"{before}{begin}{content}{end}{rest.partition(end)[2]}"


def write_table(folder: Path, results: dict[str, Any]) -> None:
    """Put the table into the folder's README."""
    path = folder / README
    write_file(path, between_marks(path.read_text(), BEGIN, END, f"\n{table(results)}").encode())


def main() -> None:
    """Measure what is missing, write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=BENCHMARKS, default=BENCHMARKS)
    parser.add_argument("--anew", action="store_true", help="measure what was measured before, too")
    parser.add_argument("--quick", action="store_true", help="small sizes, to see that it runs; give --out too")
    parser.add_argument("--out", type=Path, default=HERE, help="folder with the README whose table is written")
    options = parser.parse_args()
    if options.quick and options.out.resolve() == HERE.resolve():
        parser.error("--quick numbers mean nothing: give another folder with --out")
    if not (options.out / README).is_file():
        parser.error(f"--out {options.out}: has no {README} to write the table into")
    path = options.out / RESULTS
    results = json.loads(path.read_text()) if path.exists() else {}
    for name in (bar := tqdm(options.only, unit="benchmark")):
        bar.set_postfix_str(name)
        print_of = fingerprint(name, quick=options.quick)
        if not options.anew and results.get(name, {}).get("fingerprint") == print_of:
            continue
        with tempfile.TemporaryDirectory() as scratch:
            rows = Path(scratch) / "rows.json"
            command = [sys.executable, HERE / f"{name}.py", "--rows", rows, *(["--quick"] if options.quick else [])]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                sys.exit(f"benchmark {name!r} failed: {(done.stderr.splitlines() or ['no message'])[-1]}")
            results[name] = {"fingerprint": print_of, "versions": versions(), **json.loads(rows.read_text())}
        write_json(path, results)
        write_table(options.out, results)
    write_table(options.out, results)
    print(table(results))


if __name__ == "__main__":
    main()
