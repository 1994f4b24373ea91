"""The thread that drives vLLM: takes in what was asked for, steps, hands out what came.

vLLM's `LLMEngine` is driven, and not `AsyncLLM`: that one belongs to one event loop, while this
engine is used from several, and it always needs a second process.
"""

from __future__ import annotations

import ctypes
import itertools
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from selfeval_backend.engine.base import LabelLogprobs, SamplingParams
from selfeval_backend.engine.checks import refused_grammar
from selfeval_backend.engine.chunking import Chunker
from selfeval_backend.engine.grammars import structured_outputs
from selfeval_backend.engine.mailbox import Delivery, Mailbox, Postman
from selfeval_backend.errors import (
    AICError,
    EngineClosedError,
    EngineError,
    EngineResponseError,
    SelfEvaluationError,
)
from selfeval_backend.forks import Home, in_child
from selfeval_backend.types import FinishReason

if TYPE_CHECKING:
    from vllm.outputs import CompletionOutput, RequestOutput

__all__ = ["Abort", "Command", "Evaluation", "Facts", "Generation", "Request", "Worker"]

_EVALUATION_PRIORITY, _GENERATION_PRIORITY = 0, 1
"""The lower one goes first: somebody waits for an evaluation before a sample is worth more."""


class Generation:
    """A sample that was asked for."""

    __slots__ = ("_chunker", "_is_first", "abandoned", "mailbox", "params", "prompt_ids")

    priority = _GENERATION_PRIORITY

    def __init__(
        self, prompt_ids: tuple[int, ...], params: SamplingParams, chunk_tokens: int
    ) -> None:
        self.prompt_ids = prompt_ids
        self.params = params
        self.mailbox: Mailbox[Delivery]  # set once its consumer's event loop is known
        self.abandoned = False
        """Set by the consumer, from any thread: it waits no more."""
        self._chunker = Chunker(params, chunk_tokens=chunk_tokens)
        self._is_first = True

    def vllm_params(self) -> Any:
        """Return it in vLLM's words."""
        from vllm import SamplingParams as VllmParams
        from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams

        params = self.params
        grammar = params.grammar
        return VllmParams(
            temperature=params.temperature,
            **params.shaping,
            max_tokens=params.max_tokens,
            seed=params.seed,
            stop_token_ids=sorted(params.stop_token_ids),
            ignore_eos=True,  # what ends a sample is said by stop_token_ids alone
            logprobs=0 if params.logprobs else None,
            detokenize=False,
            output_kind=RequestOutputKind.DELTA,
            structured_outputs=(
                None if grammar is None else StructuredOutputsParams(**structured_outputs(grammar))
            ),
        )

    def refusal(self, error: Exception) -> AICError:
        """Return what it means that vLLM refuses the request, which was checked but for this."""
        if self.params.grammar is not None:
            return refused_grammar(self.params.grammar, str(error))
        return _refusal(error)

    def deliver(self, output: RequestOutput, postman: Postman) -> None:
        """Post the chunks that end in what came."""
        first, self._is_first = self._is_first, False
        (completion,) = output.outputs
        chunks = self._chunker.take(
            completion.token_ids,
            list(_logprobs(completion)) if self.params.logprobs else (),
            finish_reason=_finish_reason(completion),
            cached_prompt_tokens=(output.num_cached_tokens or 0) if first else 0,
        )
        for chunk in chunks:
            postman.post(self.mailbox, Delivery(chunk))

    def deliver_last_word(self, postman: Postman) -> None:
        """Post what was generated and not yet posted, and that nothing will follow."""
        postman.post(self.mailbox, Delivery(self._chunker.flush(), is_last_word=True))


