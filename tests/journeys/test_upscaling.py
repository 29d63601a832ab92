"""From a training of super-resolution to measured and to enlarged images."""

import json

import numpy as np
import pytest
import tiny
from commandline import in_process
from pictures import encoded, noise
from PIL import Image

pytestmark = [pytest.mark.journey, pytest.mark.slow]

LAW = {
    "degradation": {"class_path": "flowlit.data.AveragePool", "init_args": {"scale": 4}},
    "start": {"class_path": "flowlit.couplings.NoisedImage", "init_args": {"sigma": 0.2}},
}


def images(part):
    return {"class_path": "flowlit.data.Digits", "init_args": {"part": part, "labels": False}}


def configuration(root):
    coupling = {
        "class_path": "flowlit.couplings.SuperResolution",
        "init_args": {"images": images("train"), **LAW},
    }
    arguments = {"images": images("test"), "num": 6, **LAW}
    source = {"class_path": "flowlit.couplings.DegradedImages", "init_args": arguments}
    metrics = [{"class_path": "flowlit.metrics.PSNR", "init_args": {"crop": 1}}]
    paired = {
        "class_path": "flowlit.callbacks.PairedMetrics",
        "init_args": {"num": 5, "metrics": metrics, "mean": "euler1"},
    }
    network = {"class_path": "flowlit.networks.ConcatenatedImage", "init_args": {"network": tiny.unet()}}
    callbacks = [tiny.EMA, tiny.checkpoints(), paired, {"class_path": "flowlit.callbacks.Report"}]
    trainer = {"limit_val_batches": 1.0, "val_check_interval": 4, "check_val_every_n_epoch": None}
    content = tiny.fit(
        root, network=network, coupling=coupling, data={"noise": source}, callbacks=callbacks, **trainer
    )
    solvers = {
        f"euler{n}": {"class_path": "flowlit.solvers.Euler", "init_args": {"steps": n}} for n in (1, 2)
    }
    content["model"]["init_args"]["solvers"] = solvers
    return content


def test_a_teacher_is_measured_and_enlarges(tmp_path):
    config = tiny.write(tmp_path / "fit.yaml", configuration(tmp_path / "run"))
    outcome = in_process("fit", "-c", config)
    assert outcome.code == 0, outcome.err
    last = tmp_path / "run/checkpoints/last.ckpt"
    outcome = in_process("validate", "-c", config, "--ckpt_path", last)
    assert outcome.code == 0, outcome.err
    report = json.loads(next((tmp_path / "run").rglob("metrics.json")).read_text())
    for name in ("psnr_rgb_crop1/euler1", "psnr_rgb_crop1/euler2", "variance_ratio/euler2"):
        assert report["metrics"][name] > 0 and report["spread"][name] > 0

    grey = noise(5, 3)
    (tmp_path / "photo.png").write_bytes(encoded(grey))
    words = ("upscale", tmp_path / "photo.png", "--model", tmp_path / "run", "--back_projection")
    results = []
    for batch in (1, 4):
        outcome = in_process(*words, "--batch", batch, "--into", tmp_path / f"large{batch}")
        assert outcome.code == 0, outcome.err
        results.append(np.asarray(Image.open(tmp_path / f"large{batch}/photo.png")))
    np.testing.assert_array_equal(*results)
    assert results[0].shape == (20, 12)
    assert "trained for 4" in in_process(*words, "--scale", 2, "--into", tmp_path / "other").error
