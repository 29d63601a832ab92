"""Machinery without a place in the method: files, formatting, timers, permutations, names."""
