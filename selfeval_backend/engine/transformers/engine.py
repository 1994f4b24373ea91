"""The asynchronous face of the in-process transformers engine.

Why not transformers' own continuous batching (`ContinuousBatchingManager`, 5.23): it returns drawn
tokens and their own log-probabilities only, so no label can be read, let alone on a live cache and
rolled back; and it has one seed for everything.
"""

from __future__ import annotations

import asyncio
import warnings
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from selfeval_backend.engine.base import Capabilities, LabelLogprobs, SamplingParams
from selfeval_backend.engine.checks import check_length, check_params, check_token_ids
from selfeval_backend.engine.mailbox import Delivery, Mailbox, MailboxStream, Outbox
from selfeval_backend.engine.transformers.architecture import (
    Architecture,
    check_architecture,
    load_config,
)
from selfeval_backend.engine.transformers.attention import GROUPED_ATTENTION
from selfeval_backend.engine.transformers.grammars import GrammarCompiler
from selfeval_backend.engine.transformers.probe import probe, probe_config
from selfeval_backend.engine.transformers.scheduler import Row
from selfeval_backend.engine.transformers.worker import Command, Evaluation, Worker
from selfeval_backend.errors import (
    CheckpointError,
    ConfigurationError,
    EngineClosedError,
)
from selfeval_backend.forks import check_may_load

