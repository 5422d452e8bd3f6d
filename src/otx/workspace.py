"""The folder of a run: what is written where, and how the newest one is found.

otx-workspace/                 --work_dir
    .latest/train              link to the newest run (also .latest/export, .latest/test); without links, its path
    20261123_130100/           one training
        model.safetensors      the best model: all that the other verbs need
        base.safetensors       the model that classes were added to, if any
        configs.yaml           the resolved recipe; `otx train --config` takes it
        split.csv              path, class, subset of every image
        pseudo_labels.csv      path, class, confidence of the training images without a label (training.unlabelled)
        bad_images.csv         images left out because they cannot be decoded
        known_images.bin       digests of the training and validation images, by which a test knows them
        learning_curve.json    what twice as many training images would add
        suspicions.json        images that may be mislabelled, duplicates, or in two subsets
        metrics.csv            a row an epoch
        run.json               how it ended
        report.html            the page about the run, made after every training and test of its own images
        validation/            the best model on the validation images: the files of a test
        checkpoints/           last.ckpt and epoch_NNN.ckpt (the best), to resume from; of a model soup also start.pt
        tensorboard/           what TensorBoard shows, if it is installed
        exported_model.xml ... what `otx export` made of it, and .xml.json: its figures
        optimized_model.xml    what `otx optimize` made of it, and .json: its figures
        explain/2026.../       one `otx explain`
        demo/                  the export that `otx demo` made for itself
        test/20261123_140000/  one `otx test`; with its own report.html if it was on images of another folder
    reports/2026.../           report.html of several runs
"""

from __future__ import annotations

import contextlib
import os
import shlex
import time
from dataclasses import dataclass
from pathlib import Path

from otx.errors import UsageError
from otx.files import cannot_write, write_text

DEFAULT_WORK_DIR = "otx-workspace"
LATEST = ".latest"
MARKER = ".otx"
RUN_FILES = ("split.csv", "configs.yaml")
MODEL_FILE = "model.safetensors"
VALIDATION = "validation"


@dataclass(frozen=True)
class RunFolder:
    """The paths inside the folder of one training."""

    path: Path

    @property
    def model(self) -> Path:
        return self.path / MODEL_FILE

    @property
    def base(self) -> Path:
        return self.path / "base.safetensors"

    @property
    def config(self) -> Path:
        return self.path / "configs.yaml"

    @property
    def split(self) -> Path:
        return self.path / "split.csv"

    @property
    def bad_images(self) -> Path:
        return self.path / "bad_images.csv"

    @property
    def pseudo_labels(self) -> Path:
        return self.path / "pseudo_labels.csv"

    @property
    def known(self) -> Path:
        return self.path / "known_images.bin"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.csv"

    @property
    def summary(self) -> Path:
        return self.path / "run.json"

    @property
    def report(self) -> Path:
        return self.path / "report.html"

    @property
    def suspicions(self) -> Path:
        return self.path / "suspicions.json"

    @property
    def learning_curve(self) -> Path:
        return self.path / "learning_curve.json"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def last_checkpoint(self) -> Path:
        return self.checkpoints / "last.ckpt"

    def epoch_checkpoint(self, epoch: int) -> Path:
        """The checkpoint of the best epoch, counted from 0."""
        return self.checkpoints / f"epoch_{epoch:03}.ckpt"

    @property
    def start(self) -> Path:
        """The weights that the trainings of a model soup begin with."""
        return self.checkpoints / "start.pt"

    @property
    def soup(self) -> Path:
        """The mean of the trainings that were whole; it is there while a model soup is not."""
        return self.checkpoints / "soup.pt"

    @property
    def soup_result(self) -> Path:
        """What the mean of a model soup reached, and of how many trainings it is."""
        return self.checkpoints / "soup.json"

    @property
    def begun_from(self) -> Path:
        """The model that the training began from, and the names of its classes that were changed."""
        return self.checkpoints / "begun_from.json"

    @property
    def resume_command(self) -> str:
        """The command that continues this run, for the folder that this process runs in."""
        return shlex.join(["otx", "train", "--resume", "--checkpoint", str(self.last_checkpoint)])

    @property
    def how_to_go_on(self) -> str:
        """What to do with this run after it was stopped."""
        return self.resume_command if self.last_checkpoint.is_file() else "start the training again"

    def has_ended(self, *, with_report: bool) -> bool:
        """Whether a training ran to its end, its report included; one that was killed did not."""
        return self.summary.is_file() and (self.report.is_file() or not with_report)


def stamp(seconds: float) -> str:
    """A time as used in folder names: 20261123_130100."""
    return time.strftime("%Y%m%d_%H%M%S", time.localtime(seconds))


