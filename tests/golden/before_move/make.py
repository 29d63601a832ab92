"""Files as commit 170b6b1 wrote them, before the packages were moved: ``python make.py <folder>`` in a clone
of it.

A teacher with two averages and snapshots, its store of pairs, a classifier, and the report of a validation.
``make.py <folder> labels``: a diffusion with classes, its labelled store, an annealed student of it with
callbacks that had other names, and statistics of images. The folder has the first files already.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import Any

import torch
import yaml
from flowlit.cli import main
from safetensors.torch import save_file

import flowlit
from flowlit.couplings import seeded_normal

SHAPE = [1, 8, 8]


def part(path: str, **arguments: Any) -> dict[str, Any]:
    return {"class_path": f"flowlit.{path}", "init_args": arguments}


def experiment(
    module: dict[str, Any], data: dict[str, Any], folder: str, callbacks: list[Any], steps: int = 4
) -> dict:
    logger = {"save_dir": folder, "name": "", "version": ""}
    return {
        "seed_everything": 7,
        "model": module,
        "data": data,
        "trainer": {
            "accelerator": "cpu",
            "max_steps": steps,
            "limit_val_batches": 0,
            "enable_model_summary": False,
            "enable_progress_bar": False,
            "log_every_n_steps": 1,
            "logger": {"class_path": "lightning.pytorch.loggers.TensorBoardLogger", "init_args": logger},
            "callbacks": callbacks,
        },
    }


def generator_noise(index: int) -> torch.Tensor:
    return seeded_normal(1, index, SHAPE)


def run(name: str, content: dict[str, Any], *words: str) -> None:
    path = Path(f"{name}.yaml")
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    assert main([words[0], "-c", str(path), *words[1:]]) == 0


def unlabelled() -> None:
    network = part(
        "networks.UNet",
        resolution=8,
        in_channels=1,
        width=8,
        multipliers=[1],
        blocks=1,
        attention_resolutions=[],
    )
    adam = {"class_path": "torch.optim.Adam", "init_args": {"lr": 1e-3}}
    solvers = {"adams": part("multistep.Adams", steps=3), "euler1": part("solvers.Euler", steps=1)}
    model = part("modules.Teacher", network=network, optimizer=adam, solvers=solvers, weights="ema")
    model["init_args"]["objective"] = part(
        "objectives.RectifiedFlow",
        times=part("times.LogitNormal"),
        distance=part("distances.PseudoHuber", c=0.1),
    )
    images = part("images.Digits", limit=64, labels=False)
    noise = part("couplings.SeededNoise", shape=SHAPE, num=8)
    data = part(
        "datamodule.FlowDataModule",
        coupling=part("couplings.Independent", images=images),
        batch_size=8,
        noise=noise,
    )
    power = part("averages.PowerLaw", std=0.1)
    callbacks = [
        part("callbacks.EMA", decay=0.9),
        part("callbacks.EMA", name="power", profile=power, snapshots=2),
        part("callbacks.LastCheckpoint", every_n_train_steps=4),
    ]
    run("teacher", experiment(model, data, "teacher", callbacks), "fit")

    labelled = part("couplings.Independent", images=part("images.Digits", limit=64))
    classifier = part("modules.Classifier", network=part("networks.SmallClassifier", dim=8))
    classified = part("datamodule.FlowDataModule", coupling=labelled, batch_size=8)
    run(
        "classifier",
        experiment(classifier, classified, "classifier", [part("callbacks.LastCheckpoint")]),
        "fit",
    )

    checkpoint = "teacher/checkpoints/last.ckpt"
    evaluated = part("datamodule.FlowDataModule", noise=noise)
    features = part("features.ClassifierFeatures", checkpoint="classifier/checkpoints/last.ckpt", name="tiny")
    fid = part("callbacks.FID", features=features, reference=images, cache="cache")
    fid["init_args"]["measures"] = [part("metrics.fidelity.KID", subset_size=4)]
    validation = experiment(model, evaluated, "evaluated", [fid, part("callbacks.Report")])
    del validation["trainer"]["limit_val_batches"]
    run("evaluate", validation, "validate", "--ckpt_path", checkpoint)

    coupled = experiment(model, evaluated, "unused", [])
    run(
        "couple",
        coupled,
        "couple",
        "--ckpt_path",
        checkpoint,
        "--num",
        "8",
        "--shard_size",
        "4",
        "--store",
        "couplings",
    )
    shutil.copytree("teacher", "continued")
    run("continued", experiment(model, data, "continued", callbacks, steps=6), "fit", "--resume", "auto")
    state = torch.load("continued/checkpoints/last.ckpt", weights_only=True)["state_dict"]
    generator = flowlit.load(checkpoint)
    samples = generator(torch.stack([generator_noise(i) for i in range(2)]))
    save_file({"samples": samples, **state}, "expected.safetensors")


def labels() -> None:
    network = part(
        "networks.UNet",
        resolution=8,
        in_channels=1,
        width=8,
        multipliers=[1],
        blocks=1,
        num_classes=10,
        attention_resolutions=[],
        label_dropout=0.1,
    )
    adam = {"class_path": "torch.optim.Adam", "init_args": {"lr": 1e-3}}
    images = part("images.Digits", limit=64)
    noise = part("couplings.SeededNoise", shape=SHAPE, num=8, num_classes=10)
    diffusion = part(
        "networks.DiffusionVelocity",
        network=network,
        predicts="x0",
        diffusion=part("diffusions.VE", tells="log_sigma"),
    )
    model = part(
        "modules.Teacher",
        network=diffusion,
        optimizer=adam,
        solvers={"heun2": part("solvers.Heun", steps=2)},
        objective=part("objectives.RectifiedFlow", weight=part("weights.One")),
        weights="raw",
    )
    coupling = part("couplings.Independent", images=images)
    data = part("datamodule.FlowDataModule", coupling=coupling, batch_size=8, noise=noise)
    run("diffusion", experiment(model, data, "diffusion", [part("callbacks.LastCheckpoint")], steps=2), "fit")
    coupled = experiment(model, part("datamodule.FlowDataModule", noise=noise), "unused", [])
    words = ["--ckpt_path", "diffusion/checkpoints/last.ckpt", "--num", "12", "--shard_size", "6"]
    run("couple_labels", coupled, "couple", *words, "--store", "labelled")

    annealed = part("objectives.AnnealedReflow", weight=part("weights.One"))
    student = part("modules.ReflowStudent", network=network, optimizer=adam, objective=annealed)
    cached = part(
        "datamodule.FlowDataModule", coupling=part("couplings.Cached", store="labelled"), batch_size=8
    )
    callbacks = [
        part("callbacks.Anneal", schedule=part("schedules.Linear", steps=4)),
        part("callbacks.EMA", decay=0.9),
        part("callbacks.Recompute"),
        part("callbacks.Signals"),
        part("callbacks.Neighbours", images=part("images.Digits", limit=64, labels=False), num=4, k=2),
        part("callbacks.LastCheckpoint"),
    ]
    run("student", experiment(student, cached, "student", callbacks, steps=2), "fit")
    features = part("features.ClassifierFeatures", checkpoint="classifier/checkpoints/last.ckpt", name="tiny")
    statistics = {
        "images": part("images.Digits", limit=64, labels=False),
        "features": features,
        "into": "digits.npz",
    }
    Path("reference.yaml").write_text(yaml.safe_dump(statistics))
    assert main(["reference", "-c", "reference.yaml"]) == 0
    shutil.copytree("student", "continued")
    run("continued", experiment(student, cached, "continued", callbacks, steps=4), "fit", "--resume", "auto")
    state = torch.load("continued/checkpoints/last.ckpt", weights_only=True)["state_dict"]
    save_file(state, "expected_student.safetensors")


if __name__ == "__main__":
    os.makedirs(sys.argv[1], exist_ok=True)
    os.chdir(sys.argv[1])
    labels() if "labels" in sys.argv[2:] else unlabelled()
    for leftover in [*Path().glob("*/events*"), *Path().rglob(".lock"), *Path().rglob("previous.ckpt")]:
        leftover.unlink()
    for name in ("unused", "cache", "lightning_logs", "continued"):
        shutil.rmtree(name, ignore_errors=True)
