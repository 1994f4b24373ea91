"""What would be used, and whether it works: this machine, a model's files, a server.

Each check looks at one thing and returns a `Check`; none of them raises for what it finds. Failed
means that calls cannot be answered, or that what the method saves is lost; a warning, that
something is worth mending.
"""

from __future__ import annotations

from selfeval_backend.doctor.architecture import check_architecture
from selfeval_backend.doctor.check import Check, Section, Status
from selfeval_backend.doctor.machine import check_machine
from selfeval_backend.doctor.model_files import ModelFiles, check_model_files

__all__ = [
    "Check",
    "ModelFiles",
    "Section",
    "Status",
    "check_architecture",
    "check_machine",
    "check_model_files",
]
