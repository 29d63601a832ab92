"""Times of calls, by medians after a warm-up."""

import torch
from tools import tiny_unet

from flowlit.metrics.speed import images_per_second, measure_speed


def test_images_per_second_ignores_the_warm_up(monkeypatch):
    clock = iter([0, 100, 100, 102, 102, 104, 104, 164])  # the first call takes 100 s, then 2, 2 and 60
    monkeypatch.setattr("timeit.default_timer", lambda: next(clock))
    calls = []
    assert images_per_second(lambda: calls.append(1), images=10, repeats=3) == 5
    assert len(calls) == 4


def test_speed_is_the_median_after_a_warm_up(monkeypatch):
    network, sizes, clock = tiny_unet().train(), [], [0.0]
    times = iter([50, 4, 1, 3, 60, 2, 10, 5])  # the first of each four warms up
    forward = network.forward

    def slow(x, t, cond):
        assert torch.is_inference_mode_enabled() and not network.training
        sizes.append(len(x))
        clock[0] += next(times)
        return forward(x, t, cond)

    monkeypatch.setattr(network, "forward", slow)
    monkeypatch.setattr("timeit.default_timer", lambda: clock[0])
    ticks = []
    speed = measure_speed(network, 10, 3, tick=lambda: ticks.append(1))
    assert sizes == [1] * 4 + [10] * 4 and len(ticks) == 8
    assert speed == (3, 0.75, 2)
