"""Ranges of numbers as annotations, to which the command line, YAML, help and Python hold alike.

An argument of a ``Checked`` class, or of a ``checked`` function, is compared with its annotation:

>>> class Blur(Checked):
...     def __init__(self, width: PositiveFloat, passes: PositiveInt = 1):
...         self.width = width
>>> Blur(0.5).width
0.5
>>> Blur(-1)
Traceback (most recent call last):
flowlit.errors.FlowlitError: Blur: width is -1; expected a finite number > 0

Numbers of NumPy are accepted and become Python's. Refused are NaN and infinity, True and False, "3" for a
number, and 3.0 for a whole one. An argument that is a class of this package or a module has to be an object
of it; one that is text may be a path. Annotations of other kinds, such as protocols, are left alone.
"""

from .checked import Checked, check_fields, checked
from .checks import check_of
from .kinds import (
    Float,
    Fraction,
    Int,
    Name,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Probability,
    Seed,
    Share,
    as_whole,
    number,
)
from .reprs import OneLine, short_record

__all__ = [
    "Checked",
    "Float",
    "Fraction",
    "Int",
    "Name",
    "NonNegativeFloat",
    "NonNegativeInt",
    "OneLine",
    "PositiveFloat",
    "PositiveInt",
    "Probability",
    "Seed",
    "Share",
    "as_whole",
    "check_fields",
    "check_of",
    "checked",
    "number",
    "short_record",
]
