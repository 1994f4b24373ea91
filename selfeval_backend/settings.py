"""What a user may set, validated once, before any token.

Four layers, for each setting: what the caller says, else what the model was tuned for (`policy` of
its ``selfeval.json``), else how its makers say that it is to be sampled (its
``generation_config.json``), else the defaults of this file. `resolve_settings` is the one place
that decides, and `Settings.sources` says what it decided.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from types import MappingProxyType
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from selfeval_backend.errors import ConfigurationError, ModelFilesError
from selfeval_backend.policy import (
    DOUBLING,
    Annealed,
    BatchSchedule,
    BestOfN,
    Checkpoint,
    Constant,
    PerSample,
    TemperatureSchedule,
)
from selfeval_backend.types import Limits
from selfeval_backend.validation import Allowed, Ascending, Probability, Share, validated

__all__ = [
    "SAMPLING_NAMES",
    "SETTING_NAMES",
    "Origin",
    "Settings",
    "Source",
    "check_model_policy",
    "lay_over",
    "resolve_settings",
]

Source = Literal["given", "selfeval.json", "generation_config.json", "default"]
"""Where a setting is from: the caller, one of the model's files, or our own defaults."""

SAMPLING_NAMES = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
"""Settings that say how a token is drawn."""

_PER_CHECKPOINT = ("keep_fraction", "prune_below", "accept_above")
"""Settings that may have one value for each checkpoint."""

