"""The question of a self-evaluation is answered where an answer stands, whatever thinks."""

from __future__ import annotations

import pytest

from selfeval_backend.chat import ChatTemplate
from selfeval_backend.errors import ModelFilesError
from selfeval_backend.selfeval import CalibrationMap, SelfEvalConfig, SelfEvaluator
from tests.chat_templates import CHATML, FAMILIES, QWEN_3, chat_of

pytest.importorskip("transformers", reason="the extra with transformers is not installed")

ENDS = {
    "chatml": "<|im_start|>assistant\n",
    "qwen 2.5": "<|im_start|>assistant\n",
    "qwen 3": "<|im_start|>assistant\n<think>\n\n</think>\n\n",
    "qwen 3.5": "<|im_start|>assistant\n<think>\n\n</think>\n\n",
    "qwen 3 thinking": "<|im_start|>assistant\n<think>\n\n</think>\n\n",
    "deepseek r1": "<|Assistant|><think>\n\n</think>\n\n",
    "deepseek 3.1": "<|Assistant|></think>",
    "magistral": "[/INST][THINK][/THINK]",
    "reasoning tag": "<|im_start|>assistant\n<reasoning>\n\n</reasoning>\n\n",
    "command a": "<|CHATBOT_TOKEN|><|START_RESPONSE|>",
    "harmony": "<|start|>assistant<|channel|>final<|message|>",
    "granite": "<|start_of_role|>assistant<|end_of_role|>",
    "gemma 2": "<start_of_turn>model\n",
    "mistral 0.1": "[/INST]",
    "parts only": "Assistant:",
}


def asked(chat: ChatTemplate, *, closes_thought: bool = True) -> str:
    ids = chat.follow_up_ids("Again?", closes_thought=closes_thought)
    return chat.decode(ids, keep_special_tokens=True)


def opening(text: str) -> ChatTemplate:
    """Return a template that opens the assistant's turn with a text."""
    return chat_of(
        CHATML.replace("assistant\\n' -}}{%- endif", f"assistant\\n{text}' -}}}}{{%- endif")
    )


@pytest.mark.parametrize("name", ENDS)
def test_the_question_is_asked_where_an_answer_stands(name: str) -> None:
    before, question, after = asked(chat_of(FAMILIES[name])).partition("Again?")
    assert question
    assert "think" not in before.lower()
    assert after.endswith(ENDS[name])


@pytest.mark.parametrize(
    ("opened", "closed"),
    [
        ("<think>", "<think>\n\n</think>\n\n"),
        ("<think>\\n", "<think>\n\n</think>\n\n"),
        ("<think>\\n\\n", "<think>\n\n</think>\n\n"),
        ("<thinking>\\n", "<thinking>\n\n</thinking>\n\n"),
        ("<thought>", "<thought>\n\n</thought>\n\n"),
        ("<seed:think>", "<seed:think>\n\n</seed:think>\n\n"),
        ("<Reasoning>", "<Reasoning>\n\n</Reasoning>\n\n"),
        ("[THINK]", "[THINK][/THINK]"),
        ("◁think▷", "◁think▷◁/think▷"),
        ("<|START_THINKING|>", "<|START_THINKING|><|END_THINKING|>"),
        (
            "<|begin_of_thought|>",
            "<|begin_of_thought|>\n\n<|end_of_thought|>\n\n",
        ),
        (
            "<|channel|>analysis<|message|>",
            "<|channel|>analysis<|message|><|end|><|start|>assistant<|channel|>final<|message|>",
        ),
        ("<think></think>", "<think></think>"),
        ("</think>", "</think>"),
        ("[/THINK]", "[/THINK]"),
        ("<|END_THINKING|>", "<|END_THINKING|>"),
        ("<answer>", "<answer>"),
    ],
)
def test_a_thought_is_closed_as_its_family_does_it(opened: str, closed: str) -> None:
    assert asked(opening(opened)).endswith(f"<|im_start|>assistant\n{closed}")


@pytest.mark.parametrize("opened", ["<|thinking|>", "<|reasoning_start|>\\n", "<analysis>"])
def test_a_thought_that_cannot_be_closed_is_refused(opened: str) -> None:
    chat = opening(opened)
    with pytest.raises(ModelFilesError, match="test: its chat template opens a thought with '<"):
        SelfEvaluator(None, chat)
    assert asked(chat, closes_thought=False).endswith(opened.replace("\\n", "\n"))


@pytest.mark.parametrize("variable", ["enable_thinking", "thinking", "think", "use_reasoning"])
def test_thinking_is_turned_off_by_whatever_variable(variable: str) -> None:
    chat = chat_of(QWEN_3.replace("enable_thinking", variable))
    assert asked(chat).endswith("assistant\n<think>\n\n</think>\n\n")
    assert chat.opening.variables == {variable: False}
    assert f"{variable}=False" in chat.opening.shown


@pytest.mark.parametrize("name", ["qwen 3", "qwen 3 thinking", "deepseek r1"])
def test_the_response_is_evaluated_as_it_was_generated(name: str) -> None:
    # These take thoughts out of earlier turns: what comes behind the response is theirs, no more.
    chat = chat_of(FAMILIES[name])
    assert asked(chat).count("</think>") == 1
    assert asked(chat).startswith(("<|im_end|>\n<|im_start|>user\nAgain?", "<|end|><|User|>Again?"))


def test_the_prompt_of_an_answer_leaves_thinking_as_it_is() -> None:
    from selfeval_backend.chat import Message

    chat = chat_of(FAMILIES["qwen 3.5"])
    prompt = chat.prompt_ids([Message(role="user", content="Q1")])
    assert chat.decode(prompt, keep_special_tokens=True).endswith("assistant\n<think>\n")


FITTED = (CalibrationMap(num_tokens=None, raw_logit=(0.0,), prob_win_or_tie=(0.5,)),)


@pytest.mark.parametrize(
    ("config", "closes_thought"),
    [
        (None, True),
        (SelfEvalConfig(), True),
        (SelfEvalConfig(policy={"threshold": 0.5}), True),
        # Trained before there was a choice: as it was trained.
        (SelfEvalConfig(calibration=FITTED), False),
        (SelfEvalConfig(calibration=FITTED, closes_thought=True), True),
        (SelfEvalConfig(closes_thought=False), False),
    ],
)
def test_what_was_trained_is_asked_as_it_was_trained(
    config: SelfEvalConfig | None, closes_thought: bool
) -> None:
    chat = chat_of(FAMILIES["deepseek r1"])
    evaluator = SelfEvaluator(config, chat)
    question = (config or SelfEvalConfig()).question
    assert evaluator.question_ids == chat.follow_up_ids(question, closes_thought=closes_thought)
    assert chat.decode(evaluator.question_ids).endswith("</think>\n\n") == closes_thought
