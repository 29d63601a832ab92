"""Weights in and out: ours and other projects'."""
