"""A model's files: checkpoint, tokenizer, chat template, and its self-evaluation's own facts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from selfeval_backend.chat import ChatTemplate, Message
from selfeval_backend.checkpoints import locate_checkpoint
from selfeval_backend.diagnosis.check import Check, failed, failed_by, not_checked, ok, warning
from selfeval_backend.errors import (
    AICError,
    CheckpointError,
    ConfigurationError,
    DatasetError,
    SelfEvaluationError,
)
from selfeval_backend.files import read_json
from selfeval_backend.selfeval import SelfEvalConfig, SelfEvaluator
from selfeval_backend.selfeval_files import find_selfeval
from selfeval_backend.settings import Settings, resolve_settings
from selfeval_backend.structured import CallsOfModel, calls_of, reasoning_of

__all__ = ["ModelFiles", "check_model_files"]

_TRAIN = "Train it with this project's training pipeline, or go on: probabilities are then marked "
_UNCALIBRATED = _TRAIN + "calibrated: false."
_INDEX = "model.safetensors.index.json"
_FOUND = ("tool calls", "reasoning")
_PROMPT, _RESPONSE = "Is this kept?", "Yes, word for word:\n\n1. A list.\n2. {Braces} <b>too</b>."


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFiles:
    """What was found of a model, and what checks of a server need of it."""

    checks: tuple[Check, ...]
    evaluator: SelfEvaluator | None = None
    """None: the model cannot be evaluated, by what the checks say."""
    settings: Settings | None = None
    """The model's own; None: they cannot be used."""


def check_model_files(model: str | Path, *, with_weights: bool) -> ModelFiles:
    """Return whether a model's files are all there and can be used.

    Of a model name, all but the weights are downloaded if need be.

    Args:
        model: "reference", a checkpoint folder, or a model name.
        with_weights: Whether the weights are needed here; a server has its own.
    """
    names = ("tokenizer", "chat template", "labels", *_FOUND, "selfeval.json", "policy")
    try:
        folder = locate_checkpoint(model, with_weights=False)
    except AICError as error:
        remedy = "Give --model (of a server: --checkpoint) a checkpoint folder or a model name."
        lost = failed_by("files", error, remedy=remedy)
        return ModelFiles(checks=(lost, *(not_checked(n, "there are no files") for n in names)))
    checks = [ok("files", str(folder))]
    if with_weights:
        checks.append(_weights(folder, is_name=not Path(model).expanduser().is_dir()))
    config, of_config = _config(folder)
    chat, of_chat = _tokenizer(folder)
    evaluator, of_evaluator = _evaluator(chat, config)
    settings, of_policy = _policy(config)
    checks += [of_chat, *of_evaluator, *_found_in_template(chat), of_config, of_policy]
    return ModelFiles(checks=tuple(checks), evaluator=evaluator, settings=settings)


def _weights(folder: Path, *, is_name: bool) -> Check:
    name = "weights"
    found = sorted(folder.glob("*.safetensors")) or sorted(folder.glob("*.bin"))
    missing = sorted(_named_by_index(folder) - {path.name for path in found})
    if found and not missing:
        num_bytes = sum(path.stat().st_size for path in found)
        files = "1 file" if len(found) == 1 else f"{len(found)} files"
        return ok(name, f"{files}, {_shown_bytes(num_bytes)}")
    what = f"{', '.join(missing)} not there" if missing else "none there"
    if is_name:
        return warning(
            name,
            f"{what}: the first call downloads them",
            remedy="Download them before: `hf download`.",
        )
    return failed(name, what, remedy="Copy them from where the folder came from.")


def _named_by_index(folder: Path) -> set[str]:
    """Return the files that the index of a checkpoint in several files names."""
    if not (folder / _INDEX).is_file():
        return set()
    try:
        return set(read_json(folder / _INDEX)["weight_map"].values())
    except (DatasetError, KeyError, TypeError, AttributeError):
        return {f"(what {_INDEX} names: it cannot be read)"}


def _shown_bytes(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.1f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:.1f} MB"


def _tokenizer(folder: Path) -> tuple[ChatTemplate | None, Check]:
    try:
        chat = ChatTemplate.load(folder)
    except AICError as error:
        remedy = "Use an instruction-tuned checkpoint with all files of its tokenizer."
        return None, failed_by("tokenizer", error, remedy=remedy)
    ends = ", ".join(map(str, sorted(chat.end_token_ids)))
    return chat, ok("tokenizer", f"has a chat template; responses end on token {ends}")


def _config(folder: Path) -> tuple[SelfEvalConfig | None, Check]:
    """Return None where there is no usable file."""
    name = "selfeval.json"
    try:
        own = find_selfeval(folder)
    except (CheckpointError, DatasetError) as error:
        remedy = "Correct it, or remove it to use the model uncalibrated."
        return None, failed(name, str(error).removesuffix(remedy).rstrip(), remedy=remedy)
    config, where = own.config, f"{own.path}: " if own.of_user else ""
    if own.passed_over:
        found = f"{own.passed_over[0]} is for a model of this name with other files: it is not used"
        remedy = "Tune this one (`aic tune`), or remove the file."
        return config or SelfEvalConfig(), warning(name, found, remedy=remedy)
    if config is None:
        found = "none: the model is asked the paper's question, zero-shot and uncalibrated"
        return SelfEvalConfig(), warning(name, found, remedy=_UNCALIBRATED)
    if not any(m.num_tokens is None for m in config.calibration):
        found = f"{where}has no calibration of finished responses"
        return config, warning(name, found, remedy=_UNCALIBRATED)
    at = ", ".join(str(m.num_tokens) for m in config.calibration if m.num_tokens is not None)
    partial = f" and at {at} tokens" if at else "; not of unfinished ones"
    return config, ok(name, f"{where}calibrated on finished responses{partial}")


