"""Images, and the border between them and the numbers inside."""

from __future__ import annotations

from .._support.names import lazily

_HOMES = {
    "AveragePool": "degradations",
    "Bicubic": "degradations",
    "CIFAR10": "images",
    "Chain": "degradations",
    "Degradation": "degradations",
    "Digits": "images",
    "EightBit": "degradations",
    "GaussianNoise": "degradations",
    "ImageFolder": "folders",
    "ImageZip": "zips",
    "OfClasses": "of_classes",
    "PairedImages": "paired",
    "Patches": "codecs",
    "Pixels": "codecs",
    "RealESRGAN": "real_esrgan",
}
__all__ = [
    "CIFAR10",
    "AveragePool",
    "Bicubic",
    "Chain",
    "Degradation",
    "Digits",
    "EightBit",
    "GaussianNoise",
    "ImageFolder",
    "ImageZip",
    "OfClasses",
    "PairedImages",
    "Patches",
    "Pixels",
    "RealESRGAN",
]
__getattr__ = lazily(__name__, _HOMES)  # headers of images are read without torch
