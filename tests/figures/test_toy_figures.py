"""Figures of toy models: what stands in the traces."""

import pytest
import torch

from mi_superposition.figures.toy import neuron_stacks
from mi_superposition.toy.geometry import feature_dimensionality

# Feature 0 has neuron 0 alone; features 1 and 2 are opposite on neuron 1.
PAIR = torch.tensor([[1.0, 0.0, 0.0], [0.0, 2.0, -2.0]])
ALONE = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])


def stacks(**options):
    frames = {"sparse": {"": PAIR}, "dense": {"": ALONE}}
    return neuron_stacks(frames, "sparsity", y_title="weights", **options)


def test_stacks_by_feature_are_relative_to_the_tallest():
    (bar,) = stacks().data
    assert bar.x.tolist() == [0, 1, 1]
    assert bar.y.tolist() == [0.25, 0.5, 0.5]
    assert bar.base.tolist() == [0, 0, 0.5]
    assert bar.marker.color.tolist() == [0, 1, 2]
    assert bar.customdata.tolist() == [1, 2, -2]


def test_stacks_are_coloured_by_interference_beside_those_by_feature():
    shares = {name: 1 - feature_dimensionality(W) for name, W in (("sparse", PAIR), ("dense", ALONE))}
    figure = stacks(interference=shares)
    first, second = figure.data
    assert first.marker.color.tolist() == [0, 1, 2]
    assert second.y.tolist() == first.y.tolist()
    # None for the one that is alone, half for an antipodal pair.
    assert second.marker.color.tolist() == pytest.approx([0, 0.5, 0.5])
    assert second.text.tolist() == [0, 1, 2]
    assert (second.marker.cmin, second.marker.cmax) == (0, 1)
    assert second.marker.colorbar.thickness == 10
    assert [annotation.text for annotation in figure.layout.annotations] == [
        "coloured by feature",
        "coloured by interference",
    ]
    assert [frame.name for frame in figure.frames] == ["sparse", "dense"]
    assert figure.frames[1].data[1].marker.color.tolist() == pytest.approx([0, 0])
