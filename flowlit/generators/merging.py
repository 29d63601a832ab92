"""The change that training made to a U-Net, added to a fine-tuned one."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from typing import Any

from ..errors import FlowlitError
from ..networks import DiffusersUNet, as_velocity
from ..networks.checkpoints.load import mismatch
from ..networks.checkpoints.spec import build
from ..types import Codec, codec_of
from .core import NoiseToImages
from .pipeline_folder import negate


def merged(generator: NoiseToImages, base: str, onto: str) -> NoiseToImages:
    """Return a generator with the weights W_onto + (W - W_base).

    InstaFlow's authors turn fine-tuned models of Stable Diffusion into fast ones so. Codec and text encoder
    are those of ``onto``.

    Args:
        generator: of a velocity that was trained from ``base``.
        base: folder of the pipeline whose U-Net it began with.
        onto: folder of a pipeline that was fine-tuned from the same one.

    Raises:
        FlowlitError: if the networks are of different architectures.
    """
    network = generator.network
    if not isinstance(network, DiffusersUNet) or network.predicts == "diffusion":
        raise FlowlitError(f"the network is {type(network).__name__}; expected a DiffusersUNet as a velocity")
    result: Any = as_velocity(onto)
    weights = _of_velocity(network)
    start = _of_velocity(as_velocity(base))
    goal = _of_velocity(result)
    for folder, other in ((base, start), (onto, goal)):
        if difference := mismatch(weights, other):
            raise FlowlitError(f"{folder} has another U-Net than the checkpoint: {difference}")
    result.model.load_state_dict({name: goal[name] + (weights[name] - start[name]) for name in weights})
    if result.predicts == "flow":
        negate(result.model)
    described = codec_of(result)
    codec = build(described, Codec) if described else generator.codec
    return replace(generator, network=result, codec=codec, shape=None)


def _of_velocity(network: Any) -> dict[str, Any]:
    """Return the weights of a U-Net with data - noise as its output, whose sign that of a flow lacks."""
    model = deepcopy(network.model).float()
    if network.predicts == "flow":
        negate(model)
    return model.state_dict()
