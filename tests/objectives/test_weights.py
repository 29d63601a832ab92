import pytest
import torch

from flowlit.objectives.weights import (
    SNR,
    InverseSNR,
    Karras,
    Powers,
    Remaining,
    SNRPlusOne,
    TruncatedSNR,
    snr,
)

ALL = [SNR(), InverseSNR(), SNRPlusOne(), Karras(), TruncatedSNR(), Remaining(), Powers(2, -1)]


def test_snr_is_the_squared_ratio_of_data_to_noise():
    assert snr(torch.tensor([0.0, 0.5, 0.75]), eps=0).tolist() == pytest.approx([0, 1, 9])


@pytest.mark.parametrize("weight", ALL, ids=repr)
def test_weights_are_finite_and_not_negative_everywhere(weight):
    w = weight(torch.linspace(0, 1, 101))
    assert w.shape == (101,) and torch.isfinite(w).all() and (w >= 0).all()


@pytest.mark.parametrize(
    ("weight", "at_three_quarters"),
    [
        (SNR(), 9),
        (InverseSNR(), 1 / 9),
        (SNRPlusOne(), 10),
        (Karras(), 13),
        (TruncatedSNR(), 9),
        (Remaining(), 1 / 16),
        (Powers(2, -1), 9 / 4),
        (Powers(0, 1), 1 / 4),
        (Powers(), 1),
    ],
    ids=repr,
)
def test_formulas(weight, at_three_quarters):
    assert float(weight(torch.tensor([0.75]))) == pytest.approx(at_three_quarters, rel=0.01)


def test_truncated_snr_is_one_near_noise():
    assert TruncatedSNR()(torch.tensor([0.0, 0.4])).tolist() == [1, 1]


def test_remaining_turns_a_velocity_error_into_an_endpoint_error():
    t, x, v, w = torch.tensor([0.3, 0.8]), torch.randn(2, 5), torch.randn(2, 5), torch.randn(2, 5)
    ends = [(x + (1 - t[:, None]) * u) for u in (v, w)]
    assert torch.allclose(Remaining()(t)[:, None] * (v - w) ** 2, (ends[0] - ends[1]) ** 2, atol=1e-6)
