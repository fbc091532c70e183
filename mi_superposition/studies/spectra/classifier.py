"""An image classifier whose spectra are measured, trained here unless for no epochs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from mi_superposition.corpora.images import Images, LabelledImages
from mi_superposition.errors import RequestError, WorkError
from mi_superposition.files import content_hash, write_tensors
from mi_superposition.models.classifiers import build_classifier, logits
from mi_superposition.progress import Progress
from mi_superposition.room import check_memory
from mi_superposition.runs import Run
from mi_superposition.spectra import activation_covariances, matching, samples_by_channel, weight_matrices
from mi_superposition.spectra.classifier import FORWARD_BATCH, Pixels, accuracy, train_classifier
from mi_superposition.spectra.config import SpectraConfig
from mi_superposition.spectra.layers import channel_axis
from mi_superposition.spectra.result import (
    KINDS,
    LayerSpectra,
    spectrum_of_activations,
    spectrum_of_weights,
)
from mi_superposition.streaming import covariance_bytes
from mi_superposition.studies.spectra.network import STATES, State, stoppable
from mi_superposition.studies.spectra.pictures import Pictures, histogram, some_weights

WEIGHTS = "network.safetensors"
# Test images on which a network is followed while it is trained.
_WATCHED = 1000


class MeasuredClassifier:
    """A classifier and the images that it reads.

    Raises as ``build_classifier`` does, and ``RequestError`` for layers that are not there and for batches larger than the images.
    """

    def __init__(self, config: SpectraConfig, images: LabelledImages):
        training = config.training
        if training.epochs and training.batch_size > len(images.train):
            raise RequestError(f"batch_size = {training.batch_size}: there are {len(images.train)} images to train on")
        self.config, self.images = config, images
        self.device = torch.device(config.device.device)
        network = self._build(pretrained=True)
        # As it is before training: afterwards the name says nothing of where it began.
        self.sha256 = content_hash(dict(network.state_dict()))
        self.networks: dict[State, nn.Module] = {"trained": network.to(self.device).eval()}
        self.pixels = Pixels(images.train, self.device)
        self.measured: Images = images.train if config.measured_on == "train" else images.test
        self.watched = Images(images.test.pixels[:_WATCHED], images.test.labels[:_WATCHED])
        self.layers = matching([layer for layer, _ in weight_matrices(network)], config.layers, repr(config.model.name))
        # Parts of a layer, such as the query of an attention, have weights and no output of their own.
        modules = dict(network.named_modules())
        self.hooked = [layer for layer in self.layers if layer in modules]

    @property
    def n_steps(self) -> int:
        """Steps of training, and batches of images measured in both states."""
        training, measured = self.config.training, self.measured.labels[: self.config.text.documents]
        batches = -(-len(measured) // FORWARD_BATCH)
        return training.epochs * (len(self.images.train) // training.batch_size) + len(STATES) * batches

    def network(self, state: State) -> nn.Module:
        """The network in that state; the untrained one is built when it is first asked for."""
        if state not in self.networks:
            self.networks[state] = self._build(pretrained=False).to(self.device).eval()
        return self.networks[state]

    def inputs(self) -> dict[str, Any]:
        """The images, and the network as it is before training."""
        return {
            "images": self.images.identity(),
            "network": {"name": self.config.model.name, "sha256": self.sha256},
        }

    def check_room(self) -> None:
        """Raise ``RequestError`` where there is not enough for a step of the training, or for the covariances of one state."""
        training, network = self.config.training, self.network("trained")
        kept, channels = self._sizes(network)
        if training.epochs:
            weights = sum(parameter.numel() for parameter in network.parameters())
            # The images, and what every layer gives for the backward pass; weights, gradients and AdamW's two moments.
            check_memory(
                4 * (training.batch_size * kept + 4 * weights), f"the training (batch_size = {training.batch_size:,})",
                str(self.device),
            )  # fmt: skip
        check_memory(covariance_bytes(channels), f"the covariances of {len(self.hooked)} activations (layers)")

    @torch.no_grad()
    def _sizes(self, network: nn.Module) -> tuple[int, list[int]]:
        """How many numbers an image has and all layers give for it, and how many channels each of those that are measured has."""
        known = dict(network.named_modules())
        outputs: dict[str, Tensor] = {}
        hooks = [
            layer.register_forward_hook(lambda layer, inputs, output, name=name: outputs.__setitem__(name, output))
            for name, layer in known.items()
            # What is written over its input is counted there.
            if not any(layer.children()) and not getattr(layer, "inplace", False)
        ]
        try:
            logits(network, next(self.pixels.batches(self.measured, 1)))
        finally:
            for hook in hooks:
                hook.remove()
        tensors = {name: output for name, output in outputs.items() if isinstance(output, Tensor)}
        channels = [
            tensors[name].shape[channel_axis(known[name], tensors[name])] for name in self.hooked if name in tensors
        ]
        read = next(self.pixels.batches(self.measured, 1)).numel()
        return read + sum(tensor.numel() for tensor in tensors.values()), channels

    def train(self, run: Run, progress: Progress) -> None:
        """Train, and leave the weights in the run folder; the run's history follows accuracy and ranks."""
        network = self.network("trained")
        train_classifier(
            network, self.images.train, self.config.training, self.pixels, run,
            seed=self.config.random.seed, describe=self._describe, progress=progress,
        )  # fmt: skip
        write_tensors(run.path / WEIGHTS, dict(network.state_dict()))

    def measure(self, state: State, progress: Progress) -> LayerSpectra:
        """Spectra of all chosen layers, over all images."""
        batches = stoppable(self.pixels.batches(self.measured, self.config.text.documents), state, progress)
        return self._spectra(self.network(state), batches)

    @torch.no_grad()
    def pictures(self, state: State) -> Pictures:
        """Of the first batch of images."""
        network = self.network(state)
        known = dict(network.named_modules())
        histograms: dict[str, Tensor] = {}

        def record(name: str, output: Tensor) -> None:
            histograms[name] = histogram(samples_by_channel(output))

        hooks = [
            known[name].register_forward_hook(lambda layer, inputs, output, name=name: record(name, output))
            for name in self.hooked
        ]
        logits(network, next(self.pixels.batches(self.measured)))
        for hook in hooks:
            hook.remove()
        return Pictures(some_weights(weight_matrices(network), self.layers), histograms)

    def metrics(self) -> dict[str, float]:
        """Accuracies on the test images, and how many classes and watched images there are."""
        test = self.images.test
        return {
            "test_accuracy": accuracy(self.network("trained"), test, self.pixels),
            "test_accuracy_untrained": accuracy(self.network("untrained"), test, self.pixels),
            "n_classes": len(self.images.classes),
            "watched_images": len(self.watched),
        }

    def _build(self, *, pretrained: bool) -> nn.Module:
        return build_classifier(
            self.config.model.name, shape=self.images.shape, n_classes=len(self.images.classes), stem=self.config.stem,
            pretrained=pretrained, seed=self.config.random.seed,
        )  # fmt: skip

    def _describe(self, network: nn.Module) -> dict[str, Any]:
        """A row of the history: accuracy, and the energy and entropy ranks of every layer."""
        try:
            spectra = self._spectra(network, self.pixels.batches(self.watched))
        except RequestError as error:
            # A step so large that the next loss would be NaN.
            raise WorkError(f"while training, {error}: try a lower learning rate") from error
        return {
            "watched_accuracy": accuracy(network, self.watched, self.pixels),
            **{
                kind: {
                    name: [ranks.energy_rank, round(ranks.entropy_rank, 3)]
                    for name, spectrum in spectra.of(kind).items()
                    for ranks in [spectrum.ranks(self.config.energy)]
                }
                for kind in KINDS
            },
        }

    def _spectra(self, network: nn.Module, batches: Iterable[Tensor]) -> LayerSpectra:
        weights = {
            name: spectrum_of_weights(matrix) for name, matrix in weight_matrices(network) if name in self.layers
        }
        seen = activation_covariances(network, batches, self.hooked)
        return LayerSpectra(weights, {name: spectrum_of_activations(one) for name, one in seen.items()})
