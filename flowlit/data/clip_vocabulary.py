"""CLIP's tokenizer with the vocabulary that the package open_clip_torch brings."""

from __future__ import annotations

import gzip
import itertools
import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from .._support.extras import needed
from .._support.files import write_atomically
from ..errors import FlowlitError

FILE = "bpe_simple_vocab_16e6.txt.gz"
TOKENS = 77
MERGES = 49152 - 256 - 2
START = "<|startoftext|>"
END = "<|endoftext|>"


def byte_signs() -> list[str]:
    """Return the sign for each of the 256 bytes, those that are printable as they are first.

    Radford et al. 2019 ("Language models are unsupervised multitask learners"), byte-level pairs.
    """
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = sorted(set(range(256)) - set(printable))
    return [*map(chr, printable), *(chr(256 + place) for place, _ in enumerate(others))]


def clip_merges() -> list[tuple[str, str]]:
    """Return the pairs of CLIP's byte-pair encoding, in their order.

    Raises:
        FlowlitError: without open_clip_torch, or if its file is damaged.
    """
    package = find_spec("open_clip")
    if package is None or package.origin is None:
        needed("open_clip")  # which says what to install
        raise FlowlitError("open_clip has no files; pip install open_clip_torch")
    path = Path(package.origin).parent / FILE
    try:
        lines = gzip.decompress(path.read_bytes()).decode().split("\n")
    except (OSError, EOFError, ValueError) as error:
        raise FlowlitError(f"{path} cannot be read ({error}); pip install open_clip_torch") from error
    pairs = [tuple(line.split()) for line in itertools.islice(lines, 1, MERGES + 1)]
    if len(pairs) != MERGES or any(len(pair) != 2 for pair in pairs):
        raise FlowlitError(f"{path} has not {MERGES:,} pairs of signs; pip install open_clip_torch")
    return pairs  # type: ignore[return-value]


def clip_vocabulary(merges: list[tuple[str, str]]) -> dict[str, int]:
    """Return the number of each token: signs, signs at the end of a word, pairs, start and end."""
    signs = byte_signs()
    tokens = [*signs, *(sign + "</w>" for sign in signs), *map("".join, merges), START, END]
    return {token: number for number, token in enumerate(tokens)}


def write_tokenizer(folder: str | Path) -> None:
    """Write vocab.json, merges.txt and tokenizer_config.json, which CLIPTokenizer.from_pretrained reads."""
    merges = clip_merges()
    vocabulary = json.dumps(clip_vocabulary(merges), ensure_ascii=False)
    pairs = "\n".join(["#version: 0.2", *(" ".join(pair) for pair in merges), ""])
    options = {"tokenizer_class": "CLIPTokenizer", "model_max_length": TOKENS, "pad_token": END}
    special = {"unk_token": END, "bos_token": START, "eos_token": END}
    write_atomically(Path(folder) / "vocab.json", vocabulary.encode())
    write_atomically(Path(folder) / "merges.txt", pairs.encode())
    config = json.dumps({**options, **special}, indent=1)
    write_atomically(Path(folder) / "tokenizer_config.json", config.encode())


def clip_tokenizer() -> Any:
    """Return a CLIPTokenizer of transformers with this vocabulary, for texts of 77 tokens."""
    merges = clip_merges()
    kind = needed("transformers").CLIPTokenizer
    return kind(vocab=clip_vocabulary(merges), merges=merges, model_max_length=TOKENS)
