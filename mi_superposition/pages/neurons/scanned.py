"""A finished scan with its model: what every page about its units needs, computed once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from jaxtyping import Float
from sae_lens import SAE
from torch import Tensor

from mi_superposition.corpora.tokens import tokenizer_identity
from mi_superposition.errors import RequestError, WorkError
from mi_superposition.files import content_hash
from mi_superposition.models import FEATURES, load_model, weights_of
from mi_superposition.models.protocol import HookedModel
from mi_superposition.neurons import NeuronScan
from mi_superposition.neurons.config import ScanConfig
from mi_superposition.neurons.effects import TokenEffects, direction_effects
from mi_superposition.neurons.scan import layer_of
from mi_superposition.neurons.scan.names import has_mlp_neurons
from mi_superposition.neurons.scan.scan import vocabulary_of
from mi_superposition.runs import MANIFEST, read_config, read_manifest, same_input
from mi_superposition.sae.files import one_sae_folder, sae_identity
from mi_superposition.schemas import convert_as
from mi_superposition.studies.neurons import contexts, scan
from mi_superposition.studies.neurons.readers import scanned_saes
from mi_superposition.studies.neurons.stored import read_scan

# Tokens shown in each list of a unit's page.
TOKENS_SHOWN = 10
# Autoencoders by the name a scan has for their features.
Saes = Mapping[str, SAE[Any]]


@dataclass(frozen=True)
class ScannedUnits:
    """A scan, the model it is of, and the autoencoders whose features it has.

    ``vocabulary``: what each token looks like. ``effects``: what the units of each hook add to the logits directly; ``None`` where
    they do not write to the residual stream without a normalisation on the way.
    """

    scan: NeuronScan
    model: HookedModel
    saes: Saes = field(default_factory=dict)
    vocabulary: Sequence[str] = field(init=False)
    effects: Mapping[str, TokenEffects | None] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "vocabulary", self.scan.vocabulary or vocabulary_of(self.model))
        object.__setattr__(self, "effects", {hook: self._effects(hook) for hook in self.scan.hooks})

    def _effects(self, hook: str) -> TokenEffects | None:
        written = self._written(hook)
        return None if written is None else direction_effects(self.model, written, TOKENS_SHOWN)

    def _written(self, hook: str) -> Float[Tensor, "unit d_model"] | None:
        """What each unit writes into the residual stream, where it does so plainly."""
        if hook not in self.saes:
            return self.model.blocks[layer_of(hook)].mlp.W_out.detach() if self.writes_plainly(hook) else None
        read, decoder = hook.removesuffix(FEATURES), self.saes[hook].W_dec.detach()
        if self.writes_plainly(read):
            return decoder @ self.model.blocks[layer_of(read)].mlp.W_out.detach().float()
        return decoder if ".hook_resid_" in read else None

    def writes_plainly(self, hook: str) -> bool:
        """Whether what a neuron writes reaches the residual stream as it is, without a normalisation on the way."""
        return has_mlp_neurons(hook) and not getattr(self.model.cfg, "use_normalization_before_and_after", False)

    def reads_plainly(self, hook: str) -> bool:
        """Whether a neuron's input is one direction: in a gated MLP it is two, multiplied."""
        return has_mlp_neurons(hook) and not getattr(self.model.cfg, "gated_mlp", False)


class _Hashed(TypedDict):
    sha256: str


class _Inputs(TypedDict):
    """Of a scan's manifest, what its pages are checked against."""

    model: _Hashed
    tokenizer: Any
    sae: NotRequired[_Hashed]


def open_scan(folder: Path, *, device: str) -> tuple[ScannedUnits, ScanConfig]:
    """The scan of the trained model in a finished run of ``neurons scan`` or ``neurons contexts``, and what was asked for.

    Raises ``RequestError`` for another folder, and where the model, its tokenizer or the autoencoder is gone or has changed by now.
    """
    manifest = read_manifest(folder)
    if manifest["command"] not in (scan.COMMAND, contexts.COMMAND):
        raise RequestError(
            f"{str(folder)!r} is a run of {manifest['command']!r}: give one of {scan.COMMAND!r} or {contexts.COMMAND!r}"
        )
    config = read_config(folder, ScanConfig)
    try:
        inputs: _Inputs = convert_as(manifest["inputs"], _Inputs, "inputs")
    except ValueError as error:
        raise WorkError(f"{str(folder / MANIFEST)!r} is damaged: {error}") from error
    stored = read_scan(folder, config.kept)
    model = load_model(config.model.name, device=device)
    if content_hash(weights_of(model)) != inputs["model"]["sha256"]:
        raise RequestError(f"{config.model.name!r} has changed since {str(folder)!r} scanned it: scan again")
    if not same_input(inputs["tokenizer"], tokenizer_identity(model.tokenizer)):
        raise RequestError(
            f"the tokenizer of {config.model.name!r} has changed since {str(folder)!r} scanned with it: scan again"
        )
    sae = inputs.get("sae")
    if config.sae is not None and (sae is None or sae_identity(one_sae_folder(config.sae)) != sae["sha256"]):
        raise RequestError(f"{config.sae!r} has changed since {str(folder)!r} scanned it: scan again")
    return ScannedUnits(stored, model, scanned_saes(config.sae, model)), config
