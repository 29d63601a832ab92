"""Common parts of the networks of diffusers that read text."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..._support.derivatives import differentiating
from ..._support.extras import needed
from ...errors import FlowlitError
from ...ranges import Checked
from ...types import Cond
from ..base import check_times

CLOCK = 1000.0
"""Time of these networks where all is noise, as Stable Diffusion's steps are counted."""


class DiffusersNetwork(Checked, nn.Module):
    """A network of diffusers, ``model``, with text in ``cond["text"]``, (B, L, D).

    Rows without one read ``null_text``, the embedding of the empty text, which is saved with the weights.

    Args:
        config: as in the config.json of its folder; what is absent has diffusers' defaults.
        arguments: others, for its description.

    Raises:
        FlowlitError: for configurations that diffusers refuses.
    """

    kind: ClassVar[str]
    """Its class in diffusers."""
    encoder: ClassVar[str]
    """The text encoder of its pipelines."""
    text_length: ClassVar[int]
    """Tokens of a text, where no encoder says it."""
    text_width: ClassVar[tuple[str, int]]
    """Entry of a configuration that has the numbers of a token, and diffusers' default of it."""

    num_classes = 0
    reads = frozenset({"text"})
    shape: tuple[int, int, int]
    null_text: Tensor

    def __init__(self, config: dict[str, Any], **arguments: Any):
        super().__init__()
        entries = {name: value for name, value in config.items() if not name.startswith("_")}
        plain = json.loads(json.dumps(entries))
        self.spec = {
            "class_path": f"flowlit.networks.{type(self).__name__}",
            "init_args": {"config": plain, **arguments},
        }
        self.model = built(self.kind, plain)
        self.text_encoder: dict[str, Any] | None = None
        """How to build the encoder of its texts."""

    @classmethod
    def pooled_rows(cls, config: Mapping[str, Any]) -> int:
        """Return the rows of a text that hold its pooled embedding, behind those of its tokens."""
        return 0

    @classmethod
    def blank(cls, config: Mapping[str, Any]) -> Tensor:
        """Return zeros (L, D) as the embedding of the empty text, where no encoder makes it."""
        width = config.get(*cls.text_width)
        rows = cls.text_length + cls.pooled_rows(config)
        return torch.zeros(rows, width if isinstance(width, int) else 1)

    def _read_texts(self, rows: int, width: int) -> None:
        """Take texts (B, rows, width) from now on."""
        self.register_buffer("null_text", torch.zeros(rows, width))

    def checkpointable(self) -> list[nn.Module]:
        """Return the part whose activations can be computed again: the network inside, block by block."""
        return [self.model]

    def _recompute(self) -> None:
        """Switch diffusers' own recomputation as ``recompute`` has it."""
        wanted = getattr(self.model, "_recomputed", False) and self.training and not differentiating()
        if wanted and not self.model.is_gradient_checkpointing:
            self.model.enable_gradient_checkpointing()
        elif self.model.is_gradient_checkpointing and not wanted:
            self.model.disable_gradient_checkpointing()

    def _checked(self, x: Tensor, t: Tensor, cond: Cond) -> Tensor:
        """Return the texts (B, L, D) of inputs that fit.

        Raises:
            FlowlitError: for inputs of other shapes, and other conditions.
        """
        name = type(self).__name__
        check_times(name, "times", t, x.shape[0])
        if unknown := sorted(set(cond) - self.reads):
            raise FlowlitError(
                f"{name}: cond has {', '.join(unknown)}, but this network looks at nothing but 'text'"
            )
        if tuple(x.shape[1:]) != self.shape:
            raise FlowlitError(f"{name}: built for images of shape {self.shape}, found {tuple(x.shape[1:])}")
        if "text" not in cond:
            return self.null_text.expand(x.shape[0], -1, -1)
        text = cond["text"]
        if text.shape != (x.shape[0], *self.null_text.shape):
            expected = " × ".join(map(str, self.null_text.shape))
            raise FlowlitError(
                f'{name}: cond["text"] has shape {tuple(text.shape)}; expected {expected} for each '
                "image, from the encoder that it was trained with"
            )
        return text


def built(kind: str, config: dict[str, Any]) -> Any:
    """Return a network of diffusers with fresh weights.

    Raises:
        FlowlitError: without the package, and for configurations that it refuses.
    """
    model = getattr(needed("diffusers"), kind)
    try:
        return model.from_config(config)
    except Exception as error:  # of many kinds
        why = " ".join(str(error).split())[:300] or type(error).__name__
        raise FlowlitError(f"diffusers cannot build a {kind} of its configuration: {why}") from error
