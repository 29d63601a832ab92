"""What moves, guards and records training."""
