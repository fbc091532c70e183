"""Every command that takes a folder, killed without warning at random moments and run again, ends with the same bytes."""

import random
import time

import pytest
from robustness.fixtures import FULL
from robustness.workshop import WRITES_NOTHING, contents, finish, start

from mi_superposition.cli import commands
from mi_superposition.files import read_json
from mi_superposition.runs import MANIFEST

KILLS = 20 if FULL else 4
# One folder is killed so many times in a row before its result is compared.
IN_A_ROW = 4
# Answers at once and writes nothing.
LONG = [name for name in commands() if name not in WRITES_NOTHING]


@pytest.mark.parametrize("name", LONG)
def test_killed_at_random_moments_it_ends_with_the_same_bytes(name, shop, tmp_path, counts):
    whole = tmp_path / "whole"
    began = time.perf_counter()
    code, _, error = finish(shop.request(name, whole))
    assert code == 0, error
    takes = time.perf_counter() - began
    expected = contents(whole)
    rng = random.Random(name)
    kills = folders = 0
    while kills < KILLS:
        folders += 1
        assert folders < 20 * KILLS, "always done before it could be killed"
        out = tmp_path / f"killed-{folders}"
        words = shop.request(name, out)
        for _ in range(IN_A_ROW):
            process = start(words, tmp_path / "said")
            process.join(rng.uniform(0, takes))
            if process.exitcode is not None:
                assert process.exitcode == 0
                break
            process.kill()
            process.join()
            kills += 1
            # Complete or visibly incomplete, never half written.
            if (out / MANIFEST).exists() and "status" in (manifest := read_json(out / MANIFEST)):
                finished = manifest["status"] == "finished"
                # The pages of a run are written once it is finished, their index last.
                shown = (out / "page" / "index.html").exists()
                whole_by_now = {file for file in expected if shown or not file.startswith("page/")}
                assert not finished or contents(out).keys() >= whole_by_now
        code, _, error = finish(words, tmp_path / "said")
        assert code == 0, error
        found = contents(out)
        assert found.keys() == expected.keys()
        assert [file for file in found if found[file] != expected[file]] == []
    counts["kills"] += kills
    counts["results compared"] += folders
