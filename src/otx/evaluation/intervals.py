"""How much of a figure may be chance: intervals of shares, and the comparison of two models on the same images."""

from __future__ import annotations

import math

# the quantile of the normal distribution for an interval of 95 %
CONFIDENCE_95 = 1.959963984540054


def wilson(right: int, total: int) -> tuple[float, float]:
    """Both ends, 0 to 1, of the 95 % interval of a share that was seen as `right` of `total` images; `total` above 0.

    Source: Wilson 1927, "Probable inference, the law of succession, and statistical inference".
    """
    z, share = CONFIDENCE_95, right / total
    centre = share + z * z / (2 * total)
    spread = z * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    scale = 1 + z * z / total
    low = 0.0 if right == 0 else max(0.0, (centre - spread) / scale)
    return low, 1.0 if right == total else min(1.0, (centre + spread) / scale)


def images_needed(target: float) -> int | None:
    """The fewest images that can show a share of at least `target`, if all are right; None: no number can."""
    if target >= 1:
        return None
    needed = max(1, math.floor(CONFIDENCE_95**2 * target / (1 - target)))
    return needed if wilson(needed, needed)[0] >= target else needed + 1


def mcnemar(gained: int, lost: int) -> float:
    """McNemar's exact test: probability of a split at least as uneven if both outcomes were equally likely.

    Args:
        gained: images that the first model alone is right on.
        lost: images that the second model alone is right on.

    Source: McNemar 1947, "Note on the sampling error of the difference between correlated proportions or percentages".
    """
    total = gained + lost
    if total == 0:
        return 1.0
    tail = sum(math.comb(total, count) for count in range(min(gained, lost) + 1))
    return min(1.0, tail / (1 << (total - 1)))
