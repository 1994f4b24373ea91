"""Instructions that small chat models follow now and then, and checks of what came of them."""

from selfeval_backend.instructions.instructions import (
    HELD_OUT_KINDS,
    KINDS,
    TEST_PARTS,
    Constraint,
    Instruction,
    Part,
    TestPart,
    generate_instructions,
)

__all__ = [
    "HELD_OUT_KINDS",
    "KINDS",
    "TEST_PARTS",
    "Constraint",
    "Instruction",
    "Part",
    "TestPart",
    "generate_instructions",
]
