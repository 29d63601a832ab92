"""Distributions of the intervals that flow maps are trained on."""

from dataclasses import dataclass

import pytest
import torch

from flowlit.errors import FlowlitError
from flowlit.objectives.intervals import (
    Dyadic,
    FromNoise,
    Gap,
    IntervalDistribution,
    Milestones,
    Ordered,
    StartEnd,
    ToData,
    check_intervals,
)
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


@dataclass
class Written(IntervalDistribution):
    """Somebody's own, one interval for all."""

    t: float
    s: float
    shape: tuple[int, ...] = ()

    def __call__(self, n, device="cpu"):
        return torch.full((n, *self.shape), self.t), torch.full((n, *self.shape), self.s)


@pytest.mark.parametrize(
    ("law", "found"),
    [
        (Written(0.7, 0.2), "from 0.7 to 0.2; expected 0 <= t <= s <= 1"),
        (Written(-0.1, 0.5), "from -0.1 to 0.5"),
        (Written(0.5, 1.2), "from 0.5 to 1.2"),
        (Written(0.5, torch.nan), "from 0.5 to nan"),
        (ToData(lambda n, device: torch.full((n,), 1.5)), "from 1.5 to 1"),
        (Written(0.2, 0.7, (1,)), r"shapes \(1000, 1\) and \(1000, 1\)"),
    ],
    ids=["reversed", "before the noise", "behind the data", "no number", "times", "shape"],
)
def test_intervals_outside_of_0_and_1_or_reversed_are_refused(law, found):
    with pytest.raises(FlowlitError, match=rf"^MeanFlow: .* {found}"):
        check_intervals("MeanFlow", law)


def test_a_look_at_intervals_changes_no_draw():
    torch.manual_seed(0)
    for law in ALL:
        check_intervals("MeanFlow", law)
    after = torch.rand(3)
    torch.manual_seed(0)
    assert torch.equal(after, torch.rand(3))


def test_start_and_end_are_those_of_mean_flow():
    torch.manual_seed(0)
    t, s = StartEnd()(N)
    places = torch.tensor([0.05, 0.5, 0.95])
    assert t.quantile(places).tolist() == pytest.approx([0.116, 0.645, 0.962], abs=0.004)
    assert s.quantile(places).tolist() == pytest.approx([0.320, 0.969, 0.998], abs=0.004)
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
