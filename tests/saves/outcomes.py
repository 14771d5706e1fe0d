"""What cases came to, counted by kind."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

__all__ = ["Outcome", "Report"]


@dataclass(frozen=True)
class Outcome:
    """What a case came to.

    Attributes:
        kind: of the case.
        case: what runs it again.
        result: what was found, in a word or two.
        fault: what should not have been; None for a right outcome.
        number: how many times it was found.
    """

    kind: str
    case: str
    result: str
    fault: str | None = None
    number: int = 1


@dataclass
class Report:
    """Counts of outcomes by kind and result, and the faults."""

    counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    faults: list[Outcome] = field(default_factory=list)

    def add(self, outcomes: Iterable[Outcome]) -> None:
        for outcome in outcomes:
            self.counts[outcome.kind, outcome.result if outcome.fault is None else "FAULT"] += outcome.number
            if outcome.fault is not None:
                self.faults.append(outcome)
                print(f"{outcome.kind}, {outcome.case}: {outcome.fault}", flush=True)

    def __str__(self) -> str:
        lines = [f"{kind:45} {result:45} {count:7}" for (kind, result), count in sorted(self.counts.items())]
        return "\n".join([*lines, f"{self.counts.total()} outcomes, {len(self.faults)} faults"])
