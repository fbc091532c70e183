"""Tiles of a matrix: every pixel is its entry, mirrored halves are enough, coarse levels keep the strongest."""

import base64
import json
import re
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from mi_superposition.errors import RequestError
from mi_superposition.site.records import MatrixRecord, MatrixView
from mi_superposition.site.tiles import SHADES, STEPS, TILE, halved, matrix_files, palette, quantised
from mi_superposition.site.unit_records import neuron_address


def write_matrix(record, folder):
    for address, content in matrix_files(record):
        (folder / address).parent.mkdir(parents=True, exist_ok=True)
        (folder / address).write_bytes(content)


def similarity(n, seed=0):
    rows = torch.nn.functional.normalize(torch.randn(n, 6, generator=torch.Generator().manual_seed(seed)), dim=1)
    return (rows @ rows.T).clamp(-1, 1)


def record(*views):
    return MatrixRecord("m", "Title", "look", "number", "control", "cosine", views)


def entries(path):
    image = Image.open(path)
    assert image.mode == "P"
    assert image.getpalette()[: len(palette())] == palette()
    return np.asarray(image).astype(int) - SHADES


@pytest.mark.parametrize("n", [1, 5, TILE, TILE + 1, 700])
def test_every_pixel_is_its_entry(tmp_path, n):
    matrix = similarity(n)
    write_matrix(record(MatrixView("a", "A", matrix, torch.arange(n))), tmp_path)
    folder = tmp_path / "matrix" / "m" / "a"
    wanted = quantised(matrix)
    assert np.abs(wanted / STEPS - matrix.numpy()).max() <= 0.5 / STEPS + 1e-6
    n_tiles = -(-n // TILE)
    assert len(list((folder / "0").iterdir())) == n_tiles * (n_tiles + 1) // 2
    seen = np.zeros((n, n), int)
    for row in range(n_tiles):
        for column in range(row, n_tiles):
            shown = entries(folder / "0" / f"{row}-{column}.png")
            place = np.s_[row * TILE : (row + 1) * TILE, column * TILE : (column + 1) * TILE]
            seen[place] = shown
            seen.T[place] = shown
            script = (folder / "values" / f"{row}-{column}.js").read_text()
            key, packed = re.fullmatch(r'matrixValues\("(.*)", "(.*)"\);\n', script).groups()
            assert key == f"m/a/{row}-{column}"
            values = np.frombuffer(zlib.decompress(base64.b64decode(packed)), np.int8).reshape(shown.shape)
            assert (values == wanted[place]).all()
    assert (seen == np.rint(wanted * (SHADES / STEPS))).all()


def test_coarse_levels_keep_the_strongest_and_stay_symmetric():
    level = quantised(similarity(37))
    coarse = halved(level)
    assert coarse.shape == (19, 19)
    assert (coarse == coarse.T).all()
    for row in range(19):
        for column in range(19):
            block = level[2 * row : 2 * row + 2, 2 * column : 2 * column + 2].astype(int)
            assert abs(int(coarse[row, column])) == np.abs(block).max()


def test_levels_go_down_to_one_tile(tmp_path):
    write_matrix(record(MatrixView("a", "A", similarity(1100), torch.arange(1100))), tmp_path)
    levels = sorted(path.name for path in (tmp_path / "matrix/m/a").iterdir())
    assert levels == ["0", "1", "2", "3", "values"]
    assert [path.name for path in (tmp_path / "matrix/m/a/3").iterdir()] == ["0-0.png"]


@pytest.mark.slow
def test_three_views_of_4096_neurons_stay_below_40_megabytes(tmp_path):
    """The hardest matrix to pack: noise, in the directions of the TinyStories models."""
    rows = torch.nn.functional.normalize(torch.randn(4096, 1024, generator=torch.Generator().manual_seed(0)), dim=1)
    matrix = (rows @ rows.T).clamp(-1, 1)
    order = torch.randperm(4096, generator=torch.Generator().manual_seed(1))
    shuffled = matrix[order][:, order]
    views = [
        MatrixView("trained", "A", shuffled, order),
        MatrixView("control", "B", shuffled, order),
        MatrixView("unordered", "C", matrix, torch.arange(4096), "trained"),
    ]
    write_matrix(record(*views), tmp_path)
    scripts = 5e6  # Plotly's
    assert sum(path.stat().st_size for path in tmp_path.rglob("*.*")) + scripts < 40e6


def test_a_view_in_another_order_has_no_values_of_its_own(tmp_path):
    matrix, order = similarity(9), torch.arange(8, -1, -1)
    views = (MatrixView("a", "A", matrix, torch.arange(9)), MatrixView("b", "B", matrix[order][:, order], order, "a"))
    write_matrix(record(*views), tmp_path)
    assert not (tmp_path / "matrix/m/b/values").exists()


def test_the_same_matrix_gives_the_same_bytes(tmp_path):
    for folder in ("one", "two"):
        write_matrix(record(MatrixView("a", "A", similarity(300), torch.arange(300))), tmp_path / folder)
    paths = sorted(path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*.*"))
    assert paths
    assert all((tmp_path / "one" / path).read_bytes() == (tmp_path / "two" / path).read_bytes() for path in paths)


def test_the_palette_is_white_in_the_middle_and_never_repeats_a_side():
    colours = np.array(palette()).reshape(-1, 3)
    assert len(colours) == 2 * SHADES + 1
    assert colours[SHADES].tolist() == [247, 247, 247]
    # Away from zero it only gets darker.
    light = colours.sum(axis=1)
    assert (np.diff(light[: SHADES + 1]) >= 0).all()
    assert (np.diff(light[SHADES:]) <= 0).all()
    assert colours[-1][0] > colours[-1][2]
    assert colours[0][2] > colours[0][0]


def test_what_cannot_be_shown_is_refused():
    for bad in (torch.tensor([[2.0]]), torch.tensor([[float("nan")]])):
        with pytest.raises(RequestError, match="-1 to 1"):
            quantised(bad)


def test_addresses_of_neurons():
    assert neuron_address(1, 17) == "neurons/L1N17.html"
    assert json.loads(json.dumps(neuron_address(0, 0))) == "neurons/L0N0.html"
