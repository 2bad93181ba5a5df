"""Percentiles of samples and medians of rounds. Pure, and it uses only the standard library."""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

QUANTILES = {"p50": 0.5, "p99": 0.99, "p99.9": 0.999}


def percentile(ordered: Sequence[float], quantile: float) -> float:
    """The smallest sample that is at least as large as this fraction of all samples; no interpolation."""
    if not ordered:
        raise ValueError("no samples")
    return ordered[max(0, -int(-quantile * len(ordered) // 1) - 1)]


def percentiles(samples: Iterable[float]) -> dict[str, float]:
    """p50, p99, p99.9 and the maximum."""
    ordered = sorted(samples)
    return {name: percentile(ordered, quantile) for name, quantile in QUANTILES.items()} | {"max": ordered[-1]}


def median_of_rounds(rounds: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The median of each figure over the rounds, without what is not a number in all of them."""
    shared = set.intersection(*(set(each) for each in rounds))
    return {name: statistics.median(each[name] for each in rounds) for name in sorted(shared) if _number(rounds, name)}


def _number(rounds: Sequence[Mapping[str, Any]], name: str) -> bool:
    return all(isinstance(each[name], int | float) for each in rounds)


class Medians:
    """Looks up medians; `None` if there is none."""

    def __init__(self, results: Mapping[str, Any]) -> None:
        self._medians = {
            (each["part"], each["variant"], each["contestant"]): each["median"] for each in results["figures"]
        }

    def __call__(self, part: str, variant: str, contestant: str, name: str) -> float | None:
        median: dict[str, float] = self._medians.get((part, variant, contestant), {})
        return median.get(name)

    def ratio(self, part: str, variant: str, one: str, other: str, name: str) -> float | None:
        above, below = self(part, variant, one, name), self(part, variant, other, name)
        return None if above is None or not below else above / below

    def added(self, part: str, variant: str, one: str, other: str, name: str) -> float | None:
        whole, base = self(part, variant, one, name), self(part, variant, other, name)
        return None if whole is None or base is None else max(0.0, whole - base)
