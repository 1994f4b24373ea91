"""Recordings made by hand or by hypothesis."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import strategies as st

from selfeval_backend.chat import Message
from selfeval_backend.controller import derive_seed
from selfeval_backend.engine.scripted import label_logprobs_of
from selfeval_backend.policy import Annealed
from selfeval_backend.samples.records import PromptRecord, Recording, RecordingInfo, SampleRecord
from selfeval_backend.selfeval import SelfEvalConfig
from selfeval_backend.types import FinishReason

CHECKPOINTS = (2, 4, 6)
NUM_SAMPLES = 6
QUESTION = 3
ANNEALED = Annealed(1.0)


def info(**changes: object) -> RecordingInfo:
    return RecordingInfo(
        task="made up",
        model="nobody",
        engine="scripted",
        seed=0,
        num_samples=NUM_SAMPLES,
        temperature=1.0,
        annealed=True,
        checkpoints=CHECKPOINTS,
        max_tokens=None,
        num_question_tokens=QUESTION,
        selfeval=SelfEvalConfig(),
    ).model_copy(update=changes)


def sample(
    index: int,
    probs: Sequence[float],
    *,
    temperature: float = 1.0,
    reward: float = 0.0,
    answer: str | None = None,
    finish_reason: FinishReason = "stop",
    token: int = 7,
    confidence: float = 1.0,
) -> SampleRecord:
    """A sample with one probability a token, the last one of which is the end's too."""
    num_tokens = len(probs)
    places = {at for at in CHECKPOINTS if at <= num_tokens} | {num_tokens}
    num_generated = num_tokens + (finish_reason == "stop")
    return SampleRecord(
        index=index,
        temperature=temperature,
        seed=derive_seed(0, index),
        token_ids=tuple(range(token, token + num_tokens)),
        num_generated_tokens=num_generated,
        finish_reason=finish_reason,
        text="x" * num_tokens,
        sum_logprob=-0.5 * num_generated - index,
        label_logprobs={at: label_logprobs_of(probs[max(at - 1, 0)]) for at in sorted(places)},
        reward=reward,
        answer=answer,
        token_confidences=(confidence,) * num_generated,
        self_certainty=confidence,
        untrained_logprobs=label_logprobs_of(probs[-1]),
    )


def recording(*prompts: Sequence[SampleRecord]) -> Recording:
    return Recording(
        info=info(),
        prompts=tuple(
            PromptRecord(
                key=f"key-{place}",
                prompt_id=f"p{place}",
                messages=(Message(role="user", content=f"prompt {place}"),),
                prompt_ids=(1, 2, 3, place + 4),
                samples=tuple(samples),
            )
            for place, samples in enumerate(prompts)
        ),
    )


@st.composite
def drawn_samples(draw: st.DrawFn) -> list[SampleRecord]:
    """All samples of one prompt: constant and annealed ones."""
    samples = []
    for kind in ("constant", "annealed"):
        for index in range(NUM_SAMPLES):
            num_tokens = draw(st.integers(1, 9))
            prob = st.integers(1, 99).map(lambda percent: percent / 100)
            samples.append(
                sample(
                    index,
                    draw(st.lists(prob, min_size=num_tokens, max_size=num_tokens)),
                    temperature=1.0 if kind == "constant" else ANNEALED.temperature(index),
                    reward=draw(st.sampled_from((0.0, 1.0))),
                    answer=draw(st.sampled_from((None, "a", "b"))),
                    finish_reason=draw(st.sampled_from(("stop", "length"))),
                    # No two begin alike, so that a replay engine knows which one is meant.
                    token=1000 * (len(samples) + 1),
                    confidence=draw(st.floats(0.5, 3.0)),
                )
            )
    return samples
