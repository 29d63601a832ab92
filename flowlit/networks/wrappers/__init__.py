"""Velocities made of networks that predict something else, or of several calls."""
