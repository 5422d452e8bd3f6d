"""Sum up a run in three sentences for someone new to classifiers; each is derived from the figures."""

from __future__ import annotations

import bisect
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from otx.report.figures import Confusion, confusions, halving_row, interval_in_percent, num_right, threshold_table
from otx.report.record import Measurement, Record
from otx.results import ClassResult, EpochResult, StopReason

NEW = "new photo"
HELD_BACK = "held-back photo"
# whether the model has seen them is not known
PHOTO = "photo"
MIN_EXCESS = 2.0


@dataclass(frozen=True)
class Summary:
    """Three sentences, the reason for the last one, and the verdict that comes before them, if one was asked for."""

    sentences: tuple[str, str, str]
    grounds: str
    verdict: str = ""


def summarise(record: Record) -> Summary:
    """The three sentences about a run."""
    measured = record.measurement
    if measured is None:
        last, grounds = _about_training(record) or _about_sizes(_training_sizes(record))
        return Summary((_from_epochs(record), "Which classes it confuses is measured by `otx test`.", last), grounds)
    last, grounds = _advice(record, measured)
    right, total = num_right(measured.result), measured.result.num_images
    first = f"{measured_in_words(record, measured)}; {interval_in_words(right, total)}."
    verdict = measured.result.verdict
    return Summary((first, _confused(measured), last), grounds, "" if verdict is None else verdict.sentence)


def measured_in_words(record: Record, measured: Measurement) -> str:
    """`It is right on 94 of 100 new photos`, without a full stop; names the folder if it is not the model's own."""
    what = HELD_BACK if record.held_back else NEW if record.is_new else PHOTO
    said = accuracy_in_words(num_right(measured.result), measured.result.num_images, what)[:-1]
    return said if measured.is_own else f"{said} in “{measured.result.data_root.name}”"


def accuracy_in_words(right: int, total: int, what: str) -> str:
    """`It is right on 94 of 100 new photos.`; from 100 photos on per hundred, unless that rounds to none or all.

    Args:
        what: the kind of photo, in the singular.
    """
    if total == 1:
        return f"It is {'right' if right else 'wrong'} on the only {what} there is."
    if right == total:
        return f"It is right on {_all(total)} {what}s."
    if right == 0:
        return f"It is wrong on {_all(total)} {what}s."
    return f"It is right on {_share(right, total)} {what}s."


def interval_in_words(right: int, total: int) -> str:
    """`on very many it would be right on 92 to 95 of 100`: the 95 % interval, rounded outwards."""
    low, high = interval_in_percent(right, total)
    return f"on very many it would be right on {low} to {high} of 100"


def _share(part: int, total: int) -> str:
    hundredths = math.floor(100 * part / total + 0.5)
    if total < 100 or hundredths in (0, 100):
        return f"{part:,} of {total:,}"
    return f"{hundredths} of 100"


def _all(total: int) -> str:
    return "both" if total == 2 else f"all {total:,}"


def photos(count: int) -> str:
    return "1 photo" if count == 1 else f"{count:,} photos"


def _confused(measured: Measurement) -> str:
    pairs = confusions(measured.result)
    mistakes = sum(pair.count for pair in pairs)
    if not pairs:
        return "It takes no class for another."
    if mistakes == 1:
        return f"Its only mistake: it takes a photo of {_pair(pairs[0])}."
    top = [pair for pair in pairs if pair.count == pairs[0].count]
    if top[0].count == 1:
        return f"Its {mistakes:,} mistakes are of {mistakes:,} kinds: no two of them confuse the same classes."
    if len(top) == 1:
        of = f"{top[0].count:,} of {photos(top[0].total)}"
        return f"It most often takes {_pair(top[0])}: {of}."
    if len(top) == 2:
        return f"It most often takes {_pair(top[0])} and {_pair(top[1])}: {photos(top[0].count)} each."
    return f"It most often takes {_pair(top[0])}: {photos(top[0].count)}, and {len(top) - 1} other pairs as often."


def _pair(pair: Confusion) -> str:
    return f"“{pair.label}” for “{pair.predicted}”"


def _advice(record: Record, measured: Measurement) -> tuple[str, str]:
    """A sentence on what would help most, or else is worth knowing, and the reason for it."""
    sizes = _training_sizes(record)
    weak = _weakest(measured)
    return (
        _few([item for item in weak if _may_gain_most(record, item.name)], sizes, measured)
        or _about_training(record)
        or _weak(weak, sizes, measured)
        or _handed_over(measured)
        or _uncertain(measured)
    )


def _training_sizes(record: Record) -> dict[str, int]:
    return {name: record.sizes[name, "train"] for name in record.classes if record.sizes[name, "train"]}


def _excess(item: ClassResult, top1: float) -> float:
    """How many more mistakes a class has than it would have at the accuracy over all classes."""
    return item.count * (top1 - item.recall)


def _weakest(measured: Measurement) -> list[ClassResult]:
    """The classes recognised clearly less often than the average, the one with the most extra mistakes first."""
    top1 = measured.result.top1
    weak = [item for item in measured.result.classes if item.count and _excess(item, top1) >= MIN_EXCESS]
    return sorted(weak, key=lambda item: -_excess(item, top1))


