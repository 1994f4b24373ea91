"""Puzzles and skills as the training pipeline sees them: prompts and a reward, by import path.

Conversations are given in plain turns, as this model reads tools. What only a grammar could bring
about is left out: samples are drawn without one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any, get_args

from reference_model import skills
from reference_model.skills import Example, generate_examples
from selfeval_backend.reference import problems, task
from selfeval_backend.reference.problems import Split

__all__ = ["answer_of_response", "prompts", "score"]


def prompts(
    *,
    train: int,
    calibration: int,
    test: int,
    validation: int = 100,
    seed: int = 0,
    skill_share: float = 0.5,
) -> Iterator[Mapping[str, Any]]:
    """Yield puzzles and examples of skills of every split, told apart by what they are about.

    Args:
        train: Prompts to learn from.
        calibration: Held-out prompts that probabilities and policy are fitted on.
        test: Held-out prompts that are reported on.
        validation: Prompts that training watches: of the train split, but none of the former.
        seed: Of the generators.
        skill_share: Of the prompts of each split.
    """
    counts = {"train": train, "validation": validation, "calibration": calibration, "test": test}
    skilled = {split: round(skill_share * count) for split, count in counts.items()}
    puzzles = {split: counts[split] - skilled[split] for split in counts}
    yield from task.prompts(
        train=puzzles["train"],
        validation=puzzles["validation"],
        calibration=puzzles["calibration"],
        test=puzzles["test"],
        seed=seed,
    )
    for split in get_args(Split):
        examples = _unforced(split, seed)
        watched = skilled["validation"] if split == "train" else 0
        for place, example in enumerate(islice(examples, skilled[split] + watched)):
            yield {
                "prompt": [
                    {"role": message.role, "content": message.content}
                    for message in example.plain_messages
                ],
                "answer": example.answer,
                "split": "validation" if place >= skilled[split] else split,
            }


def _unforced(split: Split, seed: int) -> Iterator[Example]:
    """Yield examples with prompts that differ, whose right responses are wholly the model's."""
    seen: set[tuple[str, ...]] = set()
    for example in generate_examples(split, seed=seed):
        key = tuple(message.content for message in example.plain_messages)
        if key not in seen and not example.needs_a_grammar:
            seen.add(key)
            yield example


def score(prompt: str, response: str, answer: str) -> float:
    """Return 1.0 where a response is right, else 0.0."""
    if answer.startswith("{"):
        return skills.score(answer, response)
    return task.score(prompt, response, answer)


def answer_of_response(response: str) -> str | None:
    """Return what counts of a response: what two that say the same have in common."""
    return problems.extract_answer(response) or skills.extract_answer(response) or None