class Evaluation:
    """Label log-probabilities that were asked for."""

    __slots__ = ("abandoned", "label_ids", "mailbox", "prompt_ids")

    priority = _EVALUATION_PRIORITY

    def __init__(
        self,
        token_ids: tuple[int, ...],
        label_ids: tuple[int, ...],
        mailbox: Mailbox[LabelLogprobs],
    ) -> None:
        self.prompt_ids = token_ids
        self.label_ids = label_ids
        self.mailbox = mailbox
        self.abandoned = False
        """Set by the consumer, from any thread: it waits no more."""

    def vllm_params(self) -> Any:
        """Return it in vLLM's words."""
        from vllm import SamplingParams as VllmParams
        from vllm.sampling_params import RequestOutputKind

        return VllmParams(
            temperature=0.0,
            max_tokens=1,
            ignore_eos=True,
            logprob_token_ids=list(dict.fromkeys(self.label_ids)),
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )

    def refusal(self, error: Exception) -> AICError:
        """Return what it means that vLLM refuses the request."""
        return _refusal(error)

    def deliver_last_word(self, postman: Postman) -> None:
        """Post nothing: whoever asked waits no more."""

    def deliver(self, output: RequestOutput, postman: Postman) -> None:
        """Post the log-probabilities.

        Raises:
            SelfEvaluationError: vLLM left a label out.
        """
        (completion,) = output.outputs
        _finish_reason(completion)
        said = completion.logprobs[0] if completion.logprobs else {}
        missing = [label for label in self.label_ids if label not in said]
        if missing:
            raise SelfEvaluationError(
                f"vLLM gave no log-probability for the labels with token ids {missing}"
            )
        cached = output.num_cached_tokens or 0
        answer = LabelLogprobs(
            logprobs=tuple(said[label].logprob for label in self.label_ids),
            computed_tokens=len(self.prompt_ids) - cached,
            cached_tokens=cached,
        )
        postman.post(self.mailbox, answer)


Request: TypeAlias = Generation | Evaluation


@dataclass(frozen=True, slots=True)
class Abort:
    """A consumer waits no more: its request is `abandoned`, and the worker should look."""

    request: Request


