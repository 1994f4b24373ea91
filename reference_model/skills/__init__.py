"""Skills of the reference model beside its puzzles: generated conversations, and their scores.

Calling tools, answering in words beside them, telling what a tool answered, JSON, a calculator,
answering from a text, and notes to repeat. Every example has a right and a wrong response, and is
of one split by a hash of what it is about.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from types import MappingProxyType

from reference_model.skills.base import Draw, Example, Skill
from reference_model.skills.calculator import draw_calculator
from reference_model.skills.context import draw_context
from reference_model.skills.forms import draw_json
from reference_model.skills.notes import draw_notes
from reference_model.skills.scoring import extract_answer, reward, score
from reference_model.skills.tools import draw_call, draw_result, draw_talk
from reference_model.skills.words import characters
from selfeval_backend.reference.problems import Split

__all__ = [
    "SKILL_MIX",
    "Example",
    "Skill",
    "characters",
    "extract_answer",
    "generate_examples",
    "reward",
    "score",
]

SKILL_MIX: Mapping[Skill, int] = MappingProxyType(
    {"call": 30, "talk": 8, "result": 8, "json": 10, "calculator": 10, "context": 30, "notes": 4}
)
"""How often each skill comes."""

_DRAWS: Mapping[Skill, Draw] = MappingProxyType(
    {
        "call": draw_call,
        "talk": draw_talk,
        "result": draw_result,
        "json": draw_json,
        "calculator": draw_calculator,
        "context": draw_context,
        "notes": draw_notes,
    }
)


def generate_examples(
    split: Split, *, seed: int, mix: Mapping[Skill, int] = SKILL_MIX
) -> Iterator[Example]:
    """Yield examples of one split, without end, the same ones for the same seed.

    Args:
        split: Of everything that they are about.
        seed: Of the generator.
        mix: Weight of each skill.
    """
    rng = random.Random(f"skills/{split}/{seed}")
    skills, weights = list(mix), list(mix.values())
    while True:
        yield _DRAWS[rng.choices(skills, weights)[0]](rng, split)
