"""The record of a drawn sample: one shape, whoever drew it and whatever becomes of it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from pydantic import BaseModel, ConfigDict

from selfeval_backend.chat import Message
from selfeval_backend.hashing import digest_of
from selfeval_backend.samples.rewards import Rewards, worst_reward
from selfeval_backend.selfeval import EvaluationReader, SelfEvalConfig
from selfeval_backend.settings import SAMPLING_NAMES
from selfeval_backend.types import FinishReason

__all__ = [
    "UNTRAINED_QUESTION",
    "PromptRecord",
    "Recording",
    "RecordingInfo",
    "SampleRecord",
    "key_of",
]

UNTRAINED_QUESTION = 'Is the answer right? ("Yes." or "No.")'
"""A question after the response that no training of this project ever asked.

Source: P(True) of Kadavath et al. 2022, arXiv 2207.05221, section 3, in this project's form.
"""


class RecordingInfo(BaseModel):
    """What all samples of a recording share."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    task: str
    model: str
    engine: str
    seed: int
    """Of prompts and samples."""
    num_samples: int
    """Of each kind: at one temperature, and annealed."""
    temperature: float
    """Of the constant samples; annealed ones lead to it."""
    annealed: bool
    """Whether there are annealed samples too."""
    checkpoints: tuple[int, ...]
    """At which running samples were evaluated."""
    max_tokens: int | None
    """Of one sample; None: what the context left."""
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    num_question_tokens: int
    """What asking costs where everything before the question is in the KV cache."""
    selfeval: SelfEvalConfig
    """The model's own facts, its calibration among them."""
    untrained_question: bool = True
    """Whether `UNTRAINED_QUESTION` was asked."""
    model_files: str | None = None
    """A hash of weights, config, tokenizer and chat template; None: not known."""
    scorer: str | None = None
    """What gave the rewards, for people; None: not known."""
    scorer_spec: str | None = None
    """How it is spelt, where it is one of `selfeval_backend.scorers`."""
    scorer_digest: str | None = None
    """What a changed scorer is told by."""

    @property
    def sampling(self) -> dict[str, float]:
        """How tokens were drawn: settings of `selfeval_backend.settings.SAMPLING_NAMES`."""
        return {name: getattr(self, name) for name in SAMPLING_NAMES}


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleRecord:
    """One sample, finished, with what is known of it."""

    index: int
    """Place in the order of drawing among the samples of its kind, from 0."""
    temperature: float
    seed: int
    token_ids: tuple[int, ...]
    """The response, without its end token."""
    num_generated_tokens: int
    """Paid for: `token_ids` and the end token."""
    finish_reason: FinishReason
    text: str
    """Of the response, without white space around it."""
    sum_logprob: float | None
    """Natural, of the generated tokens, at temperature 1."""
    label_logprobs: Mapping[int, tuple[float, float]] = field(default_factory=dict)
    """(log p(win or tie), log p(loss)) by number of tokens; the whole length is the end."""
    token_confidences: tuple[float, ...] | None = None
    """One a generated token: minus the mean log-probability of the 20 likeliest tokens."""
    self_certainty: float | None = None
    """Mean over tokens of KL(uniform, next token)."""
    untrained_logprobs: tuple[float, float] | None = None
    """(yes, no) of `UNTRAINED_QUESTION`."""
    reward: float = math.nan
    """High is good; NaN: not known."""
    answer: str | None = None
    """What can be put to a vote."""
    error: str | None = None
    """Why there is no reward; `Recording` has then what counts in its place."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptRecord:
    """All samples of one prompt."""

    key: str
    """What its samples are found by: see `key_of`."""
    prompt_id: str
    """Its name within its task."""
    messages: tuple[Message, ...]
    prompt_ids: tuple[int, ...]
    """As rendered by the chat template."""
    samples: tuple[SampleRecord, ...]
    split: str | None = None
    """Of training: "train", "validation", "calibration" or "test"."""
    reference: str | None = None
    """What a verifier of training compares with."""
    error: str | None = None
    """Why there are no samples."""
    scored_by: str | None = None
    """What the rewards are made with: a hash of scorer and reference; None: not known."""
    reference_characters: int | None = None
    """Of what responses are judged against; None where they are not."""

    @property
    def prompt(self) -> str:
        """The text of its last message, for people."""
        return self.messages[-1].content

    @property
    def failed(self) -> bool:
        """Whether a sample has no reward."""
        return any(sample.error is not None for sample in self.samples)

    def at(self, temperature: float) -> PromptRecord:
        """Return it with the samples of this temperature alone."""
        kept = tuple(s for s in self.samples if s.temperature == temperature)
        return replace(self, samples=kept)

    def renamed(self, prompt_id: str) -> PromptRecord:
        """Return it under another name."""
        return self if prompt_id == self.prompt_id else replace(self, prompt_id=prompt_id)

    def rewards(self) -> Rewards:
        """Return the rewards apart from the samples."""
        return Rewards(
            key=self.key,
            scored_by=self.scored_by,
            reference_characters=self.reference_characters,
            rewards=tuple(None if math.isnan(s.reward) else s.reward for s in self.samples),
            errors=tuple(s.error for s in self.samples),
            answers=tuple(s.answer for s in self.samples),
        )

    def with_rewards(self, given: Rewards) -> PromptRecord:
        """Return it with these rewards, which are of its samples."""
        parts = zip(self.samples, given.rewards, given.errors, given.answers, strict=True)
        return replace(
            self,
            scored_by=given.scored_by,
            reference_characters=given.reference_characters,
            samples=tuple(
                replace(
                    sample,
                    reward=math.nan if reward is None else reward,
                    error=error,
                    answer=answer,
                )
                for sample, reward, error, answer in parts
            ),
        )


def key_of(prompt_ids: Sequence[int], seed: int) -> str:
    """Return what decides a prompt's samples beside model and settings, hashed.

    Args:
        prompt_ids: The rendered prompt.
        seed: Of the prompt.
    """
    return digest_of([list(prompt_ids), seed])[:16]


@dataclass(frozen=True, kw_only=True)
class Recording:
    """All prompts of one task, from one model.

    A sample without a reward counts as the worst one: the lowest reward there is, and 0 at most.
    So tables stay paired, and a response that no verifier can read is no right one.
    """

    info: RecordingInfo
    prompts: tuple[PromptRecord, ...]

    @cached_property
    def reader(self) -> EvaluationReader:
        """Turns recorded log-probabilities into the model's calibrated probabilities."""
        return EvaluationReader(self.info.selfeval)

    @cached_property
    def on_policy(self) -> tuple[PromptRecord, ...]:
        """The prompts with the samples that were drawn at the one temperature alone."""
        return tuple(prompt.at(self.info.temperature) for prompt in self.prompts)

    @cached_property
    def num_samples(self) -> int:
        """How many samples there are."""
        return sum(len(prompt.samples) for prompt in self.prompts)

    @cached_property
    def num_errors(self) -> int:
        """How many of them have no reward."""
        return sum(s.error is not None for prompt in self.prompts for s in prompt.samples)

    @cached_property
    def worst_reward(self) -> float:
        """What counts where there is no reward."""
        return worst_reward(s.reward for p in self.prompts for s in p.samples if s.error is None)

    def part(self, places: Sequence[int]) -> Recording:
        """Return the recording of these prompts alone."""
        return Recording(info=self.info, prompts=tuple(self.prompts[i] for i in places))

    def with_worst(self) -> Recording:
        """Return it with the worst reward where there is none."""
        return replace(self, prompts=tuple(map(self._with_worst, self.prompts)))

    def _with_worst(self, prompt: PromptRecord) -> PromptRecord:
        if not prompt.failed:
            return prompt
        return replace(
            prompt,
            samples=tuple(
                sample if sample.error is None else replace(sample, reward=self.worst_reward)
                for sample in prompt.samples
            ),
        )
