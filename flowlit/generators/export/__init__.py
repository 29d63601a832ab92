"""Generators as files for other programs: weights without a time path, PyTorch programs, ONNX, a web page."""

from .forms import FORMS, Form, form_of
from .write import Exported, export

__all__ = ["FORMS", "Exported", "Form", "export", "form_of"]
