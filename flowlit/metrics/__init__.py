"""Numbers about flows and images: Fréchet distance, straightness, cost."""
