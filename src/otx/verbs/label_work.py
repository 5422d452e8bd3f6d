"""What the page of `otx label` computes behind it: the network that gives the features, and the check of the photos."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from otx.data.check import ScanResult, check_dataset, image_refs, scan_images, suspect
from otx.data.dataset import Dataset, Subset
from otx.data.decode import digest_of
from otx.data.journal import SINGLE, without_confirmed
from otx.data.load import load_dataset, split_options
from otx.data.preprocessing import Preprocessing
from otx.data.reading import Reading
from otx.errors import InputError
from otx.evaluation.mislabelled import find_mislabelled
from otx.findings import CheckResult, ImageRef, Mislabelled
from otx.inference.predictor import load_predictor
from otx.label.background import Checked
from otx.label.board import Board
from otx.label.features import THUMBNAILS, FeatureTable, Source
from otx.model.card import ModelCard
from otx.model.modelfile import save_model
from otx.networks.build import model_info
from otx.networks.weights import initial_model
from otx.verbs.session import Session

MOST_JUDGED = 250_000_000
NO_IMAGES = Subset((), ())
# mean and std, which do not matter where no network is run
NO_COLOURS = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


def make_source(session: Session, checkpoint: Path | None, scratch: Path) -> Source:
    """The features of a model, or of the recipe's pretrained network; of thumbnails if that has no weights.

    Args:
        scratch: a folder for a file of weights.

    Raises:
        InputError: a file cannot be used.
    """
    if checkpoint is not None:
        predictor = load_predictor(checkpoint, session.device)
        name = f"features of {checkpoint.name} ({predictor.card.network})"
        key, reading = _digest(checkpoint), predictor.card.preprocessing.reading(session.max_pixels)
        return Source(name, key, predictor.features, predictor.card.preprocessing.resize, reading)
    recipe = session.recipe
    size = Preprocessing.of(recipe.data, *NO_COLOURS)
    if not recipe.model.pretrained and recipe.model.weights is None:
        return _thumbnails(size.reading(session.max_pixels))
    info = model_info(recipe.model.name)
    weights = recipe.model.weights
    start = initial_model(info.network, 2, size.height, size.width, pretrained=recipe.model.pretrained, weights=weights)
    preprocessing = Preprocessing.of(recipe.data, recipe.data.mean or info.mean, recipe.data.std or info.std)
    reading = preprocessing.reading(session.max_pixels)
    if not start.pretrained:
        return _thumbnails(reading)
    card = ModelCard(info.network, ("a", "b"), preprocessing, start.origin, recipe.to_dict())
    path = scratch / "model.safetensors"
    save_model(path, start.network.state_dict(), card)
    predictor = load_predictor(path, session.device)
    key = f"{info.network} {start.origin} {preprocessing}"
    if weights is not None:
        key += _digest(Path(weights))
    name = f"features of {info.network}, {start.origin.partition(' (')[0]}"
    return Source(name, key, predictor.features, preprocessing.resize, reading)


def _thumbnails(reading: Reading) -> Source:
    """Thumbnails of photos as they are read; kept ones count only where they were read so."""
    return replace(THUMBNAILS, key=f"{THUMBNAILS.key} {reading.intensity} {reading.bands}", reading=reading)


def _digest(path: Path) -> str:
    return digest_of(path.read_bytes()).hex()


def check_photos(session: Session, board: Board, features: FeatureTable) -> Checked:
    """What `otx check` finds in the folder, and what is probably mislabelled by the features of the page.

    Photos without a label are only looked at and compared with the others.
    """
    root = board.photos.root
    try:
        dataset = load_dataset(root, **split_options(session.recipe))
    except InputError:
        dataset = Dataset(root, ("",), "photos", _all_of(board), NO_IMAGES, NO_IMAGES)
    size = Preprocessing.of(session.recipe.data, *NO_COLOURS)
    found = _with_unlabelled(dataset, size, size.reading(session.max_pixels))
    below = dataset.root.resolve().relative_to(root.resolve()).as_posix()
    prefix = "" if below == "." else f"{below}/"
    found = replace(found, mislabelled=_mislabelled(dataset, found, board, features, prefix))
    rows = {path.removeprefix(prefix): row for path, row in board.rows.items() if path.startswith(prefix)}
    subsets = {prefix + path: name for name, part in dataset.parts.items() for path in part.paths}
    return Checked(without_confirmed(found, rows), prefix, subsets if len(dataset.classes) > 1 else {})


def _with_unlabelled(dataset: Dataset, size: Preprocessing, reading: Reading) -> CheckResult:
    """The findings of a data set, and those about photos of its folder that have no label yet; each is read once."""
    if not len(dataset.unlabelled):
        return check_dataset(dataset, size, reading)
    refs, new = {place.path: place for place in image_refs(dataset)}, set(dataset.unlabelled)
    paths = sorted({*refs, *new})
    seen = scan_images(dataset.root, paths, reading=reading)
    labelled = ScanResult({path: seen.looks[path] for path in refs if path in seen.looks},
                          tuple(each for each in seen.bad if each.path in refs))  # fmt: skip
    found = suspect(dataset, labelled, size)
    pile = Dataset(dataset.root, ("",), "photos", Subset.of([(path, 0) for path in paths]), NO_IMAGES, NO_IMAGES)
    every = suspect(pile, seen, size)
    mixed = [group for group in every.copies if any(place.path in new for place in group.images)]
    known = {place.path for group in mixed for place in group.images}
    copies = [
        replace(group, images=tuple(refs.get(place.path, ImageRef(place.path, "", "")) for place in group.images))
        for group in mixed
    ]
    single: dict[str, Any] = {
        kind: (*getattr(found, kind), *(each for each in getattr(every, kind) if each.path in new)) for kind in SINGLE
    }
    # a group with new photos holds its labelled ones too
    own = (group for group in found.copies if group.images[0].path not in known)
    return replace(found, copies=(*own, *copies), **single)


def _all_of(board: Board) -> Subset:
    paths = [path for number, path in enumerate(board.photos.paths) if not board.left_out[number]]
    return Subset.of([(path, 0) for path in paths])


def _mislabelled(
    dataset: Dataset, found: CheckResult, board: Board, features: FeatureTable, prefix: str
) -> tuple[Mislabelled, ...]:
    """By the features that the page has computed; none of a pile."""
    if len(dataset.classes) < 2 or len(board.labels) * len(dataset.classes) > MOST_JUDGED:
        return ()
    numbers, labels, places = [], [], []
    for subset, part in dataset.parts.items():
        for path, label in zip(part.paths, part.labels, strict=True):
            number = board.number_of(prefix + path)
            if number is not None and features.ready[number]:
                numbers.append(number)
                labels.append(label)
                places.append((path, subset))
    if not numbers:
        return ()
    index = {path: place for place, (path, _) in enumerate(places)}
    groups = np.arange(len(numbers))
    for group in found.copies:
        inside = [index[image.path] for image in group.images if image.path in index]
        groups[inside] = min(inside, default=0)
    doubts = find_mislabelled(features.of(np.asarray(numbers)), labels, groups.tolist())
    return tuple(
        Mislabelled(
            path=places[doubt.index][0],
            label=dataset.classes[labels[doubt.index]],
            subset=places[doubt.index][1],
            suggested=dataset.classes[doubt.suggested],
            score=round(doubt.score, 4),
        )
        for doubt in doubts
    )
