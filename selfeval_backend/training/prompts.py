"""Prompts: read from where they are, told apart by a key, and split by it.

The split is by a hash of the prompt, so a prompt is in one split only, whatever the order and
however many there are.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal, get_args

import pyarrow as pa

from selfeval_backend.chat import Message, check_messages
from selfeval_backend.errors import ConfigurationError, DatasetError, MissingDependencyError
from selfeval_backend.files import one_line, read_csv, read_json_lines, read_parquet
from selfeval_backend.hashing import Hasher, digest_of
from selfeval_backend.importing import import_function, source_digest
from selfeval_backend.scorers import said
from selfeval_backend.training.pipeline import Workplace
from selfeval_backend.training.recipe import (
    FileSource,
    FunctionSource,
    HubSource,
    PromptSettings,
    Recipe,
)
from selfeval_backend.training.shards import (
    chunks_of,
    count_rows,
    iterate_rows,
    shard_name,
    shards_of,
    write_rows,
)

__all__ = ["Prompt", "PromptSplit", "PromptStage", "read_prompts", "stored_prompts"]

PromptSplit = Literal["train", "validation", "calibration", "test"]

_SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("split", pa.string()),
        ("messages", pa.string()),
        ("answer", pa.string()),
    ]
)
_SHARD = 4096
_CHECKED = 100
"""Rows that a dry run looks at."""
_ENDINGS = (".jsonl", ".json", ".parquet", ".csv")


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """One prompt."""

    key: str
    """64 bits of the hash of its messages, in hexadecimal."""
    split: PromptSplit
    messages: tuple[Message, ...]
    answer: str | None
    """What a verifier compares with; None where there is none."""

    @property
    def text(self) -> str:
        """The last message."""
        return self.messages[-1].content


def read_prompts(settings: PromptSettings) -> Iterator[Prompt]:
    """Read prompts from their source, in order, duplicates included.

    Raises:
        DatasetError: The source cannot be read, or a row cannot be used; names it.
        ConfigurationError: The source's function cannot be imported.
        MissingDependencyError: The `datasets` library is not installed.
    """
    rows = islice(_rows(settings), settings.limit)
    for number, row in enumerate(rows, start=1):
        yield _prompt(row, f"row {number}", settings)


def _rows(settings: PromptSettings) -> Iterator[Mapping[str, Any]]:
    """Yield rows with the names prompt, answer and split, whatever the source calls them."""
    match settings.source:
        case FunctionSource() as source:
            function = import_function("prompts.source.function", source.function)
            try:
                yield from function(**source.arguments)
            except Exception as error:
                # A user's function may raise anything.
                raise DatasetError(
                    f"prompts.source.function: {source.function} raised {said(error)}"
                ) from error
        case FileSource() | HubSource() as source:
            names = {
                "prompt": source.prompt_column,
                "answer": source.answer_column,
                "split": source.split_column,
            }
            columns = {own: name for own, name in names.items() if name is not None}
            first_turn = isinstance(source, HubSource) and source.first_turn
            raw = _file_rows(source) if isinstance(source, FileSource) else _hub_rows(source)
            for number, row in enumerate(raw, start=1):
                missing = [name for name in columns.values() if name not in row]
                if missing:
                    raise DatasetError(
                        f"row {number} of the prompts has no column {missing[0]!r}; it has "
                        f"{', '.join(map(repr, row))}. Set prompt_column and answer_column."
                    )
                found = {own: row[name] for own, name in columns.items()}
                if first_turn:
                    found["prompt"] = _first_turn(found["prompt"])
                yield found


def _file_rows(source: FileSource) -> Iterator[Mapping[str, Any]]:
    path = source.path
    if path.suffix not in _ENDINGS:
        raise ConfigurationError(
            "prompts.source.path", str(path), f"a file that ends in {', '.join(_ENDINGS)}"
        )
    if path.suffix == ".parquet":
        yield from read_parquet(path)
    elif path.suffix == ".csv":
        yield from read_csv(path)
    else:
        yield from (row for _, row in read_json_lines(path))


def _hub_rows(source: HubSource) -> Iterator[Mapping[str, Any]]:
    try:
        import datasets
    except ImportError as error:
        raise MissingDependencyError("datasets", extra="datasets") from error
    try:
        rows = datasets.load_dataset(source.name, source.config, split=source.split, streaming=True)
        yield from rows
    except Exception as error:
        # Whatever a hub, a loader or a file format raises.
        raise DatasetError(f"datasets: {source.name} cannot be read: {one_line(error)}") from error


def _first_turn(conversation: Any) -> Any:
    """Keep what comes before the first assistant turn of a conversation."""
    if not isinstance(conversation, Sequence) or isinstance(conversation, str):
        return conversation
    turns = []
    for turn in conversation:
        if turn.get("role") == "assistant":
            break
        turns.append(turn)
    return turns


def _prompt(row: Mapping[str, Any], where: str, settings: PromptSettings) -> Prompt:
    messages = _messages(row.get("prompt"), where)
    body = [[m.role, m.content] for m in messages]
    key = digest_of(body)[:16]
    split = row.get("split")
    if split is not None and split not in get_args(PromptSplit):
        raise DatasetError(
            f"{where} of the prompts has split {split!r}, expected one of "
            f"{', '.join(get_args(PromptSplit))}"
        )
    answer = row.get("answer")
    return Prompt(
        key=key,
        split=split or _split(key, settings),
        messages=messages,
        answer=None if answer is None else str(answer),
    )


def _messages(given: Any, where: str) -> tuple[Message, ...]:
    try:
        if isinstance(given, str):
            messages: tuple[Message, ...] = (Message(role="user", content=given),)
        else:
            messages = tuple(Message(role=t["role"], content=t["content"]) for t in given)
        check_messages(messages)
    except (TypeError, KeyError, ConfigurationError) as error:
        raise DatasetError(
            f"{where} of the prompts is no prompt: {error}. Give text, or messages with role and "
            "content."
        ) from error
    return messages


def _split(key: str, settings: PromptSettings) -> PromptSplit:
    place = int(digest_of(["split", key])[:8], 16) / 16**8
    for name in ("validation", "calibration", "test"):
        share: float = getattr(settings, name)
        if place < share:
            return name
        place -= share
    return "train"


def stored_prompts(folder: Path, splits: Sequence[PromptSplit]) -> Iterator[Prompt]:
    """Yield the prompts of some splits, from the folder of a finished `PromptStage`."""
    for row in iterate_rows(shards_of(folder)):
        if row["split"] in splits:
            yield Prompt(
                key=row["key"],
                split=row["split"],
                messages=tuple(Message(**message) for message in json.loads(row["messages"])),
                answer=row["answer"],
            )


class PromptStage:
    """Reads the prompts, drops or refuses duplicates, and splits them."""

    name = "prompts"
    needs: tuple[str, ...] = ()

    def inputs(self, recipe: Recipe, hasher: Hasher) -> dict[str, Any]:
        """Return the settings and the content hash of the source."""
        settings = recipe.prompts
        found: dict[str, Any] = {"prompts": settings.model_dump(mode="json")}
        match settings.source:
            case FileSource(path=path):
                if not path.is_file():
                    raise DatasetError(f"prompts.source.path: there is no file {path}")
                found["file"] = hasher.file(path)
                del found["prompts"]["source"]["path"]
            case HubSource(name=name):
                if Path(name).is_dir():
                    found["folder"] = hasher.folder(Path(name))
            case FunctionSource(function=reference):
                import_function("prompts.source.function", reference)
                found["source of the function"] = source_digest(reference)
        return found

    def plan(self, recipe: Recipe, upstream: Mapping[str, Path]) -> Sequence[str]:
        """Check the first rows, and say how many there are where the file knows."""
        rows = list(islice(read_prompts(recipe.prompts), _CHECKED))
        if not rows:
            raise DatasetError("there is no prompt in the source of the prompts")
        lines = [f"the first {len(rows)} rows are prompts; the first: {rows[0].text[:60]!r}"]
        source = recipe.prompts.source
        if isinstance(source, FileSource) and source.path.suffix == ".parquet":
            lines.append(f"{count_rows([source.path]):,} rows")
        if isinstance(recipe.prompts.source, FileSource | HubSource):
            without = sum(p.answer is None for p in rows)
            lines.append(f"{without} of the first {len(rows)} have no answer to verify with")
        return lines

    def run(self, place: Workplace) -> dict[str, Any]:
        """Write shards of prompts; a stopped run starts over, for reading is quick."""
        for path in shards_of(place.folder):
            path.unlink()
        settings = place.recipe.prompts
        counts: Counter[str] = Counter()
        kept = self._kept(settings, counts)
        for index, rows in enumerate(chunks_of(kept, _SHARD)):
            write_rows(place.folder / shard_name(index), rows, _SCHEMA)
            place.progress("prompts", counts["kept"], counts["kept"])
        if not counts["train"]:
            raise DatasetError(
                f"no prompt is left to train on ({dict(counts)}). Give more prompts, or smaller "
                "shares for the other splits."
            )
        if counts["duplicates"]:
            place.log(f"prompts: {counts['duplicates']:,} duplicates dropped")
        return dict(counts)

    def _kept(self, settings: PromptSettings, counts: Counter[str]) -> Iterator[dict[str, Any]]:
        seen: set[int] = set()
        for prompt in read_prompts(settings):
            if (number := int(prompt.key, 16)) in seen:
                if settings.duplicates == "refuse":
                    raise DatasetError(
                        f"the prompt {prompt.text[:60]!r} comes twice. Remove one, or set "
                        "prompts.duplicates to drop."
                    )
                counts["duplicates"] += 1
                continue
            seen.add(number)
            counts["kept"] += 1
            counts[prompt.split] += 1
            yield {
                "key": prompt.key,
                "split": prompt.split,
                "messages": json.dumps(
                    [{"role": m.role, "content": m.content} for m in prompt.messages],
                    ensure_ascii=False,
                ),
                "answer": prompt.answer,
            }
