"""Images of any size are fitted when they are read, as ``flowlit images`` does once."""

import numpy as np
import pictures
import pytest
import torch

from examples import shapes
from flowlit.data import ImageFolder, ImageZip
from flowlit.data.resizing import Style, write_resized
from flowlit.errors import FlowlitError


@pytest.mark.parametrize("fit", ["crop", "pad"])
@pytest.mark.parametrize("channels", [1, 3])
def test_what_is_fitted_when_read_is_what_is_fitted_once(tmp_path, fit, channels):
    place = str(shapes.into_folder(tmp_path / "images", 24))
    write_resized(ImageFolder(place), str(tmp_path / "once.zip"), Style(16, fit, "black"))
    once = ImageZip(str(tmp_path / "once.zip"), channels=channels)
    read = ImageFolder(place, resolution=16, channels=channels, fit=fit, background="black", labels=True)
    assert len(read) == len(once) == 24 and read.classes == shapes.KINDS
    for i in range(24):
        assert torch.equal(read[i]["x1"], once[i]["x1"])


def test_how_images_are_fitted_is_part_of_the_fingerprint(tmp_path):
    place = str(shapes.into_folder(tmp_path, 6, classes=False))
    prints = {
        ImageFolder(place, resolution=r, fit=fit).fingerprint for r in (8, 16) for fit in ("crop", "pad")
    }
    assert len(prints) == 4


def test_images_of_one_size_are_the_same_pixels_with_and_without(tmp_path):
    place = pictures.into_folder(tmp_path, {"a.png": pictures.encoded(pictures.noise(8, 8, 3))})
    fitted = ImageFolder(place, resolution=8, fit="crop")
    plain = ImageFolder(place, resolution=8)
    assert torch.equal(fitted[0]["x1"], plain[0]["x1"])
    assert np.array_equal(plain[0]["x1"].permute(1, 2, 0), pictures.noise(8, 8, 3))


def test_other_sizes_are_refused_unless_they_are_to_be_fitted(tmp_path):
    place = str(shapes.into_folder(tmp_path, 6, classes=False))
    with pytest.raises(FlowlitError, match="resize the images first"):
        len(ImageFolder(place, resolution=8))
    assert len(ImageFolder(place, resolution=8, fit="crop")) == 6
    with pytest.raises(FlowlitError, match="resize the images first"):
        len(ImageFolder(place, resolution=8))


def test_a_size_to_fit_to_is_needed():
    with pytest.raises(FlowlitError, match="fit is crop; give the resolution"):
        ImageFolder("x", fit="crop")
