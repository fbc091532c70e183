import pytest
import torch
from fake_hub import into_hub_cache
from torch import nn
from transformers import BertConfig, BertModel, ResNetConfig, ResNetForImageClassification, ViTConfig
from transformers import ViTForImageClassification as Vit

from mi_superposition.errors import RequestError, WorkError
from mi_superposition.files import read_tensors, write_tensors
from mi_superposition.models.classifiers import build_classifier, logits
from mi_superposition.spectra import weight_matrices

SMALL = dict(embedding_size=8, hidden_sizes=[8, 12], depths=[1, 1])


@pytest.fixture(scope="module")
def resnet(tmp_path_factory):
    """A small ResNet of five classes in Hugging Face layout."""
    folder = tmp_path_factory.mktemp("resnet")
    config = ResNetConfig(**SMALL)
    config.num_labels = 5
    torch.manual_seed(0)
    network = ResNetForImageClassification(config).eval()
    network.save_pretrained(folder)
    return folder, network


def test_simplenet_is_stringers():
    network = build_classifier("simplenet", shape=(1, 28, 28), n_classes=10)
    assert [tuple(matrix.shape) for _, matrix in weight_matrices(network)] == [(128, 784), (64, 128), (10, 64)]
    images = torch.randn(3, 1, 28, 28)
    hidden = (images.flatten(1) @ network.fc1.weight.T + network.fc1.bias).clamp_min(0)
    hidden = (hidden @ network.fc2.weight.T + network.fc2.bias).clamp_min(0)
    torch.testing.assert_close(logits(network, images), hidden @ network.fc3.weight.T + network.fc3.bias)


def test_resnet_50_has_53_convolutions_with_every_stem():
    for stem, side in (("imagenet", 8), ("small-pooled", 16), ("small", 32)):
        network = build_classifier("resnet50", shape=(3, 32, 32), n_classes=100, stem=stem).eval()
        convolutions = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d)]
        assert len(convolutions) == 53
        assert network.resnet.embedder(torch.zeros(1, 3, 32, 32)).shape[-1] == side
        assert logits(network, torch.zeros(1, 3, 32, 32)).shape == (1, 100)


def test_the_seed_decides_and_nothing_else():
    before = torch.random.get_rng_state()
    one, same, other = (build_classifier("simplenet", shape=(1, 8, 8), n_classes=2, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(one.fc1.weight, same.fc1.weight)
    assert not torch.equal(one.fc1.weight, other.fc1.weight)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_folder_keeps_its_weights(resnet):
    folder, network = resnet
    images = torch.randn(2, 3, 32, 32)
    found = build_classifier(folder, shape=(3, 32, 32), n_classes=5).eval()
    with torch.no_grad():
        torch.testing.assert_close(logits(found, images), network(images).logits)
    # Another number of classes: the head is fresh, all else is kept.
    other = build_classifier(folder, shape=(3, 32, 32), n_classes=7)
    assert torch.equal(
        other.resnet.embedder.embedder.convolution.weight, network.resnet.embedder.embedder.convolution.weight
    )
    assert other.classifier[-1].weight.shape[0] == 7
    fresh = build_classifier(folder, shape=(3, 32, 32), n_classes=5, pretrained=False)
    assert not torch.equal(fresh.classifier[-1].weight, network.classifier[-1].weight)


def test_a_layer_that_is_missing_is_damage_and_half_precision_is_not(resnet, tmp_path):
    tensors, _ = read_tensors(resnet[0] / "model.safetensors")
    (tmp_path / "config.json").write_bytes((resnet[0] / "config.json").read_bytes())
    lost = "resnet.embedder.embedder.convolution.weight"
    write_tensors(tmp_path / "model.safetensors", {k: v for k, v in tensors.items() if k != lost}, {"format": "pt"})
    with pytest.raises(WorkError, match=f"{lost} is missing"):
        build_classifier(tmp_path, shape=(3, 32, 32), n_classes=5)
    half = {k: v.half() if v.is_floating_point() else v for k, v in tensors.items()}
    write_tensors(tmp_path / "model.safetensors", half, {"format": "pt"})
    found = build_classifier(tmp_path, shape=(3, 32, 32), n_classes=5)
    assert found.classifier[-1].weight.dtype == torch.float32


def test_grey_images_make_a_first_layer_of_one_channel(resnet):
    found = build_classifier(resnet[0], shape=(1, 32, 32), n_classes=5).eval()
    assert logits(found, torch.zeros(1, 1, 32, 32)).shape == (1, 5)


def test_from_the_hub_cache(resnet, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    into_hub_cache(tmp_path, "microsoft/resnet-50", resnet[0])
    found = build_classifier("microsoft/resnet-50", shape=(3, 32, 32), n_classes=5)
    assert torch.equal(found.classifier[-1].weight, resnet[1].classifier[-1].weight)
    with pytest.raises(WorkError, match="'microsoft/resnet-18' is not in the local hub cache"):
        build_classifier("microsoft/resnet-18", shape=(3, 32, 32), n_classes=5)


def test_images_of_a_size_it_cannot_read(tmp_path):
    config = ViTConfig(
        image_size=16, patch_size=4, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8
    )
    Vit(config).save_pretrained(tmp_path)
    with pytest.raises(RequestError, match=r"cannot read images of 3 × 32 × 32: Input image size"):
        build_classifier(tmp_path, shape=(3, 32, 32), n_classes=2)
    assert logits(build_classifier(tmp_path, shape=(3, 16, 16), n_classes=2), torch.zeros(1, 3, 16, 16)).shape == (1, 2)


def test_what_is_no_classifier(tmp_path, resnet):
    with pytest.raises(RequestError, match="'resnet5' is no network: did you mean 'resnet50'"):
        build_classifier("resnet5", shape=(3, 32, 32), n_classes=2)
    with pytest.raises(RequestError, match="is a folder without config.json"):
        build_classifier(tmp_path, shape=(3, 32, 32), n_classes=2)
    with pytest.raises(RequestError, match="stem = 'small': only a ResNet has one, 'simplenet' does not"):
        build_classifier("simplenet", shape=(3, 32, 32), n_classes=2, stem="small")
    BertModel(
        BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8, vocab_size=20)
    ).save_pretrained(tmp_path / "bert")
    with pytest.raises(RequestError, match="is no image classifier of transformers"):
        build_classifier(tmp_path / "bert", shape=(3, 32, 32), n_classes=2)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_bytes((resnet[0] / "config.json").read_bytes())
    (tmp_path / "broken" / "model.safetensors").write_bytes(b"short")
    with pytest.raises(WorkError, match="the weights in .*broken.* are damaged"):
        build_classifier(tmp_path / "broken", shape=(3, 32, 32), n_classes=2)
