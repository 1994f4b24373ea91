"""Every table and plot of docs/results.md, made by ``python -m benchmarks.figures``."""
