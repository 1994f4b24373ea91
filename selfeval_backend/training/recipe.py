"""A recipe: one YAML file that says how a model's self-evaluation is trained.

Every section is one stage of the pipeline; every field is checked before anything runs. Paths are
relative to the current directory.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from selfeval_backend.errors import ConfigurationError, DatasetError
from selfeval_backend.files import read_text
from selfeval_backend.selfeval import PAPER_QUESTION
from selfeval_backend.validation import as_configuration_error

__all__ = [
    "SHIPPED_RECIPES",
    "CalibrateSettings",
    "FileSource",
    "FinetuneSettings",
    "FunctionReward",
    "FunctionSource",
    "HubSource",
    "LoraSettings",
    "MathReward",
    "ModelReward",
    "PhaseSettings",
    "PreferenceSettings",
    "PromptSettings",
    "Recipe",
    "ReportSettings",
    "RewardSettings",
    "RolloutSettings",
    "ScorerReward",
    "load_recipe",
]

_FOLDER = Path(__file__).parent / "recipes"
SHIPPED_RECIPES: tuple[str, ...] = tuple(sorted(path.stem for path in _FOLDER.glob("*.yaml")))
"""Names that `load_recipe` takes beside files."""

_IN_THE_REPOSITORY = {"reference": "reference_model/reference.yaml"}
"""Recipes of this project's own models: they need what is not installed."""

Share = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[float, Field(gt=0.0)]
Count = Annotated[int, Field(ge=1)]
Reference = Annotated[str, Field(pattern=r"^[\w.]+:[A-Za-z_][\w.]*$")]
"""A function by import path: ``package.module:name``."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class FileSource(_Section):
    """Prompts of a JSONL, Parquet or CSV file, told by its ending."""

    kind: Literal["file"]
    path: Path
    prompt_column: str = "prompt"
    """Text, or a list of messages with role and content."""
    answer_column: str | None = None
    """What a verifier compares with."""
    split_column: str | None = None
    """"train", "validation", "calibration" or "test"; None: split by a hash of the prompt."""


class HubSource(_Section):
    """Prompts of the `datasets` library: a name on the hub, or a local folder."""

    kind: Literal["datasets"]
    name: str
    config: str | None = None
    split: str = "train"
    prompt_column: str = "prompt"
    answer_column: str | None = None
    split_column: str | None = None
    first_turn: bool = False
    """Of a conversation, keep what comes before the first assistant turn."""


class FunctionSource(_Section):
    """Prompts that a function of the user yields: mappings with prompt, answer and split."""

    kind: Literal["function"]
    function: Reference
    arguments: dict[str, Any] = Field(default_factory=dict)


class PromptSettings(_Section):
    """Where prompts come from, and how they are split."""

    source: Annotated[FileSource | HubSource | FunctionSource, Field(discriminator="kind")]
    limit: Count | None = None
    """Rows that are read at most."""
    duplicates: Literal["drop", "refuse"] = "drop"
    """Of prompts that are there already; dropped ones are counted."""
    validation: Share = 0.02
    """Share of the prompts, by a hash of the prompt, that training watches."""
    calibration: Share = 0.1
    test: Share = 0.1

    @model_validator(mode="after")
    def _leaves_some_for_training(self) -> PromptSettings:
        if self.validation + self.calibration + self.test >= 1.0:
            raise ValueError("validation, calibration and test leave no prompt for training")
        return self


class RolloutSettings(_Section):
    """On-policy samples of the model that is to evaluate itself."""

    samples: Annotated[int, Field(ge=2)] = 8
    """Of a prompt; two at least, for a preference needs a pair."""
    temperature: Positive = 1.0
    top_p: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    top_k: Annotated[int, Field(ge=0)] = 0
    """0: none. What a recipe does not say is not set, whatever the model's files say."""
    min_p: Annotated[float, Field(ge=0.0, le=1.0)] = 0.0
    repetition_penalty: Positive = 1.0
    max_tokens: Count = 512
    shard_prompts: Count = 256
    """Prompts of one file; a stopped run loses at most one."""
    engine: Literal["transformers", "vllm"] | None = None
    """None: vLLM where it is installed and a GPU is there, else transformers."""
    engine_args: dict[str, Any] = Field(default_factory=dict)
    """vLLM's."""
    max_batch: Count = 256
    """Samples that the transformers engine generates at once."""
    kept: Path | None = None
    """A folder that `aic eval` filled (or the stage of another recipe): samples that it has of a
    prompt, of this model and drawn this way, are used; others are drawn."""
    ray_workers: Count | None = None
    """None: in this process; else on Ray Data, with so many engines."""

    @property
    def shaping(self) -> dict[str, float]:
        """How tokens are drawn beside the temperature."""
        return self.model_dump(include={"top_p", "top_k", "min_p", "repetition_penalty"})


