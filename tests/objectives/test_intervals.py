"""Distributions of the intervals that flow maps are trained on."""

import pytest
import torch

from flowlit.objectives.intervals import Dyadic, FromNoise, Gap, Milestones, Ordered, StartEnd, ToData
from flowlit.objectives.times import Fixed, Uniform

N = 200_000
ALL = [Ordered(), StartEnd(), ToData(), FromNoise(), Milestones(), Dyadic(), Gap()]


@pytest.mark.parametrize("law", ALL, ids=lambda law: type(law).__name__)
def test_intervals_are_float32_and_in_order(law):
    torch.manual_seed(0)
    t, s = law(5000)
    assert t.shape == s.shape == (5000,) and t.dtype == s.dtype == torch.float32
    assert float(t.min()) >= 0 and float(s.max()) <= 1 and bool((t <= s).all())
    assert law.to_data == bool(type(law) in (ToData, Gap))


def test_start_and_end_are_those_of_mean_flow():
    torch.manual_seed(0)
    t, s = StartEnd()(N)
    places = torch.tensor([0.05, 0.5, 0.95])
    assert t.quantile(places).tolist() == pytest.approx([0.116, 0.645, 0.962], abs=0.004)
    assert float((t == s).float().mean()) == pytest.approx(0.300, abs=0.004)
    t, s = StartEnd(start=Fixed(0.0), equal=0.0)(N)
    assert s.quantile(places).tolist() == pytest.approx([0.797, 0.982, 0.9987], abs=0.004)


def test_ordered_times_are_the_smaller_and_the_larger_of_two():
    torch.manual_seed(0)
    t, s = Ordered(Uniform(), equal=0.0)(N)
    assert float(t.mean()) == pytest.approx(1 / 3, abs=0.005) and float(s.mean()) == pytest.approx(
        2 / 3, abs=0.005
    )
    t, s = Ordered(Uniform(), equal=0.4)(N)
    assert float((t == s).float().mean()) == pytest.approx(0.4, abs=0.005)


def test_to_data_and_from_noise_have_one_end_fixed():
    assert (
        ToData(Fixed(0.3))(4)[0].tolist() == pytest.approx([0.3] * 4) and ToData()(4)[1].tolist() == [1] * 4
    )
    t, s = FromNoise(Fixed(0.3))(4)
    assert t.tolist() == [0] * 4 and s.tolist() == pytest.approx([0.3] * 4)


def test_milestones_are_the_next_ones():
    for start, end in ((0.0, 0.25), (0.24, 0.25), (0.25, 0.5), (0.9, 1.0), (1.0, 1.0)):
        assert float(Milestones(4, Fixed(start))(1)[1]) == end


def test_dyadic_spans_are_equally_frequent_and_lie_on_their_own_multiples():
    torch.manual_seed(0)
    t, s = Dyadic(3, equal=0.25)(N)
    equal = t == s
    assert float(equal.float().mean()) == pytest.approx(0.25, abs=0.005)
    spans, counts = (s - t)[~equal].unique(return_counts=True)
    assert spans.tolist() == [0.25, 0.5, 1.0]
    assert (counts / counts.sum()).tolist() == pytest.approx([1 / 3] * 3, abs=0.01)
    assert bool(((t / (s - t))[~equal] % 1 == 0).all()) and t[equal].unique().tolist() == [
        i / 8 for i in range(8)
    ]


def test_gaps_are_those_of_easy_consistency_tuning():
    for start in (0.1, 0.5, 0.9):
        t, s = (float(value) for value in Gap(8.0, Fixed(start))(1))
        sigma = (1 - t) / t
        expected = max(0.0, sigma * (1 - (1 + 8 / (1 + torch.tensor(sigma).exp().item())) / 8))
        assert (1 - s) / s == pytest.approx(expected, rel=1e-4, abs=1e-5)
    assert float(Gap(2.0, Fixed(0.9))(1)[1]) == 1
