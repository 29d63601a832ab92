"""Names of files, classes, solvers and networks in figures: matplotlib takes some of them for TeX."""

import io

import numpy as np
import pytest
import stores
import torch
from matplotlib.figure import Figure
from matrix import few
from torch import nn

from flowlit._support.formatting import in_figure, number_axes
from flowlit.callbacks.evaluation import bars
from flowlit.callbacks.training import heat_map
from flowlit.commands import sweep
from flowlit.commands.cost.models import Model
from flowlit.commands.cost.plot import plot
from flowlit.commands.sweep.rows import family
from flowlit.couplings.store.picture import show
from flowlit.metrics.cost import Macs
from flowlit.metrics.report import Estimate, Kind, Record
from flowlit.solvers import RK45, DPMSolver
from flowlit.solvers.grids import Given

NAMES = ["$\\frac{$", "$x$", "$x", "a$b$c", "\\$x$ $", "_mine", "\\{%^#", "\n\udcff\x00", "x" * 300]


def drawn(figure):
    figure.savefig(io.BytesIO(), format="png", dpi=30)
    return figure


def as_bars(name, folder):
    return bars.draw({f"fid_{name}": {name: 1.0, "b": 2.0}, "nfe": {name: 3.0}})


def as_sweep(name, folder):
    rows = [{"solver": name, "family": name, "nfe": 2.0, f"frechet_{name}": 1.0, "endpoint_error": 0.1}]
    return sweep.plot([*rows, {**rows[0], "nfe": 3.0}])


def as_heat_map(name, folder):
    history = heat_map.History(4)
    for step in range(3):
        history.add(step, torch.rand(4))
    return heat_map.draw({name: history, f"{name}2": history})


def as_costs(name, folder):
    kind = Kind(name, 3, name, name)
    records = [Record(f"{name}/metrics.json", name, 2.0, {kind: Estimate(1.0, 0.1)})] * 2
    network = nn.Linear(1, 1)
    macs = Macs(*([1_000_000] * len(Macs._fields)))
    return plot([Model(name, name, network, 2, macs, None, records), Model(name, name, network, 2, macs)])


@pytest.mark.filterwarnings("ignore:Glyph")
@pytest.mark.filterwarnings("ignore:constrained_layout not applied")
@pytest.mark.parametrize("name", few(NAMES, 3), ids=ascii)
@pytest.mark.parametrize("draw", [as_bars, as_sweep, as_heat_map, as_costs])
def test_any_name_can_be_drawn(draw, name, tmp_path):
    figure = drawn(draw(name, tmp_path))
    legends = [axes.get_legend() for axes in figure.axes]
    texts = [text.get_text() for legend in legends if legend for text in legend.get_texts()]
    assert all(in_figure(name) in text for text in texts)
    assert draw is as_heat_map or draw is as_bars or texts, "left out of the legend"


@pytest.mark.parametrize("name", ["$\\frac{$", "_"])
def test_a_store_of_any_name_can_be_shown(name, tmp_path):
    store = stores.fill(tmp_path / name, num=8)
    show(store, tmp_path / "x.png")
    assert (tmp_path / "x.png").stat().st_size > 1000


def test_what_is_drawn_is_the_name_as_it_stands():
    """A dollar is drawn as one sign, neither as TeX nor with the backslash that keeps it from being TeX."""
    from matplotlib.figure import Figure

    def pixels(text, **options):
        figure = Figure(figsize=(2, 1), dpi=50)
        figure.text(0.1, 0.5, text, **options)
        file = io.BytesIO()
        figure.savefig(file, format="rgba")
        return np.frombuffer(file.getvalue(), np.uint8)

    for name in ("a$b$c", "$x", "\\$x"):
        assert (pixels(in_figure(name)) == pixels(name, parse_math=False)).all(), name


def test_a_sweep_draws_distances_and_errors_with_their_spread_a_line_for_each_family():
    row = {"nfe": 2.0, "frechet_mine": 1.0, "frechet_mine_spread": 0.2, "endpoint_error": 0.1, "fid": 3.0}
    others = {"frechet_extrapolated_mine": 5.0, "frechet_mine_half": 4.0, "kid": 0.1, "frechet_b": 2.0}
    solvers = {"a": DPMSolver(2), "b": DPMSolver(4), "c": DPMSolver(4, order=2), "d": RK45(0.1, 0.1)}
    rows = [{**row, "solver": name, "family": family(solver)} for name, solver in solvers.items()]
    figure = sweep.plot([{**rows[0], **others}, *rows[1:]])
    assert [axes.get_ylabel() for axes in figure.axes] == [
        "frechet_mine",
        "fid",
        "frechet_b",
        "endpoint_error",
    ]
    assert [text.get_text() for text in figure.axes[-1].get_legend().get_texts()] == [
        "DPMSolver",
        "DPMSolver(order=2)",
        "RK45",
    ]
    listed = Given([0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 1])
    assert family(DPMSolver(7, grid=listed)) == "DPMSolver(grid=Given)"
    bars = figure.axes[0].containers[0].lines[2][0].get_segments()
    assert [list(bar[:, 1]) for bar in bars] == [[0.8, 1.2]] * 2


@pytest.mark.parametrize(
    "low, high, numbers",
    [
        (450, 800, ["500", "600", "700", "800"]),
        (300, 1800, ["300", "500", "1000"]),
        (200, 2500, ["200", "300", "500", "1000", "2000"]),
        (1, 1e4, ["1", "10", "100", "1000", "10000"]),
    ],
)
def test_logarithmic_axes_have_decimals_that_do_not_collide(low, high, numbers):
    axes = Figure().add_subplot()
    axes.set(xscale="log", yscale="log", xlim=(low, high))
    number_axes(axes)
    axes.figure.canvas.draw()
    ticks = [*axes.get_xticklabels(), *axes.get_xticklabels(minor=True)]
    words = {
        tick.get_position()[0]: tick.get_text() for tick in ticks if low <= tick.get_position()[0] <= high
    }
    assert [words[place] for place in sorted(words) if words[place]] == numbers
