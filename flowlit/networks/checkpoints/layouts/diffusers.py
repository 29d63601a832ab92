"""The layout of diffusers' networks: their names, and what a pipeline's scheduler says of their output."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from ....errors import FlowlitError
from ....paths import DiscreteVP
from ....types import Diffusion
from ...wrappers.diffusers import DiffusersUNet
from ...wrappers.diffusers_base import DiffusersNetwork
from ...wrappers.diffusers_transformers import DiffusersSD3, DiffusersZImage
from ...wrappers.diffusion import DiffusionVelocity
from ..spec import spec
from .base import Layout
from .rules import Rule, State

NULL = "null_text"
PREDICTS = {"epsilon": "epsilon", "v_prediction": "v", "sample": "x0"}
"""Words of a scheduler for what a network predicts, and ours."""
SCHEDULES = {"linear": "linear", "scaled_linear": "scaled_linear", "squaredcos_cap_v2": "cosine"}
"""Words of a scheduler for its noise levels, and ours."""


KINDS: dict[str, type[DiffusersNetwork]] = {
    kind.kind: kind for kind in (DiffusersUNet, DiffusersSD3, DiffusersZImage)
}
"""Networks of ours by the class in diffusers that is inside."""


@dataclass(frozen=True)
class DiffusersLayout(Layout):
    """Weights of a network of diffusers, of the folder ``unet`` or ``transformer`` of a pipeline.

    Args:
        config: of the network; empty for a file that is read without its folder.
        scheduler: configuration of the pipeline's scheduler; empty if there is none.
        text_length: tokens of a text.
        sample_size: R of latents (C, R, R), where the network's configuration does not have it.
    """

    config: Mapping[str, Any] = field(default_factory=dict)
    scheduler: Mapping[str, Any] = field(default_factory=dict)
    text_length: int = 77
    sample_size: int | None = None

    @property
    def kind(self) -> type[DiffusersNetwork]:
        """Class of ours around the network."""
        return KINDS[self.config.get("_class_name", DiffusersUNet.kind)]

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
        if self.kind is not DiffusersUNet:
            return self.inside()
        if not self.scheduler:
            raise ValueError("no scheduler says what it predicts")
        if is_flow(self.scheduler):
            return self.inside("flow")
        diffusion = spec(diffusion_of(self.scheduler, self.file))
        return {
            "class_path": "flowlit.networks.DiffusionVelocity",
            "init_args": {
                "network": self.inside("diffusion"),
                "diffusion": diffusion,
                "predicts": PREDICTS[self.scheduler.get("prediction_type", "epsilon")],
            },
        }

    def inside(self, predicts: str = "flow") -> dict[str, Any]:
        """Return the spec of the network alone; ``predicts`` is for U-Nets, others have one meaning."""
        plain = {name: value for name, value in self.config.items() if not name.startswith("_")}
        arguments: dict[str, Any] = {"config": plain, "text_length": self.text_length}
        if self.kind is DiffusersUNet:
            arguments["predicts"] = predicts
        if self.kind is DiffusersZImage and self.sample_size is not None:
            arguments["sample_size"] = self.sample_size
        return {"class_path": f"flowlit.networks.{self.kind.__name__}", "init_args": arguments}

    def wrap(self, network: Any, state: State) -> nn.Module:
        """Return the network, one of ``KINDS`` or in ``DiffusionVelocity``; ``state`` is not used."""
        inside = network.network if isinstance(network, DiffusionVelocity) else network
        if not isinstance(inside, self.kind):
            raise FlowlitError(
                f"checkpoint {self.file} cannot be read into {type(inside).__name__}; expected "
                f"flowlit.networks.{self.kind.__name__}"
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
