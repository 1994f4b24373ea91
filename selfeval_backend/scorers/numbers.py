r"""One reading of numbers, for every scorer: exact, however long they are.

======================================  =========================================================
text                                    is read as
======================================  =========================================================
``1000``, ``+1000``, ``01000``          1000
``1,000`` ``1 000`` ``1'000`` ``1_000``  1000: groups of three, by one separator (so ``3,500`` is
                                        3500)
``1,234,567.5``                         1234567.5
``3,5``, ``1.234,5``, ``12,34,567``     no number: they are written differently elsewhere, and may
                                        be a list. They equal the same text alone, and never 35
``0.50``, ``.5``, ``1/2``, ``5e-1``     0.5; a fraction equals its decimals
``1/3``, ``2/6``                        1/3
``1e3``, ``1E+3``                       1000; an exponent over 4,000 is no number
``-12``, or with Unicode's minus sign    -12
``$12``, ``-$12``, ``12 €``             12: a currency is dropped
``50%``, ``50 percent``                 50, in percent: it equals ``50`` and ``50%``, never 0.5
``12 apples``, ``12 km/h``              12, in what follows: it equals ``12``, and no ``12 pears``
``12.``, ``**12**``, `````12`````,      12: marks of Markdown, TeX and sentences around it are
``$12$``, ``\(12\)``, ``\boxed{12}``    dropped
``1.5 million``, ``12 dozen``,          no number: the words change its value
``2 times``, ``3x``
a number of 5,000 digits                that number, to the last digit
======================================  =========================================================

A reference may be written as GSM8K does: what stands behind its last ``####`` counts.
"""

from __future__ import annotations

import re
from collections import deque
from dataclasses import dataclass
from math import gcd

__all__ = [
    "Number",
    "final_number",
    "final_part",
    "normalised_number",
    "read_number",
    "same_answer",
]

_MAX_EXPONENT = 4000
_MAX_FRACTION_DIGITS = 1000
"""Of numerator and denominator: a common divisor of longer ones takes long to find."""