Command: TypeAlias = Request | Abort


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What vLLM says of the model it loaded."""

    max_model_len: int
    vocab_size: int
    has_tokenizer: bool
    speculates: bool
    """Whether it decodes speculatively, and so refuses min_p."""


class Worker:
    """Drives one `LLMEngine` in a daemon thread, in which it is also made.

    It is made there because a CUDA device is set for each thread.

    Args:
        make_engine: Returns the `LLMEngine`.

    Raises:
        AICError: Whatever `make_engine` raised.
    """

    facts: Facts

    def __init__(self, make_engine: Callable[[], Any]) -> None:
        self._make_engine = make_engine
        self._inbox: deque[Command] = deque()
        self._wakeup = threading.Condition()
        self._closing = False
        self._postman = Postman()
        self._names = map(str, itertools.count())
        self._requests: dict[str, Request] = {}
        self._dead: EngineError | None = None
        self.home = Home("vllm")
        self._engine: Any = None
        in_child(self._leave_to_parent)
        started: Future[Facts] = Future()
        self._thread = threading.Thread(
            target=self._run, args=(started,), name="vllm-engine", daemon=True
        )
        self._thread.start()
        self.facts = started.result()

    @property
    def num_running(self) -> int:
        """Requests that vLLM holds."""
        return len(self._requests)

    @property
    def closing(self) -> bool:
        """Whether `close` was called."""
        return self._closing

    def submit(self, commands: Sequence[Command]) -> None:
        """Hand commands in; from any thread. Once closed they fail with EngineClosedError.

        In a child process nothing happens: there is no thread that could answer.
        """
        if not self.home.is_here:
            return
        with self._wakeup:
            if not self._closing:
                self._inbox.extend(commands)
                self._wakeup.notify()
                return
        postman = Postman()
        for command in commands:
            if not isinstance(command, Abort):
                postman.fail(command.mailbox, _closed())
        postman.deliver()

    def close(self, *, wait_s: float | None = None) -> None:
        """End everything that is open, and the thread; from any thread.

        Args:
            wait_s: How long to wait for the step that runs; None is until it is over.
        """
        if not self.home.is_here:
            return
        with self._wakeup:
            self._closing = True
            self._wakeup.notify()
        if self._thread is not threading.current_thread():
            self._thread.join(wait_s)

    def _leave_to_parent(self) -> None:
        """Keep vLLM from cleaning up when a child ends: it would end its parent's processes."""
        core = getattr(self._engine, "engine_core", None)
        resources = getattr(core, "resources", None)
        for part in (
            self._engine,
            core,
            getattr(resources, "engine_manager", None),
            getattr(resources, "coordinator", None),
        ):
            if isinstance(finalizer := getattr(part, "_finalizer", None), weakref.finalize):
                finalizer.detach()
        if self._engine is not None:
            _never_free_process_groups()

    def _run(self, started: Future[Facts]) -> None:
        try:
            engine = self._engine = self._make_engine()
            self._warm_up(engine)
            config = engine.model_config
            facts = Facts(
                max_model_len=config.max_model_len,
                vocab_size=config.get_vocab_size(),
                has_tokenizer=not config.skip_tokenizer_init,
                speculates=engine.vllm_config.speculative_config is not None,
            )
        except BaseException as error:  # noqa: BLE001  # whoever waits is told, whatever it is
            self._closing = True
            started.set_exception(error)
            return
        started.set_result(facts)
        while not self._closing:
            commands = self._wait()
            try:
                self._take_in(engine, commands)
                self._step(engine)
            except Exception as error:  # noqa: BLE001  # vLLM is not to be used after one
                self._dead = EngineError(f"vLLM failed: {error}", hint="Load the model again.")
                self._dead.__cause__ = error
                self._fail_all(self._dead)
            self._postman.deliver()
        with self._wakeup:
            self._requests |= {
                next(self._names): c for c in self._inbox if not isinstance(c, Abort)
            }
            self._inbox.clear()
        self._fail_all(_closed())
        self._postman.deliver()
        self._engine = None
        engine.engine_core.shutdown()

    def _wait(self) -> list[Command]:
        """Wait until there is work, and return what was asked for meanwhile."""
        with self._wakeup:
            while not (self._inbox or self._closing or self._requests):
                self._wakeup.wait()
            commands = list(self._inbox)
            self._inbox.clear()
            return commands

    def _take_in(self, engine: Any, commands: Sequence[Command]) -> None:
        for command in commands:
            if isinstance(command, Abort):
                continue
            if command.abandoned:
                command.deliver_last_word(self._postman)
                continue
            if self._dead is not None:
                self._postman.fail(command.mailbox, self._dead)
                continue
            self._add(engine, command)
        # vLLM has no last output for a request that it aborts.
        aborted = {command.request for command in commands if isinstance(command, Abort)}
        names = [name for name, request in self._requests.items() if request in aborted]
        for name in names:
            self._requests.pop(name).deliver_last_word(self._postman)
        if names:
            engine.abort_request(names)

    def _add(self, engine: Any, request: Request) -> None:
        from vllm.exceptions import VLLMClientError

        name = next(self._names)
        self._requests[name] = request  # so that it is told whatever happens
        try:
            engine.add_request(
                name,
                {"prompt_token_ids": list(request.prompt_ids)},
                request.vllm_params(),
                priority=request.priority,
            )
        except (ValueError, TypeError, VLLMClientError) as error:
            # vLLM refuses it, and goes on with the others.
            refusal = request.refusal(error)
            refusal.__cause__ = error
            self._postman.fail(request.mailbox, refusal)
            del self._requests[name]

    def _step(self, engine: Any) -> None:
        if not self._requests:
            return
        for output in engine.step():
            request = self._requests.get(output.request_id)
            if request is None:
                continue
            try:
                request.deliver(output, self._postman)
            except (EngineError, SelfEvaluationError) as error:
                self._postman.fail(request.mailbox, error)
            if output.finished:
                del self._requests[output.request_id]

    def _fail_all(self, error: EngineError) -> None:
        for request in self._requests.values():
            self._postman.fail(request.mailbox, error)
        self._requests.clear()

    def _warm_up(self, engine: Any) -> None:
        """Run what every call runs, so that one-time work is not part of the first call."""
        from vllm import SamplingParams as VllmParams

        sampled = VllmParams(max_tokens=2, ignore_eos=True, detokenize=False, seed=0, logprobs=0)
        asked = VllmParams(max_tokens=1, detokenize=False, logprob_token_ids=[0, 1])
        for name, params in (("sampled", sampled), ("asked", asked)):
            engine.add_request(f"warm-up-{name}", {"prompt_token_ids": [0, 1, 2]}, params)
            while engine.has_unfinished_requests():
                engine.step()
        engine.reset_prefix_cache()


def _never_free_process_groups() -> None:
    """Keep torch's process groups at a child's end, too.

    Freeing one joins its thread, which is the parent's, and that aborts the process.
    """
    from torch.distributed import distributed_c10d

    for group, kept in distributed_c10d._world.pg_map.items():
        for each in (group, *kept):
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(each))


def _logprobs(completion: CompletionOutput) -> Iterator[float]:
    """Yield the log-probability of each token that was drawn."""
    given = completion.logprobs or []
    for token_id, entry in zip(completion.token_ids, given, strict=True):
        yield entry[token_id].logprob


def _finish_reason(completion: CompletionOutput) -> FinishReason | None:
    match completion.finish_reason:
        case None:
            return None
        case "stop":
            return "stop"
        case "length":
            return "length"
        case other:
            raise EngineResponseError(f"vLLM ended a request with finish_reason {other!r}")


def _refusal(error: Exception) -> EngineError:
    return EngineError(f"vLLM refused a request: {error}")


def _closed() -> EngineClosedError:
    return EngineClosedError("The engine was closed.")
