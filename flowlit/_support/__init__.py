"""What has no place in the method: files, formatting, timers, permutations, names."""
