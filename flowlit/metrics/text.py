"""Agreement of images with their prompts: by a classifier, and by CLIP's own score."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .._support.extras import needed
from .._support.files import short_hash
from ..data.encoder_folder import check_folder, weights_in
from ..data.folder_part import read_part
from ..data.prompts import Prompts
from ..errors import FlowlitError
from ..ranges import NonNegativeInt
from .base import FeatureBatch, FeatureExtractor, FeatureMetric, NumberedFeatures
from .report import Estimate


class PromptAccuracy(FeatureMetric):
    """Share of images that a classifier takes for the class of their prompt, with its standard error.

    Sample i has prompt i modulo their number, as ``flowlit.couplings.PromptedNoise`` gives them (balanced
    labels of ``SeededNoise`` likewise). The number is ``prompt_accuracy_<features>``: a classifier of its own
    error judges, so compare it with that of real images by the same one.

    Args:
        classes: number of the class, for the classifier, of prompt 0, 1, …; [0, 1, …, 9] for ten classes.
    """

    needs_logits = True

    def __init__(self, classes: Sequence[NonNegativeInt]):
        if not classes:
            raise FlowlitError("PromptAccuracy: there are no classes; give that of each prompt, as [0, 1]")
        self.classes = list(classes)

    def __call__(self, generated: FeatureBatch, real: Tensor | None) -> dict[str, Estimate]:
        """Return the accuracy, from logits (N, classes) of images."""
        logits = generated.logits
        assert logits is not None
        if max(self.classes) >= logits.shape[1]:
            raise FlowlitError(
                f"PromptAccuracy: a prompt has the class {max(self.classes)}, but the classifier knows "
                f"{logits.shape[1]}; number classes as it does"
            )
        wanted = torch.tensor(self.classes)[_index(generated) % len(self.classes)]
        share = float((logits.argmax(1).cpu() == wanted).double().mean())
        return {"prompt_accuracy": Estimate(share, (share * (1 - share) / len(logits)) ** 0.5)}


def _index(generated: FeatureBatch) -> Tensor:
    """Return the numbers of samples, (N,)."""
    if isinstance(generated, NumberedFeatures):
        return generated.numbers.cpu()
    return torch.arange(len(generated.features))


class _CLIP:
    """CLIP with both of its encoders, read from a folder when it is first needed."""

    folder: str

    def missing(self) -> str:
        """Return in words which weights are not there; "" if they seem to be."""
        if Path(self.folder).is_dir():
            return ""
        return (
            f"{type(self).__name__}: there is no folder {self.folder}; put a CLIPModel there as transformers "
            "writes it (config.json, model.safetensors, vocab.json, merges.txt), or take "
            "flowlit.metrics.PromptAccuracy with a classifier"
        )

    def _load(self) -> tuple[Any, nn.Module]:
        loaded = self.__dict__.get("_parts")
        if loaded is None:
            if why := self.missing():
                raise FlowlitError(why)
            folder = Path(self.folder)
            check_folder(folder, folder)
            weights = weights_in(folder)
            library = needed("transformers")
            tokenizer = read_part(library.CLIPTokenizer, folder, {})
            model = read_part(library.CLIPModel, folder, weights).eval().requires_grad_(False)
            loaded = self.__dict__["_parts"] = tokenizer, model
        return loaded


class CLIPImages(_CLIP, FeatureExtractor):
    """Embeddings of images by CLIP, for ``CLIPScore``; a Fréchet distance in them is ``frechet_<name>``.

    Args:
        folder: of a CLIPModel, both encoders, as transformers writes it.
        name: appears in every tag and table; say which CLIP it is.
    """

    def __init__(self, folder: str, name: str = "clip"):
        self.folder = folder
        self.name = name

    resize = "bicubic, antialiased, to the side that CLIP has"

    def __call__(self, images: Tensor) -> Tensor:
        """Return embeddings (B, d) of length 1 of images (B, C, H, W) uint8."""
        from torchvision.transforms.functional import InterpolationMode, normalize, resize

        _, model = self._load()
        side = model.config.vision_config.image_size  # type: ignore[union-attr]
        pixels = images.expand(-1, 3, -1, -1).float() / 255
        pixels = resize(pixels, [side, side], InterpolationMode.BICUBIC, antialias=True).clamp(0, 1)
        colours = needed("transformers").image_utils
        pixels = normalize(pixels, colours.OPENAI_CLIP_MEAN, colours.OPENAI_CLIP_STD)
        model.to(images.device)
        with torch.no_grad(), torch.autocast(images.device.type, enabled=False):
            return F.normalize(pooled(model.get_image_features(pixel_values=pixels)), dim=1)  # type: ignore[operator]

    def fingerprint(self) -> str:
        from ..networks.checkpoints.fingerprint import fingerprint

        return short_hash(fingerprint(self._load()[1]), self.resize)

    def network(self) -> nn.Module:
        return self._load()[1]


class CLIPScore(_CLIP, FeatureMetric):
    """100 times the mean cosine of the embeddings of images and of their prompts, with its standard error.

    Hessel et al. 2021 (2104.08718), whose w is 2.5. It needs ``CLIPImages`` of the same folder as features.
    Sample i has prompt i modulo their number. Scores by different CLIPs are not comparable.

    Args:
        folder: of a CLIPModel.
        prompts: those of the noise.
    """

    def __init__(self, folder: str, prompts: Prompts):
        self.folder = folder
        self.prompts = prompts

    def check(self, generated: int, real: int | None) -> None:
        if why := self.missing():
            raise FlowlitError(why)

    def __call__(self, generated: FeatureBatch, real: Tensor | None) -> dict[str, Estimate]:
        """Return the score, from embeddings (N, d) of images."""
        texts = self.texts()
        if texts.shape[1] != generated.features.shape[1]:
            raise FlowlitError(
                f"CLIPScore: images have {generated.features.shape[1]} features and texts {texts.shape[1]}; "
                "take flowlit.metrics.CLIPImages of the same folder as features"
            )
        images = F.normalize(generated.features.cpu().double(), dim=1)
        cosines = 100 * (images * texts[_index(generated) % len(texts)]).sum(1)
        error = float(cosines.std() / len(cosines) ** 0.5) if len(cosines) > 1 else None
        return {"clip_score": Estimate(float(cosines.mean()), error)}

    def texts(self) -> Tensor:
        """Return embeddings (P, d) float64 of length 1 of the P prompts."""
        tokenizer, model = self._load()
        length = model.config.text_config.max_position_embeddings  # type: ignore[union-attr]
        padded = {"padding": "max_length", "max_length": length, "truncation": True, "return_tensors": "pt"}
        device = next(model.parameters()).device
        rows = []
        for first in range(0, len(self.prompts), 64):
            tokens = tokenizer(list(self.prompts.texts[first : first + 64]), **padded).to(device)
            with torch.no_grad():
                rows.append(pooled(model.get_text_features(**tokens)).cpu())  # type: ignore[operator]
        return F.normalize(torch.cat(rows).double(), dim=1)


def pooled(output: Any) -> Tensor:
    """Return the projected embeddings (B, d) of what CLIP returns."""
    return output if isinstance(output, Tensor) else output.pooler_output
