"""Run policies on recorded samples: the real policies, no model, no event loop, by the thousand.

Every decision is a policy's own. What is here is only what a decision *leads to* on recorded
samples, and that does not depend on who decided: so the states that policies pass through are kept
as a tree, one step a decision, and policies that decide alike share them. Policies that differ in
their threshold alone are followed together, and asked only where they may differ. Tests hold
results, states and token counts to those of the controller over `samples.replay`, and those of
policies together to those of each alone.

A replay has no clock and stops no sample between two checkpoints, so it knows no limit but
`max_samples`.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import TypeVar

from selfeval_backend.errors import ConfigurationError, DatasetError
from selfeval_backend.evaluation.methods import Method
from selfeval_backend.evaluation.metrics import PromptResult
from selfeval_backend.evaluation.rivals import Rival
from selfeval_backend.policy import BestOfN, Policy, select_best
from selfeval_backend.samples.records import PromptRecord, Recording, SampleRecord
from selfeval_backend.selfeval import EvaluationReader
from selfeval_backend.types import (
    Accept,
    Advance,
    Decision,
    Draw,
    Evaluate,
    FinishReason,
    Limits,
    Prune,
    RunState,
    Sample,
    SampleStatus,
    SelfEvaluation,
    Stop,
    StopReason,
    Usage,
)

__all__ = ["PromptReplay", "Replayed", "replay_methods", "replay_prompt"]

T = TypeVar("T", int | None, str)

Find = Callable[[int, float], SampleRecord]
"""Gives the record of the sample of an index and temperature."""


class _Node:
    """A state, and the states that decisions lead to from there."""

    __slots__ = ("best", "children", "state")

    def __init__(self, state: RunState) -> None:
        self.state = state
        self.children: dict[Decision, _Node] = {}
        self.best: Sample | None = None
        """As this project selects; None where it was not asked for, or nothing is finished."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Replayed:
    """How a policy ended on one prompt."""

    state: RunState
    best: Sample
    """As this project selects."""
    stop_reason: StopReason


