"""Configurations of autoencoders from outside: every kind that SAELens has is read as SAELens declares it, and nothing else."""

import dataclasses
import json
import typing

import pytest
from sae_lens.registry import SAE_CLASS_REGISTRY

import mi_superposition as ms
from mi_superposition.errors import WorkError
from mi_superposition.sae.declared import check_declared


# One that reads whole sequences is refused, whatever it says.
@pytest.mark.parametrize("name", [name for name in SAE_CLASS_REGISTRY if name != "temporal"])
def test_every_architecture_of_saelens_is_what_it_declares(name):
    sae_class, config_class = SAE_CLASS_REGISTRY[name]
    needed = {"d_in": 4, "d_sae": 8} | ({"d_out": 4, "apply_b_dec_to_input": False} if "transcoder" in name else {})
    sae = sae_class(config_class(**needed))
    check_declared(sae)
    hints = typing.get_type_hints(config_class)
    for field in dataclasses.fields(config_class):
        if hints[field.name] is bool:
            setattr(sae.cfg, field.name, [])
            with pytest.raises(ValueError, match=rf"^{field.name}: .*Expected `bool`"):
                check_declared(sae)
            setattr(sae.cfg, field.name, False)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"k": 10**9}, "selected index k out of range"),
        ({"rescale_acts_by_decoder_norm": []}, "rescale_acts_by_decoder_norm: .*Expected `bool`"),
        ({"metadata": None}, "NoneType"),
        ({"metadata": {"hook_name": 3}}, "metadata: hook_name: Expected `str | null`, got `int`"),
        ({"metadata": {"training": {"batch_size": 2}}}, "metadata: training: .*missing required field"),
    ],
)
def test_what_is_something_else_is_one_line(change, said, tmp_path):
    ms.sae.save_sae(ms.load_sae("stories"), tmp_path)
    ms.load_sae(tmp_path)
    config = json.loads((tmp_path / "cfg.json").read_text())
    # Within what else is said there: without SAELens's version in it, it is read as a configuration of before version 6.
    if isinstance(told := change.get("metadata"), dict):
        change = {"metadata": config["metadata"] | told}
    (tmp_path / "cfg.json").write_text(json.dumps(config | change))
    with pytest.raises(WorkError, match=said) as error:
        ms.load_sae(tmp_path)
    assert "\n" not in str(error.value)
