"""The asynchronous face of the in-process vLLM engine."""

from __future__ import annotations

import asyncio
import weakref

from selfeval_backend.engine.base import Capabilities, LabelLogprobs, SamplingParams
from selfeval_backend.engine.checks import check_length, check_params, check_token_ids
from selfeval_backend.engine.mailbox import Delivery, Mailbox, MailboxStream, Outbox
from selfeval_backend.engine.vllm.worker import (
    Abort,
    Command,
    Evaluation,
    Generation,
    Request,
    Worker,
)
from selfeval_backend.errors import ConfigurationError, EngineClosedError

__all__ = ["VllmEngine"]

_MAX_LABELS = 128
"""Source: vLLM's limit on `logprob_token_ids`."""


class VllmEngine:
    """One vLLM `LLMEngine`, driven from its own thread: token ids in, token ids out.

    Each sample is a request of its own, so that it can be aborted alone. Samples run on while they
    are evaluated: the evaluation is a request too, goes ahead of generation, and reads the full KV
    blocks that the sample has filled so far from the prefix cache. What a sample generates between
    its checkpoint and its abort is lost, and is counted: it is the stream's last word.

    Args:
        worker: Started; closed with the engine.
        chunk_tokens: Most tokens of a chunk, where the call does not say.

    Raises:
        ConfigurationError: An argument is out of range.
    """

    def __init__(self, worker: Worker, *, chunk_tokens: int = 16) -> None:
        if chunk_tokens < 1:
            raise ConfigurationError("chunk_tokens", chunk_tokens, "at least 1")
        self._worker = worker
        self._chunk_tokens = chunk_tokens
        self._capabilities = Capabilities(
            name="vllm",
            # vLLM wants room for one token after every prompt: the label's.
            context_length=worker.facts.max_model_len - 1,
            evaluates_mid_generation=True,
            pauses_at_checkpoints=False,
            takes_grammars=worker.facts.has_tokenizer,
            takes_min_p=not worker.facts.speculates,
        )
        self._outbox: Outbox[Command] = Outbox(worker.submit)
        # The thread keeps the worker alive, not the engine: an engine that is forgotten ends it. At
        # the interpreter's end it has to be over: a thread within C++ would abort the process.
        weakref.finalize(self, worker.close, wait_s=10.0)

    @property
    def capabilities(self) -> Capabilities:
        """What this engine can do."""
        return self._capabilities

    @property
    def num_running(self) -> int:
        """Requests that vLLM holds, waiting ones among them."""
        return self._worker.num_running

    def stream(self, prompt_ids: tuple[int, ...], params: SamplingParams) -> MailboxStream:
        """Generate one sample; none of its chunks crosses a checkpoint.

        Args:
            prompt_ids: At least one token.
            params: How it is drawn.

        Raises (the first time that a chunk is asked for):
            ConfigurationError: The prompt or a parameter is out of range, or vLLM refuses the
                grammar.
            ContextLengthError: Prompt and max_tokens exceed the context.
            ConfigurationError: This process was forked from the one that loaded the model.
            EngineClosedError: The engine is, or was meanwhile, closed.
            EngineError: vLLM failed.
        """
        generation = Generation(prompt_ids, params, self._chunk_tokens)

        def begin() -> Mailbox[Delivery]:
            check_params(params, self._capabilities)
            self._check_tokens("prompt_ids", prompt_ids, params.max_tokens)
            generation.mailbox = Mailbox()
            return generation.mailbox

        return MailboxStream(
            begin,
            go_on=lambda: self._outbox.put(generation),
            drop=lambda: self._abandon(generation),
            home=self._worker.home,
        )

    def _abandon(self, request: Request) -> None:
        request.abandoned = True
        self._worker.submit([Abort(request)])

    async def label_logprobs(
        self, token_ids: tuple[int, ...], label_ids: tuple[int, ...]
    ) -> LabelLogprobs:
        """Return the log-probabilities of `label_ids` as the token after `token_ids`.

        Args:
            token_ids: At least one token.
            label_ids: One to 128 tokens.

        Returns:
            One raw natural log-probability for each label.

        Raises:
            ConfigurationError: A token is not of the vocabulary, or there are too many labels.
            ContextLengthError: The sequence exceeds the context.
            ConfigurationError: This process was forked from the one that loaded the model.
            EngineClosedError: The engine is, or was meanwhile, closed.
            EngineError: vLLM failed.
        """
        self._check_tokens("token_ids", token_ids, 0)
        check_token_ids("label_ids", label_ids, limit=self._worker.facts.vocab_size)
        if len(label_ids) > _MAX_LABELS:
            raise ConfigurationError("label_ids", label_ids, f"at most {_MAX_LABELS} labels")
        mailbox: Mailbox[LabelLogprobs] = Mailbox()
        evaluation = Evaluation(token_ids, label_ids, mailbox)
        self._outbox.put(evaluation)
        try:
            return await mailbox.get()
        finally:
            self._abandon(evaluation)

    async def aclose(self) -> None:
        """Stop everything and free the model. Open streams end with EngineClosedError."""
        await asyncio.to_thread(self._worker.close)

    def _check_tokens(
        self, field: str, token_ids: tuple[int, ...], num_reserved_tokens: int
    ) -> None:
        self._worker.home.check()
        if self._worker.closing:
            raise EngineClosedError("The engine was closed.")
        check_token_ids(field, token_ids, limit=self._worker.facts.vocab_size)
        check_length(
            len(token_ids), num_reserved_tokens, context_length=self._capabilities.context_length
        )
