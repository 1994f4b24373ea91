"""Recordings: every sample of every prompt with its self-evaluations and its reward, in Parquet.

A recording is a folder of shards, so that a killed run goes on where it stopped. Each shard holds
whole prompts, one row a sample, sorted by prompt and sample:

======================  =========================  ================================================
column                  type                       meaning
======================  =========================  ================================================
prompt_id               string                     the prompt's name within its task
prompt                  string                     its text
prompt_token_ids        list<int32>                as rendered by the chat template
reference_characters    int32, null                of what responses are judged against
sample_index            int32                      place in the order of drawing, from 0
temperature             double                     that it was drawn at
seed                    int64                      that it was drawn with
token_ids               list<int32>                the response, without its end token
num_generated_tokens    int32                      paid for: `token_ids` and the end token
finish_reason           string                     "stop" or "length"
sum_logprob             double, null               of the generated tokens, at temperature 1
token_confidences       list<float>, null          one a generated token: minus the mean
                                                   log-probability of the 20 likeliest tokens
self_certainty          double, null               mean over tokens of KL(uniform, next token)
evaluations             list<struct<num_tokens     natural log-probabilities of the two labels
                        int32, final bool,         after the first `num_tokens` tokens; final: of
                        logprob_win_or_tie double, the finished response
                        logprob_loss double>>
logprob_untrained_yes   double, null               of the two labels of a question that the model
logprob_untrained_no    double, null               was never trained on (`UNTRAINED_QUESTION`)
reward                  double, null               high is good; null where the scorer failed
error                   string, null               why it did
scored_by               string, null               what the reward is made with: a hash of the
                                                   scorer, its source or version, and the
                                                   reference; null: not known
answer                  string, null               what can be put to a vote
response_characters     int32, null                of the response's text
======================  =========================  ================================================

What is the same for all rows is JSON in each shard's schema metadata, under ``aic_recording``:
the fields of `RecordingInfo`. A folder whose shards differ there is refused.

A sample without a reward counts as the worst one: the lowest reward of the recording, and 0 at
most. So tables stay paired, and a response that no verifier can read is no right one. How many
there are is shown, and more than a share of them refused.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, ValidationError

from selfeval_backend.errors import DatasetError, MissingDependencyError
from selfeval_backend.files import read_parquet, replacing, writing
from selfeval_backend.selfeval import EvaluationReader, SelfEvalConfig
from selfeval_backend.settings import SAMPLING_NAMES
from selfeval_backend.types import FinishReason

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = [
    "MAX_ERROR_SHARE",
    "UNTRAINED_QUESTION",
    "PromptRecord",
    "Recording",
    "RecordingInfo",
    "SampleRecord",
    "Shard",
    "check_errors",
    "load_recording",
    "read_shards",
    "write_shard",
]

MAX_ERROR_SHARE = 0.05
"""Of all rewards, as training has it: more that fail are refused."""

UNTRAINED_QUESTION = 'Is the answer right? ("Yes." or "No.")'
"""A question after the response that no training of this project ever asked.

Source: P(True) of Kadavath et al. 2022, arXiv 2207.05221, section 3, in this project's form.
"""

_METADATA_KEY = b"aic_recording"
_NEW_COLUMNS = frozenset({"error", "scored_by"})
"""Recordings of before these were noted can be read; what they say is then not known."""


class RecordingInfo(BaseModel):
    """What all rows of a recording share."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: int = 1
    task: str
    model: str
    engine: str
    seed: int
    """Of prompts and samples."""
    num_samples: int
    """Of each kind: at one temperature, and annealed."""
    temperature: float
    """Of the constant samples; annealed ones lead to it."""
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    annealed: bool
    """Whether there are annealed samples too."""
    checkpoints: tuple[int, ...]
    """At which running samples were evaluated."""
    max_tokens: int | None
    """Of one sample; None: what the context left."""
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
    """One sample, finished; the columns of the module's docstring."""

    index: int
    temperature: float
    seed: int
    token_ids: tuple[int, ...]
    num_generated_tokens: int
    finish_reason: FinishReason
    sum_logprob: float | None
    label_logprobs: Mapping[int, tuple[float, float]]
    """(log p(win or tie), log p(loss)) by number of tokens; the whole length is the end."""
    reward: float
    answer: str | None
    token_confidences: tuple[float, ...] | None = None
    self_certainty: float | None = None
    untrained_logprobs: tuple[float, float] | None = None
    """(yes, no) of `UNTRAINED_QUESTION`."""
    response_characters: int | None = None
    error: str | None = None
    """Why there is no reward; `reward` is then what counts in its place, NaN before it is read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptRecord:
    """All samples of one prompt."""

    prompt_id: str
    prompt: str
    prompt_ids: tuple[int, ...]
    samples: tuple[SampleRecord, ...]
    reference_characters: int | None = None
    """Of what responses are judged against; None where they are not."""
    scored_by: str | None = None
    """What the rewards are made with; None: not known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """One file of a recording."""

    path: Path
    info: RecordingInfo
    prompts: tuple[PromptRecord, ...]


