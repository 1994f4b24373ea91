"""Every default of LangChain's base classes that may be overridden: why it is, or why it stays.

A name that a new release adds is in no table, and its test fails: somebody has to say what it does
for a model that draws several samples, in its own tokens, in this process.
"""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel

from aic_integrations.langchain import (
    AdaptiveLLM,
    ChatAdaptive,
    ConfidenceGateChatModel,
    SelfEvaluationDecisionModel,
)

OURS = ("aic_integrations.", "selfeval_backend.")

RUNNABLE = {
    "calls one of the calls below, once for each input": (
        *("batch", "abatch", "batch_as_completed", "abatch_as_completed"),
        *("transform", "atransform"),
    ),
    "wraps the runnable in another, which calls it": (
        *("assign", "bind", "map", "pick", "pipe", "as_tool", "configurable_alternatives"),
        *("configurable_fields", "with_alisteners", "with_config", "with_fallbacks"),
        *("with_listeners", "with_retry", "with_types"),
    ),
    "tells of the runs of the calls below": (*("astream_events", "astream_log", "stream_events"),),
    "describes types, names and graphs, which are those of any model": (
        *("InputType", "OutputType", "config_schema", "config_specs", "get_config_jsonschema"),
        *("get_graph", "get_input_jsonschema", "get_input_schema", "get_name"),
        *("get_output_jsonschema", "get_output_schema", "get_prompts", "input_schema", "name"),
        *("output_schema",),
    ),
    "writes JSON of what the next ones say": ("lc_attributes", "lc_id", "to_json"),
    "writes JSON of what cannot be read back, and is asked by to_json": (
        "to_json_not_implemented",
    ),
    "is pydantic's": ("model_config", "model_post_init"),
}

SERIALIZED = {"lc_secrets", "is_lc_serializable", "get_lc_namespace"}
"""Said of every model that is read back from JSON; the default is that of those that are not: a
gate and a judge, which hold models."""

MODEL = {
    "callbacks, tags and metadata of a run are the framework's": (
        *("callbacks", "metadata", "set_verbose", "tags", "verbose"),
    ),
    "caches by what _identifying_params says": ("cache",),
    "takes messages apart and calls _generate and _agenerate": (
        *("agenerate", "agenerate_prompt", "ainvoke", "generate", "generate_prompt", "invoke"),
    ),
    "calls _stream and _astream": ("astream", "stream"),
    "is a user's own way to count, and asked before ours": ("custom_get_token_ids",),
    "is the length of get_token_ids, which is overridden": ("get_num_tokens",),
    "shows what _identifying_params says": ("asdict", "dict"),
}

CHAT = {
    "turns streams off for those who ask for it": ("disable_streaming",),
    "turns our content into blocks where it is asked for": ("output_version",),
    "waits before a call, which is one whatever number of samples it draws": ("rate_limiter",),
    "is what the user says of the model: the context is known once it is loaded, and a constructor "
    "loads nothing": ("profile",),
}

COMPLETION = {
    "writes a file of what _identifying_params says, without the key": ("save",),
    "stays refused, as LangChain has it: JSON of a schema is drawn by the chat model": (
        "with_structured_output",
    ),
}

DECISION = {
    "asks _classify and _aclassify, and counts what they say": ("ainvoke", "invoke"),
    "gives the answer of the calls, whole: one forward pass does not flow": ("astream", "stream"),
    "is the name of the model, for traces": ("model",),
}

KEPT: dict[type[Any], tuple[dict[str, tuple[str, ...]], ...]] = {
    ChatAdaptive: (RUNNABLE, MODEL, CHAT),
    AdaptiveLLM: (RUNNABLE, MODEL, COMPLETION),
    ConfidenceGateChatModel: (RUNNABLE, MODEL, CHAT),
    SelfEvaluationDecisionModel: (RUNNABLE, DECISION),
}

COUNTED = {"get_token_ids", "get_num_tokens_from_messages"}
FORMS = {"bind_tools", "with_structured_output"}
OVERRIDDEN: dict[type[Any], set[str]] = {
    ChatAdaptive: {*COUNTED, *FORMS, *SERIALIZED},
    AdaptiveLLM: {*COUNTED, *SERIALIZED},
    # Its tokens are those of its first model, however that one counts.
    ConfidenceGateChatModel: {*COUNTED, *FORMS, "get_num_tokens"},
    SelfEvaluationDecisionModel: set(),
}