class _ScoredReward(_Section):
    """A reward by a scorer, as `aic eval` has them (`selfeval_backend.scorers.ScorerSpec`)."""

    max_error_share: Share = 0.05
    timeout_s: Positive | None = None
    """Of one response, where the scorer is not ours; None: 5 s, of a function 60 s."""
    workers: Count | None = None
    """Most processes of such a scorer; None: one a core, eight at most."""


class MathReward(_ScoredReward):
    """1 where the response's answer is mathematically equal to the reference answer, else 0."""

    kind: Literal["math"]


class ScorerReward(_ScoredReward):
    """Any scorer of `aic eval`: "exact", "regex:PATTERN", "math" or a function."""

    kind: Literal["scorer"]
    scorer: str


class ModelReward(_Section):
    """A sequence-classification reward model."""

    kind: Literal["reward_model"]
    model: str
    trust_remote_code: bool = False
    """Runs code that comes with the model; ArmoRM needs it."""
    batch_size: Count = 8
    max_tokens: Count = 4096
    """Of conversation and response; longer ones are errors of their rows."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    max_error_share: Share = 0.05


class FunctionReward(_ScoredReward):
    """A function of the user: ``reward(prompt, response, answer) -> float``."""

    kind: Literal["function"]
    function: Reference


RewardSettings = Annotated[
    MathReward | ModelReward | FunctionReward | ScorerReward, Field(discriminator="kind")
]


class PreferenceSettings(_Section):
    """From rewards to labels."""

    tie_threshold: Annotated[float, Field(ge=0.0)] = 0.01
    """Rewards that differ by no more are a tie."""
    ties: Literal["keep", "drop"] = "keep"
    """keep: a tie is labelled as a win is; drop: pairs that tie are left out."""
    labels: Literal["soft", "hard"] = "soft"
    """soft: the mean over a sample's pairs; hard: 0 or 1, one label for each pair."""
    pairs: Literal["all", "random"] | Count = "all"
    """Of a prompt: all, one random opponent a sample, or a number of random pairs."""
    balance: Literal["none", "downsample"] = "none"
    """downsample: drop samples until labels below and above one half are equally many."""
    mixed_only: bool = False
    """Only prompts whose samples differ in more than a tie."""
    num_cuts: Annotated[int, Field(ge=1)] = 4
    """Prefixes of a response that are asked about, the whole one among them."""
    whole_share: Share = 1.0
    """Share of the responses that are also asked whole; the others only cut."""
    cut_at_random: bool = True
    """False: whole responses only."""
    contrast_pairs: Annotated[int, Field(ge=0)] = 4
    """Pairs of a better and a worse sample, a prompt, for the contrast phase."""
    max_prompts: Count | None = None
    """Training prompts that are used at most."""
    flip_share: Share = 0.0
    """Share of the training rewards r that become 1 - r: how much a verifier's errors cost."""


class PhaseSettings(_Section):
    """One phase of fine-tuning."""

    steps: Count | None = None
    """Optimizer steps; None: `epochs`."""
    epochs: Positive = 1.0
    lr: Positive = 1e-5
    warmup_steps: Annotated[int, Field(ge=0)] = 50
    decay_share: Annotated[float, Field(gt=0.0, le=1.0)] = 0.5
    """The learning rate falls to zero over the last share of all steps."""


