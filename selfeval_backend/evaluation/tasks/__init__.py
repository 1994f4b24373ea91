"""Tasks: one file each."""

from selfeval_backend.evaluation.tasks.base import Task, TaskItem
from selfeval_backend.evaluation.tasks.reference import (
    MAX_REFERENCE_ITEMS,
    ReferenceTask,
    reference_items,
)
from selfeval_backend.evaluation.tasks.shifted import ShiftedTask

__all__ = [
    "MAX_REFERENCE_ITEMS",
    "ReferenceTask",
    "ShiftedTask",
    "Task",
    "TaskItem",
    "reference_items",
]
