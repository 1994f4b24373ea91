"""A model that says which of two responses is better, behind an OpenAI-compatible server."""

from __future__ import annotations

import json
import math
from typing import Any

from selfeval_backend.errors import (
    EngineConnectionError,
    EngineRequestError,
    EngineResponseError,
    EngineTimeoutError,
    MissingDependencyError,
)
from selfeval_backend.hashing import digest_of
from selfeval_backend.scorers import ScorerIdentity
from selfeval_backend.web import (
    address_hint,
    bearer,
    check_key,
    check_url,
    connection_hint,
    open_client,
    without_key,
)

__all__ = ["Judge", "judge_messages"]

# The wording is part of the benchmark: alpaca_eval_clf of tatsu-lab/alpaca_eval (Apache-2.0).
_SYSTEM = (
    "You are a highly efficient assistant, who evaluates and selects the best large language model "
    "(LLMs) based on the quality of their responses to a given instruction. This process will be "
    "used to create a leaderboard reflecting the most accurate and human-preferred answers."
)
_USER = '''\
I require a leaderboard for various large language models. I'll provide you with prompts given to \
these models and their corresponding outputs. Your task is to assess these responses, and select \
the model that produces the best output from a human perspective.

## Instruction

{{
    "instruction": """{instruction}""",
}}

## Model Outputs

Here are the unordered outputs from the models. Each output is associated with a specific model, \
identified by a unique model identifier.

{{
    {{
        "model_identifier": "m",
        "output": """{first}"""
    }},
    {{
        "model_identifier": "M",
        "output": """{second}"""
    }}
}}

## Task

Evaluate the models based on the quality and relevance of their outputs, and select the model that \
generated the best output. Answer by providing the model identifier of the best model. We will use \
your output as the name of the best model, so make sure your output only contains one of the \
following model identifiers and nothing else (no quotes, no spaces, no new lines, ...): m or M.

## Best Model Identifier
'''

_ABSENT = -100.0
"""Log-probability of an identifier that is not among the likeliest tokens, as upstream has it."""


def judge_messages(instruction: str, first: str, second: str) -> list[dict[str, str]]:
    """Return the conversation that asks which of two responses is better: "m" or "M"."""
    user = _USER.format(instruction=instruction, first=first, second=second)
    return [{"role": "system", "content": _SYSTEM}, {"role": "user", "content": user}]


class Judge:
    """Asks twice, once in each order, so that a liking for a place cancels out.

    Source: weighted_alpaca_eval_gpt4_turbo of AlpacaEval 2, arXiv 2404.04475: one token, and the
    share of its probability on the two identifiers. Swapping places is ours; upstream draws one.

    Args:
        base_url: Up to and with the version: ``http://host:8000/v1``.
        model: Its name there.
        api_key: Sent as a bearer token; None: none.
        timeout_s: Of one request.

    Raises:
        ConfigurationError: The URL cannot be one, no header can carry the key, or the environment's
            proxies cannot be used.
        MissingDependencyError: httpx is not installed.
    """

    def __init__(
        self, base_url: str, *, model: str, api_key: str | None = None, timeout_s: float = 120.0
    ) -> None:
        try:
            import httpx
        except ImportError as error:
            raise MissingDependencyError("httpx", extra="eval") from error
        self._httpx = httpx
        self._base_url, self._api_key = check_url(base_url, field="judge_url"), check_key(api_key)
        self._url = self._base_url + "/chat/completions"
        self._model = model
        self.identity = ScorerIdentity(
            name=f"{model} at {self._url}", digest=digest_of([self._url, model, _SYSTEM, _USER])
        )
        """What a changed judge is told by."""
        self._client = open_client(
            lambda: httpx.Client(
                headers=bearer(self._api_key),
                timeout=timeout_s,
                transport=httpx.HTTPTransport(retries=3),
            )
        )

    def preference(self, instruction: str, response: str, reference: str) -> float:
        """Return how much the judge prefers a response to the reference, in [0, 1]; blocks.

        Raises:
            EngineError: The server cannot be reached, refuses, or answers neither identifier.
        """
        as_second = self._prob_second(instruction, reference, response)
        as_first = 1.0 - self._prob_second(instruction, response, reference)
        return (as_second + as_first) / 2.0

    def _prob_second(self, instruction: str, first: str, second: str) -> float:
        body = {
            "model": self._model,
            "messages": judge_messages(instruction, first, second),
            "max_tokens": 1,
            "temperature": 0.0,
            "logprobs": True,
            "top_logprobs": 5,
        }
        try:
            answer = self._client.post(self._url, json=body)
        except self._httpx.TimeoutException as error:
            raise EngineTimeoutError(f"the judge at {self._url} did not answer in time") from error
        except self._httpx.HTTPError as error:
            raise EngineConnectionError(
                f"the judge at {self._url} cannot be reached: {error}",
                hint=connection_hint(self._base_url, str(error)),
            ) from error
        if answer.status_code != 200:
            raise EngineRequestError(
                f"the judge at {self._url} refused: status {answer.status_code}: "
                f"{without_key(answer.text[:200], self._api_key)}",
                status_code=answer.status_code,
                hint=address_hint(self._base_url) if answer.status_code in (404, 405) else None,
            )
        return _share_of_second(_likeliest(answer.text))

    def close(self) -> None:
        """Close the connection."""
        self._client.close()


def _likeliest(text: str) -> dict[str, float]:
    """Return the likeliest first tokens of an answer and their log-probabilities."""
    try:
        choice: dict[str, Any] = json.loads(text)["choices"][0]
        tokens = choice["logprobs"]["content"][0]["top_logprobs"]
        return {str(each["token"]): float(each["logprob"]) for each in tokens}
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise EngineResponseError(
            f"the judge answered without log-probabilities: {text[:200]}"
        ) from error


def _share_of_second(likeliest: dict[str, float]) -> float:
    if not {"m", "M"} & likeliest.keys():
        raise EngineResponseError(
            f"the judge answered neither 'm' nor 'M'; its likeliest first tokens were "
            f"{sorted(likeliest)}",
            hint="Take a judge that follows its instructions.",
        )
    first, second = likeliest.get("m", _ABSENT), likeliest.get("M", _ABSENT)
    return 1.0 / (1.0 + math.exp(max(-700.0, min(700.0, first - second))))
