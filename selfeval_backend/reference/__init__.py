"""The reference model's files, and the puzzles that it solves with their verifier."""