def _few(weak: list[ClassResult], sizes: Mapping[str, int], measured: Measurement) -> tuple[str, str] | None:
    ordered = sorted(sizes.values())
    for item in weak:
        if item.name not in sizes or len(sizes) == 1:
            continue
        own = sizes[item.name]
        middle = math.floor(_median_without(ordered, own))
        if own < middle:
            return (
                f"The photos of “{item.name}” are few: {_rounded(middle - own):,} more would help most.",
                f"“{item.name}” has {own:,} training photos, the middle one of the other classes {middle:,}; it is "
                f"recognised on {_share(round(item.recall * item.count), item.count)}, all classes together on "
                f"{_share(num_right(measured.result), measured.result.num_images)}.",
            )
    return None


def _may_gain_most(record: Record, name: str) -> bool:
    """Whether more photos of a class would help most, as far as the learning curve can tell."""
    curve = record.learning_curve
    return curve is None or not curve.points or curve.helps_most == name


def _median_without(ordered: Sequence[int], own: int) -> float:
    """The median of a sorted list from which `own`, one of its values, is taken out."""
    place, count = bisect.bisect_left(ordered, own), len(ordered) - 1

    def at(rank: int) -> int:
        return ordered[rank + (rank >= place)]

    return (at((count - 1) // 2) + at(count // 2)) / 2


def _rounded(number: int) -> int:
    """Round up to two significant digits."""
    unit = int(10 ** max(0, len(str(number)) - 2))
    return math.ceil(number / unit) * unit


def _weak(weak: list[ClassResult], sizes: Mapping[str, int], measured: Measurement) -> tuple[str, str] | None:
    if not weak:
        return None
    item = weak[0]
    hits = round(item.recall * item.count)
    advice = "; it has photos enough, so look" if item.name in sizes else ": look"
    return (
        f"“{item.name}” costs most, with {_share(hits, item.count)} photos recognised{advice} at its mistakes first.",
        f"All classes together are recognised on {_share(num_right(measured.result), measured.result.num_images)}. "
        "Photos labelled wrongly, or unlike those it learnt from, are the usual reasons.",
    )


def _about_training(record: Record) -> tuple[str, str] | None:
    best = record.best
    if best is None or best is not record.epochs[-1] or best.epoch < 1 or record.stop is not StopReason.ALL_EPOCHS:
        return None
    if best.val_accuracy <= max(epoch.val_accuracy for epoch in record.epochs[:-1]):
        return None
    return (
        "It was still getting better when the training ended: more epochs would help most.",
        f"The last of the {best.epoch + 1} epochs was the best one: --max_epochs {2 * (best.epoch + 1)} would let it "
        "go on.",
    )


def kept_in_words(record: Record) -> str:
    """Which epoch the model is, and why; no accuracy, which the training measured in its own precision."""
    best, trained = record.best, sum(epoch.is_trained for epoch in record.epochs)
    if best is None:
        return ""
    if not trained:
        return "Only the classifier was fitted, on features of the network; no epoch was trained."
    if not best.is_trained:
        return "The model is the classifier fitted before the first epoch: no epoch after it was better."
    top = [epoch for epoch in record.epochs if epoch.val_accuracy == best.val_accuracy]
    if best.val_accuracy < max(epoch.val_accuracy for epoch in record.epochs):
        why = f"{_other_figure(best, record.epochs)} on the validation images"
    elif len(top) == 1:
        why = "the highest accuracy on the validation images"
    else:
        why = f"{_other_figure(best, top)} of the {len(top)} with the highest accuracy on the validation images"
    return f"The model is that of epoch {best.epoch + 1} of {trained}, which has {why}."


def _other_figure(best: EpochResult, epochs: Sequence[EpochResult]) -> str:
    """Why an epoch was kept if not for its accuracy; runs of before the probability was measured went by the loss."""
    is_lowest = best.val_loss == min(epoch.val_loss for epoch in epochs)
    return "the lowest loss" if is_lowest else "the highest mean probability of the true class"


def _handed_over(measured: Measurement) -> tuple[str, str] | None:
    """The smallest share of the photos to hand over to a person so that the error rate on the rest is halved."""
    table = threshold_table(measured.images)
    total, row = table[0].covered, halving_row(table)
    if row is None:
        return None
    return (
        f"Without the {_share(total - row.covered, total)} photos it is least sure of, it is right on "
        f"{_share(row.right, row.covered)}.",
        f"That is with answers only from a confidence of {row.threshold:.0%} on; see the table below.",
    )


def _uncertain(measured: Measurement) -> tuple[str, str]:
    total = measured.result.num_images
    return (
        f"This was seen on {photos(total)}: four times as many would make the range half as wide.",
        "The range is the 95 % interval of Wilson (1927).",
    )


def _from_epochs(record: Record) -> str:
    if record.best is None:
        return "It has not learnt anything yet: no epoch of the training is over."
    hundredths = math.floor(100 * record.best.val_accuracy + 0.5)
    return f"In the training it was right on {hundredths} of 100 held-back photos."


def _about_sizes(sizes: Mapping[str, int]) -> tuple[str, str]:
    if not sizes:
        return "Which photos it learnt from is not known here.", "There is no split.csv in this folder."
    name = min(sizes, key=lambda key: sizes[key])
    return (
        f"It learns from {photos(sum(sizes.values()))}; the fewest, {sizes[name]:,}, are of “{name}”.",
        "From split.csv.",
    )
