"""The reference generator: learned from demonstrations that the project generates.

Every problem is shown twice, once solved and once missed: from the first it learns to choose, from
both to calculate honestly whatever comes of it, for the choices that lead to a miss are left out of
the loss. Later each response is cut at several places with the question "is this right?":
discrimination by contrast. In a trial without that stage, win/tie labels taught how hard a question
is and nothing about the answer.

To copy is learned before anything else, from random tokens, where nothing but copying helps: whole
prompts said again, which is a matter of places, and then prompts that go on from a cue, which is
one of content, and is not found in good time without the first; at last from a cue of several
tokens, as the syllables of a name are found in others too.

A share of the pairs may be of skills instead. Where nothing is to be learned from a wrong response,
language modelling alone shows two right ones, to two conversations.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from itertools import islice

from torch.utils.data import IterableDataset, get_worker_info
from transformers import PreTrainedTokenizerFast

from reference_model.skills import SKILL_MIX, Skill, generate_examples
from selfeval_backend.chat import ChatTemplate, Message
from selfeval_backend.reference.problems import (
    DEMONSTRATION_SHAPES,
    Demonstration,
    Problem,
    demonstrate,
    generate_problems,
)
from selfeval_backend.training.branches import LabelledCut, Row
from selfeval_backend.training.trainer import Item

__all__ = ["Copies", "Demonstrations"]

_POOL = 16
"""Batches that are drawn together and sorted by length, so that little is padded."""
_LARGEST_POOL = 384
"""Pairs that are drawn together at most: a process draws its pool at one go."""


class Demonstrations(IterableDataset[Item]):
    """Pairs of one prompt: a response that is right, one that is not.

    Args:
        chat: Of the generator.
        end_id: Token that ends a response.
        batch_size: Responses that go through the model together: pairs of near lengths follow one
            another.
        num_cuts: Labelled cuts of each response; 0: language modelling alone.
        seed: Of the prompts.
        skill_share: Of the pairs, in [0, 1]: that many are of skills, the others of puzzles.
        skill_mix: Weight of each skill among them.
    """

    def __init__(
        self,
        *,
        chat: ChatTemplate,
        end_id: int,
        batch_size: int,
        num_cuts: int,
        seed: int,
        skill_share: float = 0.0,
        skill_mix: Mapping[Skill, int] = SKILL_MIX,
    ) -> None:
        self.chat, self.end_id = chat, end_id
        self.batch_size, self.num_cuts, self.seed = batch_size, num_cuts, seed
        self.skill_share, self.skill_mix = skill_share, skill_mix

    def __iter__(self) -> Iterator[Item]:
        """Yield pairs without end, the same ones for the same seed: see `_stream_seed`."""
        seed = _stream_seed(self.seed)
        rng = random.Random(seed)
        pairs_without_end = self._pairs(rng, seed)
        size = self.batch_size // 2
        while True:
            num_batches = max(min(_POOL, _LARGEST_POOL // size), 1)
            pairs = list(islice(pairs_without_end, num_batches * size))
            pairs.sort(key=self._length)
            chunks = [pairs[i : i + size] for i in range(0, len(pairs), size)]
            rng.shuffle(chunks)
            for chunk in chunks:
                yield from chunk

    def _length(self, pair: Item) -> int:
        """Return what pairs are sorted by; prompts of puzzles are all about as long."""
        if self.skill_share:
            return max(row.num_tokens for row in pair)
        return len(pair[0].response_ids)

    def _pairs(self, rng: random.Random, seed: int) -> Iterator[Item]:
        problems = generate_problems("train", seed=seed, unique=False, shapes=DEMONSTRATION_SHAPES)
        skill_pairs = self._skill_pairs(rng, seed)
        while True:
            if self.skill_share and rng.random() < self.skill_share:
                yield next(skill_pairs)
            else:
                yield self._puzzle_pair(next(problems), rng)

    def _puzzle_pair(self, problem: Problem, rng: random.Random) -> Item:
        prompt_ids = self.chat.prompt_ids([Message(role="user", content=problem.text)])
        return tuple(
            self._row(prompt_ids, demonstrate(problem, rng, right=right), rng)
            for right in (True, False)
        )

    def _skill_pairs(self, rng: random.Random, seed: int) -> Iterator[Item]:
        waiting: dict[Skill, Row] = {}
        for example in generate_examples("train", seed=seed, mix=self.skill_mix):
            prompt_ids = self.chat.prompt_ids(example.messages, example.tools)
            right = self._row(prompt_ids, example.right, rng)
            if self.num_cuts or any(piece.is_learned for piece in example.wrong.pieces):
                yield right, self._row(prompt_ids, example.wrong, rng)
            elif example.skill in waiting:
                yield waiting.pop(example.skill), right
            else:
                waiting[example.skill] = right

    def _row(self, prompt_ids: tuple[int, ...], shown: Demonstration, rng: random.Random) -> Row:
        response_ids: list[int] = []
        untrained: list[int] = []
        for piece in shown.pieces:
            ids = self.chat.response_ids(piece.text)
            if not piece.is_learned:
                untrained += range(len(response_ids), len(response_ids) + len(ids))
            response_ids += ids
        cuts = self._cuts(len(response_ids), rng) if self.num_cuts else []
        return Row(
            prompt_ids=prompt_ids,
            response_ids=(*response_ids, self.end_id),
            untrained=tuple(untrained),
            cuts=tuple(
                LabelledCut(num_tokens=n, prob_win_or_tie=float(shown.is_right)) for n in cuts
            ),
        )

    def _cuts(self, length: int, rng: random.Random) -> list[int]:
        """Late places, where a mistake can be seen, more often than early ones; and the end."""
        if length < 2:
            return [length]
        late = [rng.randrange(2 * length // 3, length) for _ in range(self.num_cuts - 2)]
        return [rng.randrange(1, length), *late, length][-self.num_cuts :]


class Copies(IterableDataset[Item]):
    """Pairs of rows that say random tokens again.

    Args:
        chat: Of the generator.
        tokenizer: Its.
        batch_size: Rows that go through the model together: they are about as long.
        num_shown: Tokens of a prompt, the fewest and the most; with a cue at least six.
        seed: Of the tokens.
        from_a_cue: Whether a second turn says some of the tokens, and those behind them follow;
            else all are said again.
        with_repeats: Whether tokens come more than once in a prompt: one alone does not tell what
            follows, as in words. The cue is as long as it must be.
    """

    def __init__(
        self,
        *,
        chat: ChatTemplate,
        tokenizer: PreTrainedTokenizerFast,
        batch_size: int,
        num_shown: tuple[int, int],
        seed: int,
        from_a_cue: bool = False,
        with_repeats: bool = False,
    ) -> None:
        self.batch_size, self.seed = batch_size, seed
        self.from_a_cue, self.with_repeats = from_a_cue, with_repeats
        self.num_shown = num_shown
        messages = [Message(role="user", content=_PLACE)] * (2 if from_a_cue else 1)
        self._prompt = chat.prompt_ids(messages)
        self._place = tokenizer.convert_tokens_to_ids(_PLACE)
        self._end_id = int(tokenizer.eos_token_id)
        special = tokenizer.added_tokens_decoder
        self._tokens = [n for n in range(len(tokenizer)) if n not in special]

    def __iter__(self) -> Iterator[Item]:
        """Yield pairs without end, the same ones for the same seed: see `_stream_seed`."""
        rng = random.Random(f"copies/{_stream_seed(self.seed)}")
        while True:
            shown, said = self._lengths(rng)
            for _ in range(self.batch_size // 2):
                yield self._row(rng, shown, said), self._row(rng, shown, said)

    def _lengths(self, rng: random.Random) -> tuple[int, int]:
        """Return how many tokens are shown, and how many are said."""
        shown = rng.randint(*self.num_shown)
        return shown, rng.randint(4, min(shown - 2, _SAID)) if self.from_a_cue else shown

    def _row(self, rng: random.Random, shown: int, said: int) -> Row:
        tokens = self._drawn(rng, shown)
        start = rng.randint(1, shown - said) if self.from_a_cue else 0
        filled = iter((tokens, _cue(tokens, start)))
        prompt_ids = tuple(
            token for n in self._prompt for token in (next(filled) if n == self._place else (n,))
        )
        return Row(
            prompt_ids=prompt_ids, response_ids=(*tokens[start : start + said], self._end_id)
        )

    def _drawn(self, rng: random.Random, count: int) -> tuple[int, ...]:
        if not self.with_repeats:
            return tuple(rng.sample(self._tokens, count))
        first, *others = rng.sample(self._tokens, rng.randint(count // 4, count))
        return (first, *rng.choices(others, k=count - 1))  # so that from the first on all is unique


def _stream_seed(seed: int) -> int:
    """Return the seed of what this process draws: each that draws for a training has its own."""
    worker = get_worker_info()
    return seed if worker is None else seed + _STREAM * worker.id


def _cue(tokens: tuple[int, ...], start: int) -> tuple[int, ...]:
    """Return the fewest tokens before a place that are found nowhere else."""
    for size in range(1, start):
        cue = tokens[start - size : start]
        if sum(tokens[n : n + size] == cue for n in range(len(tokens))) == 1:
            return cue
    return tokens[:start]


_STREAM = 1_000_003
"""Between the seeds of processes that draw at the same time."""
_PLACE = "1"
"""Where tokens go into a prompt."""
_SAID = 24
"""Tokens that are said from a cue, at most."""
