"""Grammars for samples: JSON schemas, followed token by token by llguidance.

Why llguidance: it needs nothing else to be installed, follows a schema exactly or says what it
cannot express, and is one of those that vLLM has, so that both engines draw the same text.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from transformers import PreTrainedTokenizerBase

from selfeval_backend.engine.base import Grammar
from selfeval_backend.engine.checks import refused_grammar
from selfeval_backend.engine.grammars import structured_outputs
from selfeval_backend.errors import MissingDependencyError, ModelFilesError
from selfeval_backend.forks import Lock

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

__all__ = ["GrammarCompiler"]

_MOST_KEPT = 64
"""Grammars that are kept compiled: the samples of a run share one."""


class MatcherGuide:
    """One sample's way through a grammar.

    Args:
        matcher: At the beginning of the text; this guide's own.
    """

    def __init__(self, matcher: LLMatcher) -> None:
        self._matcher = matcher

    def take(self, token_id: int) -> None:
        """Go on by a token that was drawn."""
        self._matcher.consume_token(token_id)

    def allowed(self) -> bytes | None:
        """Return the tokens that may follow, one bit each, lowest first; None after a failure."""
        bits = self._matcher.compute_bitmask()
        return None if self._matcher.is_error() else bits

    @property
    def failure(self) -> str:
        """Why it cannot be followed further; empty if it can."""
        return self._matcher.get_error()


class GrammarCompiler:
    """Compiles grammars for one model; from any thread.

    Args:
        tokenizer: Returns the model's; called once, when the first grammar comes.
        num_logits: Token ids that may come out of the model.
    """

    def __init__(
        self, tokenizer: Callable[[], PreTrainedTokenizerBase], *, num_logits: int
    ) -> None:
        self._load = tokenizer
        self._num_logits = num_logits
        self._loaded: PreTrainedTokenizerBase | None = None
        self._tokenizers: dict[frozenset[int], LLTokenizer] = {}
        self._compiled: OrderedDict[tuple[Grammar, frozenset[int]], LLMatcher] = OrderedDict()
        self._lock = Lock()

    def guide(self, grammar: Grammar, stop_token_ids: frozenset[int]) -> MatcherGuide:
        """Return a new guide along a grammar.

        Args:
            grammar: A JSON schema.
            stop_token_ids: Any of them ends the text, where it may end.

        Raises:
            ConfigurationError: The grammar cannot be followed.
            ModelFilesError: The tokenizer is none that llguidance can read.
            MissingDependencyError: llguidance is not installed.
        """
        key = (grammar, stop_token_ids)
        with self._lock:
            matcher = self._compiled.get(key)
            if matcher is None:
                matcher = self._compiled[key] = self._compile(grammar, stop_token_ids)
            self._compiled.move_to_end(key)
            if len(self._compiled) > _MOST_KEPT:
                self._compiled.popitem(last=False)
            return MatcherGuide(matcher.deep_copy())

    def _compile(self, grammar: Grammar, stop_token_ids: frozenset[int]) -> LLMatcher:
        try:
            from llguidance import LLMatcher
        except ImportError as error:
            raise MissingDependencyError("llguidance", extra="transformers") from error
        tokenizer = self._tokenizer(stop_token_ids)
        try:
            text = LLMatcher.grammar_from_json_schema(structured_outputs(grammar)["json"])
        except ValueError as error:
            raise refused_grammar(grammar, str(error)) from error
        matcher = LLMatcher(tokenizer, text, log_level=0)
        if matcher.is_error():
            raise refused_grammar(grammar, matcher.get_error())
        return matcher

    def _tokenizer(self, stop_token_ids: frozenset[int]) -> LLTokenizer:
        """Return the tokenizer in llguidance's form, which takes a second where it is large."""
        made = self._tokenizers.get(stop_token_ids)
        if made is None:
            from llguidance.hf import from_tokenizer

            if self._loaded is None:
                self._loaded = self._load()
            width = max(self._num_logits, len(self._loaded))
            tokenizer: Any = self._loaded  # one of the slow kind is refused there
            try:
                made = from_tokenizer(tokenizer, width, sorted(stop_token_ids))
            except ValueError as error:
                raise ModelFilesError(
                    f"the model's tokenizer cannot be used with a grammar: {error}"
                ) from error
            self._tokenizers[stop_token_ids] = made
        return made
