"""The disk, a folder, a file or a process fails while a verb runs. What was there before stays."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from conftest import SMALL, SMALL_MODEL, Recorder
from images import write_classes, write_image
from otx import Engine
from otx.cli import main
from otx.errors import DataError, OtxError, StorageError, TrainingError, UsageError
from otx.files import clear_leftovers, write_text
from otx.inference.predictor import load_predictor
from otx.model.modelfile import load_model
from otx.networks.build import build_network
from otx.workspace import latest_run, set_latest

ROOT = Path(__file__).parents[2]
TINY = {**SMALL, "max_epochs": 1}
SPEEDS = ("images_per_second", "seconds")
UNKEPT = {"data.cache_mb": 0}


def tiny(root: Path, work_dir: Path, recorder: Recorder | None = None, **changes: Any) -> Engine:
    return Engine(root, model="timm/test_resnet", work_dir=work_dir, overrides={**TINY, **changes}, reporter=recorder)


def figures(engine: Engine) -> list[dict[str, str]]:
    with latest_run(engine.work_dir).metrics.open(newline="") as file:
        return [{key: value for key, value in row.items() if key not in SPEEDS} for row in csv.DictReader(file)]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_classes(tmp_path / "data", {"ant": 12, "bee": 12})


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 16 megabytes."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "otx", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip("only root can mount a small disk")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def remount(disk: Path, how: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{how}", str(disk)], check=True)


def whole(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


class At(Recorder):
    """A reporter that does something at the end of an epoch."""

    def __init__(self, number: int, what: Any) -> None:
        super().__init__()
        self.number, self.what = number, what

    def epoch(self, result: Any, max_epochs: int) -> None:
        super().epoch(result, max_epochs)
        if result.epoch == self.number:
            self.what()


def test_a_full_disk_ends_a_training_in_words_and_keeps_the_model(data: Path, disk: Path) -> None:
    def fill() -> None:
        with (disk / "filling").open("wb", buffering=0) as file:
            try:
                while file.write(bytes(4096)):
                    pass
            except OSError:
                pass

    engine = tiny(data, disk / "ws", At(0, fill), max_epochs=3)
    with pytest.raises(StorageError, match=r"cannot write .*disk/ws/.*: No space left on device") as caught:
        engine.train()
    assert (caught.value.exit_code, "make room" in caught.value.fix) == (1, True)
    run = latest_run(disk / "ws")
    load_model(run.model)
    assert not [path for path in run.path.rglob(".writing.*") if path.stat().st_size]
    (disk / "filling").unlink()
    Engine(work_dir=disk / "ws").train(resume=True)
    undisturbed = tiny(data, data.parent / "ws", max_epochs=3)
    undisturbed.train()
    assert figures(Engine(work_dir=disk / "ws")) == figures(undisturbed)


@pytest.mark.parametrize("verb", ["export", "test", "predict", "explain", "optimize"])
@pytest.mark.parametrize("fault", ["full", "read-only"])
def test_a_disk_that_takes_nothing_is_named_and_older_files_stay(
    verb: str, fault: str, data: Path, disk: Path, trained: Engine, capsys: pytest.CaptureFixture[str]
) -> None:
    names = {"predict": "rows.csv", "export": "exported_model.xml", "optimize": "optimized_model.xml"}
    old = disk / names.get(verb, "old")
    old.write_text("old")
    if fault == "full":
        with (disk / "filling").open("wb") as file:
            file.write(bytes(shutil.disk_usage(disk).free))
    else:
        remount(disk, "ro")
    before = whole(disk)
    images = [str(next(Path(str(trained.recipe.data_root)).rglob("*.png")))] if verb in ("predict", "explain") else []
    output = {"predict": str(old), "test": str(disk / "figures.json")}.get(verb, str(disk))
    model = ["--checkpoint", str(latest_run(trained.work_dir).model), "--work_dir", str(trained.work_dir)]
    code = main([verb, *images, *model, "--output", output])
    said = capsys.readouterr().err
    assert code == (1 if fault == "full" else 2), said
    assert str(disk) in said
    assert "Traceback" not in said
    remount(disk, "rw")
    assert whole(disk) == before


def test_a_work_dir_that_cannot_be_written_stops_before_the_work(
    data: Path, disk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    remount(disk, "ro")
    options = [f"--{key}={value}" for key, value in TINY.items()]
    assert main(["train", "--data_root", str(data), "--work_dir", str(disk / "ws"), *options]) == 2
    assert f"cannot write to {disk / 'ws'}: Read-only file system" in capsys.readouterr().err


def test_without_permission_the_folder_is_named() -> None:
    with tempfile.TemporaryDirectory() as name:
        locked = Path(name) / "locked"
        locked.mkdir(mode=0o555)
        locked.parent.chmod(0o755)
        program = (
            "import os; from pathlib import Path\n"
            "from otx.errors import UsageError; from otx.files import write_text\n"
            "from otx.workspace import new_folder\n"
            # root may write anywhere
            "os.getuid() or os.setuid(65534)\n"
            "for do in (new_folder, lambda path: write_text(path / 'file', '')):\n"
            f"    try: do(Path({str(locked)!r}))\n    except UsageError as error: print(error)\n"
        )
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.count(str(locked)) == done.stdout.count("Permission denied") == 2


def test_a_run_folder_removed_while_training_is_named(data: Path, tmp_path: Path) -> None:
    engine = tiny(data, tmp_path / "ws", max_epochs=3)
    engine.reporter = At(0, lambda: shutil.rmtree(latest_run(tmp_path / "ws").path))
    with pytest.raises(StorageError, match=r"the run folder .*ws/2.* was removed while the training was running"):
        engine.train()


def test_images_removed_while_training_are_named(data: Path, tmp_path: Path) -> None:
    reporter = At(0, lambda: [path.unlink() for path in (data / "ant").glob("00*.png")])
    tiny(data, tmp_path / "ws", reporter, max_epochs=2, **UNKEPT).train()
    lost = [warning for warning in reporter.warnings if "no such file" in warning]
    assert lost
    assert all(warning.startswith("left out, cannot be decoded: ant/00") for warning in lost)


def test_a_data_folder_removed_while_training_ends_it_and_the_model_stays(data: Path, tmp_path: Path) -> None:
    engine = tiny(data, tmp_path / "ws", At(0, lambda: shutil.rmtree(data)), max_epochs=3, **UNKEPT)
    with pytest.raises(DataError, match=r"no image of a whole batch could be decoded: (ant|bee)/0.*no such file"):
        engine.train()
    load_model(latest_run(tmp_path / "ws").model)


def test_a_data_folder_removed_after_its_images_were_decoded_does_not_matter(data: Path, tmp_path: Path) -> None:
    # one epoch draws every image of the two classes, which have the same size
    asked = {"data.train_subset.sampler": "random", "report": True}
    recorder = At(0, lambda: shutil.rmtree(data))
    result = tiny(data, tmp_path / "ws", recorder, max_epochs=3, **asked).train()
    assert len(result.epochs) == 3
    assert any("report.html was not written: there is no folder" in warning for warning in recorder.warnings)
    load_model(result.model_path)


def test_validation_images_that_are_all_gone_are_an_error(data: Path, tmp_path: Path) -> None:
    def remove() -> None:
        for path, _, subset in csv.reader(latest_run(tmp_path / "ws").split.read_text().splitlines()):
            if subset == "val":
                (data / path).unlink()

    with pytest.raises(DataError, match=r"no validation image could be decoded: .*no such file"):
        tiny(data, tmp_path / "ws", At(0, remove), max_epochs=3, **UNKEPT).train()


@pytest.mark.slow
def test_two_runs_at_once_in_one_work_directory(data: Path, tmp_path: Path) -> None:
    alone = [tiny(data, tmp_path / f"alone{seed}", seed=seed, max_epochs=2) for seed in (0, 1)]
    for engine in alone:
        engine.train()
    options = [f"--{key}={value}" for key, value in {**TINY, "max_epochs": 2}.items()]
    common = ["--data_root", str(data), "--model", "timm/test_resnet", "--work_dir", str(tmp_path / "ws"), *options]
    command = [sys.executable, "-m", "otx", "train", *common]
    both = [subprocess.Popen([*command, "--seed", str(seed)], stderr=subprocess.PIPE) for seed in (0, 1)]
    assert [process.communicate(timeout=900)[1] is None or process.returncode for process in both] == [0, 0]
    runs = [path for path in (tmp_path / "ws").iterdir() if not path.name.startswith(".")]
    assert len(runs) == 2
    assert latest_run(tmp_path / "ws").path in [run.resolve() for run in runs]
    found = {json.loads((run / "run.json").read_text())["epochs"][-1]["val_loss"] for run in runs}
    assert found == {float(figures(engine)[-1]["val_loss"]) for engine in alone}


def test_latest_is_never_missing_while_it_is_replaced(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("first", "second")]
    for folder in folders:
        write_text(folder / "model.safetensors", "")
    set_latest(tmp_path, "train", folders[0])
    stop = threading.Event()
    missing: list[Exception] = []

    def look() -> None:
        while not stop.is_set():
            try:
                assert latest_run(tmp_path).path in folders
            except OtxError as error:
                missing.append(error)

    watcher = threading.Thread(target=look)
    watcher.start()
    for number in range(500):
        set_latest(tmp_path, "train", folders[number % 2])
    stop.set()
    watcher.join()
    assert not missing


def test_leftovers_of_a_killed_process_are_removed(tmp_path: Path) -> None:
    write_text(tmp_path / "run" / "checkpoints" / ".writing.abc", "half")
    write_text(tmp_path / "run" / ".writing.export" / ".writing.abc" / "model.bin", "half")
    write_text(tmp_path / "run" / "metrics.csv", "whole")
    clear_leftovers(tmp_path / "run")
    assert sorted(path.name for path in (tmp_path / "run").rglob("*")) == ["checkpoints", "metrics.csv"]


def test_a_resumed_run_keeps_the_fall_of_its_learning_rate(data: Path, tmp_path: Path) -> None:
    changes = {"max_epochs": 5, "optimizer.lr": 1e-6, "scheduler.patience": 1}
    undisturbed = tiny(data, tmp_path / "a", **changes)
    undisturbed.train()
    assert len({row["lr"] for row in figures(undisturbed)}) > 1
    for number in range(4):
        work = tmp_path / f"b{number}"

        def stop() -> None:
            raise RuntimeError("killed")

        with pytest.raises(RuntimeError, match="killed"):
            tiny(data, work, At(number, stop), **changes).train()
        Engine(work_dir=work).train(resume=True)
        assert figures(Engine(work_dir=work)) == figures(undisturbed)


def test_a_run_killed_while_its_report_was_made_is_completed(data: Path, tmp_path: Path) -> None:
    """Even if early stopping ended the run, it does not train again."""
    changes = {"report": True, "optimizer.lr": 1e-6, "training.early_stopping.patience": 1, "max_epochs": 90}
    tiny(data, tmp_path / "ws", **changes).train()
    run = latest_run(tmp_path / "ws")
    before = figures(Engine(work_dir=tmp_path / "ws"))
    assert len(before) < 90
    run.report.unlink()
    Engine(work_dir=tmp_path / "ws").train(resume=True)
    assert figures(Engine(work_dir=tmp_path / "ws")) == before
    assert run.report.is_file()


def test_weights_that_are_no_numbers_are_said_to_be_the_reason(data: Path, tmp_path: Path) -> None:
    state = build_network("test_resnet", 2, 32, 32).state_dict()
    name = next(name for name, value in state.items() if value.ndim == 4)
    state[name][0] = float("nan")
    torch.save(state, tmp_path / "weights.pth")
    changes = {"model.weights": str(tmp_path / "weights.pth"), "training.head_first": False}
    with pytest.raises(TrainingError, match="in epoch 1, step 1: the weights that the training began from hold"):
        tiny(data, tmp_path / "ws", **changes).train()


def test_a_loss_that_is_no_number_keeps_the_best_model(data: Path, tmp_path: Path) -> None:
    # a warm-up that never ends: the rate grows by a million with each step
    changes = {"optimizer.lr": 1e15, "scheduler.num_warmup_steps": 10**9, "max_epochs": 9, "optimizer.clip_norm": None}
    with pytest.raises(TrainingError, match="in epoch [2-9], step .*: most likely the learning rate is") as caught:
        tiny(data, tmp_path / "ws", **changes, **{"data.train_subset.batch_size": 64}).train()
    assert "--optimizer.lr" in caught.value.fix
    load_model(latest_run(tmp_path / "ws").model)


@pytest.mark.parametrize("model", ["timm/test_resnet", SMALL_MODEL])
def test_a_batch_of_one_trains_with_batch_norm(model: str, tmp_path: Path) -> None:
    root = write_classes(tmp_path / "data", {"ant": 4, "bee": 4})
    changes = {**TINY, "data.train_subset.batch_size": 1, "optimizer.lr": 1e-3}
    result = Engine(root, model=model, work_dir=tmp_path / "ws", overrides=changes).train()
    assert 0 < result.epochs[0].train_loss < 10


def test_a_class_with_one_image_is_trained_and_predicted(tmp_path: Path) -> None:
    root = write_classes(tmp_path / "data", {"ant": 12, "bee": 1})
    engine = tiny(root, tmp_path / "ws")
    engine.train()
    assert set(engine.predict(root / "bee")[0].probabilities) == {"ant", "bee"}


@pytest.mark.parametrize("locale", ["C", "POSIX", "C.UTF-8", "de_DE.UTF-8", "tr_TR.UTF-8"])
@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize("place", ["/tmp", "/dev/shm"])
def test_labels_follow_from_the_names_alone(place: str, order: int, locale: str) -> None:
    """In any order of creation, in any locale, on any file system."""
    if not os.access(place, os.W_OK):
        pytest.skip(f"{place} is not to be written")
    names = ["b", "A", "ä", "Z", "a", "10", "9", "I", "i", "_"]
    root = Path(place) / f"otx.labels.{os.getpid()}"
    try:
        for name in names[::order]:
            for number in (2, 0, 1):
                write_image(root / name / f"{number}.png", size=(4, 4))
        program = f"from otx.data.load import load_dataset; print(ascii(load_dataset({str(root)!r}).classes))"
        done = subprocess.run(
            [sys.executable, "-c", program],
            capture_output=True,
            text=True,
            check=True,
            timeout=100,
            env={**os.environ, "LC_ALL": locale, "LANG": locale},
        )
        assert done.stdout.strip() == ascii(tuple(sorted(names)))
    finally:
        shutil.rmtree(root, ignore_errors=True)


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "otx", *arguments]


def test_predictions_go_on_behind_the_last_whole_row(trained: Engine, photos: Path, tmp_path: Path) -> None:
    model, images = str(latest_run(trained.work_dir).model), str(photos)
    options = ["--checkpoint", model, "--data.test_subset.batch_size", "8"]
    whole_file, file = tmp_path / "whole.csv", tmp_path / "rows.csv"
    assert main(["predict", images, *options, "--output", str(whole_file)]) == 0
    content = whole_file.read_bytes()
    for cut in (0, 3, 30, len(content) // 3, len(content) // 2, len(content) - 1, len(content)):
        file.write_bytes(content[:cut])
        assert main(["predict", images, *options, "--output", str(file), "--resume"]) == 0
        assert file.read_bytes() == content
    file.unlink()
    assert main(["predict", images, *options, "--output", str(file), "--resume"]) == 0
    assert file.read_bytes() == content


def test_predictions_of_other_images_are_not_gone_on_with(trained: Engine, photos: Path, tmp_path: Path) -> None:
    trained.predict(photos / "cat", output=tmp_path / "rows.csv")
    before = (tmp_path / "rows.csv").read_bytes()
    with pytest.raises(UsageError, match=r"rows\.csv, row 2 is .*cat/000\.png.*: not a prediction of these images"):
        trained.iter_predict(photos / "ähre", output=tmp_path / "rows.csv", resume=True)
    with pytest.raises(UsageError, match=r"--resume goes on with a \.csv file"):
        trained.iter_predict(photos / "ähre", output=tmp_path / "rows.json", resume=True)
    assert (tmp_path / "rows.csv").read_bytes() == before


def test_rows_are_there_before_the_last_is_computed(trained: Engine, photos: Path, tmp_path: Path) -> None:
    rows = trained.iter_predict(photos, output=tmp_path / "rows.csv")
    next(rows)
    assert (tmp_path / "rows.csv").read_text().count("\n") == 2
    assert sum(1 for _ in rows) == 90
    assert (tmp_path / "rows.csv").read_text().count("\n") == 92
    assert [path.name for path in tmp_path.iterdir()] == ["rows.csv"]


@pytest.mark.slow
def test_the_benchmark_of_kills_finds_nothing_lost(tmp_path: Path) -> None:
    program = ["benchmarks/faults.py", "--kills", "3", "--exports", "2", "--optimizes", "0", "--epochs", "3"]
    done = subprocess.run([sys.executable, *program], cwd=ROOT, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "training: 3 kills, 0 wrong" in done.stdout
    assert "nothing was lost" in done.stdout


def resident(pid: int | str = "self") -> int:
    """Bytes in memory."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.slow
