"""Tasks: one file each."""

from selfeval_backend.evaluation.tasks.alpaca_eval import AlpacaEvalTask
from selfeval_backend.evaluation.tasks.base import Task, TaskItem, close_task
from selfeval_backend.evaluation.tasks.gsm8k import Gsm8kTask
from selfeval_backend.evaluation.tasks.instructions import InstructionsTask
from selfeval_backend.evaluation.tasks.jsonl import JsonlTask
from selfeval_backend.evaluation.tasks.named import named_task
from selfeval_backend.evaluation.tasks.reference import (
    MAX_REFERENCE_ITEMS,
    ReferenceTask,
    reference_items,
)
from selfeval_backend.evaluation.tasks.shifted import ShiftedTask

__all__ = [
    "MAX_REFERENCE_ITEMS",
    "AlpacaEvalTask",
    "Gsm8kTask",
    "InstructionsTask",
    "JsonlTask",
    "ReferenceTask",
    "ShiftedTask",
    "Task",
    "TaskItem",
    "close_task",
    "named_task",
    "reference_items",
]
