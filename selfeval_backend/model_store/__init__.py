"""Models by name: which there are, and how they come into the user's cache and out of it."""

from selfeval_backend.model_store.cache import is_kept, kept_folder, models_folder
from selfeval_backend.model_store.fetch import (
    FetchProgress,
    OnFetchProgress,
    check_can_fetch,
    fetch_model,
    is_here,
    remove_model,
    to_fetch,
)
from selfeval_backend.model_store.known import (
    BASE_FOLDER,
    KNOWN,
    REFERENCE_FOLDER,
    KnownModel,
    Package,
    known_model,
    made_of,
)

__all__ = [
    "BASE_FOLDER",
    "KNOWN",
    "REFERENCE_FOLDER",
    "FetchProgress",
    "KnownModel",
    "OnFetchProgress",
    "Package",
    "check_can_fetch",
    "fetch_model",
    "is_here",
    "is_kept",
    "kept_folder",
    "known_model",
    "made_of",
    "models_folder",
    "remove_model",
    "to_fetch",
]
