"""Prompts of a generator: texts become the condition of its rows, by the encoder of its training."""

from __future__ import annotations

import reprlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .._support.wrapped import first_inside
from ..data.prompts import check_prompt, texts_hash
from ..errors import FlowlitError
from ..networks.checkpoints.encoder import encoder_from
from ..types import Noise, reads_of

if TYPE_CHECKING:
    from ..data.text_encoder import TextEncoder
    from .core import NoiseToImages
    from .sampling import Rows


def text_encoder_of(network: Any) -> dict[str, Any] | None:
    """Return how to build the text encoder that a network was trained with; None if it does not say."""
    return first_inside(network, "text_encoder", dict)


def text_facts(network: Any) -> dict[str, Any]:
    """Return what files say of the text encoder of a network; {} without one."""
    described = text_encoder_of(network)
    return {} if described is None else {"text_encoder": described}


def encoder_of(network: Any) -> TextEncoder:
    """Return the text encoder that a network was trained with.

    Raises:
        FlowlitError: if it does not say which, or that one has other weights here.
    """
    described = text_encoder_of(network)
    if described is None:
        raise FlowlitError(
            f"{type(network).__name__} reads text, and its checkpoint does not say which encoder made it; "
            'call the generator with embeddings of your own: generator(noise, {"text": …})'
        )
    return encoder_from(described)


def prompted(generator: NoiseToImages, rows: Rows, prompts: Any) -> Rows:
    """Return rows with text: prompt i modulo their number for row i, or one for all.

    Args:
        generator: of the images.
        rows: to generate from.
        prompts: text, or several; None for a network that reads none.

    Raises:
        FlowlitError: for prompts of a network that reads no text, and none for one that does.
    """
    reads = "text" in (reads_of(generator.network) or ())
    if prompts is None:
        if reads:
            raise FlowlitError(
                'the network generates from text; give prompts (flowlit sample --prompt "a red cat"), or "" '
                "for none"
            )
        return rows
    if not reads:
        raise FlowlitError(
            f"prompts are given, but {type(generator.network).__name__} reads no text; leave them out"
        )
    texts = checked_prompts(prompts)
    encoder = encoder_of(generator.network).to(generator.device)

    def batch(part: range) -> Noise:
        noise = rows.batch(part)
        text = encoder([texts[i % len(texts)] for i in part])
        return noise._replace(cond={**noise.cond, "text": text})

    facts = {**rows.identity, "prompts": texts_hash(texts), "encoder": encoder.identity()}
    return rows._replace(batch=batch, identity=facts)


def checked_prompts(prompts: Any) -> list[str]:
    """Return prompts as a list: of a sequence, or of one text.

    Raises:
        FlowlitError: for anything but texts, and for none.
    """
    many = [prompts] if isinstance(prompts, str) else prompts
    if not isinstance(many, Sequence) or isinstance(many, bytes) or not many:
        raise FlowlitError(f'prompts are {reprlib.repr(prompts)}; expected text, as ["a red cat"]')
    return [check_prompt(text, "prompts") for text in many]