class LoraSettings(_Section):
    """Low-rank adapters, merged into the weights on export.

    A separate adapter has a KV cache of its own, so it could not evaluate on that of generation.
    """

    rank: Count = 16
    alpha: Positive = 32.0
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    target_modules: str | tuple[str, ...] = "all-linear"


class FinetuneSettings(_Section):
    """Cross-entropy on the label token, and a KL term that preserves the generator."""

    contrast: PhaseSettings | None = None
    """First: a better and a worse sample of one prompt side by side; None: left out."""
    preferences: PhaseSettings = PhaseSettings()
    """The method's own labels."""
    lora: LoraSettings | None = None
    """None: all weights."""
    kl_weight: Annotated[float, Field(ge=0.0)] = 1.0
    """Of KL(before || after), in nats a response token."""
    blend: Share = 1.0
    """Share of the way from the weights before to those after; 1 keeps the latter."""
    optimizer: Literal["adamw", "muon"] = "adamw"
    adam_lr: Positive | None = None
    """With muon: the learning rate of what is no hidden matrix, in the first phase."""
    batch_size: Annotated[int, Field(ge=2)] = 8
    """Responses, a device and step; even."""
    gradient_accumulation: Count = 1
    max_tokens: Count = 4096
    """Of prompt and response; longer ones are left out and counted."""
    branches: Literal["auto", "never"] = "auto"
    """Several cuts in one forward pass: where the model gives the same logits that way."""
    bf16: Literal["auto", "yes", "no"] = "auto"
    """auto: on a GPU that has it."""
    gradient_checkpointing: bool = False
    compile: bool = False
    """torch.compile."""
    eval_steps: Count = 100
    save_steps: Count = 200

    @model_validator(mode="after")
    def _fits_together(self) -> FinetuneSettings:
        if self.batch_size % 2:
            raise ValueError("batch_size must be even: contrast comes in pairs")
        if self.optimizer == "muon" and self.adam_lr is None:
            raise ValueError("optimizer muon needs adam_lr")
        if self.optimizer == "muon" and self.lora is not None:
            raise ValueError("optimizer muon is for all weights; LoRA takes adamw")
        return self


class CalibrateSettings(_Section):
    """Held-out samples of the fine-tuned model, and probabilities that mean what they say."""

    method: Literal["isotonic", "platt"] = "isotonic"
    positions: tuple[Count, ...] = (32, 64, 128, 256)
    """Checkpoints, in generated tokens, with a map of their own."""
    samples: Annotated[int, Field(ge=2)] = 16
    """At temperature 1, a prompt; and as many annealed ones, for tuning."""
    max_calibration_prompts: Count = 200
    max_test_prompts: Count = 500
    tune: bool = True
    """Choose threshold and pruning on the calibration prompts, for selfeval.json."""
    prune_at: tuple[tuple[Count, ...], ...] = ((64,), (128,))
    """Candidate checkpoints; positions all."""
    annealing: Annotated[tuple[Literal["annealed", "constant"], ...], Field(min_length=1)] = (
        "annealed",
        "constant",
    )
    """Candidates for adaptive sampling: "annealed" begins with a greedy sample."""
    keep_improvement: Annotated[float, Field(gt=0.0, le=1.0)] = 0.975

    @model_validator(mode="after")
    def _positions_ascend(self) -> CalibrateSettings:
        if list(self.positions) != sorted(set(self.positions)):
            raise ValueError("positions must ascend")
        unknown = sorted({at for places in self.prune_at for at in places} - set(self.positions))
        if unknown:
            raise ValueError(f"prune_at has {unknown}, which are not among the positions")
        return self


class ReportSettings(_Section):
    """The page at the end."""

    notes: str = ""
    """Markdown that is put under its head."""
    resamples: Count = 1000
    """Of the bootstrap."""
    answer: Reference | None = None
    """A function from a response to its answer, which a majority vote counts; None: the answers of
    the scorer that gave the rewards, if it has any."""


