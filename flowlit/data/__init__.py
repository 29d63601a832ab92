"""Images, and the border between them and the numbers inside."""

from .codecs import Patches, Pixels
from .folders import ImageFolder
from .images import CIFAR10, Digits
from .zips import ImageZip

__all__ = ["CIFAR10", "Digits", "ImageFolder", "ImageZip", "Patches", "Pixels"]
