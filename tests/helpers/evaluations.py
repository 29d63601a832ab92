"""What several tests share with ``callbacks/evaluation/test_fid.py``."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest
import tiny
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger
from tools import classifier_checkpoint, randomise, tiny_unet

from flowlit.callbacks import FID, Report
from flowlit.couplings import SeededNoise
from flowlit.data import Digits
from flowlit.metrics import KID, ClassifierFeatures, InceptionScore, PrecisionRecall
from flowlit.metrics.feature_cache import FeatureCache
from flowlit.modules import FlowDataModule, FlowModule
from flowlit.objectives import RectifiedFlow
from flowlit.solvers import RK45, Euler

REAL = Digits(limit=90)


MEASURES = [KID(3, 20), InceptionScore(2), PrecisionRecall()]


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    return classifier_checkpoint(tmp_path_factory.mktemp("classifier") / "last.ckpt")


@pytest.fixture
def fid(classifier, tmp_path):
    """Build the callback, with a cache that one test shares."""

    def make(name="tiny", measures=MEASURES, reference=REAL, features=None):
        return FID(
            features or ClassifierFeatures(classifier, name),
            reference,
            list(measures),
            str(tmp_path / "cache"),
        )

    return make


def flow(seed=1, classes=0, solvers=None):
    network = randomise(tiny_unet(num_classes=classes), seed)
    return FlowModule(
        network, RectifiedFlow(), solvers=solvers or {"rk45": RK45(0.05, 0.05), "euler1": Euler(1)}
    )


class Count(Callback):
    """Which samples were generated; breaks off after some batches."""

    def __init__(self, stop=None, how=None):
        self.stop, self.how, self.indices = stop, how, []

    def on_validation_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0):
        self.indices += outputs["noise"].index.tolist()
        if batch_idx + 1 == self.stop:
            self.how()

    on_test_batch_end = on_validation_batch_end


def run(
    root,
    *callbacks,
    command="validate",
    num=40,
    batch=16,
    module=None,
    classes=0,
    seed=0,
    logger=True,
    data=None,
    **more,
):
    """Validate (or test), and return the JSON."""
    data = data or FlowDataModule(
        noise=SeededNoise(tiny.SHAPE, num, seed, classes), noise_batch_size=batch, test_num=num
    )
    logger = TensorBoardLogger(str(root), name="", version="") if logger is True else logger
    trainer = tiny.trainer(root, 1, [*callbacks, Report()], logger=logger, **more)
    getattr(trainer, command)(module or flow(classes=classes), data, verbose=False)
    path = Path(root) / ("metrics_test.json" if command == "test" else "metrics.json")
    return json.loads(path.read_text()) if path.exists() else trainer


@pytest.fixture
def small_files(monkeypatch):
    """Files of eight rows, so that an interrupted run leaves some."""
    place = "flowlit.callbacks.evaluation.generated_features.FeatureCache"
    monkeypatch.setattr(place, partial(FeatureCache, rows=8))
