"""A tool that calculates, for agents that are measured."""

from __future__ import annotations

import ast

from langchain_core.tools import tool

from selfeval_backend.reference.problems import split_of

__all__ = ["calculator"]

_LONGEST = 200
"""Characters; a puzzle has a few numbers."""


@tool("calculator_sum")
def calculator(expression: str) -> str:
    """Calculate the expression."""
    try:
        if len(expression) > _LONGEST:
            raise ValueError("it is too long")
        return str(_value(ast.parse(expression.strip(), mode="eval").body))
    except (SyntaxError, ValueError) as error:
        return f"Error: no sum of whole numbers: {error}"


# Of the names that the reference model has seen none may be shown it here.
assert split_of(calculator.name) == "test"


def _value(node: ast.expr) -> int:
    """Add and take away whole numbers, and nothing else: a model wrote this."""
    match node:
        case ast.Constant(value=int(number)) if not isinstance(number, bool):
            return number
        case ast.UnaryOp(op=ast.UAdd(), operand=operand):
            return _value(operand)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_value(operand)
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return _value(left) + _value(right)
        case ast.BinOp(left=left, op=ast.Sub(), right=right):
            return _value(left) - _value(right)
    raise ValueError(ast.unparse(node))