__all__ = ["TransformersEngine", "check_transformers_model", "load_transformers_engine"]

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class TransformersEngine:
    """Continuous batching of one transformers model in this process, on its own thread.

    All rows of all callers share each forward pass. A stream stands still at its checkpoints until
    its consumer asks for more, and evaluations run on its live KV cache. Same seed, same prompt:
    same tokens, whatever else runs, up to the rounding of differently shaped matrix products.

    Args:
        model: A decoder-only model with a standard KV cache in every layer; its windows, if it has
            any, are no smaller than its context. It is put into evaluation mode, and is this
            engine's alone until `aclose`. Where its rotary factors change with the length of the
            longest row (longrope), the context ends before, with a UserWarning.
        max_batch: Most samples that generate at once; more wait. Samples that stand still do not
            count, but hold their KV cache.
        chunk_tokens: Most tokens of a chunk, where the call does not say.
        tokenizer: Returns the model's tokenizer, which only grammars need: called when the first
            one comes. None: grammars are refused.

    Raises:
        ConfigurationError: The model needs another cache, or an argument is out of range.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        max_batch: int = 256,
        chunk_tokens: int = 16,
        tokenizer: Callable[[], PreTrainedTokenizerBase] | None = None,
    ) -> None:
        for field, value in (("max_batch", max_batch), ("chunk_tokens", chunk_tokens)):
            if value < 1:
                raise ConfigurationError(field, value, "at least 1")
        model.eval()  # type: ignore[no-untyped-call]  # transformers does not annotate it
        facts = probe(model)
        if facts.shortened is not None:
            warnings.warn(f"{type(model).__name__}: {facts.shortened}.", stacklevel=2)
        self._chunk_tokens = chunk_tokens
        self._vocab_size, self._num_logits = facts.vocab_size, facts.num_logits
        self._capabilities = Capabilities(
            name="transformers",
            context_length=facts.context_length,
            evaluates_mid_generation=True,
            pauses_at_checkpoints=True,
            takes_grammars=tokenizer is not None,
        )
        self._grammars = (
            None if tokenizer is None else GrammarCompiler(tokenizer, num_logits=facts.num_logits)
        )
        # A thread of its own: those of the loop are few, and other models' calls wait for them.
        self._compiling = ThreadPoolExecutor(1, "transformers-grammars")
        self._worker = Worker(model, max_batch=max_batch)
        self._outbox: Outbox[Command] = Outbox(self._worker.submit)
        # The thread keeps the worker alive, not the engine: an engine that is forgotten ends it. At
        # the interpreter's end it has to be over: a thread within C++ would abort the process.
        weakref.finalize(self, self._worker.close, wait_s=10.0)

    @property
    def capabilities(self) -> Capabilities:
        """What this engine can do."""
        return self._capabilities

    @property
    def num_running(self) -> int:
        """Samples that generate right now."""
        return self._worker.num_running

    @property
    def num_open(self) -> int:
        """Samples that are held: generating, standing still, finished but open, or waiting."""
        return self._worker.num_open

    def stream(self, prompt_ids: tuple[int, ...], params: SamplingParams) -> MailboxStream:
        """Generate one sample; none of its chunks crosses a checkpoint.

        Args:
            prompt_ids: At least one token.
            params: How it is drawn.

        Raises (the first time that a chunk is asked for):
            ConfigurationError: The prompt or a parameter is out of range, or the grammar is one
                that llguidance cannot follow.
            ContextLengthError: Prompt and max_tokens exceed the context.
            CheckpointError: There is a grammar, and the model's tokenizer cannot be loaded.
            ConfigurationError: This process was forked from the one that loaded the model.
            EngineClosedError: The engine is, or was meanwhile, closed.
            EngineResponseError: The model's logits were not finite.
            EngineError: The forward pass failed.
        """
        row = Row(prompt_ids, params, self._chunk_tokens)

        async def prepare() -> None:
            check_params(params, self._capabilities)
            if params.grammar is not None and self._grammars is not None:
                row.guide = await asyncio.get_running_loop().run_in_executor(
                    self._compiling, self._grammars.guide, params.grammar, params.stop_token_ids
                )

        def begin() -> Mailbox[Delivery]:
            check_params(params, self._capabilities)
            self._check_tokens("prompt_ids", prompt_ids, params.max_tokens)
            row.mailbox = Mailbox()
            return row.mailbox

        return MailboxStream(
            begin,
            go_on=lambda: self._outbox.put(("enqueue", row)),
            drop=lambda: self._worker.submit([("drop", row)]),
            home=self._worker.home,
            prepare=prepare if params.grammar is not None else None,
        )

    async def label_logprobs(
        self, token_ids: tuple[int, ...], label_ids: tuple[int, ...]
    ) -> LabelLogprobs:
        """Return the log-probabilities of `label_ids` as the token after `token_ids`.

        Args:
            token_ids: At least one token.
            label_ids: At least one token.

        Returns:
            One natural log-probability for each label, in float32 precision.

        Raises:
            ConfigurationError: A token is not of the vocabulary.
            ContextLengthError: The sequence exceeds the context.
            ConfigurationError: This process was forked from the one that loaded the model.
            EngineClosedError: The engine is, or was meanwhile, closed.
            EngineResponseError: The model's logits were not finite.
            EngineError: The forward pass failed.
        """
        self._check_tokens("token_ids", token_ids, 0)
        check_token_ids("label_ids", label_ids, limit=self._num_logits)
        mailbox: Mailbox[LabelLogprobs] = Mailbox()
        evaluation = Evaluation(token_ids, label_ids, mailbox)
        self._outbox.put(("evaluate", evaluation))
        try:
            return await mailbox.get()
        finally:
            evaluation.abandoned = True

    async def aclose(self) -> None:
        """Stop everything and free the model. Open streams end with EngineClosedError."""
        await asyncio.to_thread(self._worker.close)

    def _check_tokens(
        self, field: str, token_ids: tuple[int, ...], num_reserved_tokens: int
    ) -> None:
        self._worker.home.check()
        if self._worker.closing:
            raise EngineClosedError("The engine was closed.")
        # One bad index would fail the whole batch, and on CUDA the whole process.
        check_token_ids(field, token_ids, limit=self._vocab_size)
        check_length(
            len(token_ids), num_reserved_tokens, context_length=self._capabilities.context_length
        )


def load_transformers_engine(
    path_or_name: str, *, device: str = "auto", dtype: str = "auto", max_batch: int = 256
) -> TransformersEngine:
    """Load a model folder, or a model of the Hugging Face hub, into an engine.

    Args:
        path_or_name: Whatever `AutoModelForCausalLM.from_pretrained` takes.
        device: "auto" (cuda where there is one, else cpu), or a torch device.
        dtype: "auto" (the checkpoint's, but float32 on a CPU), "float32", "bfloat16" or "float16".
        max_batch: Most samples that generate at once.

    Raises:
        ConfigurationError: Device or dtype is unknown, the model needs another cache, or this
            process was forked from one that had loaded a model.
        CheckpointError: The model cannot be loaded.
    """
    check_may_load("transformers")
    where = _device(device)
    if dtype != "auto" and dtype not in _DTYPES:
        raise ConfigurationError("dtype", dtype, f"'auto' or one of {sorted(_DTYPES)}")
    wanted: torch.dtype | str = _DTYPES.get(dtype, "auto")
    if dtype == "auto" and where.type == "cpu":
        wanted = torch.float32
    check_architecture(load_config(path_or_name))  # before gigabytes of weights are read
    try:
        model = AutoModelForCausalLM.from_pretrained(path_or_name, dtype=wanted)
    except Exception as error:  # packages that a model wants, broken files: anything may come
        raise CheckpointError(f"{path_or_name} cannot be loaded: {error}") from error
    model.to(where)  # type: ignore[arg-type]  # its decorator hides the signature
    if where.type == "cpu" and model.config._attn_implementation == "sdpa":
        model.set_attn_implementation(GROUPED_ATTENTION)
    return TransformersEngine(
        model, max_batch=max_batch, tokenizer=lambda: _load_tokenizer(path_or_name)
    )


def check_transformers_model(path_or_name: str) -> Architecture:
    """Ask the engine whether it would run a model, before any weight is read.

    What only numbers show (a mask that is not heeded) is seen when the model is loaded.

    Raises:
        ConfigurationError: The engine cannot run it.
        CheckpointError: It cannot be built from its config.
    """
    return probe_config(load_config(path_or_name))


def _load_tokenizer(path_or_name: str) -> PreTrainedTokenizerBase:
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(path_or_name)
    except Exception as error:  # as above
        raise CheckpointError(
            f"{path_or_name}: a grammar needs its tokenizer, which cannot be loaded: {error}"
        ) from error
    return tokenizer


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.device(name)
    except RuntimeError as error:
        raise ConfigurationError("device", name, "'auto' or a torch device") from error
