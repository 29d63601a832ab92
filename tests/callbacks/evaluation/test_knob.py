"""The curve over t: which solvers are on it, and what is drawn."""

import pytest

from flowlit.callbacks.evaluation.knob import curves, draw_curves
from flowlit.solvers import Euler, Heun, OneStep

SOLVERS = {"t100": OneStep(1.0), "euler1": Euler(1), "euler2": Euler(2), "heun": Heun(1), "t50": OneStep(0.5)}
METRICS = {f"psnr/{name}": float(i) for i, name in enumerate(SOLVERS)}
METRICS |= {f"frechet_digits/{name}": 10.0 + i for i, name in enumerate(SOLVERS)}
METRICS |= {"frechet_digits_half/t100": 7.0, "lr": 0.1, "ssim/t100": 0.5}


def test_a_curve_goes_over_t_and_starts_with_one_euler_step():
    drawn = curves(SOLVERS, METRICS, {"psnr/t50": 0.25}, ["psnr", "ssim", "missing"])
    assert drawn["psnr"] == [(0.0, 1.0, 0.0), (0.5, 4.0, 0.25), (1.0, 0.0, 0.0)]
    assert list(drawn) == ["psnr", "frechet_digits"]


def test_a_knob_at_0_needs_no_euler_step():
    drawn = curves({**SOLVERS, "t0": OneStep(0.0)}, {**METRICS, "psnr/t0": 9.0}, {}, ["psnr"])
    assert [t for t, *_ in drawn["psnr"]] == [0.0, 0.5, 1.0] and drawn["psnr"][0][1] == 9.0


def test_a_flow_has_no_curve():
    assert curves({"euler1": Euler(1), "heun": Heun(2)}, METRICS, {}, ["psnr"]) == {}


@pytest.mark.parametrize("title", ["PSNR RGB, crop 0", "$x_1"])
def test_each_number_is_a_panel(title):
    drawn = curves(SOLVERS, METRICS, {}, ["psnr"])
    figure = draw_curves(drawn, {"psnr": title})
    assert len(figure.axes) == 2 and figure.axes[1].get_title() == "frechet_digits"
    figure.canvas.draw()
