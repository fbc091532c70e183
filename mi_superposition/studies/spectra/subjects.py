"""What a study of spectra measures: a classifier on images, or a language model on text."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mi_superposition.corpora import Corpus, token_batches
from mi_superposition.corpora.images import Images, LabelledImages
from mi_superposition.errors import RequestError, WorkError
from mi_superposition.models import layer_hooks, read_hooks, untrained_copy
from mi_superposition.models.classifiers import logits
from mi_superposition.runs import Run, content_hash
from mi_superposition.spectra import (
    activation_covariances,
    hooked_covariances,
    hooked_weight_matrices,
    matching,
    samples_by_channel,
    weight_matrices,
)
from mi_superposition.spectra.classifier import ClassifierTraining, Pixels, accuracy, train_classifier
from mi_superposition.spectra.result import LayerSpectra, of_activations, of_weights
from mi_superposition.studies.spectra.findings import Pictures, State
from mi_superposition.training import Stopped

OnStep = Callable[[int, str], None]
# Test images by which a network is followed while it is trained.
WATCHED = 1000
# Layers whose weights are shown, and rows and columns of each at most.
_SHOWN_WEIGHTS = 8
_SHOWN_ENTRIES = 64
_HISTOGRAM_BINS = 121
_HISTOGRAM_WIDTH = 6.0
_Item = TypeVar("_Item")


def _watched(items: Iterable[_Item], state: str, on_step: OnStep, should_stop: Callable[[], bool]) -> Iterator[_Item]:
    for number, item in enumerate(items):
        if should_stop():
            raise Stopped(number, "batch")
        yield item
        on_step(1, f"{state}: activations")


class ImageSubject:
    """A classifier, trained here unless for no epochs, and images."""

    def __init__(
        self,
        build: Callable[[bool], nn.Module],
        images: LabelledImages,
        training: ClassifierTraining,
        layers: Sequence[str],
        *,
        name: str,
        measured_on: Literal["train", "test"],
        most: int | None,
        energy: float,
        device: str,
    ):
        self.images, self.training, self.energy = images, training, energy
        self.build, self.device = build, torch.device(device)
        network = build(True)
        self.name, self.sha256 = name, content_hash(dict(network.state_dict()))
        self.networks = {"trained": network.to(self.device).eval()}
        self.pixels = Pixels(images.train, self.device)
        self.measured: Images = images.train if measured_on == "train" else images.test
        self.most = most
        self.watched = Images(images.test.pixels[:WATCHED], images.test.labels[:WATCHED])
        self.layers = matching([layer for layer, _ in weight_matrices(self.networks["trained"])], layers, repr(name))
        # Parts of a layer, such as the query of an attention, have weights and no output of their own.
        modules = dict(self.networks["trained"].named_modules())
        self.heard = [layer for layer in self.layers if layer in modules]
        batches = sum(1 for _ in self.pixels.batches(self.measured, most))
        self.total: int | None = training.epochs * (len(images.train) // training.batch_size) + 2 * batches

    def network(self, state: State) -> nn.Module:
        """The network in that state; the untrained one is built when it is first asked for."""
        if state not in self.networks:
            self.networks[state] = self.build(False).to(self.device).eval()
        return self.networks[state]

    def inputs(self) -> dict[str, Any]:
        """The images, and the network as it is before training."""
        return {"images": self.images.identity(), "network": {"name": self.name, "sha256": self.sha256}}

    def train(self, run: Run, on_step: OnStep, should_stop: Callable[[], bool]) -> None:
        """Train the classifier; the run's history follows its accuracy and ranks."""
        train_classifier(
            self.network("trained"), self.images.train, self.training, self.pixels, run,
            look=self._look, on_step=on_step, should_stop=should_stop,
        )  # fmt: skip

    def _look(self, network: nn.Module) -> dict[str, Any]:
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
                    for ranks in [spectrum.ranks(self.energy)]
                }
                for kind in ("weights", "activations")
            },
        }

    def _spectra(self, network: nn.Module, batches: Iterable[Tensor]) -> LayerSpectra:
        weights = {name: of_weights(matrix) for name, matrix in weight_matrices(network) if name in self.layers}
        seen = activation_covariances(network, batches, self.heard)
        return LayerSpectra(weights, {name: of_activations(found) for name, found in seen.items()})

    def measure(self, state: State, on_step: OnStep, should_stop: Callable[[], bool]) -> LayerSpectra:
        """Of all layers, over all images."""
        batches = _watched(self.pixels.batches(self.measured, self.most), state, on_step, should_stop)
        return self._spectra(self.network(state), batches)

    @torch.no_grad()
    def pictures(self, state: State) -> Pictures:
        """Of the first batch of images."""
        network = self.network(state)
        known = dict(network.named_modules())
        heard: dict[str, Tensor] = {}

        def hear(name: str, output: Tensor) -> None:
            heard[name] = histogram(samples_by_channel(output))

        hooks = [
            known[name].register_forward_hook(lambda layer, inputs, output, name=name: hear(name, output))
            for name in self.heard
        ]
        logits(network, next(self.pixels.batches(self.measured)))
        for hook in hooks:
            hook.remove()
        return Pictures(_some_weights(weight_matrices(network), self.layers), heard)

    def metrics(self) -> dict[str, float]:
        """Accuracies on the test images."""
        test = self.images.test
        return {
            "test_accuracy": accuracy(self.network("trained"), test, self.pixels),
            "test_accuracy_untrained": accuracy(self.network("untrained"), test, self.pixels),
            "n_classes": len(self.images.classes),
            "watched_images": len(self.watched),
        }