def _evaluator(
    chat: ChatTemplate | None, config: SelfEvalConfig | None
) -> tuple[SelfEvaluator | None, tuple[Check, Check]]:
    if chat is None or config is None:
        missing = "the tokenizer cannot be used" if chat is None else "selfeval.json cannot be read"
        return None, (
            not_checked("chat template", missing) if chat is None else _template(chat, config),
            not_checked("labels", missing),
        )
    template = _template(chat, config)
    if template.status == "failed":
        return None, (template, not_checked("labels", "the chat template cannot be used"))
    try:
        evaluator = SelfEvaluator(config, chat)
    except SelfEvaluationError as error:
        remedy = "Choose labels in selfeval.json that differ in their first token."
        return None, (template, failed_by("labels", error, remedy=remedy))
    texts = (config.win_or_tie_label, config.loss_label)
    shown = " and ".join(
        f"{text!r} (token {token_id})"
        for text, token_id in zip(texts, evaluator.label_ids, strict=True)
    )
    return evaluator, (template, ok("labels", f"{shown} differ in their first token"))


def _template(chat: ChatTemplate, config: SelfEvalConfig | None) -> Check:
    """Return whether the question comes after a response as the template would write it."""
    name = "chat template"
    of_model = config or SelfEvalConfig()
    question = of_model.question
    remedy = "Use the chat template of an instruction-tuned model, with turns of both roles."
    try:
        asked = chat.follow_up_ids(question, closes_thought=of_model.answers_past_thought)
        as_written = chat.follow_up_ids(question, closes_thought=False)
        remarks = [chat.opening.shown] if of_model.answers_past_thought else []
        if not chat.habits.system:
            remarks.append("it has no turn of the system: what that says is joined to the user's")
        prompt = Message(role="user", content=_PROMPT)
        response = Message(role="assistant", content=_RESPONSE)
        ask = Message(role="user", content=question)
        whole = chat.prompt_ids([prompt, response, ask])
        pieces = (*chat.prompt_ids([prompt]), *chat.response_ids(_RESPONSE), *as_written)
    except (CheckpointError, ConfigurationError) as error:
        return failed_by(name, error, remedy=remedy)
    behind = "".join(f"; {remark}" for remark in remarks if remark)
    if whole != pieces:
        return warning(
            name,
            f"renders a past response differently; evaluations see it as it was generated{behind}",
            remedy="Nothing if the model was trained that way. Otherwise correct the template.",
        )
    return ok(
        name, f"keeps a response word for word; the question takes {len(asked)} tokens{behind}"
    )


def _found_in_template(chat: ChatTemplate | None) -> tuple[Check, Check]:
    """Return what will read the model's calls of tools, and its reasoning, if nothing is named."""
    calls, reasoning = _FOUND
    if chat is None:
        missing = "the tokenizer cannot be used"
        return not_checked(calls, missing), not_checked(reasoning, missing)
    try:
        return _calls(calls, calls_of(chat)), _reasoning(reasoning, reasoning_of(chat))
    except ConfigurationError as error:
        refused = f"the chat template refuses a prompt: {error}"
        return not_checked(calls, refused), not_checked(reasoning, refused)


def _calls(name: str, found: CallsOfModel) -> Check:
    if found.parser is None:
        return warning(
            name,
            f"nothing here reads what its chat template writes: {found.written}",
            remedy="Name one of vLLM's (tool_parser=...), or force calls (tool_choice=...).",
        )
    if found.source == "plain":
        return ok(name, "plain JSON: its chat template has no form of its own")
    return ok(name, f"by its {found.source}: {found.written}; and plain JSON")


def _reasoning(name: str, parser: object | None) -> Check:
    if parser is None:
        return ok(name, "none found: all of its text is the answer")
    return ok(name, f"separated from the answer {parser}")


def _policy(config: SelfEvalConfig | None) -> tuple[Settings | None, Check]:
    name = "policy"
    if config is None:
        return None, not_checked(name, "selfeval.json cannot be read")
    try:
        settings = resolve_settings({}, config.policy)
    except CheckpointError as error:
        return None, failed_by(name, error, remedy="Mend `policy` in selfeval.json.")
    shown = f"{'its own' if config.policy else 'the defaults'}: {', '.join(_described(settings))}"
    calibrated = {m.num_tokens for m in config.calibration}
    other = [at for at in settings.prune_at if at not in calibrated]
    if other and config.calibration:
        return settings, warning(
            name,
            f"{shown}; not calibrated at {', '.join(map(str, other))} tokens",
            remedy="Calibrate it at these checkpoints, or prune at ones that selfeval.json has.",
        )
    return settings, ok(name, shown)


def _described(settings: Settings) -> Iterator[str]:
    yield f"at most {settings.max_samples} samples"
    yield f"threshold {settings.threshold:g}" if settings.adaptive else "all at once"
    if settings.prune_at:
        yield f"pruned at {', '.join(map(str, settings.prune_at))} tokens"
    else:
        yield "nothing pruned"