def test_memory_does_not_grow_over_thirty_epochs(data: Path, tmp_path: Path) -> None:
    sizes: list[int] = []

    class Memory(Recorder):
        def epoch(self, result: Any, max_epochs: int) -> None:
            sizes.append(resident())

    tiny(data, tmp_path / "ws", Memory(), max_epochs=30, **{"training.early_stopping.patience": None}).train()
    print([size // 2**20 for size in sizes])
    assert len(sizes) == 30
    assert max(sizes[20:]) - max(sizes[5:15]) < 8 * 2**20


@pytest.mark.slow
def test_a_hundred_thousand_predictions_stream_and_resume(data: Path, tmp_path: Path) -> None:
    count = int(os.environ.get("OTX_TEST_FILES", "100000"))
    tiny(data, tmp_path / "ws").train()
    many = tmp_path / "many"
    many.mkdir()
    for number in range(count):
        # ext4 allows at most 65,000 hard links to a file
        os.link(data / "ant" / f"00{number % 4}.png", many / f"{number:06}.png")
    file = tmp_path / "rows.csv"
    arguments = command("predict", str(many), "--work_dir", str(tmp_path / "ws"), "--output", str(file))

    def rows() -> int:
        return file.read_bytes().count(b"\n") if file.is_file() else 0

    process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    sizes: list[tuple[int, int]] = []
    while process.poll() is None and rows() < count * 0.9:
        if rows() > count * 0.1:
            sizes.append((rows(), resident(process.pid)))
        time.sleep(0.5)
    process.kill()
    process.wait()
    print([(number, size // 2**20) for number, size in sizes[:: max(1, len(sizes) // 10)]])
    assert count * 0.9 <= rows() < count
    assert max(size for _, size in sizes) - sizes[0][1] < 16 * 2**20
    subprocess.run([*arguments, "--resume"], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    with file.open(newline="") as opened:
        found = [row["path"] for row in csv.DictReader(opened)]
    assert found == [str(many / f"{number:06}.png") for number in range(count)]


def test_a_predictor_is_not_disturbed_by_a_new_export_beside_it(trained: Engine, tmp_path: Path) -> None:
    """The new file has another inode: a process that has the old one open keeps it."""
    path = trained.export(output=tmp_path).path
    first = path.with_suffix(".bin").stat().st_ino
    trained.export(output=tmp_path)
    assert path.with_suffix(".bin").stat().st_ino != first
    load_predictor(path, "cpu")
