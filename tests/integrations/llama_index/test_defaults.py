"""Every default of LlamaIndex's base classes that may be overridden: why it is, or why it stays.

A name that a new release adds is in no table, and the test fails: somebody has to say what it does
for a model that draws several samples, in its own tokens, in this process.
"""

from __future__ import annotations

from pydantic import BaseModel

from aic_integrations.llama_index import AdaptiveLLM

OVERRIDDEN = {
    "chat": "the answer",
    "achat": "the answer, on the caller's loop",
    "complete": "the answer to one turn",
    "acomplete": "the same, on the caller's loop",
    "stream_chat": "flows as soon as it is certain which sample it is",
    "astream_chat": "the same, on the caller's loop",
    "stream_complete": "as stream_chat, of one turn",
    "astream_complete": "the same, on the caller's loop",
    "metadata": "the model's own context, with room for the question of the self-evaluation",
    "to_payload": "no key in it, and no weights loaded for it",
    "class_name": "the name under which it is serialized",
    "get_tool_calls_from_response": "says what was broken about a call",
    "model_config": "unknown names are refused",
}

KEPT = {
    "astream_chat_with_tools": "asks _prepare_chat_with_tools and astream_chat",
    "achat_with_tools": "asks _prepare_chat_with_tools and achat",
    "chat_with_tools": "asks _prepare_chat_with_tools and chat",
    "stream_chat_with_tools": "asks _prepare_chat_with_tools and stream_chat",
    "predict_and_call": "asks chat_with_tools, and runs what was called",
    "apredict_and_call": "asks achat_with_tools, and runs what was called",
    "predict": "asks chat with a prompt's messages",
    "apredict": "asks achat with a prompt's messages",
    "stream": "asks stream_chat with a prompt's messages",
    "astream": "asks astream_chat with a prompt's messages",
    "structured_predict": "forces a call of the schema, under its grammar",
    "astructured_predict": "the same, on the caller's loop",
    "stream_structured_predict": "asks _structured_stream_call, which forces the call",
    "astream_structured_predict": "asks _structured_astream_call, which forces the call",
    "as_structured_llm": "wraps it in another, which asks structured_predict",
    "callback_manager": "is told by the decorators of each call",
    "check_callback_manager": "makes a manager where there is none",
    "check_prompts": "makes functions of prompts where there are none",
    "completion_to_prompt": "wraps a completion that was not wrapped",
    "set_completion_to_prompt": "checks what completion_to_prompt is given",
    "messages_to_prompt": "is asked of models that take no conversation: this one does",
    "set_messages_to_prompt": "checks what messages_to_prompt is given",
    "convert_chat_messages": "is asked by nobody that answers here: messages are read by block",
    "output_parser": "is the user's, of predict and stream",
    "pydantic_program_mode": "the user's: the default forces a call",
    "query_wrapper_prompt": "the user's, of completions",
    "system_prompt": "the user's; joined to the first turn where the template has no such role",
    "rate_limiter": "waits before a call, which is one whatever number of samples it draws",
    "to_dict": "writes fields, and the key and what is loaded are none of them",
    "to_json": "as to_dict",
    "from_dict": "reads what to_dict wrote",
    "from_json": "as from_dict",
    "custom_model_dump": "adds class_name to what is written",
    "dict": "is pydantic's, with class_name",
    "json": "is pydantic's, with class_name",
}

HOOKS = {
    "_prepare_chat_with_tools": "overridden: a forced call is drawn under a grammar",
    "_structured_stream_call": "overridden: the call is forced in a stream too",
    "_structured_astream_call": "overridden: the same, on the caller's loop",
    "_validate_chat_with_tools_response": "stays: nothing is taken out of an answer",
    "_extend_messages": "stays: puts system_prompt in front",
    "_extend_prompt": "stays: puts system_prompt in front",
    "_get_messages": "stays: formats a prompt",
    "_get_prompt": "stays: formats a prompt",
    "_parse_output": "stays: asks output_parser",
}


def names_of(*, ours: bool) -> set[str]:
    """Return names of the framework's classes; or of ours, among the LLM's bases."""
    names: set[str] = set()
    for base in AdaptiveLLM.__mro__:
        is_ours = base.__module__.startswith(("aic_integrations.", "selfeval_backend."))
        if is_ours == ours and (is_ours or base.__module__.startswith("llama_index.")):
            names |= {*vars(base), *vars(base).get("__annotations__", {})}
    return {name for name in names if not name.startswith("__")}


def public(names: set[str]) -> set[str]:
    pydantics = {*dir(BaseModel)} - {"dict", "json", "model_config"}
    return {name for name in names if not name.startswith("_") and name not in pydantics}


def test_each_default_is_overridden_or_has_a_reason_to_stay() -> None:
    framework = public(names_of(ours=False))
    assert {"new in the framework": framework - {*KEPT, *OVERRIDDEN}} == {
        "new in the framework": set()
    }
    assert {"gone from it": {*KEPT, *OVERRIDDEN} - framework} == {"gone from it": set()}


def test_the_tables_say_what_is_so() -> None:
    framework, own = names_of(ours=False), names_of(ours=True)
    assert public(framework & own) == {*OVERRIDDEN}
    for hook, reason in HOOKS.items():
        assert hook in framework, hook
        assert reason.startswith("overridden: " if hook in own else "stays: "), hook
    private = {name for name in framework & own if name.startswith("_")} - {"_abc_impl"}
    assert private <= {*HOOKS}
