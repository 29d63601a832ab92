"""References, cached features and reports of others are read, or refused in one line."""

import io
import json
import os

import numpy as np
import pytest
import torch
from commandline import REPOSITORY
from hostile_bytes import altered, as_json, bounded, ends_well, memory_limit, mutated
from hypothesis import given, settings
from safetensors.torch import save_file

from flowlit.errors import FlowlitError
from flowlit.metrics.feature_cache import FeatureCache
from flowlit.metrics.reference import read_reference
from flowlit.metrics.report import REPORT

PROTOCOL = {
    "format": "flowlit-reference",
    "version": 1,
    "features": {"name": "tiny", "sha256": "ab"},
    "count": 5,
    "shape": [1, 8, 8],
    "range": [0, 255],
    "resize": "none",
}


def statistics(path, mu=None, sigma=None, **more):
    np.savez(path, mu=np.zeros(3) if mu is None else mu, sigma=np.eye(3) if sigma is None else sigma, **more)
    return path


def archive():
    file = io.BytesIO()
    statistics(file, protocol=np.array(json.dumps(PROTOCOL)), features=np.ones((5, 3), np.float32))
    return file.getvalue()


@given(mutated(archive()))
@settings(bounded, max_examples=200)
def test_any_bytes_of_a_reference_give_statistics_or_one_clear_error(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "any.npz"
    path.write_bytes(data)
    reference = ends_well(lambda: read_reference(path))
    if not isinstance(reference, str):
        assert torch.equal(reference.cov, torch.eye(3, dtype=torch.float64)) and reference.kept in (0, 5)
        ends_well(reference.features)


@given(altered(PROTOCOL))
@settings(bounded, max_examples=60)
def test_any_protocol_gives_facts_or_one_clear_error(tmp_path_factory, protocol):
    path = statistics(
        tmp_path_factory.getbasetemp() / "protocol.npz", protocol=np.array(json.dumps(protocol))
    )
    ends_well(lambda: read_reference(path))


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"mu": np.zeros(0), "sigma": np.zeros((0, 0))}, "d from 1 to 8,192"),
        ({"mu": np.zeros(8193, "u1"), "sigma": np.zeros((1, 8193), "u1")}, "d from 1 to 8,192"),
        ({"mu": np.zeros(())}, "expected \\(d,\\)"),
        ({"mu": np.zeros(3, complex)}, "it holds complex128"),
        ({"mu": np.array(["a", "b", "c"])}, "it holds <U1"),
        ({"sigma": np.triu(np.ones((3, 3)))}, "not symmetric"),
        ({"sigma": -np.eye(3)}, "variances below 0"),
        ({"sigma": np.full((3, 3), np.inf)}, "not finite"),
        ({"features": np.zeros((5, 3), np.int64)}, "it holds int64"),
        ({"features": np.zeros(5, np.float32)}, r"features have shape \(5,\)"),
        ({"protocol": np.array(["{}", "{}"])}, "expected one text"),
        ({"protocol": np.array(json.dumps({**PROTOCOL, "version": 2}))}, "version 2.*install a newer"),
        (
            {"protocol": np.array(json.dumps({**PROTOCOL, "shape": [8]}))},
            "shape: Expected array",
        ),
        ({"protocol": np.array('{"count": NaN}')}, "malformed"),
    ],
)
def test_statistics_that_cannot_be_are_refused(tmp_path, arrays, words):
    with pytest.raises(FlowlitError, match=words):
        read_reference(statistics(tmp_path / "a.npz", **arrays))


def test_rounding_of_a_covariance_is_no_damage(tmp_path):
    sigma = np.cov(np.random.default_rng(0).normal(size=(3, 9)).astype(np.float32))
    sigma[0, 1] *= 1 + 1e-6
    assert read_reference(statistics(tmp_path / "a.npz", sigma=sigma)).cov[0, 1] == sigma[0, 1]


def test_features_are_read_only_when_they_are_needed(tmp_path):
    """Their shape stands in a header."""
    path = statistics(tmp_path / "a.npz", features=np.zeros((1 << 24, 3), np.float32))
    with memory_limit(100):
        assert read_reference(path).kept == 1 << 24
    os.unlink(path)


def test_features_that_changed_are_refused(tmp_path):
    path = statistics(tmp_path / "a.npz", features=np.ones((5, 3), np.float32))
    reference = read_reference(path)
    statistics(path, features=np.full((5, 3), np.nan, np.float32))
    with pytest.raises(FlowlitError, match="not finite"):
        reference.features()


INDEX = torch.arange(3)


@pytest.mark.parametrize(
    ("tensors", "metadata"),
    [
        ({"index": INDEX.float(), "a": torch.zeros(3)}, {}),
        ({"index": INDEX - 1, "a": torch.zeros(3)}, {}),
        ({"index": INDEX * 0, "a": torch.zeros(3)}, {}),
        ({"index": INDEX[None], "a": torch.zeros(1)}, {}),
        ({"index": INDEX, "a": torch.zeros(2)}, {}),
        ({"index": INDEX, "a": torch.zeros(())}, {}),
        ({"index": INDEX[:0], "a": torch.zeros(0)}, {}),
        ({"a": torch.zeros(3)}, {}),
        ({"index": INDEX, "a": torch.zeros(3)}, {"seconds": "long"}),
        ({"index": INDEX, "a": torch.zeros(3)}, {"seconds": "nan"}),
    ],
)
def test_cached_features_that_cannot_be_are_made_again(tmp_path, tensors, metadata):
    save_file(tensors, tmp_path / "0.safetensors", metadata)
    save_file({"index": INDEX + 5, "a": torch.ones(3)}, tmp_path / "5.safetensors", {"seconds": "2.5"})
    os.mkfifo(tmp_path / "pipe.safetensors")
    cache = FeatureCache(tmp_path)
    assert cache.clean().tolist() == [5, 6, 7] and cache.made() == (["unknown"], 2.5)
    assert not (tmp_path / "0.safetensors").exists()


METRICS = json.loads((REPOSITORY / "tests/golden/before_move/evaluated/metrics.json").read_text())


@given(altered(METRICS))
@bounded
def test_any_report_gives_numbers_or_one_clear_error(report):
    assert REPORT.check(METRICS, "file").params == 10593
    ends_well(lambda: REPORT.parse(as_json(report), "file"))


@given(mutated(as_json(METRICS)))
@bounded
def test_any_bytes_of_a_report_give_numbers_or_one_clear_error(data):
    ends_well(lambda: REPORT.parse(data, "file"))
