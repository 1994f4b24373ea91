"""Samples: the record of one, its files, and how prompts become samples.

A folder of samples holds, one row a prompt:

* ``samples-000000.parquet``, ...: what was drawn. Never written twice: the key of a row is a hash
  of the prompt's tokens and its seed, and model and settings stand in the file;
* ``rewards-000000.parquet``, ...: what a scorer said of them, under those keys and a hash of the
  scorer. They may lie in another folder;
* ``recording.json``: which prompts, under which names and with whose rewards, are one recording.

`aic eval` and `aic train` write the same, and read each other's.
"""

from selfeval_backend.samples.records import (
    PromptRecord,
    Recording,
    RecordingInfo,
    SampleRecord,
)
from selfeval_backend.samples.store import load_recording, save_recording

__all__ = [
    "PromptRecord",
    "Recording",
    "RecordingInfo",
    "SampleRecord",
    "load_recording",
    "save_recording",
]
