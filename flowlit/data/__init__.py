"""Images, and the border between them and the numbers inside."""

from __future__ import annotations

from .._support.names import lazily

_HOMES = {
    "AveragePool": "degradations",
    "Bicubic": "degradations",
    "CIFAR10": "images",
    "CLIPText": "clip_text",
    "Chain": "degradations",
    "DecodedDistance": "decoded",
    "Degradation": "degradations",
    "Digits": "images",
    "EncoderLatents": "frozen_encoder",
    "EightBit": "degradations",
    "GaussianNoise": "degradations",
    "ImageFolder": "folders",
    "ImageZip": "zips",
    "OfClasses": "of_classes",
    "PairedImages": "paired",
    "Patches": "codecs",
    "Pixels": "codecs",
    "Prompts": "prompts",
    "RandomCLIPText": "clip_text",
    "RealESRGAN": "real_esrgan",
    "TextEncoder": "text_encoder",
    "VAE": "latents",
    "VQ": "vq",
}
__all__ = [
    "CIFAR10",
    "VAE",
    "VQ",
    "AveragePool",
    "Bicubic",
    "CLIPText",
    "Chain",
    "DecodedDistance",
    "Degradation",
    "Digits",
    "EightBit",
    "EncoderLatents",
    "GaussianNoise",
    "ImageFolder",
    "ImageZip",
    "OfClasses",
    "PairedImages",
    "Patches",
    "Pixels",
    "Prompts",
    "RandomCLIPText",
    "RealESRGAN",
    "TextEncoder",
]
__getattr__ = lazily(__name__, _HOMES)  # headers of images are read without torch
