"""Commands killed without warning at random moments and run again end with the same bytes."""

import random
import time

import pytest
from robustness.fixtures import FULL
from robustness.workshop import WRITES_NOTHING, contents, finish, start, with_options

from mi_superposition.cli import commands
from mi_superposition.files import read_json
from mi_superposition.runs import MANIFEST

# What test_every_change.py proves of every single change, tried on real processes: a training loop, a scan in shards, a site. With
# ROBUSTNESS=full every command is killed twenty times. Options that make a small request long enough to be killed within.
LONGER = {"toy train": ["--n-steps", 3000], "neurons scan": ["--shard", 8], "neurons pages": []}
KILLS = 20 if FULL else 1
# One folder is killed so many times in a row before its result is compared.
IN_A_ROW = 4
COMMANDS = [name for name in commands() if name not in WRITES_NOTHING and (FULL or name in LONGER)]


@pytest.mark.parametrize("name", COMMANDS)
def test_killed_at_random_moments_it_ends_with_the_same_bytes(name, shop, tmp_path, counts):
    whole = tmp_path / "whole"
    more = LONGER.get(name, [])
    began = time.perf_counter()
    code, _, error = finish(with_options(shop.request(name, whole), more))
    assert code == 0, error
    takes = time.perf_counter() - began
    expected = contents(whole)
    rng = random.Random(name)
    kills = folders = 0
    while kills < KILLS:
        folders += 1
        assert folders < 20 * KILLS, "always done before it could be killed"
        out = tmp_path / f"killed-{folders}"
        words = with_options(shop.request(name, out), more)
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