class PromptReplay:
    """One recorded prompt, for any number of policies.

    Args:
        prompt_id: For errors.
        num_prompt_tokens: Of the rendered prompt.
        num_question_tokens: Of the self-evaluation question.
        find: Gives recorded samples.
        reader: Of the model that was recorded.
        limits: Of each run: `max_samples` alone.

    Raises:
        ConfigurationError: A limit on tokens or seconds is set.
    """

    def __init__(
        self,
        *,
        prompt_id: str,
        num_prompt_tokens: int,
        num_question_tokens: int,
        find: Find,
        reader: EvaluationReader,
        limits: Limits,
    ) -> None:
        for name in ("max_total_tokens", "max_seconds"):
            if (value := getattr(limits, name)) is not None:
                raise ConfigurationError(name, value, "no limit: a replay cannot stop in between")
        self._prompt_id = prompt_id
        self._num_prompt_tokens = num_prompt_tokens
        self._num_question_tokens = num_question_tokens
        self._find = find
        self._reader = reader
        self._root = _Node(RunState(limits=limits))
        # Samples as they stand, by what became of them: states share them. The key of a change is
        # the identity of the sample before it, which the tree keeps alive.
        self._drawn: dict[tuple[int, float], Sample] = {}
        self._changes: dict[tuple[int, int | str | None], Sample] = {}

    def run(self, policy: Policy) -> Replayed:
        """Follow a policy to its end.

        Raises:
            DatasetError: It asks for what was not recorded, or nothing had finished at its end.
        """
        (replayed,) = self.run_together([policy])
        return replayed

    def run_together(self, policies: Sequence[Policy]) -> list[Replayed]:
        """Follow policies that differ in their threshold alone to their ends.

        A threshold has a say in one thing: whether the run stops, by whether a self-evaluation
        passes it. So elsewhere one is asked for all; and there the policies that decide one thing
        lie side by side, and where the first and the last decide alike, those between them do.

        Args:
            policies: In ascending order of their thresholds.

        Returns:
            How each ended, in order.

        Raises:
            DatasetError: One asks for what was not recorded, or nothing had finished at its end.
        """
        ends: dict[int, Replayed] = {}
        on_their_way = [(self._root, range(len(policies)))]
        while on_their_way:
            node, places = on_their_way.pop()
            for decision, alike in _decisions(policies, places, node.state):
                if isinstance(decision, Stop):
                    ends.update(dict.fromkeys(alike, self._end(node, decision)))
                else:
                    checkpoints = policies[alike[0]].checkpoints
                    on_their_way.append((self._step(node, decision, checkpoints), alike))
        return [ends[place] for place in range(len(policies))]

    def _step(self, node: _Node, decision: Decision, checkpoints: tuple[int, ...]) -> _Node:
        after = node.children.get(decision)
        if after is None:
            after = _Node(self._carry_out(node.state, decision, checkpoints))
            node.children[decision] = after
        return after

    def _end(self, node: _Node, decision: Stop) -> Replayed:
        if node.best is None:
            node.best = select_best(node.state.samples, accepted=node.state.accepted)
        if node.best is None:
            raise DatasetError(f"prompt {self._prompt_id!r}: no sample had finished at the end")
        return Replayed(state=node.state, best=node.best, stop_reason=decision.reason)

    def record_of(self, sample: Sample) -> SampleRecord:
        """Return what was recorded of a sample."""
        return self._find(sample.index, sample.temperature)

    def _carry_out(
        self, state: RunState, decision: Decision, checkpoints: tuple[int, ...]
    ) -> RunState:
        match decision:
            case Draw(temperatures=temperatures):
                return self._draw(state, temperatures)
            case Advance(until=until):
                assert until is None or until in checkpoints, "a sample pauses at checkpoints only"
                return self._advance(state, until)
            case Evaluate(samples=indices):
                return self._evaluate(state, indices)
            case Prune(samples=indices):
                return self._prune(state, indices)
            case Accept(sample=index):
                return replace(state, accepted=index)
            case Stop():
                raise AssertionError("the loop ends before a Stop is carried out")

    def _draw(self, state: RunState, temperatures: Sequence[float]) -> RunState:
        start = len(state.samples)
        drawn = (self._begun(k, temperature) for k, temperature in enumerate(temperatures, start))
        return _after(state, (*state.samples, *drawn), state.usage)

    def _advance(self, state: RunState, until: int | None) -> RunState:
        samples = list(state.samples)
        any_open = any(map(_holds_prompt, samples))
        num_begun = num_generated = 0
        for sample in state.running:
            after = samples[sample.index] = self._changed(sample, until, self._advanced)
            num_generated += after.num_generated_tokens - sample.num_generated_tokens
            num_begun += sample.num_generated_tokens == 0
        # The first stream of a prompt computes it; what is open then is computed already.
        num_cached = num_begun if any_open else max(0, num_begun - 1)
        usage = state.usage + Usage(
            prompt_tokens=self._num_prompt_tokens * num_begun,
            cached_prompt_tokens=self._num_prompt_tokens * num_cached,
            generated_tokens=num_generated,
        )
        return _after(state, tuple(samples), usage)

    def _evaluate(self, state: RunState, indices: Sequence[int]) -> RunState:
        samples = list(state.samples)
        num_computed = num_cached = 0
        for index in indices:
            sample = samples[index]
            # The token drawn last is not in the KV cache yet; an end token is drawn after it.
            cached = min(len(sample.token_ids), sample.num_generated_tokens - 1)
            num_computed += self._num_question_tokens + len(sample.token_ids) - cached
            num_cached += self._num_prompt_tokens + cached
            samples[index] = self._changed(sample, "evaluated", self._evaluated)
        usage = state.usage + Usage(
            self_evaluations=len(indices),
            self_evaluation_tokens=num_computed,
            cached_self_evaluation_tokens=num_cached,
        )
        return _after(state, tuple(samples), usage)

    def _prune(self, state: RunState, indices: Sequence[int]) -> RunState:
        samples = list(state.samples)
        for index in indices:
            samples[index] = self._changed(samples[index], "pruned", _pruned)
        pruned = Usage(pruned_tokens=sum(samples[i].num_generated_tokens for i in indices))
        return _after(state, tuple(samples), state.usage + pruned)

    def _begun(self, index: int, temperature: float) -> Sample:
        found = self._drawn.get((index, temperature))
        if found is None:
            seed = self._find(index, temperature).seed
            found = Sample(index=index, temperature=temperature, seed=seed)
            self._drawn[index, temperature] = found
        return found

    def _changed(self, sample: Sample, how: T, change: Callable[[Sample, T], Sample]) -> Sample:
        key = (id(sample), how)
        found = self._changes.get(key)
        if found is None:
            found = self._changes[key] = change(sample, how)
        return found

    def _advanced(self, sample: Sample, until: int | None) -> Sample:
        record = self._find(sample.index, sample.temperature)
        if until is not None and len(record.token_ids) >= until:
            return _altered(sample, token_ids=record.token_ids[:until], num_generated_tokens=until)
        return _altered(
            sample,
            token_ids=record.token_ids,
            num_generated_tokens=record.num_generated_tokens,
            status="finished",
            finish_reason=record.finish_reason,
            valid=None if record.text else False,
            beyond_training=(
                record.finish_reason == "length" and not self._reader.config.trained_on_cut_off
            ),
        )

    def _evaluated(self, sample: Sample, _: str) -> Sample:
        num_tokens = len(sample.token_ids)
        said = self._find(sample.index, sample.temperature).label_logprobs
        if num_tokens not in said:
            raise DatasetError(
                f"prompt {self._prompt_id!r}, sample {sample.index} at temperature "
                f"{sample.temperature:g}: no self-evaluation was recorded at {num_tokens} tokens; "
                f"recorded: {sorted(said)}"
            )
        evaluation = self._reader.read(
            said[num_tokens], num_tokens=num_tokens, final=sample.finished
        )
        return _altered(sample, evaluations=(*sample.evaluations, evaluation))


