"""Slow, obvious re-implementations, to compare the library with."""
