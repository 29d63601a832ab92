"""Images, and the border between them and the numbers inside."""

from .codecs import Patches, Pixels
from .folders import ImageFolder, ImageZip
from .images import CIFAR10, Digits

__all__ = ["CIFAR10", "Digits", "ImageFolder", "ImageZip", "Patches", "Pixels"]
