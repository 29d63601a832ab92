"""``flowlit couple``: carry noise through a model, and write the pairs."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl

from ...couplings.origins import Origin, make_origin
from ...couplings.store.writer import Store
from ...data.classes import check_same_names, class_names_of
from ...data.provenance import described, trained_on
from ...errors import FlowlitError
from ...generators.prompts import text_encoder_of
from ...modules import FlowDataModule, FlowModule
from ...modules.flow import check_rows
from ...modules.text import check_encoder
from ...networks.checkpoints.read import read_checkpoint
from .options import CoupleOptions
from .predict import PairPredictor, PartData, without_gradients
from .trajectory import Stops, stops_of
from .writer import PairWriter

__all__ = ["CoupleOptions", "couple", "identity_of", "origin_of", "stops_of"]


def couple(
    trainer: pl.Trainer,
    model: FlowModule,
    datamodule: pl.LightningDataModule | None,
    ckpt_path: str | None,
    weights_only: bool | None,
    options: CoupleOptions,
) -> None:
    """Integrate a model with its first solver in Lightning's predict loop, and store the pairs.

    Raises:
        FlowlitError: if options, model and data do not fit, or a store already holds other pairs.
    """
    if weights_only is False:
        raise FlowlitError("couple reads checkpoints as plain data only; drop --weights_only false")
    if ckpt_path is not None:  # before the writer notes whose pairs these are
        content = read_checkpoint(ckpt_path)
        model.on_load_checkpoint(content)
        model.load_state_dict(content["state_dict"])
    origin = origin_of(model, datamodule, options)
    stops = stops_of(model, options)
    facts = identity_of(model, origin, options, stops)
    if facts["solver"] is not None:
        facts["solver"]["precision"] = str(trainer.precision)
    remarks = {"checkpoint": model.loaded_from(ckpt_path), "batch_size": options.batch_size}
    images = trained_on(model.network)
    if options.origin == "random":
        remarks = {}
        images = described(origin.images)  # type: ignore[attr-defined]
    if images is not None:
        remarks["data"] = images
    store = Store(options.store)
    writer = PairWriter(store, origin, options, facts, remarks)
    trainer.callbacks.append(writer)  # type: ignore[attr-defined]
    try:
        with without_gradients(model):
            data = PartData(origin, store, options.batch_size)
            trainer.predict(PairPredictor(model, stops), datamodule=data, return_predictions=False)
    finally:
        trainer.callbacks.remove(writer)  # type: ignore[attr-defined]


def identity_of(
    model: FlowModule, origin: Origin, options: CoupleOptions, stops: Stops | None
) -> dict[str, Any]:
    """Return the facts of a store that a model decides, but for its precision."""
    if options.origin == "random":
        return {"teacher": None, "solver": None}
    facts = model.provenance()
    if stops is not None:
        facts["times"] = stops.times
    names = class_names_of(model.network)
    if names and origin.name == "noise":
        facts["classes"] = list(names)
    return facts


def origin_of(model: FlowModule, datamodule: pl.LightningDataModule | None, options: CoupleOptions) -> Origin:
    """Return the end of the pairs that a solver, or chance, starts from.

    Raises:
        FlowlitError: if options, model and data do not fit.
    """
    noise = getattr(datamodule, "noise", None)
    if not isinstance(datamodule, FlowDataModule) or noise is None:
        raise FlowlitError("couple needs the shape of the noise: give data.noise (shape, num_classes)")
    check_rows(model.network, noise.shape, noise.num_classes, "data.noise")
    check_encoder(text_encoder_of(model.network), noise)
    images = getattr(datamodule.coupling, "images", None)
    origin = make_origin(
        options.origin, noise, options.num, options.seed, images, options.labels, model.codec
    )
    if origin.shape != noise.shape:
        raise FlowlitError(
            f"couple: images of shape {origin.shape}, but data.noise.shape is {noise.shape}; make them equal"
        )
    names = class_names_of(model.network)
    check_same_names(getattr(images, "classes", None), names, "data.coupling.images", "the network")
    origin.check(options.x0, options.x1)
    return origin
