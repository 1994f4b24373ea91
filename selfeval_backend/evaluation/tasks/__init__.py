"""Tasks: one file each."""

from selfeval_backend.evaluation.tasks.alpaca_eval import AlpacaEvalTask
from selfeval_backend.evaluation.tasks.file import FileTask
from selfeval_backend.evaluation.tasks.gsm8k import Gsm8kTask
from selfeval_backend.evaluation.tasks.instructions import InstructionsTask
from selfeval_backend.evaluation.tasks.named import named_task
from selfeval_backend.evaluation.tasks.reference import (
    MAX_REFERENCE_ITEMS,
    ReferenceTask,
    reference_items,
)
from selfeval_backend.evaluation.tasks.shifted import ShiftedTask
from selfeval_backend.samples.tasks import Task, TaskItem, close_task

__all__ = [
    "MAX_REFERENCE_ITEMS",
    "AlpacaEvalTask",
    "FileTask",
    "Gsm8kTask",
    "InstructionsTask",
    "ReferenceTask",
    "ShiftedTask",
    "Task",
    "TaskItem",
    "close_task",
    "named_task",
    "reference_items",
]
