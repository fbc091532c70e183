"""The order of neurons, step by step: similarities, an order, its controls, its spots.

    python scripts/neuron_order.py                          # the bundled story model, layer 1
    python scripts/neuron_order.py --model roneneldan/TinyStories-2Layers-33M --layer 1 --weights out

`mi-superposition neurons order` does the same and draws it.
"""

from __future__ import annotations

import argparse

from mi_superposition import load_model
from mi_superposition.models import untrained_copy
from mi_superposition.neurons import control_vectors, find_spots, measure_control, neuron_vectors, order_neurons
from mi_superposition.neurons.control import WEIGHT_KINDS


def main() -> None:
    """Print the score of the trained order next to those of its controls, and the windows of the most similar neurons."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="stories")
    parser.add_argument("--layer", type=int, default=1)
    parser.add_argument("--weights", default="out", help="out, in, both, or a matrix of the model")
    parser.add_argument("--samples", type=int, default=5, help="samples of each control")
    parser.add_argument("--seconds", type=float, default=0.2, help="search for each order")
    options = parser.parse_args()

    model = load_model(options.model)
    vectors = neuron_vectors(model, options.layer, options.weights)
    similarity = vectors.similarity()
    trained = order_neurons(similarity, seconds=options.seconds)
    print(trained.summary())

    def untrained(seed: int):
        return neuron_vectors(untrained_copy(model, seed), options.layer, options.weights)

    controls = []
    for kind in WEIGHT_KINDS:
        samples = control_vectors(vectors, kind, options.samples, seed=0, untrained=untrained)
        control = measure_control(kind, (sample.similarity() for sample in samples), seed=0, seconds=options.seconds)
        controls.append(control)
        print(f"  {control.summary()}   z = {control.z_score(trained.score):+.1f}")

    # Judged by the control with the most similar windows.
    judge = max(controls, key=lambda control: float(control.window_max.mean()))
    print(f"spots (start in the order, mean squared similarity, standard deviations above {judge.name!r}, p, neurons)")
    for spot in find_spots(similarity, trained.order, judge)[:10]:
        neurons = " ".join(map(str, spot.neurons))
        print(f"  {spot.start:5} {spot.similarity:.3f} {spot.excess:+7.1f} {spot.p:.2f}  {neurons}")


if __name__ == "__main__":
    main()
