"""The picture of a quantised generator: the harm of each layer alone, and its bits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..._support.formatting import in_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

KINDS = {"pixels": "error of x1", "features": "error of features"}
MARKS = {"4": "o", "8": "s"}


def picture(report: dict[str, Any]) -> Figure:
    """Draw the harm of each layer alone at 4 and at 8 bits, filled where these bits were chosen.

    One panel for the pixels, one for the features where they were measured; the power of the error relative
    to that of the signal, from the first layer above to the last one below.
    """
    from matplotlib.figure import Figure

    layers = report["layers"]
    kinds = [kind for kind in KINDS if layers[0]["harm"]["4"][kind] is not None]
    size = (3 + 4 * len(kinds), 1.5 + 0.2 * len(layers))
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(1, len(kinds), squeeze=False, sharey=True)[0]
    for axes, kind in zip(panels, kinds, strict=True):
        _draw(axes, layers, kind)
    panels[0].set_yticks(range(len(layers)), [_label(layer) for layer in layers], fontsize=7)
    panels[0].invert_yaxis()
    panels[0].legend(fontsize=8)
    figure.suptitle(in_figure(f"{report['file']}: each layer rounded alone"), fontsize=10)
    return figure


def _label(layer: dict[str, Any]) -> str:
    bits = {32: "float32"}.get(layer["bits"], f"{layer['bits']} bits")
    return in_figure(f"{layer['name']} ({layer['weights']:,})  {bits}")


def _draw(axes: Axes, layers: list[dict[str, Any]], kind: str) -> None:
    for k, (bits, mark) in enumerate(MARKS.items()):
        harm = [max(layer["harm"][bits][kind], 1e-12) for layer in layers]
        colours = [f"C{k}" if str(layer["bits"]) == bits else "none" for layer in layers]
        axes.scatter(
            harm,
            range(len(layers)),
            marker=mark,
            s=22,
            facecolors=colours,
            edgecolors=f"C{k}",
            label=f"{bits} bits",
        )
    axes.set(xscale="log", xlabel=f"{KINDS[kind]}, power relative to the signal's")
    axes.grid(alpha=0.3)
