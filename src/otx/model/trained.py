"""A trained model on disk, and the images it was trained on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from otx.data.dataset import DataRequest, Dataset, ImageSet, Split
from otx.data.decode import decode_image
from otx.data.digits import resolve_data_root
from otx.data.folder import shorten
from otx.data.layout import go_down
from otx.data.load import load_dataset, load_test_images, split_options
from otx.data.reading import Reading
from otx.data.split_file import read_split
from otx.errors import DataError, ImageError, InputError
from otx.events import Reporter
from otx.model.card import ModelCard
from otx.model.modelfile import read_card
from otx.recipe import Recipe, from_dict
from otx.workspace import RunFolder, new_folder, run_of

CHECK_IMAGES = 32
NOISE_IMAGES = 8
TORCH_FILES = (".safetensors", ".ckpt")


@dataclass(frozen=True)
class TrainedModel:
    """A model file, checkpoint or exported file, with its card and its run folder, if it is in one."""

    path: Path
    card: ModelCard
    run: RunFolder | None

    @classmethod
    def open(cls, path: Path) -> TrainedModel:
        """Read the card of a file.

        Raises:
            ModelError: it is not a model.
        """
        return cls(path, read_card(path), run_of(path))

    @property
    def is_exported(self) -> bool:
        return self.path.suffix not in TORCH_FILES

    @property
    def recipe(self) -> Recipe:
        """The settings it was trained with."""
        return from_dict(self.card.recipe, f"the recipe in {self.path}")

    @property
    def trained_on(self) -> Path:
        """The folder of images it was trained on, which may be gone."""
        return Path(self.card.recipe["data_root"])

    def own_data(self, max_pixels: int) -> DataRequest:
        """A request for the images it was trained on, with the model's own split."""
        return DataRequest(self.trained_on, None, max_pixels)

    def output_folder(self, work_dir: Path) -> Path:
        """The folder for results of this model: its run folder, else a new folder in the work directory."""
        return self.run.path if self.run else new_folder(work_dir)

    def data_root(self, request: DataRequest) -> Path:
        """The requested folder of images, else the one that the model was trained on.

        Raises:
            DataError: the folder that the model was trained on is gone.
        """
        if request.root is not None:
            root = resolve_data_root(request.root)
            return go_down(root) if root.is_dir() else root
        if not self.trained_on.is_dir():
            raise DataError(
                f"the folder the model was trained on is gone: {self.trained_on}", fix="give --data_root FOLDER"
            )
        return self.trained_on

    def dataset(self, request: DataRequest) -> Dataset:
        """The images, split as in the training of the model, unless the request names a split file.

        Raises:
            DataError: the folder cannot be used, or has other classes.
        """
        root = self.data_root(request)
        options = split_options(self.recipe) | {"split_file": self._split_file(request, root)}
        dataset = load_dataset(root, **options, min_classes=1 if self.card.num_old else 2)
        known = self.card.classes
        lacks_some = len(dataset.classes) < len(known) and not self.card.num_old
        if lacks_some or not set(dataset.classes) <= set(known):
            raise DataError(
                f"the model knows the classes {shorten(known)}; {root} has {shorten(dataset.classes)}",
                fix="give the --data_root the model was trained on, or a folder of class folders it knows",
            )
        return dataset.with_classes(known)

    def test_images(self, request: DataRequest, reporter: Reporter) -> ImageSet:
        """The images to test on: the test split of the model's own data set, or images of another folder."""
        root = self.data_root(request)
        is_own = (root.parent if root.is_file() else root).resolve() == self.trained_on.resolve()
        if not is_own and self._split_file(request, root) is None:
            subset, what = load_test_images(root, self.card.classes)
            reporter.note(f"{root} is not the folder the model was trained on: testing on {what}.")
            return ImageSet(root, subset, what, request.max_pixels)
        dataset = self.dataset(request)
        for note in dataset.notes:
            reporter.note(note)
        return ImageSet(root, dataset.test, Split.TEST, request.max_pixels)

    def sample_images(self, request: DataRequest, reporter: Reporter) -> list[NDArray[np.uint8]]:
        """A few images (H, W, 3) to check an export on: test images, or noise if there are none.

        All but the first are of the network's input size, so that large photos do not fill the memory.
        """
        try:
            images = self.test_images(request, reporter)
            step = max(1, len(images.subset) // CHECK_IMAGES)
            reading = self.card.preprocessing.reading(images.max_pixels)
            decoded = _decoded(images, images.subset.paths[::step][:CHECK_IMAGES], reading)
            found = [*islice(decoded, 1), *map(self.card.preprocessing.resize, decoded)]
        except InputError as error:
            reporter.warn(f"The export is checked on noise, not on photos: {error.what}")
            found = []
        if found:
            return found
        rng = np.random.default_rng(0)
        return [rng.integers(0, 256, (200 + 8 * i, 240, 3), dtype=np.uint8) for i in range(NOISE_IMAGES)]

    def _split_file(self, request: DataRequest, root: Path) -> Path | None:
        if request.split_file is not None:
            return Path(request.split_file)
        return self.run.split if self.run and _is_same_data(root, self.trained_on, self.run) else None


def _decoded(images: ImageSet, paths: Iterable[str], reading: Reading) -> Iterator[NDArray[np.uint8]]:
    for path in paths:
        try:
            yield decode_image(images.root / path, reading)
        except ImageError:
            continue


def _is_same_data(root: Path, trained_on: Path, run: RunFolder) -> bool:
    """Whether a folder is the one that a run was trained on: it has the same path, or it holds the run's images."""
    if root.resolve() == trained_on.resolve():
        return True
    if not root.is_dir():
        return False
    paths = [path for _, path, _, _ in read_split(run.split)]
    folders = {entry.name for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith(".")}
    return folders == {path.split("/")[0] for path in paths} and all((root / path).is_file() for path in paths[:100])