class Recipe(_Section):
    """Everything that decides what comes out, apart from the data."""

    name: Annotated[str, Field(pattern=r"^[\w.-]+$")]
    model: str
    """A model folder, or a model name."""
    folder: Path
    """Where the stages work; several recipes may share it, and what they have in common."""
    seed: Annotated[int, Field(ge=0)] = 0
    question: Annotated[str, Field(min_length=1)] = PAPER_QUESTION
    win_or_tie_label: Annotated[str, Field(min_length=1)] = "No."
    loss_label: Annotated[str, Field(min_length=1)] = "Yes."
    prompts: PromptSettings
    rollouts: RolloutSettings = RolloutSettings()
    rewards: RewardSettings
    preferences: PreferenceSettings = PreferenceSettings()
    finetune: FinetuneSettings = FinetuneSettings()
    calibrate: CalibrateSettings = CalibrateSettings()
    report: ReportSettings = ReportSettings()

    @model_validator(mode="after")
    def _contrast_has_pairs(self) -> Recipe:
        if self.finetune.contrast is not None and not self.preferences.contrast_pairs:
            raise ValueError("finetune.contrast needs preferences.contrast_pairs of at least 1")
        return self


def load_recipe(name_or_path: str | Path, changes: Sequence[str] = ()) -> Recipe:
    """Read a recipe.

    Args:
        name_or_path: One of `SHIPPED_RECIPES`, or a YAML file.
        changes: Fields to set instead, as ``section.field=value`` with the value in YAML.

    Raises:
        ConfigurationError: There is no such recipe, or a field cannot be used; names it.
    """
    path = _FOLDER / f"{name_or_path}.yaml"
    if str(name_or_path) not in SHIPPED_RECIPES:
        path = Path(name_or_path)
    try:
        body = _yaml(read_text(path))
    except DatasetError as error:
        raise ConfigurationError(
            "config",
            str(name_or_path),
            f"a YAML file, or one of {', '.join(SHIPPED_RECIPES)}",
            remedy=_remedy(str(name_or_path), error),
        ) from error
    except _NoYamlError as error:
        raise ConfigurationError("config", str(path), f"YAML ({error})") from error
    if not isinstance(body, dict):
        raise ConfigurationError("config", str(path), "a YAML mapping of fields")
    for change in changes:
        _change(body, change)
    try:
        return Recipe.model_validate(body)
    except ValidationError as error:
        raise as_configuration_error(error, whole="recipe") from error


def _remedy(name: str, error: DatasetError) -> str:
    if name in _IN_THE_REPOSITORY:
        return (
            f"The recipe {name!r} needs the project's repository: there, "
            f"run aic train --config {_IN_THE_REPOSITORY[name]}."
        )
    return str(error)


def _change(body: dict[str, Any], change: str) -> None:
    name, found, text = change.partition("=")
    *sections, field = name.strip().split(".")
    if not found or not field:
        raise ConfigurationError("set", change, "section.field=value")
    for section in sections:
        inner = body.setdefault(section, {})
        if not isinstance(inner, dict):
            raise ConfigurationError("set", change, f"a section; {section} is none")
        body = inner
    try:
        body[field] = _yaml(text)
    except _NoYamlError as error:
        raise ConfigurationError("set", change, f"a value in YAML ({error})") from error


class _NoYamlError(Exception):
    """A text that cannot be read as YAML."""


class _Loader(yaml.SafeLoader):  # type: ignore[misc]  # PyYAML has no annotations
    """Refuses a key that comes twice in one mapping; a date is text.

    PyYAML keeps what a text may mean in one table for the whole process, and libraries take dates
    out of it. A recipe has no dates, so none are made here whatever else is imported.
    """

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        for key in keys:
            if key != "<<" and keys.count(key) > 1:
                raise _NoYamlError(f"the key {key!r} comes twice")
        found: dict[Any, Any] = super().construct_mapping(node, deep)
        return found


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith(":timestamp")]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def _yaml(text: str) -> Any:
    """Return the value of a YAML text.

    Raises:
        _NoYamlError: It is none, or holds what cannot be meant.
    """
    try:
        return yaml.load(text, _Loader)  # a safe one
    except (yaml.YAMLError, ValueError) as error:  # numbers that Python does not have
        raise _NoYamlError(" ".join(str(error).split())) from error
    except RecursionError:
        raise _NoYamlError("values stand within each other too deeply") from None
