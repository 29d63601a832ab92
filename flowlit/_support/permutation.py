"""Permutations of any number of rows in constant memory, as functions of (seed, place)."""

from __future__ import annotations

import numpy as np


def mix(*numbers: int) -> int:
    """Hash integers to 32 bits; a bijection in the last one, so that no two steps share their draws."""
    h = 0
    for number in numbers:
        h = (h + number + 0x9E3779B9) & 0xFFFFFFFF
        h = ((h ^ (h >> 16)) * 0x85EBCA6B) & 0xFFFFFFFF
        h = ((h ^ (h >> 13)) * 0xC2B2AE35) & 0xFFFFFFFF
        h ^= h >> 16
    return h


def shuffled(places: np.ndarray, rows: int, key: int, rounds: int = 8) -> np.ndarray:
    """Look up places in a random permutation of 0 … rows - 1, which is computed, not stored.

    A Feistel network permutes the next power of four; walking on until a place lands among the rows permutes
    these (Black and Rogaway, Ciphers with Arbitrary Finite Domains, 2002, section 3).

    >>> sorted(shuffled(np.arange(10), 10, key=3).tolist())
    [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]
    """
    half = np.uint64(max(1, ((rows - 1).bit_length() + 1) // 2))
    mask = (np.uint64(1) << half) - np.uint64(1)
    keys = [np.uint64(mix(key, i) << 32 | mix(key, i, 1)) for i in range(rounds)]

    def permute(x: np.ndarray) -> np.ndarray:
        left = x >> half
        right = x & mask
        for k in keys:
            mixed = left ^ (_hash(right ^ k) & mask)
            left = right
            right = mixed
        return left << half | right

    x = permute(places.astype(np.uint64))
    outside = x >= rows
    while outside.any():
        x[outside] = permute(x[outside])
        outside = x >= rows
    return x.astype(np.int64)


def _hash(x: np.ndarray) -> np.ndarray:
    """Scramble 64 bits (the finaliser of SplitMix64; multiplication wraps)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
