"""The layout of diffusers' U-Nets: their names, and what a pipeline's scheduler says of their output."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from ....errors import FlowlitError
from ....paths import DiscreteVP
from ....types import Diffusion
from ...wrappers.diffusers import DiffusersUNet
from ...wrappers.diffusion import DiffusionVelocity
from ..spec import spec
from .base import Layout
from .rules import Rule, State

NULL = "null_text"
PREDICTS = {"epsilon": "epsilon", "v_prediction": "v", "sample": "x0"}
"""Words of a scheduler for what a network predicts, and ours."""
SCHEDULES = {"linear": "linear", "scaled_linear": "scaled_linear", "squaredcos_cap_v2": "cosine"}
"""Words of a scheduler for its noise levels, and ours."""


@dataclass(frozen=True)
class DiffusersLayout(Layout):
    """Weights of a ``UNet2DConditionModel``, of the folder ``unet`` of a pipeline.

    Args:
        config: of the U-Net; empty for a file that is read without its folder.
        scheduler: configuration of the pipeline's scheduler; empty if there is none.
        text_length: tokens of a text.
    """

    config: Mapping[str, Any] = field(default_factory=dict)
    scheduler: Mapping[str, Any] = field(default_factory=dict)
    text_length: int = 77

    hint = ": flowlit.networks.as_velocity takes the weights for those of a velocity"

    @staticmethod
    def matches(state: Mapping[str, Tensor]) -> bool:
        """Return whether a state dict, tensors of any shape, has the names of a U-Net of diffusers."""
        return "conv_in.weight" in state and "time_embedding.linear_1.weight" in state

    def refuse(self, state: State) -> None:
        """Refuse weights without their configuration; tensors of any shape."""
        if not self.config:
            raise FlowlitError(
                f"checkpoint {self.file} holds a U-Net of diffusers, whose weights do not show its form; "
                "give the folder of its pipeline, which has model_index.json"
            )

    def describe(self, state: State) -> dict[str, Any]:
        """Return the spec of the velocity, as scheduler and configuration have it; ``state`` is not used."""
        if not self.scheduler:
            raise ValueError("no scheduler says what it predicts")
        if is_flow(self.scheduler):
            return self.unet("flow")
        diffusion = spec(diffusion_of(self.scheduler, self.file))
        return {
            "class_path": "flowlit.networks.DiffusionVelocity",
            "init_args": {
                "network": self.unet("diffusion"),
                "diffusion": diffusion,
                "predicts": PREDICTS[self.scheduler.get("prediction_type", "epsilon")],
            },
        }

    def unet(self, predicts: str) -> dict[str, Any]:
        """Return the spec of the U-Net alone."""
        plain = {name: value for name, value in self.config.items() if not name.startswith("_")}
        arguments = {"config": plain, "predicts": predicts, "text_length": self.text_length}
        return {"class_path": "flowlit.networks.DiffusersUNet", "init_args": arguments}

    def wrap(self, network: Any, state: State) -> nn.Module:
        """Return the network, a ``DiffusersUNet`` or one in ``DiffusionVelocity``; ``state`` is not used."""
        inside = network.network if isinstance(network, DiffusionVelocity) else network
        if not isinstance(inside, DiffusersUNet):
            raise FlowlitError(
                f"checkpoint {self.file} cannot be read into {type(inside).__name__}; expected "
                "flowlit.networks.DiffusersUNet"
            )
        return network

    def rules(self, network: nn.Module) -> list[Rule]:
        """Return a rule for each tensor of a network: their names lack the prefix ``model.``."""
        return [  # the empty text is outside of the model
            Rule(name, (name.partition("model.")[2] or NULL,)) for name in network.state_dict()
        ]


def is_flow(scheduler: Mapping[str, Any]) -> bool:
    """Return whether a scheduler integrates a flow, whose network predicts noise - data."""
    name = str(scheduler.get("_class_name", ""))
    return name.startswith(("FlowMatch", "FlowMap")) or scheduler.get("prediction_type") == "flow_prediction"


def diffusion_of(scheduler: Mapping[str, Any], file: str) -> Diffusion:
    """Return the diffusion that a scheduler's configuration describes.

    Raises:
        FlowlitError: for noise levels that are given one by one, reach pure noise, or are of another kind.
    """
    schedule = scheduler.get("beta_schedule", "linear")
    predicts = scheduler.get("prediction_type", "epsilon")
    other = None
    if scheduler.get("trained_betas") is not None:
        other = "trained_betas"
    elif scheduler.get("rescale_betas_zero_snr"):
        other = "rescale_betas_zero_snr: true"
    elif "beta_start" not in scheduler or "beta_end" not in scheduler:
        other = "no beta_start and beta_end"
    elif schedule not in SCHEDULES:
        other = f"beta_schedule: {schedule}"
    elif predicts not in PREDICTS:
        other = f"prediction_type: {predicts}"
    if other is not None:
        raise FlowlitError(
            f"{file}: its scheduler has {other}, which flowlit does not have; it reads prediction_type "
            f"{', '.join(PREDICTS)}, and beta_schedule {', '.join(SCHEDULES)}"
        )
    return DiscreteVP(
        scheduler.get("num_train_timesteps", 1000),
        SCHEDULES[schedule],  # type: ignore[arg-type]
        scheduler["beta_start"],
        scheduler["beta_end"],
    )
