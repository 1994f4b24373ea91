"""The self-evaluation: its question, asked; its labels, read as prob_win_or_tie.

The one place that training and inference share. A model's own facts stand in ``selfeval.json``
beside its weights, so that pointing at its folder is enough.
"""

from __future__ import annotations

import math
import os
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Protocol

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from selfeval_backend.engine.base import Engine, LabelLogprobs
from selfeval_backend.errors import DatasetError, ModelFilesError, SelfEvaluationError
from selfeval_backend.files import read_json, write_json
from selfeval_backend.types import SelfEvaluation, Usage

__all__ = [
    "PAPER_QUESTION",
    "CalibrationMap",
    "ChatTokenizer",
    "EvaluationReader",
    "Judgement",
    "SelfEvalConfig",
    "SelfEvaluator",
    "raw_prob_win_or_tie",
]

PAPER_QUESTION = 'Would you do better if you started over? ("Yes." or "No.")'
"""Source: arXiv 2410.02725, section 3."""

FILE_NAME = "selfeval.json"

Probability = Annotated[float, Field(ge=0.0, le=1.0)]


class CalibrationMap(BaseModel):
    """A monotone map from raw to calibrated prob_win_or_tie, for one position of a response.

    Piecewise linear in the raw probability's logit, between the points that were fitted; flat
    beyond them.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    num_tokens: Annotated[int, Field(ge=1)] | None
    """Generated tokens that it was fitted at; None: on finished responses."""
    raw_logit: tuple[float, ...] = Field(min_length=1)
    """Strictly ascending."""
    prob_win_or_tie: tuple[Probability, ...] = Field(min_length=1)
    """Ascending; one for each `raw_logit`."""

    @model_validator(mode="after")
    def _is_monotone(self) -> CalibrationMap:
        if len(self.raw_logit) != len(self.prob_win_or_tie):
            raise ValueError("raw_logit and prob_win_or_tie differ in length")
        if any(a >= b for a, b in pairwise(self.raw_logit)):
            raise ValueError("raw_logit must ascend strictly")
        probs = self.prob_win_or_tie
        if any(a > b for a, b in pairwise(probs)):
            raise ValueError("prob_win_or_tie must ascend")
        return self

    def __call__(self, logit: float) -> float:
        """Return the calibrated probability for a raw logit (natural log-odds of win or tie)."""
        xs, ys = self.raw_logit, self.prob_win_or_tie
        right = bisect_left(xs, logit)
        if right == 0:
            return ys[0]
        if right == len(xs):
            return ys[-1]
        weight = (logit - xs[right - 1]) / (xs[right] - xs[right - 1])
        return ys[right - 1] + weight * (ys[right] - ys[right - 1])


class SelfEvalConfig(BaseModel):
    """What ``selfeval.json`` holds."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: Annotated[int, Field(ge=1, le=1)] = 1
    """Of the file's form."""
    question: Annotated[str, Field(min_length=1)] = PAPER_QUESTION
    """Asked in a turn of the user behind the response."""
    win_or_tie_label: Annotated[str, Field(min_length=1)] = "No."
    """The answer that means: starting over would not help. Its first token is read."""
    loss_label: Annotated[str, Field(min_length=1)] = "Yes."
    """The answer that means: starting over would do better."""
    closes_thought: bool | None = None
    """Whether the question is answered where an answer stands, with the model's thinking off or a
    thought closed, as it was trained; None, in files that say nothing: unless it is calibrated,
    for it was trained as the template opens a turn."""
    calibration: tuple[CalibrationMap, ...] = ()
    """One for finished responses, others for positions; empty: not calibrated."""
    trained_on_cut_off: bool = False
    """Whether training held samples that ended at max_tokens, asked about at their end; prefixes
    that were cut at random do not count. If not, a sample that ends there is chosen only where no
    whole one is."""
    policy: dict[str, Any] = Field(default_factory=dict)
    """Settings that this model was tuned for: names and values of `Settings`."""
    provenance: dict[str, Any] = Field(default_factory=dict)
    """How it was made: seed, commit, recipe, figures. For people; nothing reads it."""

    @property
    def answers_past_thought(self) -> bool:
        """Whether the question is answered where an answer stands, and not as a thought begins."""
        return not self.calibration if self.closes_thought is None else self.closes_thought

    @classmethod
    def load(cls, folder: Path) -> SelfEvalConfig | None:
        """Read the file of a model folder; None where there is none.

        Raises:
            ModelFilesError: The file cannot be read or does not hold what it should.
        """
        path = folder / FILE_NAME
        if not os.path.lexists(path):
            return None
        remedy = "Correct it, or remove it to use the model uncalibrated."
        try:
            body = read_json(path)
            if not isinstance(body, dict):
                raise ModelFilesError(f"{path}: no JSON object. {remedy}")
            return cls.model_validate(body)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "the file"
            raise ModelFilesError(f"{path}: {where}: {first['msg']}. {remedy}") from error
        except DatasetError as error:
            raise ModelFilesError(f"{str(error).removesuffix('.')}. {remedy}") from error

    def save(self, folder: Path) -> None:
        """Write the file into a model folder.

        Raises:
            DatasetError: It cannot be written; a file that was there is as it was.
        """
        self.write(folder / FILE_NAME)

    def write(self, path: Path) -> None:
        """Write a file; a link is replaced, what it points to stays as it is.

        Raises:
            DatasetError: It cannot be written; a file that was there is as it was.
        """
        write_json(path, self.model_dump(mode="json"))


