"""Callbacks that move, guard and record training."""