@dataclass(frozen=True, kw_only=True)
class Recording:
    """All prompts of one task, from one model."""

    info: RecordingInfo
    prompts: tuple[PromptRecord, ...]

    @cached_property
    def reader(self) -> EvaluationReader:
        """Turns recorded log-probabilities into the model's calibrated probabilities."""
        return EvaluationReader(self.info.selfeval)

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
        return _worst(self.prompts)

    def part(self, places: Sequence[int]) -> Recording:
        """Return the recording of these prompts alone."""
        return Recording(info=self.info, prompts=tuple(self.prompts[i] for i in places))


def _pyarrow() -> Any:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise MissingDependencyError("pyarrow", extra="eval") from error
    return pyarrow


def _schema() -> pa.Schema:
    pa = _pyarrow()
    evaluation = pa.struct(
        [
            ("num_tokens", pa.int32()),
            ("final", pa.bool_()),
            ("logprob_win_or_tie", pa.float64()),
            ("logprob_loss", pa.float64()),
        ]
    )
    return pa.schema(
        [
            ("prompt_id", pa.string()),
            ("prompt", pa.string()),
            ("prompt_token_ids", pa.list_(pa.int32())),
            ("reference_characters", pa.int32()),
            ("sample_index", pa.int32()),
            ("temperature", pa.float64()),
            ("seed", pa.int64()),
            ("token_ids", pa.list_(pa.int32())),
            ("num_generated_tokens", pa.int32()),
            ("finish_reason", pa.string()),
            ("sum_logprob", pa.float64()),
            ("token_confidences", pa.list_(pa.float32())),
            ("self_certainty", pa.float64()),
            ("evaluations", pa.list_(evaluation)),
            ("logprob_untrained_yes", pa.float64()),
            ("logprob_untrained_no", pa.float64()),
            ("reward", pa.float64()),
            ("error", pa.string()),
            ("scored_by", pa.string()),
            ("answer", pa.string()),
            ("response_characters", pa.int32()),
        ]
    )


