"""Decisions about a generator, in their order: ranges, harm, bits, coefficients."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...errors import FlowlitError
from ...networks.checkpoints.spec import spec
from ..core import NoiseToImages
from ..export.onnx_file import onnx_bytes
from . import coefficients
from .allocation import Table, allocate
from .choice import WIDTHS, sizes_text, within_size, within_time
from .choice import prices as sizes
from .coefficients import Fitting, Scales
from .graph import Graph, raised
from .integers import FLOAT
from .layers import rounds_output
from .sensitivity import LIMIT, calm, sensitivity, weighed
from .settings import Settings
from .subject import Subject
from .timing import by_layer, fastest, one_image, prices

PLACES = [0.8125 + (2 * i + 1) / 2**20 for i in range(128)]
"""Numbers that stand in a graph for coefficients that are not known yet."""

DIGITS = 6
"""Decimals of coefficients."""


class Work:
    """A generator on its way to integers.

    Args:
        subject: the generator.
        settings: how it is rounded.
        facts: that its file will have.
    """

    def __init__(self, subject: Subject, settings: Settings, facts: Mapping[str, Any]):
        self.subject = subject
        self.settings = settings
        self.facts = facts
        self.ranges = subject.ranges()
        steps = subject.steps()
        searched = subject.features is not None and steps == 1
        self.fit = settings.fit or ("features" if searched else "none")
        self.steps = 0 if self.fit == "none" else steps
        self.graph = self._graph()
        if not self.graph.found:
            raise FlowlitError(
                "no layer of the network stands in its graph with its weights; use flowlit export"
            )
        subject.layers = {name: subject.layers[name] for name in self.graph.found}
        rounds = settings.activations == 8
        self.used = calm(subject.layers, subject.run, self.ranges) if rounds else {}
        widths = WIDTHS if settings.has_budget() else WIDTHS[:2]
        self.table = sensitivity(subject.layers, subject.run, self.used, widths)
        self.by = settings.by or ("pixels" if subject.features is None else "both")
        self.bits = self._bits()
        self.scales = self._scales()

    def _graph(self) -> Graph:
        """Return the graph, with places for the coefficients."""
        generator: NoiseToImages = self.subject.generator
        if self.steps:
            generator = self.subject.scaled([(PLACES[2 * k], PLACES[2 * k + 1]) for k in range(self.steps)])
        content, _ = onnx_bytes(generator, {})
        return Graph(raised(content), self.subject.layers)

    def _bits(self) -> dict[str, int]:
        settings = self.settings
        if not settings.has_budget():
            return self._uniform(settings.bits)
        harm = weighed(self.table, self.by)
        if settings.milliseconds is not None:
            return self._bits_in_time(harm, settings.milliseconds)
        longest = [(-1 - 10**-DIGITS, -1 - 10**-DIGITS)] * self.steps

        def length(bits: Mapping[str, int]) -> int:
            return len(self.graph.integers(bits, self.used, self.described(bits, longest)))

        return within_size(settings.budget or 0, harm, self.subject.layers, length)

    def _uniform(self, bits: int) -> dict[str, int]:
        """Return the same bits for all layers; beside 8, float32 for those that harm most for their size."""
        layers = self.subject.layers
        if bits != 8:
            return dict.fromkeys(layers, bits)
        harm = {name: {8: row[8].pixels, FLOAT: 0.0} for name, row in self.table.items()}
        costs = sizes(layers)
        return allocate(
            {name: {width: costs[name][width] for width in harm[name]} for name in harm}, harm, LIMIT
        )

    def _bits_in_time(self, harm: Table, milliseconds: float) -> dict[str, int]:
        inputs = one_image(self.subject.noise[0])
        layers = self.subject.layers

        def times(bits: int) -> dict[str, float]:
            named = self.graph.integers(dict.fromkeys(layers, bits), self.used, {}, named=True)
            return by_layer(named, inputs, layers)

        def time(bits: Mapping[str, int]) -> float:
            return fastest(self.graph.integers(bits, self.used, {}), inputs)

        return within_time(milliseconds, harm, prices(layers, times), time)

    def _scales(self) -> list[Scales]:
        if not self.steps:
            return []
        fitted = self.subject.fitted(self._fitting(), self.bits, self.used)
        scales = [(round(a, DIGITS), round(b, DIGITS)) for a, b in fitted]
        numbers = [number for pair in scales for number in pair]
        self.graph.replace_numbers(dict(zip(PLACES, numbers, strict=False)))
        return scales

    def _fitting(self) -> Fitting:
        if self.fit == "features":
            return coefficients.in_features(self.subject.features_of_states)
        return coefficients.paired if self.fit == "paired" else coefficients.moments

    def described(self, bits: Mapping[str, int], scales: list[Scales]) -> dict[str, Any]:
        """Return the facts of a file with these bits."""
        solver = self.subject.scaled(scales).solver if scales else self.subject.generator.solver
        return {
            **self.facts,
            "solver": spec(solver),
            "quantisation": {
                "weights": sizes_text(bits, self.subject.layers),
                "activations": self.settings.activations,
                "calibrated_on": {"images": self.settings.calibrate, "seed": self.settings.seed + 1},
            },
        }

    def _ends(self, name: str) -> dict[str, int]:
        """Return the bits of what goes into a layer, and of what comes out of it where that is rounded."""
        bits = self.bits[name]
        ranges = self.used.get(name) if bits != FLOAT else None
        ends = {"inputs": 8 if ranges and ranges.inputs.has_values() else FLOAT}
        if rounds_output(self.subject.layers[name], bits):
            ends["outputs"] = 8 if ranges and ranges.outputs.has_values() else FLOAT
        return ends

    def file(self) -> bytes:
        """Return the file with integers."""
        return self.graph.integers(self.bits, self.used, self.described(self.bits, self.scales))

    def floats(self) -> bytes:
        """Return the same without any."""
        return self.graph.integers({}, {}, self.facts)

    def rows(self) -> list[dict[str, Any]]:
        """Return what was measured and decided of each layer, as plain data."""
        return [
            {
                "name": name,
                "weights": self.subject.layers[name].weight.numel(),
                "harm": {str(bits): harm._asdict() for bits, harm in row.items()},
                "bits": self.bits[name],
                "activations": self._ends(name),
            }
            for name, row in self.table.items()
        ]
