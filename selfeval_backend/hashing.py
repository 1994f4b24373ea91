"""Content hashes: what decides whether something has to be done again."""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from selfeval_backend.errors import DatasetError
from selfeval_backend.files import read_json, write_json

__all__ = ["Hasher", "digest_of"]


def digest_of(value: Any) -> str:
    """Return the SHA-256 of a value of JSON types, whatever the order of its keys."""
    body = json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(body.encode()).hexdigest()


class Hasher:
    """Hashes files, and remembers those that have not been touched since.

    Args:
        memory: A JSON file; one that cannot be read is made anew.
    """

    def __init__(self, memory: Path) -> None:
        self._memory = memory
        self._known: dict[str, str] = {}
        if memory.exists():
            with suppress(DatasetError):  # it is only a memory: files are hashed again
                known = read_json(memory)
                self._known = known if isinstance(known, dict) else {}

    def file(self, path: Path) -> str:
        """Return the SHA-256 of a file's bytes."""
        facts = path.stat()
        key = f"{path.resolve()} {facts.st_size} {facts.st_mtime_ns}"
        if key not in self._known:
            with path.open("rb") as file:
                self._known[key] = hashlib.file_digest(file, "sha256").hexdigest()
        return self._known[key]

    def save(self) -> None:
        """Remember what was hashed, for the next run."""
        write_json(self._memory, self._known, indent=0)

    def folder(
        self,
        folder: Path,
        patterns: tuple[str, ...] = ("*",),
        *,
        leave_out: tuple[str, ...] = (),
    ) -> str:
        """Return one hash of the names and bytes of a folder's files; no subfolders."""
        found = (p for pattern in patterns for p in folder.glob(pattern) if p.is_file())
        files = {p.name: p for p in found if p.name not in leave_out}
        return digest_of({name: self.file(files[name]) for name in sorted(files)})
