import io

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Image, Value
from fake_hub import into_hub_cache
from PIL import Image as Picture

from mi_superposition.corpora.images import load_images
from mi_superposition.errors import RequestError, WorkError


def png(height=6, width=5, mode="L", value=7):
    shape = (height, width) if mode == "L" else (height, width, 3)
    content = io.BytesIO()
    Picture.fromarray(np.full(shape, value, dtype=np.uint8), mode).save(content, "PNG")
    return {"bytes": content.getvalue(), "path": None}


def write(folder, split, images, labels, *, image="image", label="label", names=("cat", "dog", "owl")):
    features = Features({"id": Value("int64"), image: Image(), label: ClassLabel(names=list(names))})
    rows = {"id": list(range(len(labels))), image: images, label: labels}
    folder.mkdir(parents=True, exist_ok=True)
    Dataset.from_dict(rows, features=features).to_parquet(folder / f"{split}.parquet")


@pytest.fixture
def folder(tmp_path):
    """Six images to train on and two to test on."""
    write(tmp_path / "data", "train", [png(value=value) for value in range(6)], [0, 1, 2, 0, 1, 2])
    write(tmp_path / "data", "test", [png(value=200), png(value=201)], [1, 0])
    return tmp_path / "data"


def test_digits_come_with_scikit_learn():
    digits = load_images("digits")
    assert (len(digits.train), len(digits.test), digits.shape) == (1438, 359, (1, 8, 8))
    assert digits.classes == tuple("0123456789")
    assert int(digits.train.pixels.max()) == 255
    assert digits.identity() == load_images("digits").identity()


def test_a_folder_of_parquet_files(folder):
    seen = []
    images = load_images(folder, on_image=lambda by, state: seen.append(state))
    assert images.shape == (1, 6, 5)
    assert images.train.pixels[:, 0, 0, 0].tolist() == [0, 1, 2, 3, 4, 5]
    assert images.test.labels.tolist() == [1, 0]
    assert images.classes == ("cat", "dog", "owl")
    assert seen == ["reading train"] * 6 + ["reading test"] * 2


def test_colours_and_cifars_columns(tmp_path):
    for split, n in (("train", 4), ("test", 2)):
        write(tmp_path, split, [png(mode="RGB", value=n)] * n, [0, 1] * (n // 2), image="img", label="fine_label")
    images = load_images(tmp_path)
    assert images.shape == (3, 6, 5)
    assert torch.equal(images.train.labels, torch.tensor([0, 1, 0, 1]))


def test_labels_without_names(tmp_path):
    rows = {"image": [png(), png()], "label": [0, 5]}
    for split in ("train", "test"):
        Dataset.from_dict(rows, features=Features({"image": Image(), "label": Value("int64")})).to_parquet(
            tmp_path / f"{split}.parquet"
        )
    assert load_images(tmp_path).classes == tuple("012345")


def test_a_dataset_of_the_hub_cache(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "datasets")
    into_hub_cache(tmp_path / "hub", "ylecun/mnist", folder, kind="datasets")
    images = load_images("ylecun/mnist")
    assert images.train.pixels.tolist() == load_images(folder).train.pixels.tolist()
    assert images.name == "ylecun/mnist"
    with pytest.raises(RequestError, match="has no split 'nope'"):
        load_images("ylecun/mnist", splits=("nope", "test"))
    with pytest.raises(WorkError, match="neither a file here nor in the local hub cache"):
        load_images("nobody/nothing")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("digit", "'digit' is not there: did you mean 'digits'"),
        ("nowhere", "'nowhere' is not there: give 'digits', a folder or OWNER/NAME"),
    ],
)
def test_names_that_are_nothing(name, said):
    with pytest.raises(RequestError, match=said):
        load_images(name)


def test_files_and_columns_that_are_missing(folder, tmp_path):
    with pytest.raises(RequestError, match=r"has no 'validation.parquet': it has 'test.parquet', 'train.parquet'"):
        load_images(folder, splits=("train", "validation"))
    with pytest.raises(RequestError, match="is a file: give the folder"):
        load_images(folder / "train.parquet")
    with pytest.raises(RequestError, match="has no column 'picture': it has 'id', 'image', 'label'"):
        load_images(folder, image_column="picture")
    Dataset.from_dict({"text": ["a", "b"], "label": [0, 1]}).to_parquet(tmp_path / "train.parquet")
    with pytest.raises(RequestError, match="has no column of images: it has 'text', 'label'; name it"):
        load_images(tmp_path)


def test_images_of_another_size(folder):
    write(folder, "test", [png(), png(height=7)], [0, 1])
    with pytest.raises(RequestError, match=r"image 1 of 'test' of .* is 7 × 5 pixels of 1 channel, the first is 6 × 5"):
        load_images(folder)


def test_labels_that_teach_nothing(folder):
    write(folder, "train", [png()] * 3, [1, 1, 1])
    with pytest.raises(RequestError, match="all images of .* have the label 1: a classifier needs two classes"):
        load_images(folder)
    write(folder, "train", [png()] * 3, [1, -1, 1])
    with pytest.raises(RequestError, match="image 1 of 'train' of .* has no label"):
        load_images(folder)
    write(folder, "train", [png()] * 3, [1, None, 1])
    with pytest.raises(RequestError, match="row 1 of .* has no label"):
        load_images(folder)


def test_damaged_files(folder):
    write(folder, "train", [png(), {"bytes": b"no picture", "path": None}], [0, 1])
    with pytest.raises(WorkError, match=r"image 1 of .* cannot be read"):
        load_images(folder)
    (folder / "train.parquet").write_bytes(b"PAR1 and nothing else")
    with pytest.raises(WorkError, match=r"cannot read .*train.parquet"):
        load_images(folder)


def test_sixteen_bits_are_not_cut(folder):
    content = io.BytesIO()
    Picture.fromarray(np.full((6, 5), 900, dtype=np.uint16)).save(content, "PNG")
    write(folder, "train", [{"bytes": content.getvalue(), "path": None}] * 2, [0, 1])
    with pytest.raises(RequestError, match="image 0 of .* has more than 8 bits a pixel"):
        load_images(folder)