HOOKS: dict[type[Any], dict[str, str]] = {
    ChatAdaptive: {
        "_generate": "overridden: the answer",
        "_agenerate": "overridden: on the caller's loop",
        "_stream": "overridden: flows as soon as it is certain which sample it is",
        "_astream": "overridden: on the caller's loop",
        "_llm_type": "overridden: the provider",
        "_identifying_params": "overridden: all that decides an answer",
        "_get_ls_params": "overridden: the provider",
        "_combine_llm_outputs": "stays: each message says its own model and usage",
        "_get_invocation_params": "stays: the settings, of _identifying_params",
        "_resolve_model_profile": "stays: see profile",
    },
    AdaptiveLLM: {
        "_generate": "overridden: all prompts at once",
        "_agenerate": "overridden: on the caller's loop",
        "_stream": "overridden: flows as soon as it is certain which sample it is",
        "_astream": "overridden: on the caller's loop",
        "_llm_type": "overridden: the provider",
        "_identifying_params": "overridden: all that decides an answer",
        "_get_ls_params": "overridden: the provider",
    },
    ConfidenceGateChatModel: {
        "_generate": "overridden: attempts until one passes",
        "_agenerate": "overridden: on the caller's loop",
        "_stream": "overridden: whole, once it has passed",
        "_astream": "overridden: on the caller's loop",
        "_llm_type": "overridden: the gate",
        "_identifying_params": "overridden: the policy and the models",
        "_get_ls_params": "overridden: the first model's",
        "_get_invocation_params": "overridden: with what is bound to the model",
        "_resolve_model_profile": "overridden: the first model's",
        "_combine_llm_outputs": "stays: each message says its own model and usage",
    },
    SelfEvaluationDecisionModel: {
        "_classify": "overridden: the self-evaluation",
        "_aclassify": "overridden: on the caller's loop",
        "_provider": "overridden: the provider",
    },
}


PYDANTICS = {"model_post_init"}
"""What a base class may or may not have of its own."""


def names_of(model: type[Any], *, ours: bool) -> set[str]:
    """Return names of the framework's classes; or of ours, among a model's bases."""
    names: set[str] = set()
    for base in model.__mro__:
        is_ours = base.__module__.startswith(OURS)
        if is_ours == ours and (is_ours or base.__module__.startswith("langchain_core.")):
            names |= {*vars(base), *vars(base).get("__annotations__", {})}
    return {name for name in names if not name.startswith("__")}


def public(names: set[str]) -> set[str]:
    pydantics = {*dir(BaseModel)} - {"dict", "json", "model_config", "model_post_init"}
    return {name for name in names if not name.startswith("_") and name not in pydantics}


@pytest.mark.parametrize("model", KEPT, ids=lambda model: model.__name__)
def test_each_default_is_overridden_or_has_a_reason_to_stay(model: type[Any]) -> None:
    framework = public(names_of(model, ours=False))
    told = [name for table in KEPT[model] for names in table.values() for name in names]
    overridden = OVERRIDDEN[model]
    not_serialized = SERIALIZED - overridden
    kept = {*told, *not_serialized} - overridden
    assert {"new in the framework": framework - kept - overridden} == {
        "new in the framework": set()
    }
    assert {"gone from it": {*told, *overridden} - framework - PYDANTICS} == {"gone from it": set()}


@pytest.mark.parametrize("model", KEPT, ids=lambda model: model.__name__)
def test_the_tables_say_what_is_so(model: type[Any]) -> None:
    framework, own = names_of(model, ours=False), names_of(model, ours=True)
    by_us = public(framework & own) - {"model_config"}
    assert by_us == OVERRIDDEN[model]
    for hook, reason in HOOKS[model].items():
        assert hook in framework, hook
        assert reason.startswith("overridden: " if hook in own else "stays: "), hook
    assert {name for name in framework & own if name.startswith("_")} - {"_abc_impl"} <= {
        *HOOKS[model]
    }


def test_what_is_saved_holds_no_key(tmp_path: Any) -> None:
    path = tmp_path / "llm.json"
    AdaptiveLLM(base_url="http://localhost:1/v1", api_key="sk-secret").save(path)
    assert '"model": "reference"' in path.read_text("utf-8")
    assert "sk-secret" not in path.read_text("utf-8")
