"""Look at a configuration before hours are spent on it: what it reads, what it needs, and what in it is
suspicious.
"""

from .examine import Report, examine

__all__ = ["Report", "examine"]
