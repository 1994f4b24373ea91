"""The tasks that the study of signals draws samples of: prompts, rewards, and answers compared."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from benchmarks.sums import final_answer as sums_answer
from benchmarks.sums import generate_sums
from benchmarks.sums import score as sums_score
from selfeval_backend.instructions import task as instructions
from selfeval_backend.instructions.checks import plain_words
from selfeval_backend.reference import task as puzzles
from selfeval_backend.reference.problems import extract_answer, generate_problems

__all__ = ["TASKS", "Asked", "SampleTask"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One prompt to draw for."""

    part: str
    kind: str
    form: str = "free"
    prompt: str
    answer: str
    """What a reward is made with."""


Score = Callable[[str, str, str], float]
"""Of prompt, response and answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleTask:
    """Where prompts come from, and what responses are worth."""

    prompts: Callable[[int], Iterator[Asked]]
    """The same ones for the same seed."""
    score: Score
    """High is good."""
    score_share: Score
    """A graded one, where there is one."""
    final_answer: Callable[[str, str], str | None]
    """Of response and answer: the same text for the same answer; None: nothing to compare."""


def _instructions(seed: int) -> Iterator[Asked]:
    """Yield test instructions, the three parts in turn."""
    for part, instruction in instructions.test_instructions(seed=seed):
        yield Asked(
            part=part,
            kind=instruction.kind,
            form=instruction.form,
            prompt=instruction.prompt,
            answer=instructions.answer_of(instruction, part),
        )


def _short_answer(response: str, answer: str) -> str | None:
    """Return the words of a short answer; of longer texts there is nothing to compare."""
    asks = instructions.constraints_of(answer)[0].check == "answer"
    return " ".join(plain_words(response)) or None if asks else None


def _puzzles(seed: int) -> Iterator[Asked]:
    """Yield held-out problems of the reference domain; their kind is how many puzzles they have."""
    for problem in generate_problems("test", seed=seed):
        yield Asked(
            part="test",
            kind=f"puzzles-{len(problem.puzzles)}",
            prompt=problem.text,
            answer=puzzles.answer_of(problem),
        )


def _sums(seed: int) -> Iterator[Asked]:
    """Yield sums, equations and word problems, the kinds in turn."""
    for problem in generate_sums(seed=seed):
        yield Asked(
            part="test", kind=problem.kind, prompt=problem.prompt, answer=str(problem.answer)
        )


TASKS: Mapping[str, SampleTask] = {
    "instructions": SampleTask(
        prompts=_instructions,
        score=instructions.score,
        score_share=instructions.score_share,
        final_answer=_short_answer,
    ),
    "puzzles": SampleTask(
        prompts=_puzzles,
        score=puzzles.score,
        score_share=puzzles.score,
        final_answer=lambda response, _: extract_answer(response),
    ),
    "sums": SampleTask(
        prompts=_sums,
        score=sums_score,
        score_share=sums_score,
        final_answer=lambda response, _: sums_answer(response),
    ),
}
"""By the name that the command line takes."""
