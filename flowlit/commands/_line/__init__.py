"""The command line itself: words, limits, errors, terminals."""
