"""Whether a test shows what was asked of a model."""

from __future__ import annotations

from otx.evaluation.intervals import images_needed
from otx.results import ClassResult, TestResult, Verdict

NAMED = 3


def judge(result: TestResult, min_accuracy: float | None, min_recall: float | None) -> Verdict | None:
    """Compare the lower ends of the 95 % intervals with targets from 0 to 1; None without a target.

    `min_recall` is a target for every class. A class without an image shows nothing, so it misses it.
    """
    if min_accuracy is None and min_recall is None:
        return None
    missed = [*_accuracy(result, min_accuracy), *_recalls(result, min_recall)]
    if missed:
        return Verdict(min_accuracy, min_recall, False, f"It misses the target: {'; '.join(missed)}.")
    asked = [] if min_accuracy is None else [f"accuracy at least {min_accuracy:g}"]
    asked += [] if min_recall is None else [f"recall of every class at least {min_recall:g}"]
    return Verdict(min_accuracy, min_recall, True, f"It meets the target: {', '.join(asked)}.")


def _accuracy(result: TestResult, target: float | None) -> list[str]:
    low = result.top1_low
    if target is None or low is None or low >= target:
        return []
    return [f"its accuracy may be as low as {low:.4f}, asked for {target:g}{_too_few(result.num_images, target)}"]


def _recalls(result: TestResult, target: float | None) -> list[str]:
    if target is None:
        return []
    missed = sorted((item for item in result.classes if _low(item) < target), key=_low)
    if not missed:
        return []
    named = ", ".join(f"“{item.name}” {_low(item):.4f}" for item in missed[:NAMED])
    more = f" and {len(missed) - NAMED} more" if len(missed) > NAMED else ""
    fewest = min(item.count for item in missed)
    return [f"the recall of {named}{more} may be as low as that, asked for {target:g}{_too_few(fewest, target)}"]


def _low(item: ClassResult) -> float:
    return item.recall_low or 0.0


def _too_few(count: int, target: float) -> str:
    """What to do if `count` images cannot show the target even when all are right."""
    needed = images_needed(target)
    if needed is None:
        return " (no number of images can show that)"
    return f" (that takes at least {needed:,} images, and there are {count:,})" if count < needed else ""
