"""Look at a configuration before hours are spent on it: what it reads, what it needs, and what in it is suspicious."""

from .examine import Report, examine
from .order import Order

__all__ = ["Order", "Report", "examine"]
