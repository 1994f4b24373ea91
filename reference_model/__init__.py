"""How the reference model is made: its lessons, skills, tokenizer, and the recipe of its training.

Run from the repository, ``python -m reference_model`` makes it anew. Nothing of it is in the wheel:
the weights that come out are, in ``selfeval_backend/reference``, and so are the puzzles that they
solve.
"""