_SIGN = "[-+\u2212\u2013]"
_CURRENCY = "$€£¥₹"
_GROUPED = "[0-9]{1,3}(?P<by>[,'\u2019_ \u00a0\u2009\u202f])[0-9]{3}(?:(?P=by)[0-9]{3})*"
_NUMBER = re.compile(
    rf"(?P<sign>{_SIGN})?\s?(?P<currency>[{_CURRENCY}])?(?P<late_sign>{_SIGN})?"
    rf"(?:(?P<whole>{_GROUPED}|[0-9]+)?(?:\.(?P<part>[0-9]+))?)"
    r"(?:[eE](?P<exponent>[-+]?[0-9]{1,9})|\s?/\s?(?P<over>[0-9]+))?"
)
_UNIT = re.compile(
    rf"\s?(?P<sign>[%{_CURRENCY}])|\s+(?P<words>[^\W\d_]{{2,}}(?:[ /-][^\W\d_]+){{0,3}})"
)
_NO_UNITS = frozenset(
    {
        *("hundred", "hundreds", "thousand", "thousands", "million", "millions", "billion"),
        *("trillion", "dozen", "half", "quarter", "percent", "pi", "sqrt", "squared", "cubed"),
        *("factorial", "times", "plus", "minus", "over", "and", "or", "not", "to"),
    }
)
"""Words that say another number than the one before them."""
_IN_TEXT = re.compile(
    rf"(?:(?<![\w)]){_SIGN})?(?:[{_CURRENCY}]{_SIGN}?)?"
    r"(?:[0-9]+(?:[.,'\u2019_][0-9]+)*|(?<![\w.])\.[0-9]+)(?:[eE][-+]?[0-9]+)?(?:/[0-9]+)?"
)
_MAX_MARKS = 6
"""Pairs of marks, one in another."""
_MARKS = '*_`"\u201c\u201d '
_WRAPPERS = (("$$", "$$"), ("$", "$"), ("\\(", "\\)"), ("\\[", "\\]"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Number:
    """A number as it was read."""

    value: str
    """Its plainest form: ``-1234.5``, or ``1/3``."""
    unit: str = ""
    """What it counts, in lower case; "%" for percent, empty for nothing or a currency."""


def read_number(text: str) -> Number | None:
    """Read a text that is a number and nothing else; None where it is none (see the module)."""
    plain = _unwrapped(text)
    found = _NUMBER.match(plain)
    if found is None or (found["whole"] is None and found["part"] is None):
        return None
    unit = _unit(plain[found.end() :])
    value = _value(found)
    return None if unit is None or value is None else Number(value=value, unit=unit)


def normalised_number(text: str) -> str:
    """Return a number's plainest form ("$1,000.0" is "1000"); other text without space around."""
    number = read_number(text)
    return text.strip() if number is None else number.value


def same_answer(given: str, reference: str) -> bool:
    """Tell whether an answer is the reference: the same number of the same unit, or the same text.

    Args:
        given: What was found in a response.
        reference: The whole of a reference answer; of GSM8K's, what stands behind ``####`` counts.
    """
    right = final_part(reference) or reference
    if given.strip() == right.strip():
        return True
    mine, theirs = read_number(given), read_number(right)
    if mine is None or theirs is None or mine.value != theirs.value:
        return False
    return mine.unit == theirs.unit or not (mine.unit and theirs.unit)


def final_part(text: str) -> str | None:
    r"""Return what a text ends on: its line behind the last ``####``, or in the last ``\boxed{}``.

    None where there is neither.
    """
    _, marked, rest = text.rpartition("####")
    if marked and (line := rest.strip().partition("\n")[0].strip()):
        return line
    return _boxed(text)


def final_number(response: str) -> str | None:
    """Return the number that a response ends on: marked, boxed, or else its last one.

    None where there is none, or where it can be read in several ways.
    """
    part = final_part(response)
    if part is not None:
        number = read_number(part)
        if number is not None:
            return number.value
        first = _IN_TEXT.search(part)
        if first is not None:
            return _value_of(first.group())
    last = deque(_IN_TEXT.finditer(response), maxlen=1)
    return _value_of(last[0].group()) if last else None


def _value_of(text: str) -> str | None:
    number = read_number(text)
    return None if number is None else number.value


def _boxed(text: str) -> str | None:
    start = text.rfind("\\boxed{")
    if start < 0:
        return None
    begin = depth = start + len("\\boxed{")
    depth = 1
    for place in range(begin, len(text)):
        depth += {"{": 1, "}": -1}.get(text[place], 0)
        if depth == 0:
            return text[begin:place]
    return None


def _unwrapped(text: str) -> str:
    """Drop marks around a text, a few deep."""
    plain = text.strip()
    for _ in range(_MAX_MARKS):
        before = plain
        plain = plain.rstrip(".,;:").strip().strip(_MARKS)
        for opening, closing in _WRAPPERS:
            inside = plain[len(opening) : len(plain) - len(closing)]
            if plain.startswith(opening) and plain.endswith(closing) and inside:
                plain = inside
        if plain.startswith("\\boxed{") and plain.endswith("}"):
            plain = plain[len("\\boxed{") : -1]
        plain = plain.replace("\\$", "$").replace("\\%", "%").strip()
        if plain == before:
            break
    return plain


def _unit(rest: str) -> str | None:
    """Return the unit that follows a number, "" for none; None where it is no unit."""
    if not rest.strip():
        return ""
    found = _UNIT.fullmatch(rest.rstrip())
    if found is None:
        return None
    if found["sign"] is not None:
        return "%" if found["sign"] == "%" else ""
    words = found["words"].casefold()
    if words in ("percent", "per cent"):
        return "%"
    return None if _NO_UNITS & set(re.split("[ /-]", words)) else words


def _value(found: re.Match[str]) -> str | None:
    """Return a number's plainest form, by its digits: no float, and no limit on their number."""
    if found["sign"] and found["late_sign"]:
        return None
    negative = (found["sign"] or found["late_sign"] or "+") != "+"
    by = found["by"]
    whole = (found["whole"] or "").replace(by, "") if by else found["whole"] or ""
    digits, scale = whole + (found["part"] or ""), len(found["part"] or "")
    if found["over"] is not None:
        return _fraction(digits, scale, found["over"], negative=negative)
    exponent = int(found["exponent"] or 0)
    if abs(exponent) > _MAX_EXPONENT:
        return None
    return _decimal(digits, scale - exponent, negative=negative)


def _decimal(digits: str, scale: int, *, negative: bool) -> str:
    """Write digits with the point before the last `scale` of them."""
    digits += "0" * max(0, -scale)
    scale = max(0, scale)
    digits = digits.zfill(scale + 1)
    whole = digits[: len(digits) - scale].lstrip("0") or "0"
    part = digits[len(digits) - scale :].rstrip("0") if scale else ""
    plain = f"{whole}.{part}" if part else whole
    return f"-{plain}" if negative and plain != "0" else plain


def _fraction(over: str, scale: int, under: str, *, negative: bool) -> str | None:
    """Write a fraction as its decimals where these end, else in lowest terms."""
    if len(over) + len(under) > _MAX_FRACTION_DIGITS or not int(under):
        return None
    numerator, denominator = int(over), int(under) * 10**scale
    common = gcd(numerator, denominator)
    numerator, denominator = numerator // common, denominator // common
    twos_and_fives, places = denominator, 0
    for prime in (2, 5):
        power = 0
        while twos_and_fives % prime == 0:
            twos_and_fives, power = twos_and_fives // prime, power + 1
        places = max(places, power)
    if twos_and_fives == 1:
        return _decimal(str(numerator * 10**places // denominator), places, negative=negative)
    return f"{'-' if negative else ''}{numerator}/{denominator}"
