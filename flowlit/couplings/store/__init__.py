"""Pairs on disk. See docs/couplings.md."""