class ChatTokenizer(Protocol):
    """What the self-evaluation needs of a tokenizer (see `selfeval_backend.chat`)."""

    @property
    def end_token_ids(self) -> frozenset[int]:
        """Tokens that end an assistant turn."""
        ...

    def follow_up_ids(self, text: str, *, closes_thought: bool = True) -> tuple[int, ...]:
        """Return the tokens that close an assistant turn, ask `text`, and open the next one.

        With `closes_thought` the next token is one of an answer.
        """
        ...

    def first_token_id(self, text: str) -> int:
        """Return the first token of an assistant turn that begins with `text`."""
        ...


def raw_prob_win_or_tie(logprob_win_or_tie: float, logprob_loss: float) -> float:
    """Return p(win or tie) / (p(win or tie) + p(loss)), from natural log-probabilities.

    Raises:
        SelfEvaluationError: A log-probability is not a number, or both are minus infinity.
    """
    difference = logprob_loss - logprob_win_or_tie
    if math.isnan(difference):
        raise SelfEvaluationError(
            f"label log-probabilities cannot be compared: {logprob_win_or_tie} (win or tie), "
            f"{logprob_loss} (loss)"
        )
    if difference > 0:
        odds = math.exp(-difference)
        return odds / (1.0 + odds)
    return 1.0 / (1.0 + math.exp(difference))


class EvaluationReader:
    """Reads the answers to one model's question; it needs no tokenizer.

    Args:
        config: The model's own facts.
    """

    def __init__(self, config: SelfEvalConfig) -> None:
        self.config = config
        self._final = next((m for m in config.calibration if m.num_tokens is None), None)
        self._partial = [m for m in config.calibration if m.num_tokens is not None]

    @property
    def calibrated(self) -> bool:
        """Whether probabilities of finished responses are calibrated."""
        return self._final is not None

    def read(
        self, label_logprobs: Sequence[float], *, num_tokens: int, final: bool
    ) -> SelfEvaluation:
        """Make a self-evaluation of the two labels' natural log-probabilities.

        Args:
            label_logprobs: Of (win or tie, loss), shape (2,).
            num_tokens: Tokens of the response that it speaks of.
            final: Whether the response was finished.

        Raises:
            SelfEvaluationError: A log-probability is not a number.
        """
        win_or_tie, loss = label_logprobs
        raw = raw_prob_win_or_tie(win_or_tie, loss)
        calibration = self._final if final else self._nearest(num_tokens)
        logit = max(-700.0, min(700.0, win_or_tie - loss))
        return SelfEvaluation(
            num_tokens=num_tokens,
            final=final,
            prob_win_or_tie=raw if calibration is None else calibration(logit),
            raw_prob_win_or_tie=raw,
            calibrated=calibration is not None,
        )

    def _nearest(self, num_tokens: int) -> CalibrationMap | None:
        """The map fitted nearest to a position; on a log scale, as positions are spaced."""
        return min(
            self._partial,
            key=lambda m: abs(math.log(m.num_tokens or 1) - math.log(max(num_tokens, 1))),
            default=None,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """What a model says of a response that was given to it."""

    evaluation: SelfEvaluation
    usage: Usage
    """Paid for."""


class SelfEvaluator(EvaluationReader):
    """Asks one model's question, and reads its answer.

    Args:
        config: The model's own facts; None: the paper's question, zero-shot and uncalibrated.
        tokenizer: The model's.

    Raises:
        SelfEvaluationError: The two labels do not differ in their first token.
    """

    def __init__(self, config: SelfEvalConfig | None, tokenizer: ChatTokenizer) -> None:
        super().__init__(config or SelfEvalConfig())
        self._end_token_ids = tokenizer.end_token_ids
        self._follow_up_ids = tokenizer.follow_up_ids(
            self.config.question, closes_thought=self.config.answers_past_thought
        )
        labels = (self.config.win_or_tie_label, self.config.loss_label)
        self.label_ids: tuple[int, int] = (
            tokenizer.first_token_id(labels[0]),
            tokenizer.first_token_id(labels[1]),
        )
        """Tokens of (win or tie, loss)."""
        if self.label_ids[0] == self.label_ids[1]:
            raise SelfEvaluationError(
                f"the labels {labels[0]!r} and {labels[1]!r} begin with the same token "
                f"({self.label_ids[0]}): choose labels that differ in their first token"
            )

    @property
    def question_ids(self) -> tuple[int, ...]:
        """Tokens appended to a response that has no end token: end of turn, question, new turn."""
        return self._follow_up_ids

    async def ask(
        self, engine: Engine, prompt_ids: tuple[int, ...], response_ids: tuple[int, ...]
    ) -> LabelLogprobs:
        """Ask the question of a response, or of its beginning; `read` makes sense of the answer.

        Args:
            engine: The model's.
            prompt_ids: The rendered prompt.
            response_ids: Without an end token.

        Returns:
            The log-probabilities of (win or tie, loss), and what they cost.

        Raises:
            EngineError: The engine failed.
        """
        return await engine.label_logprobs(
            prompt_ids + response_ids + self.question_ids, self.label_ids
        )

    async def judge(
        self,
        engine: Engine,
        prompt_ids: tuple[int, ...],
        response_ids: tuple[int, ...],
        *,
        final: bool,
    ) -> Judgement:
        """Ask and read, where what was paid is of interest only if the answer can be read.

        Args:
            engine: The model's.
            prompt_ids: The rendered prompt.
            response_ids: Without an end token.
            final: Whether the response is finished.

        Raises:
            EngineError: The engine failed.
            SelfEvaluationError: A log-probability is not a number.
        """
        answer = await self.ask(engine, prompt_ids, response_ids)
        evaluation = self.read(answer.logprobs, num_tokens=len(response_ids), final=final)
        return Judgement(evaluation=evaluation, usage=answer.usage)
