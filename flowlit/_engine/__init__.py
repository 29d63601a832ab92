"""Lightning's machinery: how far training is, checkpoint files, signals, ranks, sharding."""