class LanguageSubject:
    """A hooked language model as it is, and text; of a model without text only the weights are measured."""

    total: int | None = None

    def __init__(
        self,
        model: Any,
        corpus: Corpus | None,
        layers: Sequence[str],
        *,
        name: str,
        most: int | None,
        seed: int,
        identity: Mapping[str, Any],
    ):
        self.models = {"trained": model, "untrained": untrained_copy(model, seed)}
        matrices = [layer for layer, _ in hooked_weight_matrices(model)]
        hooks = [] if corpus is None else layer_hooks(model)
        chosen = set(matching([*matrices, *hooks], layers, repr(name)))
        self.matrices = [layer for layer in matrices if layer in chosen]
        self.hooks = [hook for hook in hooks if hook in chosen]
        self.corpus, self.most, self.identity = corpus, most, dict(identity)

    def inputs(self) -> dict[str, Any]:
        """The model and the text."""
        return {**self.identity, **({} if self.corpus is None else {"corpus": self.corpus.identity()})}

    def train(self, run: Run, on_step: OnStep, should_stop: Callable[[], bool]) -> None:
        """Nothing: it is taken as it is."""

    def _batches(self) -> Any:
        model = self.models["trained"]
        documents = itertools.islice(iter(self.corpus or ()), self.most)
        return token_batches(documents, model.tokenizer, batch=8, context=model.cfg.n_ctx)

    def measure(self, state: State, on_step: OnStep, should_stop: Callable[[], bool]) -> LayerSpectra:
        """Of all layers, over all tokens."""
        model = self.models[state]
        batches = _watched(self._batches(), state, on_step, should_stop) if self.hooks else ()
        seen = hooked_covariances(model, batches, self.hooks)
        weights = {name: of_weights(matrix) for name, matrix in hooked_weight_matrices(model) if name in self.matrices}
        return LayerSpectra(weights, {name: of_activations(found) for name, found in seen.items()})

    def pictures(self, state: State) -> Pictures:
        """Of the first batch of text."""
        weights = _some_weights(hooked_weight_matrices(self.models[state]), self.matrices)
        if not self.hooks:
            return Pictures(weights, {})
        batch = next(iter(self._batches()))
        heard = read_hooks(self.models[state], batch.tokens, self.hooks)
        return Pictures(
            weights, {name: histogram(heard[name][batch.mask.to(heard[name].device)]) for name in self.hooks}
        )

    def metrics(self) -> dict[str, float]:
        """None of its own."""
        return {}


Subject = ImageSubject | LanguageSubject


def _some_weights(
    matrices: Iterator[tuple[str, Float[Tensor, "out in"]]], layers: Sequence[str]
) -> dict[str, Float[Tensor, "out in"]]:
    """Of a few layers, rows and columns evenly picked."""
    shown = set(layers[:: max(1, -(-len(layers) // _SHOWN_WEIGHTS))])

    def picked(length: int) -> Tensor:
        return torch.linspace(0, length - 1, min(length, _SHOWN_ENTRIES)).round().long()

    return {
        name: matrix.cpu()[picked(len(matrix))][:, picked(matrix.shape[1])]
        for name, matrix in matrices
        if name in shown
    }


def histogram(samples: Float[Tensor, "sample channel"]) -> Float[Tensor, " bin"]:
    """Shares of all values, about their mean and in their deviation, by bin from -6 to 6; what lies beyond counts at the ends."""
    values = samples.detach().float().flatten()
    standard = (values - values.mean()) / values.std().clamp_min(1e-12)
    counts = torch.histc(
        standard.clamp(-_HISTOGRAM_WIDTH, _HISTOGRAM_WIDTH), _HISTOGRAM_BINS, -_HISTOGRAM_WIDTH, _HISTOGRAM_WIDTH
    )
    return (counts / counts.sum()).cpu()


def histogram_middles() -> Float[Tensor, " bin"]:
    """The middles of the bins of ``histogram``."""
    half = _HISTOGRAM_WIDTH / _HISTOGRAM_BINS
    return torch.linspace(-_HISTOGRAM_WIDTH + half, _HISTOGRAM_WIDTH - half, _HISTOGRAM_BINS)
