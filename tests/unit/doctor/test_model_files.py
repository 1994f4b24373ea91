"""Whether a model's files can be used."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from selfeval_backend.doctor import Check, ModelFiles, check_model_files
from selfeval_backend.model import REFERENCE_FOLDER

pytest.importorskip("transformers", reason="the extra with transformers is not installed")
pytestmark = pytest.mark.slow  # the reference model's files

NAMES = [
    *("files", "weights", "tokenizer", "chat template", "labels", "tool calls", "reasoning"),
    *("selfeval.json", "policy", "sampling"),
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the reference model."""
    return Path(shutil.copytree(REFERENCE_FOLDER, tmp_path / "model"))


def named(files: ModelFiles) -> dict[str, Check]:
    """The checks by their names; each that is not well says what to do."""
    for check in files.checks:
        assert "\n" not in check.found
        assert check.status in ("ok", "not checked") or check.remedy
    return {check.name: check for check in files.checks}


def edit(folder: Path, change: Callable[[dict[str, object]], object]) -> None:
    """Change the folder's selfeval.json."""
    path = folder / "selfeval.json"
    body = json.loads(path.read_text(encoding="utf-8"))
    change(body)
    path.write_text(json.dumps(body), encoding="utf-8")


def write_generation_config(folder: Path, **values: object) -> None:
    """Let the makers say how the model is to be sampled."""
    path = folder / "generation_config.json"
    body = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(body | values), encoding="utf-8")


def statuses(files: ModelFiles, *but: str) -> set[str]:
    """What is said of all others."""
    return {check.status for name, check in named(files).items() if name not in but}


def test_the_reference_model_is_well() -> None:
    files = check_model_files("reference", with_weights=True)

    assert list(named(files)) == NAMES
    assert statuses(files) == {"ok"}
    assert files.evaluator is not None
    assert files.settings is not None
    assert (
        f"takes {len(files.evaluator.question_ids)} tokens" in named(files)["chat template"].found
    )


def test_of_a_servers_model_no_weights_are_asked_for(folder: Path) -> None:
    (folder / "model.safetensors").unlink()

    files = check_model_files(folder, with_weights=False)

    assert list(named(files)) == [name for name in NAMES if name != "weights"]
    assert statuses(files) == {"ok"}


def test_without_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()

    files = check_model_files(folder, with_weights=True)

    assert named(files)["weights"].status == "failed"
    assert statuses(files, "weights") == {"ok"}


