"""How a model's makers say it is to be sampled: its ``generation_config.json``.

Only what the file itself says counts: transformers' own defaults (a top_k of 50) do not, as in
vLLM. `do_sample` does not either, as in vLLM: false says that one answer should be the greedy one,
which the first sample is anyway; the others have to differ from it.
"""

from __future__ import annotations

import os
from pathlib import Path

from selfeval_backend.errors import ConfigurationError, DatasetError, ModelFilesError
from selfeval_backend.files import read_json
from selfeval_backend.settings import SAMPLING_NAMES, Settings

__all__ = ["FILE_NAME", "read_generation_config"]

FILE_NAME = "generation_config.json"


def read_generation_config(folder: Path) -> dict[str, float]:
    """Return the settings of `SAMPLING_NAMES` that a model's file has; none where there is no file.

    Raises:
        ModelFilesError: The file cannot be read, or one of them is out of range.
    """
    path = folder / FILE_NAME
    if not os.path.lexists(path):
        return {}
    try:
        body = read_json(path)
        if not isinstance(body, dict):
            raise ModelFilesError(f"{path}: no JSON object. Mend it, or remove it.")
        found = {name: body[name] for name in SAMPLING_NAMES if body.get(name) is not None}
        Settings(**found)
    except (ConfigurationError, DatasetError) as error:
        raise ModelFilesError(
            f"{path}: {str(error).removesuffix('.')}. Mend it, or remove it."
        ) from error
    return found
