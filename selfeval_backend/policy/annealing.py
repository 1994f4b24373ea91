"""Temperature schedules: the first sample exploits, later ones explore."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

__all__ = ["Annealed", "Constant", "PerSample", "TemperatureSchedule"]


class TemperatureSchedule(Protocol):
    """Gives each sample of a run its temperature."""

    def temperature(self, index: int) -> float:
        """Return the temperature of the sample of that index, from 0."""
        ...


@dataclass(frozen=True, slots=True)
class Constant:
    """Every sample at one temperature."""

    value: float

    def temperature(self, index: int) -> float:
        """Return the one temperature."""
        return self.value


@dataclass(frozen=True, slots=True)
class Annealed:
    """Greedy first, then 1/2, 3/4, 7/8, ... of a temperature.

    Source: arXiv 2410.02725 anneals, but its formula is not in the published text; this one,
    ``value * (1 - 2**-(k - 1))`` for k = 1, 2, ..., is ours.
    """

    value: float

    def temperature(self, index: int) -> float:
        """Return ``value * (1 - 2**-index)``."""
        return self.value * (1.0 - 2.0**-index)


@dataclass(frozen=True, slots=True)
class PerSample:
    """Temperatures given one by one; the last one serves all later samples."""

    values: tuple[float, ...]

    def temperature(self, index: int) -> float:
        """Return the temperature at that place."""
        return self.values[min(index, len(self.values) - 1)]