def test_a_piece_of_the_weights_is_missing(folder: Path) -> None:
    index = {"weight_map": {"a": "model.safetensors", "b": "model-2.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")

    check = named(check_model_files(folder, with_weights=True))["weights"]

    assert (check.status, check.found) == ("failed", "model-2.safetensors not there")


def test_no_such_folder(tmp_path: Path) -> None:
    files = check_model_files(tmp_path / "nothing", with_weights=True)

    assert named(files)["files"].status == "failed"
    assert statuses(files, "files") == {"not checked"}
    assert files.evaluator is None


def test_without_selfeval_json_it_is_a_warning(folder: Path) -> None:
    (folder / "selfeval.json").unlink()

    files = check_model_files(folder, with_weights=True)

    check = named(files)["selfeval.json"]
    assert check.status == "warning"
    assert "single greedy samples" in check.found
    assert statuses(files, "selfeval.json") == {"ok"}
    assert files.evaluator is not None
    assert not files.evaluator.calibrated


@pytest.mark.parametrize(
    ("text", "found"), [("{", "no JSON"), ('{"question": 3}', "question: "), ("[]", "object")]
)
def test_a_broken_selfeval_json(folder: Path, text: str, found: str) -> None:
    (folder / "selfeval.json").write_text(text, encoding="utf-8")

    files = check_model_files(folder, with_weights=True)

    check = named(files)["selfeval.json"]
    assert check.status == "failed"
    assert found in check.found
    assert named(files)["labels"].status == named(files)["policy"].status == "not checked"
    assert named(files)["chat template"].status == "ok"
    assert files.evaluator is None


def test_not_calibrated_at_the_end(folder: Path) -> None:
    edit(folder, lambda body: body.update(calibration=[], policy={}))

    files = check_model_files(folder, with_weights=True)

    assert named(files)["selfeval.json"].status == "warning"
    assert statuses(files, "selfeval.json") == {"ok"}


def test_prunes_where_it_is_not_calibrated(folder: Path) -> None:
    edit(folder, lambda body: body.update(policy={"prune_at": [48, 50]}))

    check = named(check_model_files(folder, with_weights=True))["policy"]

    assert check.status == "warning"
    assert check.found.endswith("not calibrated at 50 tokens")


def test_a_policy_that_is_none(folder: Path) -> None:
    edit(folder, lambda body: body.update(policy={"threshold": 7}))

    files = check_model_files(folder, with_weights=True)

    assert named(files)["policy"].status == "failed"
    assert "threshold: got 7" in named(files)["policy"].found
    assert files.settings is None


def test_how_tokens_are_drawn_and_which_file_says_so(folder: Path) -> None:
    edit(folder, lambda body: body.update(policy={"temperature": 0.8}))
    write_generation_config(folder, do_sample=False, temperature=0.2, top_k=20, min_p=None)

    check = named(check_model_files(folder, with_weights=True))["sampling"]

    assert check.status == "ok"
    assert check.found == (
        "temperature 0.8 (selfeval.json); top_p 1, min_p 0, repetition_penalty 1 (default); "
        "top_k 20 (generation_config.json)"
    )


@pytest.mark.parametrize("makers", [{"temperature": 0.0}, {"top_k": 1}, {"min_p": 1}], ids=str)
def test_makers_who_leave_nothing_to_choose_from(folder: Path, makers: dict[str, float]) -> None:
    write_generation_config(folder, **makers)

    check = named(check_model_files(folder, with_weights=True))["sampling"]

    assert check.status == "warning"
    assert "all samples are the greedy one" in check.found


def test_a_generation_config_that_is_out_of_range(folder: Path) -> None:
    write_generation_config(folder, top_p=1.5)

    files = check_model_files(folder, with_weights=True)

    assert named(files)["sampling"].status == "failed"
    assert "top_p: got 1.5" in named(files)["sampling"].found
    assert files.settings is None


def test_labels_that_begin_alike(folder: Path) -> None:
    edit(folder, lambda body: body.update(loss_label=body["win_or_tie_label"]))

    files = check_model_files(folder, with_weights=True)

    assert named(files)["labels"].status == "failed"
    assert files.evaluator is None


def test_without_a_chat_template(folder: Path) -> None:
    (folder / "chat_template.jinja").unlink()

    files = check_model_files(folder, with_weights=True)

    assert named(files)["tokenizer"].status == "failed"
    assert "no chat template" in named(files)["tokenizer"].found
    assert named(files)["chat template"].status == "not checked"
    assert named(files)["selfeval.json"].status == "ok"


def test_a_template_that_leaves_responses_out(folder: Path) -> None:
    (folder / "chat_template.jinja").write_text("{{ messages[0].content }}", encoding="utf-8")

    files = check_model_files(folder, with_weights=True)

    assert named(files)["chat template"].status == "failed"
    assert named(files)["labels"].status == "not checked"


def test_a_template_that_writes_responses_otherwise(folder: Path) -> None:
    path = folder / "chat_template.jinja"
    template = path.read_text(encoding="utf-8")
    path.write_text(template.replace("| trim", "| replace('\n', ' ')"), encoding="utf-8")

    files = check_model_files(folder, with_weights=True)

    assert named(files)["chat template"].status == "warning"
    assert files.evaluator is not None


@pytest.mark.parametrize(
    ("opened", "says"),
    [
        ("<think>\n", "opens a thought, which is closed"),
        ("{{ '' if enable_thinking is false else '<think>' }}", "(enable_thinking=False)"),
        ("", "keeps a response word for word"),
    ],
)
def test_where_the_question_is_answered(folder: Path, opened: str, says: str) -> None:
    path = folder / "chat_template.jinja"
    template = path.read_text(encoding="utf-8")
    path.write_text(template.replace("<|assistant|>{% endif", f"<|assistant|>{opened}{{% endif"))
    trained = named(check_model_files(folder, with_weights=True))["chat template"]
    (folder / "selfeval.json").unlink()

    check = named(check_model_files(folder, with_weights=True))["chat template"]

    # A past response has no thought in front, the one that is generated has: that is said too.
    assert check.status == trained.status == ("warning" if opened else "ok")
    assert says in check.found
    assert "thought" not in trained.found and "thinking" not in trained.found


def test_a_thought_that_cannot_be_closed(folder: Path) -> None:
    path = folder / "chat_template.jinja"
    template = path.read_text(encoding="utf-8")
    path.write_text(template.replace("<|assistant|>{% endif", "<|assistant|><|thinking|>{% endif"))
    assert statuses(check_model_files(folder, with_weights=True)) == {"ok", "warning"}
    (folder / "selfeval.json").unlink()

    files = check_model_files(folder, with_weights=True)

    check = named(files)["chat template"]
    assert check.status == "failed"
    assert "opens a thought with '<|thinking|>'" in check.found
    assert files.evaluator is None


def test_a_template_without_a_system(folder: Path) -> None:
    path = folder / "chat_template.jinja"
    template = path.read_text(encoding="utf-8")
    refusal = "{% if messages[0].role == 'system' %}{{ raise_exception('no') }}{% endif %}"
    path.write_text(refusal + template, encoding="utf-8")

    check = named(check_model_files(folder, with_weights=True))["chat template"]

    assert check.status == "ok"
    assert check.found.endswith("joined to the user's")


def test_what_reads_calls_and_reasoning_is_named(folder: Path) -> None:
    plain = named(check_model_files(folder, with_weights=True))
    assert "plain JSON" in plain["tool calls"].found
    assert "none found" in plain["reasoning"].found
    path = folder / "chat_template.jinja"
    words = "{% for t in tools or [] %}{{ t | tojson }}{% endfor %}{% for m in messages %}"
    calls = "{% for c in m.tool_calls or [] %}CALL{% endfor %}"
    call = "<tool_call>{{ c.function | tojson }}</tool_call>"
    turns = "<|begin|>{{ m.content }}" + calls + "<|end|>{% endfor %}<|assistant|><think>"
    path.write_text(words + turns.replace("CALL", call), encoding="utf-8")
    found = named(check_model_files(folder, with_weights=True))
    assert "<tool_call>" in found["tool calls"].found
    assert "<think>" in found["reasoning"].found and "opened" in found["reasoning"].found
    path.write_text(words + turns.replace("CALL", "{{ c.function }}"), encoding="utf-8")
    unread = named(check_model_files(folder, with_weights=True))["tool calls"]
    assert unread.status == "warning" and "tool_parser" in str(unread.remedy)


def test_no_tokenizer(folder: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()

    files = check_model_files(folder, with_weights=True)

    assert named(files)["tokenizer"].status == "failed"


def test_the_makers_own_weights_of_a_known_model(monkeypatch: pytest.MonkeyPatch) -> None:
    place = "selfeval_backend.doctor.model_files.locate_model_files"
    monkeypatch.setattr(place, lambda name, **_: REFERENCE_FOLDER)
    files = check_model_files("HuggingFaceTB/SmolLM2-135M-Instruct", with_weights=False)
    found = named(files)["files"].found
    assert "the makers' own weights of smollm2" in found
    assert "tuned or trained for the one is not used for the other" in found
