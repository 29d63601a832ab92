"""Text encoders of the data that a network is trained on: checkpoints say which, and hold the empty text."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn

from ..couplings.prompted import PromptedNoise
from ..couplings.store.text import StoredText
from ..data.text_encoder import TextEncoder
from ..errors import FlowlitError
from ..frozen import Frozen
from ..generators.prompts import text_encoder_of
from ..networks.checkpoints.spec import summarise
from ..types import reads_of


class Text(NamedTuple):
    """Encoder of the texts in the conditions of data."""

    identity: dict[str, Any]
    spec: dict[str, Any] | None
    null: Tensor
    """Embedding of the empty text, (L, D)."""


def text_of(data: Any) -> Text | None:
    """Return the encoder of the texts that a data module trains on, once it is open; None without any."""
    coupling = getattr(data, "coupling", None)
    stored = getattr(getattr(data, "pairs", None), "text", None)
    if isinstance(stored, StoredText):
        return Text(stored.facts["encoder"], stored.spec, stored.null())
    encoder = getattr(coupling, "encoder", getattr(getattr(coupling, "noise", None), "encoder", None))
    if isinstance(encoder, TextEncoder):
        return Text(encoder.identity(), encoder.spec, encoder.null())
    return None


def check_encoder(described: dict[str, Any] | None, noise: Any) -> None:
    """Refuse to generate from prompts that another encoder makes embeddings of than that of the training.

    Args:
        described: encoder of the training, as checkpoints have it; None if it is not known.
        noise: to generate from.

    Raises:
        FlowlitError: naming both.
    """
    known = (described or {}).get("fingerprint")
    if known is None or not isinstance(noise, PromptedNoise) or noise.encoder.fingerprint == known:
        return
    raise FlowlitError(
        f"prompts of data.noise are encoded by {noise.encoder!r} ({noise.encoder.fingerprint[:8]}), but the "
        f"network was trained with {summarise(described)} ({known[:8]}); give data.noise the same encoder"
    )


def frozen_networks(module: nn.Module, data: Any) -> list[Any]:
    """Return the guides of a module's objective, and the teacher of its data."""
    parts = [vars(part) for part in module.modules()]
    coupling = getattr(data, "coupling", None)
    places = [*parts, getattr(coupling, "__dict__", {})]
    return [each.network for place in places for each in place.values() if isinstance(each, Frozen)]


def check_frozen(networks: Iterable[Any], text: Text) -> None:
    """Refuse guides and teachers that were trained with another text encoder than that of the data.

    Raises:
        FlowlitError: naming both.
    """
    here = text.identity["fingerprint"]
    for network in networks:
        described = text_encoder_of(network)
        known = (described or {}).get("fingerprint")
        if known not in (None, here):
            raise FlowlitError(
                f"{type(network).__name__}, a guide or teacher, was trained with {summarise(described)} "
                f"({known[:8]}), and texts of the training data are of another encoder ({here[:8]}); give "
                "the data the same one"
            )


def take_text(module: Any, data: Any) -> None:
    """Give networks that read text the encoder of their training, and the embedding of the empty text.

    Args:
        module: whose networks have their attribute ``text_encoder`` set, and the buffer ``null_text`` inside.
        data: the data module, once it is open.

    Raises:
        FlowlitError: if validation, a guide or a teacher has prompts encoded otherwise.
    """
    text = text_of(data)
    if text is None:
        return
    noise = getattr(data, "noise", None)
    if isinstance(noise, PromptedNoise) and noise.encoder.identity() != text.identity:
        raise FlowlitError(
            f"prompts of data.noise are encoded by {noise.encoder!r}, and those of training by another one "
            f"({text.identity}); give both the same encoder"
        )
    check_frozen(frozen_networks(module, data), text)
    for network in module.networks():
        if "text" not in (reads_of(network) or ("text",)):
            continue
        before = (text_encoder_of(network) or {}).get("fingerprint")
        if before not in (None, text.identity["fingerprint"]):
            rank_zero_warn(
                f"{type(network).__name__} was trained with another text encoder ({before[:8]}) than that of "
                f"the training data ({text.identity['fingerprint'][:8]}); is that meant?"
            )
        for part in network.modules():
            if "text_encoder" in vars(part):
                part.text_encoder = None  # type: ignore[assignment]
        if text.spec is not None:
            facts = {**text.spec, "fingerprint": text.identity["fingerprint"]}
            network.text_encoder = facts  # type: ignore[assignment]
        for part in network.modules():
            null = part._buffers.get("null_text")
            if null is not None:
                _copy(null, text.null, part)


def _copy(null: Tensor, value: Tensor, part: nn.Module) -> None:
    if null.shape != value.shape:
        raise FlowlitError(
            f"{type(part).__name__} reads texts of shape {tuple(null.shape)}, and those of training have "
            f"{tuple(value.shape)}; make them equal"
        )
    null.copy_(value)
