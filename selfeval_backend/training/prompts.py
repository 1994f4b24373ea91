"""Prompts: read from where they are, told apart by a key, and split by it.

The split is by a hash of the prompt, so a prompt is in one split only, whatever the order and
however many there are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Literal, get_args

import pyarrow as pa
from pydantic import TypeAdapter

from selfeval_backend.errors import ConfigurationError, DatasetError
from selfeval_backend.hashing import Hasher, digest_of
from selfeval_backend.importing import import_function, source_digest
from selfeval_backend.samples.prompts import Prompt, first_turn, messages_of, read_hub, read_rows
from selfeval_backend.samples.shards import (
    chunks_of,
    count_rows,
    iterate_rows,
    shard_name,
    shards_of,
    write_rows,
)
from selfeval_backend.samples.store import messages_type
from selfeval_backend.scorers import said
from selfeval_backend.training.pipeline import Workplace
from selfeval_backend.training.recipe import (
    FileSource,
    FunctionSource,
    HubSource,
    PromptSettings,
    Recipe,
)

__all__ = ["PromptSplit", "PromptStage", "read_prompts", "stored_prompts"]

PromptSplit = Literal["train", "validation", "calibration", "test"]

_SCHEMA = pa.schema(
    [
        ("prompt_id", pa.string()),
        ("split", pa.string()),
        ("messages", messages_type()),
        ("answer", pa.string()),
    ]
)
_PROMPT = TypeAdapter(Prompt)
_SHARD = 4096
_CHECKED = 100
"""Rows that a dry run looks at."""
_ENDINGS = (".jsonl", ".json", ".parquet", ".csv")


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
        case FileSource(path=path) as source:
            if path.suffix not in _ENDINGS:
                allowed = f"a file that ends in {', '.join(_ENDINGS)}"
                raise ConfigurationError("prompts.source.path", str(path), allowed)
            yield from _named((row for _, row in read_rows(path)), source)
        case HubSource() as source:
            hub = read_hub(source.name, config=source.config, split=source.split, streaming=True)
            for row in _named(hub, source):
                prompt = row["prompt"]
                yield {**row, "prompt": first_turn(prompt) if source.first_turn else prompt}


def _named(
    rows: Iterable[Mapping[str, Any]], source: FileSource | HubSource
) -> Iterator[Mapping[str, Any]]:
    names = {
        "prompt": source.prompt_column,
        "answer": source.answer_column,
        "split": source.split_column,
    }
    columns = {own: name for own, name in names.items() if name is not None}
    for number, row in enumerate(rows, start=1):
        missing = [name for name in columns.values() if name not in row]
        if missing:
            raise DatasetError(
                f"row {number} of the prompts has no column {missing[0]!r}; it has "
                f"{', '.join(map(repr, row))}. Set prompt_column and answer_column."
            )
        yield {own: row[name] for own, name in columns.items()}


def _prompt(row: Mapping[str, Any], where: str, settings: PromptSettings) -> Prompt:
    messages = messages_of(row.get("prompt"), f"{where} of the prompts")
    key = digest_of([[m.role, m.content] for m in messages])[:16]
    split = row.get("split")
    if split is not None and split not in get_args(PromptSplit):
        raise DatasetError(
            f"{where} of the prompts has split {split!r}, expected one of "
            f"{', '.join(get_args(PromptSplit))}"
        )
    answer = row.get("answer")
    return Prompt(
        prompt_id=key,
        split=split or _split(key, settings),
        messages=messages,
        answer=None if answer is None else str(answer),
    )


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
            yield _PROMPT.validate_python(row)


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
            if (number := int(prompt.prompt_id, 16)) in seen:
                if settings.duplicates == "refuse":
                    raise DatasetError(
                        f"the prompt {prompt.text[:60]!r} comes twice. Remove one, or set "
                        "prompts.duplicates to drop."
                    )
                counts["duplicates"] += 1
                continue
            seen.add(number)
            counts["kept"] += 1
            counts[str(prompt.split)] += 1
            yield _PROMPT.dump_python(prompt)
