"""What tells good samples from bad ones without training: a study of drawn samples.

`benchmarks.samples` draws them, once; everything here is a pure function of its Parquet files, one
a model. ``python -m benchmarks.signals FILE [FILE ...]`` writes a table for each model and one of
verdicts.

Axes: P prompts, K samples of a prompt (the greedy one first), F signals, N pairs of samples.
"""