def new_folder(parent: Path) -> Path:
    """Make a new folder, named after the current time.

    Raises:
        UsageError: the folder cannot be written to.
        StorageError: the disk is full.
    """
    name = stamp(time.time())
    try:
        is_new = not parent.exists()
        parent.mkdir(parents=True, exist_ok=True)
        for attempt in range(1000):
            folder = parent / (name if attempt == 0 else f"{name}_{attempt}")
            with contextlib.suppress(FileExistsError):
                folder.mkdir()
                # what lies inside a marked folder needs no mark
                if not is_own(parent) and not is_own(parent.parent):
                    mark_own(parent if is_new else folder)
                return folder
    except OSError as error:
        raise cannot_write(f"to {parent}", error, "choose another --work_dir") from error
    raise UsageError(f"a thousand runs were started in {parent} within a second")


def mark_own(folder: Path) -> None:
    """Leave a file in a folder that otx made, by which a scan for photos knows it."""
    with contextlib.suppress(OSError):
        (folder / MARKER).write_text(
            "otx wrote this folder: its pictures are not taken for photos.\n", encoding="utf-8"
        )


def mark_if_new(folder: Path) -> Path:
    """Make a folder that a person named, marked as ours where nothing is in it yet.

    Raises:
        UsageError, StorageError: it cannot be written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not any(folder.iterdir()):
            mark_own(folder)
    except OSError as error:
        raise cannot_write(f"to {folder}", error, "choose another --output") from error
    return folder


def is_own(folder: Path) -> bool:
    """Whether otx wrote a folder: a marked one, a run, or the work directory of an older version."""
    if (folder / MARKER).is_file() or all((folder / name).is_file() for name in RUN_FILES):
        return True
    if not (folder / LATEST).is_dir():
        return False
    with os.scandir(folder) as entries:
        inner = [entry for entry in entries if entry.is_dir() and not entry.name.startswith(".")]
    return all(entry.name == "reports" or is_own(Path(entry.path)) for entry in inner)


def set_latest(work_dir: Path, verb: str, folder: Path) -> None:
    """Make `.latest/VERB` point to a folder, atomically.

    Raises:
        UsageError, StorageError: it cannot be written; where it pointed before is untouched.
    """
    link = work_dir / LATEST / verb
    beside = link.with_name(f".{verb}.{os.getpid()}")
    try:
        link.parent.mkdir(parents=True, exist_ok=True)
        beside.unlink(missing_ok=True)
        beside.symlink_to(_relative(folder, link.parent), target_is_directory=True)
        beside.replace(link)
    except (OSError, NotImplementedError):
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)
        _write_latest(link, folder)


def _write_latest(link: Path, folder: Path) -> None:
    """Write the folder's path into a text file: on Windows only some users may make links."""
    path = _relative(folder, link.parent)
    try:
        write_text(link, path)
    except UsageError:
        if not link.is_symlink():
            raise
        # Windows cannot replace a link to a folder
        with contextlib.suppress(OSError):
            link.unlink()
        write_text(link, path)


def _relative(folder: Path, start: Path) -> str:
    folder = folder.resolve()
    try:
        return os.path.relpath(folder, start.resolve())
    except ValueError:  # another drive of Windows
        return str(folder)


def latest_folder(work_dir: Path, verb: str) -> Path:
    """The folder that `.latest/VERB`, a link or a text file, points to; it need not exist."""
    link = work_dir / LATEST / verb
    if not link.is_file():
        return link
    return link.parent / link.read_text(encoding="utf-8", errors="surrogateescape").strip()


def find_work_dir(given: str | None) -> Path:
    """The work directory: the one given, else this folder if it is one, else `otx-workspace`."""
    if given is not None:
        return Path(given)
    return Path() if Path(LATEST).is_dir() else Path(DEFAULT_WORK_DIR)


def latest_run(work_dir: Path) -> RunFolder:
    """The newest training of a work directory.

    Raises:
        UsageError: there is none.
    """
    newest = latest_folder(work_dir, "train")
    if (work_dir / MODEL_FILE).is_file():
        return RunFolder(work_dir)
    if not newest.is_dir():
        raise UsageError(
            f"there is no trained model in {work_dir}",
            fix="give --checkpoint FILE or --work_dir FOLDER, or train one: otx train --data_root FOLDER",
        )
    return RunFolder(newest.resolve())


def model_of(path: str | Path) -> Path:
    """The model of a run folder, or the checkpoint of a run that has none yet; else the path itself."""
    inside = [Path(path, name) for name in ("model.safetensors", "checkpoints/last.ckpt")]
    return next((file for file in inside if file.is_file()), Path(path))


def run_of(file: Path) -> RunFolder | None:
    """The run folder that a model, checkpoint or exported file lies in, if it lies in one."""
    for folder in list(file.resolve().parents)[:3]:
        if all((folder / name).is_file() for name in RUN_FILES):
            return RunFolder(folder)
    return None
