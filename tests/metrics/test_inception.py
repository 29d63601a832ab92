"""Inception's features: which weights they take, and which they refuse."""

import os
import urllib.error

import pytest
import torch
from tools import inception_weights

from flowlit._support.files import file_hash
from flowlit.errors import FlowlitError
from flowlit.metrics import Inception
from flowlit.metrics.inception import INCEPTION

ONE = torch.zeros(1, 3, 8, 8, dtype=torch.uint8)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return inception_weights(tmp_path_factory.mktemp("inception") / "weights.pth")


def test_inceptions_features_are_torch_fidelitys(weights):
    """2048 features, and the classes without their bias, for colour; grey images count as colour."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    theirs = FeatureExtractorInceptionV3(
        "inception-v3-compat", ["2048", "logits_unbiased"], feature_extractor_weights_path=weights
    )
    images = torch.randint(256, (2, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    features = Inception(weights, file_hash(weights))
    found, (expected, logits) = features.extract(images), theirs(images)
    assert (
        found.features.shape == (2, 2048)
        and found.logits.shape == (2, 1008)
        and found.features.dtype == torch.float32
    )
    assert torch.equal(found.features, expected) and torch.equal(found.logits, logits)
    assert found.features.std(0).mean() > 0.01, "random weights that see the image"
    grey = images[:1, :1]
    assert torch.equal(features(grey), features(grey.repeat(1, 3, 1, 1)))


def test_only_the_published_weights_are_called_inception(weights):
    told = file_hash(weights)
    assert Inception().name == "inception"
    assert Inception(weights, INCEPTION[:8].upper()).name == "inception"
    assert Inception(weights, told).name == Inception(weights, told[:12]).name == f"inception_{told[:8]}"


def test_weights_of_another_hash_are_refused(weights):
    """Also if they fit: with them it would be no FID."""
    with pytest.raises(
        FlowlitError,
        match=rf"weights\.pth has SHA-256 {file_hash(weights)[:16]}…, expected {INCEPTION[:16]}…",
    ):
        Inception(weights)(ONE)
    with pytest.raises(
        FlowlitError, match=r"get weights-inception-2015-12-05-6726825d\.pth.*features\.sha256"
    ):
        Inception(weights, "0" * 64)(ONE)


def test_a_hash_that_says_nothing_is_refused(weights):
    with pytest.raises(FlowlitError, match="at least its first 8 digits"):
        Inception(weights, "")


def test_weights_that_would_run_code_are_refused_unread(tmp_path):
    path, trace = tmp_path / "weights.pth", tmp_path / "trace"

    class Bomb:
        def __reduce__(self):
            return os.mkdir, (str(trace),)

    torch.save({"fc.bias": Bomb()}, path)
    with pytest.raises(FlowlitError, match=r"weights\.pth does not hold its weights"):
        Inception(str(path), file_hash(path))(ONE)
    assert not trace.exists()


@pytest.mark.parametrize(
    "content",
    [{}, [1, 2], {"fc.bias": torch.zeros(3)}, {"state_dict": {}}],
    ids=["empty", "list", "shapes", "checkpoint"],
)
def test_files_that_hold_other_things_are_refused(tmp_path, content):
    path = tmp_path / "weights.pth"
    torch.save(content, path)
    with pytest.raises(FlowlitError, match=r"weights\.pth does not hold its weights.*get weights-inception"):
        Inception(str(path), file_hash(path))(ONE)


@pytest.mark.parametrize("content", [b"", b"<html>404</html>"], ids=["empty", "a page"])
def test_torn_files_are_refused(tmp_path, content):
    path = tmp_path / "weights.pth"
    path.write_bytes(content)
    with pytest.raises(FlowlitError, match=r"weights\.pth does not hold its weights"):
        Inception(str(path), file_hash(path))(ONE)


def test_a_path_to_nothing_says_how_to_get_the_file():
    with pytest.raises(
        FlowlitError,
        match=r"not found in /nowhere/weights\.pth; get weights-inception-2015.*features\.weights",
    ):
        Inception("/nowhere/weights.pth")(ONE)


def test_a_missing_network_says_what_to_do(monkeypatch, tmp_path):
    asked = []

    def fail(url, into, hash_prefix, progress):
        asked.append((url, into, hash_prefix))
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(torch.hub, "download_url_to_file", fail)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(
        FlowlitError, match=r"could not be downloaded.*no network.*6726825d\.pth.*features\.weights"
    ):
        Inception()(ONE)
    (url, into, prefix) = asked[0]
    assert url.endswith("weights-inception-2015-12-05-6726825d.pth") and prefix == INCEPTION
    assert into == str(tmp_path / "checkpoints/weights-inception-2015-12-05-6726825d.pth")


def test_other_weights_are_never_downloaded(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.hub, "download_url_to_file", lambda *a, **k: pytest.fail("downloaded"))
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(FlowlitError, match="were not found in"):
        Inception(sha256="ab" * 32)(ONE)