_Temperature = Annotated[float, Field(ge=0, le=2)]
_Count = Annotated[int, Field(ge=1)]
_Temperatures = Annotated[tuple[_Temperature, ...], Field(min_length=1), Allowed("temperatures")]
_TopK = Annotated[int, Field(ge=-1), AfterValidator(lambda top_k: max(top_k, 0))]
_Penalty = Annotated[float, Field(gt=0, allow_inf_nan=False)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where a setting is from, and what it was."""

    source: Source
    value: object


@validated
class Settings:
    """How one call is answered.

    Raises:
        ConfigurationError: A value is out of its range; names field, value and range.
    """

    max_samples: _Count = 16
    """At least 1."""
    adaptive: bool = True
    """Draw in growing batches and stop at `threshold`; False: all samples at once."""
    threshold: Probability = 0.9
    """In [0, 1]: stop once a finished sample has this prob_win_or_tie. Only if `adaptive`."""
    batches: Annotated[Ascending, Field(min_length=1)] | None = None
    """Cumulative sample counts, ascending; None: 1, 2, 4, 8, 16, ... Only if `adaptive`."""
    temperature: _Temperature = 1.0
    """In [0, 2]: where annealing leads to."""
    annealing: Literal["annealed", "constant"] | _Temperatures = "annealed"
    """"annealed": greedy first, then 1/2, 3/4, 7/8, ... of `temperature`; "constant"; or one
    temperature for each sample. Without `adaptive`, "annealed" is as "constant"."""
    top_p: Share = 1.0
    """In (0, 1]: each token is one of the fewest that have at least this probability together."""
    top_k: _TopK = 0
    """Each token is one of this many likeliest ones; 0: any. -1 is taken for 0."""
    min_p: Probability = 0.0
    """In [0, 1]: each token has at least this share of the likeliest one's probability."""
    repetition_penalty: _Penalty = 1.0
    """Above 0: the logit of each token that prompt or sample has is divided by it, or multiplied
    where it is negative; of greedy samples too. 1: none."""
    max_tokens: _Count | None = None
    """Of one sample, at least 1; None: what the context leaves."""
    stop: Annotated[
        tuple[Annotated[str, Field(min_length=1)], ...], Allowed("strings that are not empty")
    ] = ()
    """Strings that end a sample as an end token does; they never stand in its text."""
    prune_at: Ascending = ()
    """Ascending checkpoints, in generated tokens."""
    keep_fraction: Share | tuple[Share, ...] = 0.5
    """In (0, 1]: share of a batch that goes on past a checkpoint; one, or one for each."""
    prune_below: Probability | tuple[Probability, ...] = 0.0
    """In [0, 1]: samples with a lower prob_win_or_tie stop there; one, or one for each."""
    accept_above: Probability | tuple[Probability, ...] | None = None
    """In [0, 1]: the best sample that has at least this prob_win_or_tie at a checkpoint is the
    answer; the others stop there. One, or one for each checkpoint; None: none is accepted."""
    max_total_tokens: _Count | None = None
    """Of one call: prompts, generated and self-evaluation tokens."""
    max_seconds: Annotated[float, Field(gt=0)] | None = None
    """Of one call, above 0."""
    seed: Annotated[int, Field(ge=0)] | None = None
    """None: a new one for each call; it stands in the outcome's samples."""
    origins: Mapping[str, Origin] = field(default_factory=dict, compare=False, repr=False)
    """What `resolve_settings` found of those that are no defaults; itself no setting. It is what
    `sources` is read from."""

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.max_tokens is not None and any(at >= self.max_tokens for at in self.prune_at):
            raise ConfigurationError(
                "prune_at", self.prune_at, f"checkpoints below max_tokens ({self.max_tokens})"
            )
        for name in _PER_CHECKPOINT:
            self._per_checkpoint(name, getattr(self, name))
        return self

    def _per_checkpoint(self, name: str, value: float | tuple[float, ...]) -> tuple[float, ...]:
        if not isinstance(value, tuple):
            return (value,) * max(len(self.prune_at), 1)
        if len(value) != len(self.prune_at):
            raise ConfigurationError(
                name, value, f"one number, or one for each checkpoint of prune_at {self.prune_at}"
            )
        return value

    @property
    def values(self) -> dict[str, Any]:
        """Every setting by name."""
        return {name: getattr(self, name) for name in SETTING_NAMES}

    @property
    def sources(self) -> dict[str, Source]:
        """Where each setting is from, by name; one that was replaced since is given."""
        return {name: self._source(name, value) for name, value in self.values.items()}

    def _source(self, name: str, value: object) -> Source:
        origin = self.origins.get(name)
        if origin is not None and origin.value == value:
            return origin.source
        return "default" if value == getattr(_PLAIN, name) else "given"

    def policy(self) -> BestOfN:
        """Return the policy that these settings describe."""
        if self.adaptive:
            batches = DOUBLING if self.batches is None else BatchSchedule(self.batches)
        else:
            batches = BatchSchedule.all_at_once(self.max_samples)
        keep = self._per_checkpoint("keep_fraction", self.keep_fraction)
        below = self._per_checkpoint("prune_below", self.prune_below)
        accept: tuple[float | None, ...] = (None,) * len(self.prune_at)
        if self.accept_above is not None:
            accept = self._per_checkpoint("accept_above", self.accept_above)
        return BestOfN(
            batches=batches,
            temperatures=self._temperatures(),
            threshold=self.threshold if self.adaptive else None,
            pruning=tuple(
                Checkpoint(
                    at=at,
                    keep_fraction=keep[i],
                    prune_below=below[i],
                    accept_above=accept[i],
                )
                for i, at in enumerate(self.prune_at)
            ),
        )

    def _temperatures(self) -> TemperatureSchedule:
        if isinstance(self.annealing, tuple):
            return PerSample(self.annealing)
        if self.annealing == "annealed" and self.adaptive:
            return Annealed(self.temperature)
        return Constant(self.temperature)

    def unpruned(self) -> Settings:
        """Return the same settings without checkpoints."""
        plain = Settings()
        return replace(
            self,
            prune_at=(),
            keep_fraction=plain.keep_fraction,
            prune_below=plain.prune_below,
            accept_above=plain.accept_above,
        )

    def limits(self) -> Limits:
        """Return what one call may spend."""
        return Limits(
            max_samples=self.max_samples,
            max_total_tokens=self.max_total_tokens,
            max_seconds=self.max_seconds,
        )


_PLAIN = Settings()

SETTING_NAMES = tuple(f.name for f in fields(Settings) if f.name != "origins")
"""Names of what may be set."""


def resolve_settings(
    given: Mapping[str, Any],
    model_policy: Mapping[str, Any],
    generation_config: Mapping[str, Any] = MappingProxyType({}),
) -> Settings:
    """Do what `lay_over` does, with a policy that was not checked yet.

    Raises:
        ConfigurationError: A value given is out of range, or its name is unknown.
        ModelFilesError: The model's policy is.
    """
    check_model_policy(model_policy)
    return lay_over(given, model_policy, generation_config)


def check_model_policy(model_policy: Mapping[str, Any]) -> None:
    """Refuse the `policy` of a model's selfeval.json where it is none.

    Raises:
        ModelFilesError: A value is out of range, or its name is unknown.
    """
    try:
        Settings(**_typed(model_policy))
    except ConfigurationError as error:
        raise ModelFilesError(f"selfeval.json: policy.{error}") from error


def lay_over(
    given: Mapping[str, Any],
    model_policy: Mapping[str, Any],
    generation_config: Mapping[str, Any] = MappingProxyType({}),
) -> Settings:
    """Lay what the caller gave over what the model was tuned for, and that over its makers' words.

    Args:
        given: Names and values of `Settings`; a None is as if not given.
        model_policy: `policy` of the model's selfeval.json, checked.
        generation_config: As `selfeval_backend.model.generation_config` reads it.

    Raises:
        ConfigurationError: A value given is out of range, or its name is unknown.
    """
    chosen = {name: value for name, value in given.items() if value is not None}
    merged = {**generation_config, **model_policy, **chosen}
    if "prune_at" in chosen:
        # Shares that the model was tuned for belong to its own checkpoints.
        for name in _PER_CHECKPOINT:
            if name not in chosen:
                merged.pop(name, None)
    elif isinstance(max_tokens := chosen.get("max_tokens"), int):
        _drop_checkpoints(merged, max_tokens)
    settings = Settings(**_typed(merged))
    layers: dict[Source, Mapping[str, Any]] = {
        "generation_config.json": generation_config,
        "selfeval.json": model_policy,
        "given": chosen,
    }
    origins = {
        name: Origin(source=source, value=getattr(settings, name))
        for source, layer in layers.items()  # a later one replaces what earlier ones say
        for name in layer
        if name in merged
    }
    # Not `replace`, which would check every setting a second time.
    object.__setattr__(settings, "origins", origins)
    return settings


def _drop_checkpoints(merged: dict[str, Any], max_tokens: int) -> None:
    """Leave out the model's own checkpoints that the caller's `max_tokens` never reaches."""
    prune_at = tuple(merged.get("prune_at", ()))
    num_reached = sum(at < max_tokens for at in prune_at)
    merged["prune_at"] = prune_at[:num_reached]
    for name in _PER_CHECKPOINT:
        shares = merged.get(name)
        if isinstance(shares, list | tuple) and len(shares) == len(prune_at):
            # With no checkpoint left no share is asked for, and an empty list is one for each.
            merged[name] = tuple(shares[:num_reached])


def _typed(values: Mapping[str, Any]) -> dict[str, Any]:
    for name in values:
        if name not in SETTING_NAMES:
            allowed = f"one of {', '.join(sorted(SETTING_NAMES))}"
            raise ConfigurationError(name, values[name], allowed)
    return {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