def _altered(
    sample: Sample,
    *,
    token_ids: tuple[int, ...] | None = None,
    num_generated_tokens: int | None = None,
    status: SampleStatus | None = None,
    finish_reason: FinishReason | None = None,
    evaluations: tuple[SelfEvaluation, ...] | None = None,
    valid: bool | None = None,
    beyond_training: bool = False,
) -> Sample:
    """Return a sample with some fields changed; `replace` would take twice as long."""
    return Sample(
        index=sample.index,
        temperature=sample.temperature,
        seed=sample.seed,
        token_ids=sample.token_ids if token_ids is None else token_ids,
        num_generated_tokens=(
            sample.num_generated_tokens if num_generated_tokens is None else num_generated_tokens
        ),
        status=status or sample.status,
        finish_reason=finish_reason or sample.finish_reason,
        evaluations=sample.evaluations if evaluations is None else evaluations,
        sum_logprob=sample.sum_logprob,
        valid=sample.valid if valid is None else valid,
        beyond_training=sample.beyond_training or beyond_training,
    )


def _decisions(
    policies: Sequence[Policy], places: range, state: RunState
) -> Iterator[tuple[Decision, range]]:
    """Yield what policies decide, and which of them do; those that decide alike lie together."""
    first = policies[places[0]].decide(state)
    # A threshold has a say in whether the run stops, or else draws on, and in nothing else.
    if len(places) == 1 or not isinstance(first, Stop | Draw):
        yield first, places
        return
    asked: dict[int, Decision] = {places[0]: first}

    def ask(place: int) -> Decision:
        if place not in asked:
            asked[place] = policies[place].decide(state)
        return asked[place]

    while places:
        decision, alike = ask(places[0]), places
        if ask(places[-1]) != decision:
            num_alike = bisect_left(places, True, lo=1, key=lambda place: ask(place) != decision)
            alike = places[:num_alike]
        yield decision, alike
        places = places[len(alike) :]


def _after(state: RunState, samples: tuple[Sample, ...], usage: Usage) -> RunState:
    """Return the state with other samples and usage; `replace` would take twice as long."""
    return RunState(limits=state.limits, samples=samples, usage=usage, accepted=state.accepted)


def _pruned(sample: Sample, _: str) -> Sample:
    return _altered(sample, status="pruned")


def _holds_prompt(sample: Sample) -> bool:
    """Whether a sample's stream has begun and is open: the prompt is in the KV cache."""
    if sample.num_generated_tokens == 0 or sample.status == "pruned":
        return False
    return not (sample.finished and sample.evaluation is not None)


def replay_prompt(
    record: PromptRecord, recording: Recording, limits: Limits, *, offset: int = 0
) -> PromptReplay:
    """Return one prompt of a recording, ready for policies.

    Args:
        record: The prompt.
        recording: That it is of.
        limits: Of each run.
        offset: Sample k is the recorded sample k + offset, around; of the constant samples only.
    """
    by_key = {(s.index, s.temperature): s for s in record.samples}
    num_samples = recording.info.num_samples

    def find(index: int, temperature: float) -> SampleRecord:
        found = by_key.get(((index + offset) % num_samples if offset else index, temperature))
        if found is None:
            raise _not_recorded(record, index, temperature)
        return found

    return PromptReplay(
        prompt_id=record.prompt_id,
        num_prompt_tokens=len(record.prompt_ids),
        num_question_tokens=recording.info.num_question_tokens,
        find=find,
        reader=recording.reader,
        limits=limits,
    )


