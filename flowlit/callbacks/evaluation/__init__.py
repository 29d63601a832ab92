"""Callbacks that measure and draw generated images, and what is known about the flow that generated them."""
