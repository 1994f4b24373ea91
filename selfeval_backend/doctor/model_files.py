"""A model's files: weights, tokenizer, chat template, and its self-evaluation's own facts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from selfeval_backend.chat import CallsOfModel, ChatTemplate, Message, calls_of, reasoning_of
from selfeval_backend.doctor.check import Check, failed, failed_by, not_checked, ok, warning
from selfeval_backend.errors import (
    AICError,
    ConfigurationError,
    DatasetError,
    ModelFilesError,
    SelfEvaluationError,
)
from selfeval_backend.files import read_json
from selfeval_backend.model import find_selfeval, locate_model_files, read_generation_config
from selfeval_backend.model_store import KnownModel, check_can_fetch, made_of, to_fetch
from selfeval_backend.selfeval import SelfEvalConfig, SelfEvaluator
from selfeval_backend.settings import SAMPLING_NAMES, Settings, Source, resolve_settings

__all__ = ["ModelFiles", "check_model_files"]

_UNKNOWN = "Train it (`aic train`), or go on: answers are as the model alone gives them."
_UNCALIBRATED = "Calibrate it (`aic train`), or go on: confidences are marked calibrated: false."
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
        model: A name in `model_store.KNOWN`, a model folder, or a model of the hub.
        with_weights: Whether the weights are needed here; a server has its own.
    """
    names = ("tokenizer", "chat template", "labels", *_FOUND, "selfeval.json", "policy", "sampling")
    if known := to_fetch(model):
        lost = _not_here(known)
        return ModelFiles(checks=(lost, *(not_checked(n, "there are no files") for n in names)))
    try:
        folder = locate_model_files(model, with_weights=False)
    except AICError as error:
        remedy = "Give --model (of a server: --model-files) a model folder or a model name."
        lost = failed_by("files", error, remedy=remedy)
        return ModelFiles(checks=(lost, *(not_checked(n, "there are no files") for n in names)))
    checks = [_files(model, folder)]
    if with_weights:
        checks.append(_weights(folder, is_name=not Path(model).expanduser().is_dir()))
    config, of_config = _config(folder)
    chat, of_chat = _tokenizer(folder)
    evaluator, of_evaluator = _evaluator(chat, config)
    settings, of_settings = _settings(config, folder)
    checks += [of_chat, *of_evaluator, *_found_in_template(chat), of_config, *of_settings]
    return ModelFiles(checks=tuple(checks), evaluator=evaluator, settings=settings)


def _not_here(model: KnownModel) -> Check:
    """Return what it takes to have a known model that has not been fetched."""
    try:
        check_can_fetch()
    except AICError as error:
        return failed_by("files", error, remedy=f"Then fetch it: aic pull {model.name}.")
    return warning(
        "files",
        f"{model.name} is not on this machine: the first call fetches it ({model.source})",
        remedy=f"Fetch it before: aic pull {model.name}.",
    )


def _files(model: str | Path, folder: Path) -> Check:
    known = made_of(model)
    if known is None:
        return ok("files", str(folder))
    return ok(
        "files",
        f"{folder}: the makers' own weights of {known.name}. Tokenizer and chat template are the "
        "same; what is tuned or trained for the one is not used for the other",
    )


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
    """Return the files that the index of weights in several files names."""
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
        remedy = "Use an instruction-tuned model with all files of its tokenizer."
        return None, failed_by("tokenizer", error, remedy=remedy)
    ends = ", ".join(map(str, sorted(chat.end_token_ids)))
    return chat, ok("tokenizer", f"has a chat template; responses end on token {ends}")


def _config(folder: Path) -> tuple[SelfEvalConfig | None, Check]:
    """Return None where there is no usable file."""
    name = "selfeval.json"
    try:
        own = find_selfeval(folder)
    except (ModelFilesError, DatasetError) as error:
        remedy = "Correct it, or remove it to use the model uncalibrated."
        return None, failed(name, str(error).removesuffix(remedy).rstrip(), remedy=remedy)
    config, where = own.config, f"{own.path}: " if own.of_user else ""
    if own.passed_over:
        found = f"{own.passed_over[0]} is for a model of this name with other files: it is not used"
        remedy = "Tune this one (`aic tune`), or remove the file."
        return config or SelfEvalConfig(), warning(name, found, remedy=remedy)
    if config is None:
        found = "none: answers are single greedy samples, without a confidence"
        return SelfEvalConfig(), warning(name, found, remedy=_UNKNOWN)
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
    except (ModelFilesError, ConfigurationError) as error:
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


def _settings(
    config: SelfEvalConfig | None, folder: Path
) -> tuple[Settings | None, tuple[Check, Check]]:
    """Return what a call has that sets nothing, and checks of the policy and of the sampling."""
    policy, sampling = "policy", "sampling"
    if config is None:
        missing = "selfeval.json cannot be read"
        return None, (not_checked(policy, missing), not_checked(sampling, missing))
    try:
        generation_config = read_generation_config(folder)
    except ModelFilesError as error:
        lost = failed_by(sampling, error, remedy="Mend generation_config.json, or remove it.")
        return None, (not_checked(policy, "generation_config.json cannot be used"), lost)
    try:
        settings = resolve_settings({}, config.policy, generation_config)
    except ModelFilesError as error:
        lost = failed_by(policy, error, remedy="Mend `policy` in selfeval.json.")
        return None, (lost, not_checked(sampling, "the policy cannot be used"))
    return settings, (_policy(config, settings), _sampling(settings))


def _policy(config: SelfEvalConfig, settings: Settings) -> Check:
    name = "policy"
    shown = f"{'its own' if config.policy else 'the defaults'}: {', '.join(_described(settings))}"
    calibrated = {m.num_tokens for m in config.calibration}
    other = [at for at in settings.prune_at if at not in calibrated]
    if other and config.calibration:
        return warning(
            name,
            f"{shown}; not calibrated at {', '.join(map(str, other))} tokens",
            remedy="Calibrate it at these checkpoints, or prune at ones that selfeval.json has.",
        )
    return ok(name, shown)


def _sampling(settings: Settings) -> Check:
    """Return how tokens are drawn, and which file says so."""
    name, said = "sampling", settings.sources
    groups: dict[Source, list[str]] = {}
    for each in SAMPLING_NAMES:
        groups.setdefault(said[each], []).append(f"{each} {getattr(settings, each):g}")
    found = "; ".join(f"{', '.join(values)} ({source})" for source, values in groups.items())
    if settings.temperature == 0 or settings.top_k == 1 or settings.min_p == 1:
        return warning(
            name,
            f"{found}: all samples are the greedy one, and more of them help nothing",
            remedy="Set temperature=1, top_k=0 and min_p=0 where the model is used.",
        )
    return ok(name, found)


def _described(settings: Settings) -> Iterator[str]:
    yield f"at most {settings.max_samples} samples"
    yield f"threshold {settings.threshold:g}" if settings.adaptive else "all at once"
    if settings.prune_at:
        yield f"pruned at {', '.join(map(str, settings.prune_at))} tokens"
    else:
        yield "nothing pruned"
