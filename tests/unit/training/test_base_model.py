"""How a model that is trained is asked about its own responses."""

from __future__ import annotations

from pathlib import Path

from selfeval_backend.selfeval import SelfEvalConfig, SelfEvaluator
from selfeval_backend.training.base_model import load_asking
from tests.chat_templates import FAMILIES, chat_of
from tests.unit.training.conftest import MakeRecipe


def test_a_model_that_thinks_is_trained_and_asked_behind_its_thought(
    make_recipe: MakeRecipe, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    chat = chat_of(FAMILIES["deepseek r1"])
    chat.tokenizer.save_pretrained(folder)
    (folder / "config.json").write_text('{"model_type": "llama"}', encoding="utf-8")

    asking = load_asking(make_recipe(model=str(folder)))

    assert asking.chat.decode(asking.evaluator.question_ids).endswith("</think>\n\n")
    (tmp_path / "trained").mkdir()
    asking.config.save(tmp_path / "trained")
    read = SelfEvalConfig.load(tmp_path / "trained")
    assert read is not None and read.closes_thought
    assert SelfEvaluator(read, asking.chat).question_ids == asking.evaluator.question_ids