def _not_recorded(record: PromptRecord, index: int, temperature: float) -> DatasetError:
    temperatures = sorted({s.temperature for s in record.samples if s.index == index})
    if not temperatures:
        num_samples = max(s.index for s in record.samples) + 1
        return DatasetError(
            f"prompt {record.prompt_id!r}: sample {index} was asked for, "
            f"and {num_samples} were recorded. Record more: --samples"
        )
    return DatasetError(
        f"prompt {record.prompt_id!r}: sample {index} was asked for at temperature "
        f"{temperature:g}; recorded at: {', '.join(f'{t:g}' for t in temperatures)}"
    )


def replay_methods(recording: Recording, methods: Sequence[Method]) -> Iterator[list[PromptResult]]:
    """Answer every recorded prompt by every method.

    Args:
        recording: With what the methods look at.
        methods: What decides and chooses.

    Yields:
        For each prompt, in order, one result a method.

    Raises:
        DatasetError: A method needs what was not recorded.
        ConfigurationError: A method sets a limit that a replay does not know.
    """
    groups = _groups(methods)
    for record in recording.prompts:
        prompts: dict[tuple[int, int], PromptReplay] = {}
        results: dict[int, PromptResult] = {}
        for group in groups:
            parts = []
            for offset in range(group.rotations):
                key = (group.limits.max_samples, offset)
                if key not in prompts:
                    prompts[key] = replay_prompt(record, recording, group.limits, offset=offset)
                parts.append(group.answer(prompts[key]))
            for place, *of_one in zip(group.places, *parts, strict=True):
                results[place] = of_one[0] if len(of_one) == 1 else _mean(of_one)
        yield [results[place] for place in range(len(methods))]


class _Group:
    """Methods that are followed together: one, or several that differ in their threshold alone."""

    def __init__(self, methods: Sequence[Method], places: Sequence[int]) -> None:
        self.places = places
        self.limits = methods[0].limits
        self.rotations = methods[0].rotations
        self._rival = methods[0].rival
        self._method = methods[0]
        self._policies = [m.policy() for m in methods if m.rival is None]

    def answer(self, prompt: PromptReplay) -> list[PromptResult]:
        """Return what each method comes to on a prompt, in order."""
        if self._rival is not None:
            return [self._rival_answer(prompt, self._rival)]
        results: dict[int, PromptResult] = {}  # of ends, which neighbours share
        found = []
        for replayed in prompt.run_together(self._policies):
            key = id(replayed)
            if key not in results:
                results[key] = _result(replayed, [prompt.record_of(replayed.best)])
            found.append(results[key])
        return found

    def _rival_answer(self, prompt: PromptReplay, rival: Rival) -> PromptResult:
        replayed = prompt.run(self._method.policy(prompt.record_of))
        chosen = rival.select(replayed.state.finished, prompt.record_of)
        return _result(replayed, [prompt.record_of(sample) for sample in chosen])


def _groups(methods: Sequence[Method]) -> list[_Group]:
    members: dict[Hashable, list[tuple[float, int]]] = {}
    for place, method in enumerate(methods):
        policy = None if method.rival is not None else method.policy()
        if isinstance(policy, BestOfN) and policy.threshold is not None:
            others = (replace(policy, threshold=None), method.limits, method.rotations)
            members.setdefault(others, []).append((policy.threshold, place))
        else:
            members[place] = [(0.0, place)]
    ordered = [[place for _, place in sorted(group)] for group in members.values()]
    return [_Group([methods[place] for place in places], places) for places in ordered]


def _result(replayed: Replayed, chosen: Sequence[SampleRecord]) -> PromptResult:
    usage = replayed.state.usage
    return PromptResult(
        reward=sum(record.reward for record in chosen) / len(chosen),
        num_samples=len(replayed.state.samples),
        generated_tokens=usage.generated_tokens,
        self_evaluation_tokens=usage.self_evaluation_tokens,
        response_characters=fmean(len(record.text) for record in chosen),
    )


def _mean(parts: Sequence[PromptResult]) -> PromptResult:
    n = len(parts)
    return PromptResult(
        reward=sum(p.reward for p in parts) / n,
        num_samples=sum(p.num_samples for p in parts) / n,
        generated_tokens=sum(p.generated_tokens for p in parts) / n,
        self_evaluation_tokens=sum(p.self_evaluation_tokens for p in parts) / n,
        response_characters=_mean_known([p.response_characters for p in parts]),
    )


def _mean_known(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if len(known) == len(values) else None
