"""Speed and memory of flowlit against plain code, side by side in one run; see benchmarks/README.md."""