def write_shard(path: Path, info: RecordingInfo, prompts: Sequence[PromptRecord]) -> None:
    """Write whole prompts as one shard; it is there as a whole, or not at all.

    Raises:
        DatasetError: It cannot be written.
        MissingDependencyError: pyarrow is not installed.
    """
    pa = _pyarrow()
    schema = _schema().with_metadata({_METADATA_KEY: info.model_dump_json().encode()})
    rows = [_row(prompt, sample) for prompt in prompts for sample in prompt.samples]
    with writing(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial:
        table = pa.Table.from_pylist(rows, schema=schema)
        pa.parquet.write_table(table, partial, compression="zstd")


def _row(prompt: PromptRecord, sample: SampleRecord) -> dict[str, Any]:
    yes, no = sample.untrained_logprobs or (None, None)
    return {
        "prompt_id": prompt.prompt_id,
        "prompt": prompt.prompt,
        "prompt_token_ids": prompt.prompt_ids,
        "reference_characters": prompt.reference_characters,
        "sample_index": sample.index,
        "temperature": sample.temperature,
        "seed": sample.seed,
        "token_ids": sample.token_ids,
        "num_generated_tokens": sample.num_generated_tokens,
        "finish_reason": sample.finish_reason,
        "sum_logprob": sample.sum_logprob,
        "token_confidences": sample.token_confidences,
        "self_certainty": sample.self_certainty,
        "evaluations": [
            {
                "num_tokens": num_tokens,
                "final": num_tokens == len(sample.token_ids),
                "logprob_win_or_tie": win_or_tie,
                "logprob_loss": loss,
            }
            for num_tokens, (win_or_tie, loss) in sorted(sample.label_logprobs.items())
        ],
        "logprob_untrained_yes": yes,
        "logprob_untrained_no": no,
        "reward": None if sample.error is not None else sample.reward,
        "error": sample.error,
        "scored_by": prompt.scored_by,
        "answer": sample.answer,
        "response_characters": sample.response_characters,
    }


def load_recording(folder: Path, *, max_error_share: float = MAX_ERROR_SHARE) -> Recording:
    """Read all shards of a recording.

    Args:
        folder: Of the shards.
        max_error_share: Of all samples: more that have no reward are refused.

    Raises:
        DatasetError: There is none, a shard cannot be read, a column is missing, shards are of
            different models or settings, too many rewards failed, or a row holds what it must not;
            names file and row.
        MissingDependencyError: pyarrow is not installed.
    """
    shards = read_shards(folder)
    if not shards:
        raise DatasetError(
            f"{folder}: no recording there (*.parquet). Make one with: aic eval --out {folder}"
        )
    first = shards[0]
    prompts: dict[str, PromptRecord] = {}
    for shard in shards:
        _refuse_mixture(first, shard)
        for prompt in shard.prompts:
            if prompt.prompt_id in prompts:
                raise DatasetError(
                    f"{shard.path}: prompt {prompt.prompt_id!r} is in another shard too"
                )
            prompts[prompt.prompt_id] = prompt
    check_errors(prompts.values(), max_error_share=max_error_share)
    worst = _worst(prompts.values())
    return Recording(
        info=first.info, prompts=tuple(_with_worst(prompt, worst) for prompt in prompts.values())
    )


def check_errors(
    prompts: Iterable[PromptRecord], *, max_error_share: float, num_samples: int | None = None
) -> None:
    """Refuse prompts of whose samples too many have no reward.

    Args:
        prompts: With their samples.
        max_error_share: Of all samples.
        num_samples: Of the whole recording; None: these are all.

    Raises:
        DatasetError: Names how many there are, and the commonest reason with its first row.
    """
    reasons: Counter[str] = Counter()
    where: dict[str, str] = {}
    total = 0
    for prompt in prompts:
        total += len(prompt.samples)
        for sample in prompt.samples:
            if sample.error is not None:
                reasons[sample.error] += 1
                where.setdefault(
                    sample.error,
                    f"prompt {prompt.prompt_id!r}, sample {sample.index} at temperature "
                    f"{sample.temperature:g}",
                )
    if reasons.total() <= max_error_share * (num_samples or total):
        return
    reason = reasons.most_common(1)[0][0]
    raise DatasetError(
        f"{reasons.total():,} of {total:,} rewards failed, more than max_error_share "
        f"({max_error_share:.0%}); most often, and first in {where[reason]}: {reason}"
    )


def _worst(prompts: Iterable[PromptRecord]) -> float:
    return min(0.0, *(s.reward for p in prompts for s in p.samples if s.error is None), 0.0)


def _with_worst(prompt: PromptRecord, worst: float) -> PromptRecord:
    if all(sample.error is None for sample in prompt.samples):
        return prompt
    return replace(
        prompt,
        samples=tuple(
            sample if sample.error is None else replace(sample, reward=worst)
            for sample in prompt.samples
        ),
    )


def read_shards(folder: Path) -> list[Shard]:
    """Read the files of a folder one by one; samples without a reward have NaN.

    Raises:
        DatasetError: One cannot be read; names file and row.
        MissingDependencyError: pyarrow is not installed.
    """
    return [
        Shard(path=path, info=_read_info(path), prompts=tuple(_read_prompts(path)))
        for path in _shards(folder)
    ]


def _shards(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.parquet"))


def _refuse_mixture(one: Shard, other: Shard) -> None:
    for name in RecordingInfo.model_fields:
        mine, theirs = getattr(one.info, name), getattr(other.info, name)
        if mine == theirs:
            continue
        if name in ("scorer", "scorer_spec", "scorer_digest"):
            raise DatasetError(
                f"{one.path} has rewards of {one.info.scorer}, and {other.path} of "
                f"{other.info.scorer}: a run was stopped while it made them anew. Run aic eval "
                "again: it goes on."
            )
        shown = "" if name == "selfeval" else f" ({mine!r} and {theirs!r})"
        raise DatasetError(
            f"{one.path} and {other.path} differ in {name}{shown}: one recording is of one model, "
            "task and setting. Take another folder."
        )


def _read_info(path: Path) -> RecordingInfo:
    pa = _pyarrow()
    try:
        schema = pa.parquet.read_schema(path)
    except (OSError, pa.ArrowException) as error:
        raise DatasetError(f"{path} is no Parquet file that can be read: {error}") from error
    missing = [name for name in _schema().names if name not in {*schema.names, *_NEW_COLUMNS}]
    if missing:
        raise DatasetError(f"{path} lacks the columns {', '.join(missing)}")
    body = (schema.metadata or {}).get(_METADATA_KEY)
    if body is None:
        raise DatasetError(f"{path} lacks the schema metadata {_METADATA_KEY.decode()!r}")
    try:
        return RecordingInfo.model_validate_json(body)
    except ValidationError as error:
        first = error.errors()[0]
        raise DatasetError(
            f"{path}: {_METADATA_KEY.decode()}.{'.'.join(map(str, first['loc']))}: {first['msg']}"
        ) from error


def _read_prompts(path: Path) -> list[PromptRecord]:
    names = _pyarrow().parquet.read_schema(path).names
    columns = [name for name in _schema().names if name in names]
    rows: dict[str, list[dict[str, Any]]] = {}
    for number, row in enumerate(read_parquet(path, columns=columns)):
        _check_row(f"{path}, row {number}", row)
        rows.setdefault(row["prompt_id"], []).append(row)
    return [
        PromptRecord(
            prompt_id=prompt_id,
            prompt=group[0]["prompt"],
            prompt_ids=tuple(group[0]["prompt_token_ids"]),
            samples=tuple(map(_sample, group)),
            reference_characters=group[0]["reference_characters"],
            scored_by=group[0].get("scored_by"),
        )
        for prompt_id, group in rows.items()
    ]


_MAY_BE_NULL = {
    "sum_logprob",
    "token_confidences",
    "self_certainty",
    "logprob_untrained_yes",
    "logprob_untrained_no",
    "answer",
    "error",
    "scored_by",
    "reference_characters",
    "response_characters",
}


def _check_row(where: str, row: Mapping[str, Any]) -> None:
    for name, value in row.items():
        failed = name == "reward" and row.get("error") is not None
        if value is None and name not in _MAY_BE_NULL and not failed:
            raise DatasetError(f"{where}: {name} is null")
    if row["reward"] is not None and not math.isfinite(row["reward"]):
        raise DatasetError(f"{where}: reward is {row['reward']}, expected a finite number")
    if row["finish_reason"] not in ("stop", "length"):
        raise DatasetError(f"{where}: finish_reason is {row['finish_reason']!r}")
    if not row["num_generated_tokens"] >= 1 or (
        row["num_generated_tokens"] < len(row["token_ids"])
    ):
        raise DatasetError(
            f"{where}: num_generated_tokens is {row['num_generated_tokens']}, "
            f"with {len(row['token_ids'])} token_ids"
        )


def _sample(row: Mapping[str, Any]) -> SampleRecord:
    yes, no = row["logprob_untrained_yes"], row["logprob_untrained_no"]
    confidences = row["token_confidences"]
    return SampleRecord(
        index=row["sample_index"],
        temperature=row["temperature"],
        seed=row["seed"],
        token_ids=tuple(row["token_ids"]),
        num_generated_tokens=row["num_generated_tokens"],
        finish_reason=row["finish_reason"],
        sum_logprob=row["sum_logprob"],
        label_logprobs={
            e["num_tokens"]: (e["logprob_win_or_tie"], e["logprob_loss"])
            for e in row["evaluations"]
        },
        reward=math.nan if row["reward"] is None else row["reward"],
        error=row.get("error"),
        answer=row["answer"],
        token_confidences=None if confidences is None else tuple(confidences),
        self_certainty=row["self_certainty"],
        untrained_logprobs=None if yes is None or no is None else (yes, no),
        response_characters=row["response_characters"],
    )
