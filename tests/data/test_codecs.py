import pytest
import torch

from flowlit.data import Pixels


def test_every_byte_survives_the_round_trip():
    images = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)
    x1 = Pixels().encode(images)
    assert x1.dtype == torch.float32 and float(x1.min()) == -1 and float(x1.max()) == 1
    assert torch.equal(Pixels().decode(x1), images)


@pytest.mark.parametrize(
    ("level", "expected"), [(0.49, 0), (0.51, 1), (99.6, 100), (100.4, 100), (254.6, 255)]
)
def test_decoding_rounds_and_does_not_truncate(level, expected):
    assert int(Pixels().decode(torch.tensor([level / 127.5 - 1]))) == expected


def test_decoding_clamps_and_does_not_wrap():
    decoded = Pixels().decode(torch.tensor([-7.0, -1.01, 1.01, 7.0]))
    assert decoded.dtype == torch.uint8 and decoded.tolist() == [0, 0, 255, 255]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_decoding_takes_any_precision(dtype):
    images = torch.tensor([0, 64, 128, 255], dtype=torch.uint8)
    error = Pixels().decode(Pixels().encode(images).to(dtype)).int() - images.int()
    assert error.abs().max() <= (1 if dtype == torch.bfloat16 else 0)
