"""The front door in Python: one method a verb. `otx VERB --a b` is `Engine(...).VERB(a=b)`."""

from __future__ import annotations

import contextlib
import tempfile
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from signal import SIGINT
from typing import TYPE_CHECKING, Any

from otx.errors import DataError, OtxError, UsageError
from otx.events import LogReporter, Reporter, heartbeat
from otx.models.table import TIMM_PREFIX
from otx.places import prepare_places
from otx.recipe import DEFAULT_RECIPE, TASK, Recipe, from_dict, list_models, load_recipe, with_model
from otx.results import (
    BenchmarkResult,
    Environment,
    ExplainResult,
    ExportResult,
    ModelEntry,
    OldAndNew,
    OptimizeResult,
    Prediction,
    StopReason,
    Suspicions,
    TestResult,
    TrainResult,
)
from otx.signals import name_of, signal_of
from otx.workspace import (
    DEFAULT_WORK_DIR,
    MODEL_FILE,
    TABLES,
    RunFolder,
    check_folder,
    check_output,
    find_work_dir,
    latest_folder,
    latest_run,
    new_folder,
    run_of,
    set_latest,
)

if TYPE_CHECKING:
    import socket

    import numpy as np
    from numpy.typing import NDArray

    from otx.data.dataset import Dataset, Subset
    from otx.demo.server import Demo
    from otx.deploy.card import ModelCard
    from otx.deploy.explain import Subject

EXPORT_FORMATS = ("OPENVINO", "ONNX")
EXPORT_PRECISIONS = ("FP32", "FP16")
ALGORITHMS = ("auto", "recipro_cam", "activation_map", "vit_recipro_cam")
PREPROCESSINGS = ("modelapi", "embedded")
COLORS = ("RGB", "BGR")
CHECK_IMAGES = 32
CALIBRATION_IMAGES = 300
EXAMPLES = 8


class Engine:
    """Trains, tests, predicts and exports one image classifier.

    Args:
        data_root: folder of images; `digits` stands for scikit-learn's handwritten digits.
        model: name, ID or path of a recipe, or `timm/NAME` for any network of timm.
        work_dir: folder that holds the run folders.
        checkpoint: a model file, a Lightning checkpoint or an exported file; default: the newest training.
        recipe: a whole recipe, instead of `model`.
        device: `auto`, `cpu` or `gpu`.
        overrides: values of single settings, `{"data.train_subset.batch_size": 4}`.
        reporter: who is told what happens; default: Python's logger `otx`.

    Raises:
        RecipeError: there is no such recipe or setting.
    """

    def __init__(
        self,
        data_root: str | Path | None = None,
        *,
        model: str | Path | None = None,
        work_dir: str | Path | None = None,
        checkpoint: str | Path | None = None,
        recipe: Recipe | None = None,
        device: str | None = None,
        task: str = TASK,
        overrides: Mapping[str, Any] | None = None,
        reporter: Reporter | None = None,
    ) -> None:
        changes: dict[str, Any] = dict(overrides or {})
        for key, value in (("data_root", data_root), ("work_dir", work_dir), ("engine.device", device)):
            if value is not None:
                changes[key] = str(value)
        base = choose_recipe(recipe, None if model is None else str(model))
        self.recipe = base.override({**changes, "task": task})
        self._changes = changes
        self._recipe_given = recipe is not None or model is not None
        self.checkpoint = self._start = None if checkpoint is None else Path(checkpoint)
        self.reporter: Reporter = reporter or LogReporter()
        self._work_dir_given = "work_dir" in changes or self.recipe.work_dir != DEFAULT_WORK_DIR
        prepare_places(self.work_dir)
        self._data_root_given = self.recipe.data_root is not None

    @classmethod
    def from_config(
        cls,
        config_path: str | Path,
        data_root: str | Path | None = None,
        work_dir: str | Path | None = None,
        **options: Any,
    ) -> Engine:
        """An engine of a recipe: its name, its ID or the path of a YAML file; `options` as for `Engine`."""
        return cls(data_root, recipe=load_recipe(config_path), work_dir=work_dir, **options)

    def check(self, *, checkpoint: str | Path | None = None, output: str | Path | None = None) -> Suspicions:
        """Look at every image: what is broken, empty, tiny, huge, odd, there twice, or in train and test alike.

        Args:
            checkpoint: also list probably mislabelled images, by the features of this model; its data set and split are
                the ones to look at where no other is given.
            output: also write what was found to this `.json` or `.csv` file. What a model says of its own data set is
                written to its run folder too, for the report.

        Raises:
            DataError: the folder cannot be used.
        """
        from otx.data.check import check_dataset, write_suspicions
        from otx.data.dataset import load_dataset
        from otx.data.digits import resolve_data_root

        if output is not None:
            check_output(Path(output), "findings", TABLES, "findings.csv")
        path = Path(checkpoint) if checkpoint is not None else self.checkpoint
        _must_exist(path)
        recipe = self.recipe if path is None else self._recipe_of_data(self._card(path))
        data = recipe.data
        with heartbeat(self.reporter, "reading the folder"):
            dataset = load_dataset(
                resolve_data_root(recipe.data_root),
                seed=recipe.seed,
                test_share=data.test_share,
                val_share=data.val_share,
                split_file=None if data.split_file is None else Path(data.split_file),
            )
        result = check_dataset(dataset, max_pixels=data.max_image_pixels, reporter=self.reporter)
        if path is not None:
            from otx.deploy.mislabelled import list_mislabelled
            from otx.deploy.predictor import load_predictor

            with heartbeat(self.reporter, "loading the model"):
                predictor = load_predictor(path, recipe.engine.device)
            batch = data.test_subset.batch_size
            doubts = list_mislabelled(
                predictor, dataset, result, batch_size=batch, max_pixels=data.max_image_pixels, reporter=self.reporter
            )
            result = replace(result, mislabelled=doubts)
            run = run_of(path)
            if run is not None and dataset.root.resolve() == Path(self._card(path).recipe["data_root"]).resolve():
                write_suspicions(result, run.suspicions)
                self.reporter.note(f"Written to {run.suspicions}: `otx report {run.path}` shows it.")
        if output is not None:
            write_suspicions(result, Path(output))
        return result

    def train(
        self,
        *,
        max_epochs: int | None = None,
        seed: int | None = None,
        deterministic: bool | None = None,
        precision: str | None = None,
        checkpoint: str | Path | None = None,
        rename: Mapping[str, str] | None = None,
        resume: bool = False,
    ) -> TrainResult:
        """Train a model.

        Args:
            checkpoint: begin from this model instead of pretrained weights; classes it does not know are added to
                those it knows, and without a recipe or model of their own its settings hold. With `resume`, the run
                to go on with.
            rename: new names of that model's classes, `{"rose": "roses"}`.
            resume: go on with a run from its last checkpoint; default: the newest run.

        Raises:
            DataError, ModelError, RecipeError, UsageError: something given cannot be used; nothing was started.
            InputError: the same; the script that calls this has no `if __name__ == "__main__":`, where processes that
                load images have to import it again (macOS, Windows).
            TrainingError: the training failed.
            StoppedError: Ctrl-C or SIGTERM came before there was a model. Later ones end the training between two
                steps, and what is returned says so (`interrupted`).
        """
        given = {"max_epochs": max_epochs, "seed": seed, "deterministic": deterministic, "precision": precision}
        changes = {key: value for key, value in given.items() if value is not None}
        start = Path(checkpoint) if checkpoint is not None else self._start
        _must_exist(start)
        from otx.training.compute import find_shard

        if self.recipe.data.num_workers != 0:
            from otx.spawn import NO_WORKERS, can_start_workers, check_script

            check_script()
            if not can_start_workers():
                self.reporter.note(NO_WORKERS)
        recipe = self.recipe.override(changes) if resume else self.training_recipe(start, changes)
        run = latest_run(self.work_dir) if resume and start is None else None
        if not resume:
            from otx.preflight import check_training

            check_training(recipe, start, rename or {})
        with heartbeat(self.reporter, "starting"):
            from otx.training import run as training
        if resume and start is not None:
            run = training.resume_run(start)
        if run is not None:
            recipe = training.resumed_recipe(run, recipe, {**self._changes, **changes})
            start = None
        result = training.train(recipe, self.reporter, checkpoint=start, renames=rename, run=run)
        self.checkpoint = result.model_path
        # who sends SIGTERM does not wait long
        if not recipe.report or result.stop is StopReason.SIGTERM or not find_shard(recipe.engine).is_main:
            return result
        try:
            self._after(f"The training is whole: {result.model_path}", lambda: self._report_training(result, recipe))
        except KeyboardInterrupt as stop:
            number = signal_of(stop)
            own = StopReason.CTRL_C if number == SIGINT else StopReason.SIGTERM
            reason = f"{result.stop_reason}; {name_of(number)} stopped its report"
            return replace(result, stop=own, interrupted=True, stop_reason=reason)
        return result

    def _report_training(self, result: TrainResult, recipe: Recipe) -> None:
        """Measure the best model on the validation images, unless Ctrl-C was pressed, and write the page.

        Args:
            recipe: that of the training, which is not this engine's where a run was resumed.
        """
        from otx.deploy.evaluate import evaluate, write_test
        from otx.deploy.predictor import load_predictor
        from otx.report.page import write_report
        from otx.workspace import VALIDATION

        if not result.interrupted:
            card = self._card(result.model_path)
            dataset = self._dataset(result.model_path, card, Path(card.recipe["data_root"]))
            measured, images = evaluate(
                load_predictor(result.model_path, recipe.engine.device),
                dataset.root,
                dataset.val,
                checkpoint=result.model_path,
                subset="validation split",
                batch_size=recipe.data.val_subset.batch_size,
                max_pixels=recipe.data.max_image_pixels,
                reporter=self.reporter,
            )
            write_test(measured, images, result.run_dir / VALIDATION)
        with heartbeat(self.reporter, "writing the report"):
            page = write_report(result.run_dir)
        self.reporter.note(f"Report: {page}")

    def _after(self, what_holds: str, work: Callable[[], None]) -> None:
        """Do what comes after the work that was asked for; it fails with a warning, since that work is done.

        Args:
            what_holds: what is done and stays, as a sentence without its full stop.
        """
        try:
            work()
        except OtxError as error:
            self.reporter.warn(f"report.html was not written: {error.what}. {what_holds}.")
        except Exception as error:
            place = traceback.extract_tb(error.__traceback__)[-1]
            self.reporter.warn(
                f"report.html was not written, through a mistake in otx: {type(error).__name__}: {error} "
                f"({Path(place.filename).name}, line {place.lineno}). {what_holds}."
            )

    def test(
        self,
        *,
        checkpoint: str | Path | None = None,
        data_root: str | Path | None = None,
        output: str | Path | None = None,
    ) -> TestResult:
        """Measure a model on test images: those of its own data set that it was not trained on, or another folder's.

        Args:
            checkpoint: a model file, a checkpoint, an IR (`.xml`) or an ONNX file; default: the newest training.
            data_root: default: the folder the model was trained on.
            output: also write the figures to this JSON file.
        """
        from otx.deploy.evaluate import evaluate, write_test
        from otx.deploy.predictor import load_predictor
        from otx.workspace import write_json

        if output is not None:
            check_output(Path(output), "tests", (".json",), "test.json")
        path = self._model_file(checkpoint)
        card = self._card(path)
        self._check_room(path, None)
        with heartbeat(self.reporter, "reading the folder"):
            root, images, subset = self._test_images(path, card, data_root)
        with heartbeat(self.reporter, "loading the model"):
            predictor = load_predictor(path, self.recipe.engine.device)
        result, answers = evaluate(
            predictor,
            root,
            images,
            checkpoint=path,
            subset=subset,
            batch_size=self.recipe.data.test_subset.batch_size,
            max_pixels=self.recipe.data.max_image_pixels,
            reporter=self.reporter,
        )
        result = replace(result, old_and_new=self._old_and_new(path, card, root, images, result))
        folder = new_folder(self._run_folder(path) / "test")
        write_test(result, answers, folder)
        set_latest(self.work_dir, "test", folder)
        self.reporter.note(f"Written to {folder}")
        if output is not None:
            write_json(Path(output), result.to_dict())
        self._after(f"The test is whole: {folder}", lambda: self._report_test(folder))
        return result

    def _report_test(self, folder: Path) -> None:
        from otx.report.page import write_report

        with heartbeat(self.reporter, "writing the report"):
            page = write_report(folder.parents[1], quick=True)
        self.reporter.note(f"Report: {page}")

    def _old_and_new(
        self, path: Path, card: ModelCard, root: Path, images: Subset, result: TestResult
    ) -> OldAndNew | None:
        """Accuracy on the classes a model began with and on those added, and what the model before had on the old."""
        if not card.num_old:
            return None
        from otx.deploy.evaluate import compare_with_base

        run = run_of(path)
        base = run.base if run is not None and run.base.is_file() else None
        if base is None:
            self.reporter.warn("The model that classes were added to is gone: no accuracy before to compare with.")
        return compare_with_base(
            base,
            result.confusion,
            card.num_old,
            root,
            images,
            batch_size=self.recipe.data.test_subset.batch_size,
            max_pixels=self.recipe.data.max_image_pixels,
            reporter=self.reporter,
        )

    def predict(
        self,
        sources: str | Path | Iterable[str | Path],
        *,
        checkpoint: str | Path | None = None,
        output: str | Path | None = None,
    ) -> tuple[Prediction, ...]:
        """Predict images: files, folders and globs.

        Args:
            checkpoint: as for `test`.
            output: also write the predictions to this `.csv` or `.json` file.
        """
        return tuple(self.iter_predict(sources, checkpoint=checkpoint, output=output))

    def iter_predict(
        self,
        sources: str | Path | Iterable[str | Path],
        *,
        checkpoint: str | Path | None = None,
        output: str | Path | None = None,
        resume: bool = False,
    ) -> Iterator[Prediction]:
        """`predict` for any number of images: the predictions come one by one, and none is kept.

        Args:
            output: also write the predictions to this file: a `.csv` grows row by row, a `.json` is there at the end.
            resume: go on with an `output` that is not complete; what it holds already is not given again.

        Raises:
            UsageError: `output` cannot be written, or with `resume` holds predictions of other images.
        """
        from otx.deploy.predict import Unfinished, find_images, predict, write_as_they_come
        from otx.deploy.predictor import load_predictor

        if output is not None:
            check_output(Path(output), "predictions", TABLES, "predictions.csv")
        if resume and (output is None or Path(output).suffix.lower() != ".csv"):
            raise UsageError("--resume goes on with a .csv file", fix="--output predictions.csv --resume")
        path = self._model_file(checkpoint)
        with heartbeat(self.reporter, "looking for images"):
            images = list(find_images([sources] if isinstance(sources, (str, Path)) else sources))
        with heartbeat(self.reporter, "loading the model"):
            predictor = load_predictor(path, self.recipe.engine.device)
        batch = self.recipe.data.test_subset.batch_size
        limit = self.recipe.data.max_image_pixels
        done = Unfinished.read(Path(output), images, batch) if resume and output is not None else Unfinished()
        if done.rows:
            self.reporter.note(f"{done.rows} of {len(images)} images are in {output} already.")
        predictions = predict(predictor, images[done.rows :], batch_size=batch, max_pixels=limit)
        if output is not None:
            predictions = write_as_they_come(predictions, Path(output), done)
        return self._told(predictions, done.rows, len(images))

    def _told(self, predictions: Iterable[Prediction], done: int, total: int) -> Iterator[Prediction]:
        from otx.events import Progress

        for number, prediction in enumerate(predictions, start=done + 1):
            if number % 32 == 0 or number == total:
                self.reporter.progress(Progress("predicting", number, total))
            yield prediction

    def export(
        self,
        *,
        checkpoint: str | Path | None = None,
        export_format: str = "OPENVINO",
        export_precision: str = "FP32",
        preprocessing: str = "modelapi",
        input_color: str = "RGB",
        explain: bool = False,
        algorithm: str = "auto",
        output: str | Path | None = None,
        deploy: str | Path | None = None,
    ) -> ExportResult:
        """Write a model as OpenVINO IR or ONNX file, and check that it answers as the model does.

        Args:
            checkpoint: a model file or a checkpoint; default: the newest training.
            export_format: `OPENVINO` or `ONNX`.
            export_precision: `FP32` or `FP16` (the weights).
            preprocessing: `modelapi`: described in the file, done by its reader; `embedded`: part of the graph.
            input_color: order of the colours that an embedded graph takes, `RGB` or `BGR`.
            explain: let the file also give `saliency_map` and `feature_vector`.
            algorithm: of the saliency maps, see `explain`.
            output: folder for the file; default: the run folder.
            deploy: also write this folder, which runs with nothing but OpenVINO, openvino-model-api and Pillow.

        Raises:
            ExportError: the exported file differs from the model; it is not kept.
        """
        _one_of("--export_format", export_format, EXPORT_FORMATS)
        _one_of("--export_precision", export_precision, EXPORT_PRECISIONS)
        _one_of("--preprocessing", preprocessing, PREPROCESSINGS)
        _one_of("--input_color", input_color, COLORS)
        _one_of("--explain_config.algorithm", algorithm, ALGORITHMS)
        if deploy is not None:
            from otx.deploy.folder import check_deploy

            check_deploy(Path(deploy), export_format, preprocessing)
        path = self._model_file(checkpoint)
        if path.suffix not in (".safetensors", ".ckpt"):
            raise UsageError(f"{path} is exported already", fix="give the model file: RUN/model.safetensors")
        self._check_room(path, output)
        if deploy is not None:
            check_folder(Path(deploy).parent, "choose another --deploy")
        from otx.deploy.export import export_model

        folder = Path(output) if output is not None else self._run_folder(path)
        images = self._sample_images(path)
        with heartbeat(self.reporter, "exporting"):
            result = export_model(
                path,
                folder,
                export_format=export_format,
                export_precision=export_precision,
                preprocessing=preprocessing,
                input_color=input_color,
                images=images,
                explain=algorithm if explain else "",
            )
        set_latest(self.work_dir, "export", folder)
        if deploy is not None:
            from otx.deploy.folder import write_deploy_folder

            write_deploy_folder(result.path, Path(deploy), images[0])
        return result

    def optimize(
        self,
        *,
        checkpoint: str | Path | None = None,
        max_drop: float | None = None,
        subset_size: int = CALIBRATION_IMAGES,
        explain: bool = False,
        batch_size: int = 1,
        output: str | Path | None = None,
    ) -> OptimizeResult:
        """Write a model as INT8 IR, and measure it beside FP32 and FP16 on the validation images.

        Args:
            checkpoint: an IR, a model file or a checkpoint; default: the last export, else the newest training.
            max_drop: accuracy it may lose (0 to 1); layers are turned back to floats until that holds. None: no limit.
            subset_size: images of the training split to calibrate with.
            explain: let the file also give `saliency_map` and `feature_vector`; an IR that has them keeps them.
            batch_size: the fixed batch size of the file. It cannot be free: INT8 with a free dimension crashes in
                OpenVINO on processors with AMX.
            output: folder for the file; default: the run folder.

        Raises:
            DataError: the images that the model was trained on are gone.
            RunError: OpenVINO or NNCF crashed; files that were there are as they were.
        """
        if max_drop is not None and not 0 <= max_drop <= 1:
            raise UsageError(f"--max_drop {max_drop:g}: must be from 0 to 1")
        if subset_size < 1:
            raise UsageError(f"--subset_size {subset_size}: must be at least 1")
        if batch_size < 1:
            raise UsageError(f"--batch_size {batch_size}: must be at least 1")
        path = self._model_to_optimize(checkpoint)
        self._check_room(path, output)
        card = self._card(path)
        with heartbeat(self.reporter, "reading the folder"):
            dataset = self._dataset(path, card, self._root(card, None))
        from otx.data.dataset import pick_evenly
        from otx.deploy.optimize import Photos, optimize_model

        folder = Path(output) if output is not None else self._run_folder(path)
        limit = self.recipe.data.max_image_pixels
        calibration = pick_evenly(dataset.train, subset_size, card.recipe["seed"])
        with tempfile.TemporaryDirectory(prefix="otx.") as scratch:
            with heartbeat(self.reporter, "exporting"):
                variants = self._variants(path, Path(scratch), explain=explain)
            result = optimize_model(
                variants,
                folder,
                Photos(dataset.root, calibration, card, limit),
                Photos(dataset.root, dataset.val, card, limit),
                max_drop=max_drop,
                reporter=self.reporter,
                batch_size=batch_size,
            )
        set_latest(self.work_dir, "optimize", folder)
        return result

    def explain(
        self,
        sources: str | Path | Iterable[str | Path] | None = None,
        *,
        checkpoint: str | Path | None = None,
        targets: str = "predicted",
        algorithm: str = "auto",
        output: str | Path | None = None,
    ) -> ExplainResult:
        """Write saliency maps: where in an image the model sees a class.

        Args:
            sources: files, folders and globs; default: the test split.
            checkpoint: as for `test`; an exported file must have been exported with `explain`.
            targets: the classes to show: `predicted`, `true` (test split only), `all`, or the name of one.
            algorithm: `auto`, `recipro_cam`, `vit_recipro_cam` or `activation_map`.
            output: folder to write to; default: a new one in the run folder.
        """
        _one_of("--explain_config.algorithm", algorithm, ALGORITHMS)
        from otx.deploy.explain import check_targets, explain, write_explanations
        from otx.deploy.predictor import load_predictor
        from otx.events import Progress

        path = self._model_file(checkpoint)
        card = self._card(path)
        check_targets(targets, card.classes, labelled=sources is None)
        self._check_room(path, output)
        subjects = self._subjects(sources, path, card)
        with heartbeat(self.reporter, "loading the model"):
            predictor = load_predictor(path, self.recipe.engine.device)
        folder = Path(output) if output is not None else new_folder(self._run_folder(path) / "explain")
        explanations = []
        limit = self.recipe.data.max_image_pixels
        rows = explain(predictor, subjects, folder, targets=targets, algorithm=algorithm, max_pixels=limit)
        for row in rows:
            explanations.append(row)
            self.reporter.progress(Progress("explaining", len(explanations), max(len(explanations), len(subjects))))
        write_explanations(explanations, folder)
        set_latest(self.work_dir, "explain", folder)
        return ExplainResult(folder, tuple(explanations))

    def report(
        self,
        runs: str | Path | Iterable[str | Path] | None = None,
        *,
        output: str | Path | None = None,
    ) -> Path:
        """Write the page of a run again, or one page of several runs side by side.

        Args:
            runs: run folders, or files in them; default: the newest training.
            output: an HTML file; default: `report.html` in the run folder, or in a new folder for several runs.

        Raises:
            UsageError: there is no such run, or `output` is a file that is no report.
        """
        from otx.report.compare import names_of, render_comparison
        from otx.report.page import check_page, write_report
        from otx.report.record import read_record
        from otx.workspace import write_text

        given = [runs] if isinstance(runs, (str, Path)) else list(runs or [latest_run(self.work_dir).path])
        folders = [_folder_of_run(Path(run)) for run in given]
        path = None if output is None else Path(output)
        if path is not None:
            check_page(path)
        with heartbeat(self.reporter, "writing the report"):
            if len(folders) == 1:
                return write_report(folders[0], path)
            records = [read_record(folder) for folder in folders]
            page = render_comparison(dict(zip(names_of(records), records, strict=True)))
        path = path or new_folder(self.work_dir / "reports") / "report.html"
        write_text(path, page)
        return path

    def demo(self, *, checkpoint: str | Path | None = None, port: int = 0) -> Demo:
        """Serve a page on this machine that classifies photos, until the `Demo` that is returned is closed.

        An exported file answers, without torch. Of a training that has none with saliency maps, one is made first.

        Args:
            checkpoint: a run folder, or a model as for `test`; default: the newest training.
            port: of 127.0.0.1; 0 takes a free one.
        """
        from otx.demo.port import take_port

        with contextlib.ExitStack() as on_failure:
            taken = on_failure.enter_context(take_port(port))
            demo = self._demo(checkpoint, taken)
            on_failure.pop_all()
            return demo

    def _demo(self, checkpoint: str | Path | None, taken: socket.socket) -> Demo:
        from otx.demo.answer import Answerer, load_example
        from otx.demo.served import find_served
        from otx.demo.server import Demo
        from otx.deploy.predictor import load_predictor

        given = Path(checkpoint) if checkpoint is not None else self.checkpoint
        if given is not None and (given / MODEL_FILE).is_file():
            given = given / MODEL_FILE
        path = self._model_file(given)
        limit = self.recipe.data.max_image_pixels
        with tempfile.TemporaryDirectory(prefix="otx.") as scratch:
            with heartbeat(self.reporter, "exporting"):
                served = find_served(path, Path(scratch), self.reporter)
            answerer = Answerer(load_predictor(served.path, self.recipe.engine.device), limit, served.no_maps)
        examples, why_none = self._examples(path, answerer.card)
        loaded = [each for file, label in examples if (each := load_example(file, label, limit))]
        about = {
            "model": "/".join(path.resolve().parts[-2:]),
            "network": answerer.card.network,
            "no_examples": why_none,
        }
        return Demo(answerer, loaded, about, taken)

    def env(self, *, output: str | Path | None = None) -> Environment:
        """What this machine and this installation are, for a report; what cannot be found out says why.

        Args:
            output: also write it to this JSON file.
        """
        from otx.verbs.env import describe_environment
        from otx.workspace import write_json

        if output is not None:
            check_output(Path(output), "environments", (".json",), "env.json")
        found = describe_environment(self.work_dir)
        if output is not None:
            write_json(Path(output), found.to_dict())
        return found

    def benchmark(
        self,
        files: str | Path | Iterable[str | Path],
        *,
        device: str = "CPU",
        batch: Iterable[int] = (1, 8),
        streams: Iterable[int | str] = ("auto",),
        seconds: float = 2.0,
        decode: bool = False,
        images: str | Path | Iterable[str | Path] | None = None,
        memory: bool = True,
        output: str | Path | None = None,
    ) -> BenchmarkResult:
        """Measure how fast model files are, side by side and in turns: latency of one image, throughput, memory.

        Args:
            files: model files, checkpoints, IRs (`.xml`) and ONNX files.
            device: `CPU`, `GPU`, `NPU`, or another name that OpenVINO or ONNX Runtime has for a device.
            batch: batch sizes to measure the throughput of.
            streams: batches that OpenVINO computes side by side, `auto` or numbers; each is measured.
            seconds: how long each figure of each file is measured.
            decode: read, decode and resize a photo for every image that is measured.
            images: files, folders and globs to decode; default: the test images of the first file's data set.
            memory: also load each file in a process of its own, to see how much memory it takes.
            output: also write the figures to this JSON file.

        Raises:
            UsageError: a device is not there, a file is given twice, or an option is out of range.
            ModelError: a file is no model file.
            DataError: there are no images to decode.
            RunError: a runtime fails.
        """
        from otx.deploy.predict import find_images
        from otx.verbs.benchmark import Plan, benchmark, check_files
        from otx.workspace import write_json

        plan = Plan(device, tuple(dict.fromkeys(batch)), tuple(dict.fromkeys(map(str, streams))), seconds, memory)
        plan.check()
        if output is not None:
            check_output(Path(output), "benchmarks", (".json",), "benchmark.json")
        if images is not None and not decode:
            raise UsageError("--images is of use with --decode true only", fix="--decode true")
        paths = [Path(file) for file in ([files] if isinstance(files, (str, Path)) else files)]
        check_files(paths, device)
        photos: list[Path] = []
        if decode and images is not None:
            photos = [Path(name) for name in find_images([images] if isinstance(images, (str, Path)) else images)]
        elif decode:
            root, subset, _ = self._test_images(paths[0], self._card(paths[0]), None)
            photos = [root / name for name in subset.paths]
        result = benchmark(paths, plan, photos, self.recipe.data.max_image_pixels, self.reporter)
        if output is not None:
            write_json(Path(output), result.to_dict())
        return result

    def _examples(self, path: Path, card: ModelCard) -> tuple[list[tuple[Path, str]], str]:
        """A few test images with their classes, or why there are none."""
        from otx.data.dataset import pick_evenly
        from otx.errors import InputError

        try:
            root, images, _ = self._test_images(path, card, None)
        except InputError as error:
            return [], error.what
        some = pick_evenly(images, EXAMPLES, card.recipe["seed"])
        return [(root / name, card.classes[label]) for name, label in zip(some.paths, some.labels, strict=True)], ""

    def training_recipe(self, start: Path | None = None, changes: Mapping[str, Any] | None = None) -> Recipe:
        """The settings of a training: this engine's, or those of the model it begins from where none were asked for."""
        start, changes = start or self._start, changes or {}
        if start is None or self._recipe_given:
            return self.recipe.override(changes)
        card = self._card(start)
        plain: dict[str, Any] = {**card.recipe, "work_dir": DEFAULT_WORK_DIR, "data_root": None}
        plain["data"] = {**plain["data"], "split_file": None}
        plain["model"] = {**plain["model"], "weights": None}
        size = card.preprocessing
        plain["data"]["input_size"] = [size.height, size.width]
        self.reporter.note(f"The settings are those {start} was trained with, but for what is asked for now.")
        return from_dict(plain, f"the recipe in {start}").override({**self._changes, **changes})

    @property
    def work_dir(self) -> Path:
        """The folder that holds the run folders; this folder where it is one and no other was asked for."""
        return find_work_dir(self.recipe.work_dir if self._work_dir_given else None)

    def _model_file(self, given: str | Path | None) -> Path:
        path = Path(given) if given is not None else self.checkpoint
        if path is None:
            path = latest_run(self.work_dir).model
            self.reporter.note(f"Model: {path}")
        _must_exist(path)
        return path

    def _card(self, path: Path) -> ModelCard:
        from otx.deploy.modelfile import read_card

        return read_card(path)

    def _run_folder(self, path: Path) -> Path:
        """Where what is made of a model goes: the run folder it lies in, else a new folder of the work directory."""
        run = run_of(path)
        return run.path if run else new_folder(self.work_dir)

    def _check_room(self, path: Path, output: str | Path | None) -> None:
        """Raise UsageError or StorageError where what is made of a model could not be written, before it is made."""
        run = run_of(path)
        folder = Path(output) if output is not None else run.path if run is not None else self.work_dir
        check_folder(folder, "choose another --output" if output is not None else "choose another --work_dir")

    def _model_to_optimize(self, given: str | Path | None) -> Path:
        path = Path(given) if given is not None else self.checkpoint
        if path is None:
            path = latest_run(self.work_dir).model
            exported = latest_folder(self.work_dir, "export") / "exported_model.xml"
            if exported.is_file() and exported.stat().st_mtime >= path.stat().st_mtime:
                path = exported.resolve()
            self.reporter.note(f"Model: {path}")
        _must_exist(path)
        return path

    def _variants(self, path: Path, scratch: Path, *, explain: bool) -> dict[str, Path]:
        """IRs of a model by precision; what is not there yet is written into a scratch folder."""
        from otx.deploy.export import export_model
        from otx.deploy.optimize import halve, precision_of

        if path.suffix in (".safetensors", ".ckpt"):
            path = export_model(
                path,
                scratch,
                export_format="OPENVINO",
                export_precision="FP32",
                preprocessing="modelapi",
                input_color="RGB",
                images=self._sample_images(path),
                explain="auto" if explain else "",
            ).path
        if path.suffix != ".xml":
            raise UsageError(f"{path} is neither an IR nor a model file", allowed=["*.xml", "*.safetensors", "*.ckpt"])
        precision = precision_of(path)
        if precision == "INT8":
            raise UsageError(f"{path} is INT8 already", fix="give the file it was made from")
        if precision == "FP16":
            return {"FP16": path}
        return {"FP32": path, "FP16": halve(path, scratch / "exported_model_fp16.xml")}

    def _subjects(self, sources: Any, path: Path, card: ModelCard) -> list[Subject]:
        from otx.deploy.explain import Subject, subjects_of
        from otx.deploy.predict import find_images

        if sources is not None:
            return list(subjects_of(find_images([sources] if isinstance(sources, (str, Path)) else sources)))
        root, images, what = self._test_images(path, card, None)
        self.reporter.note(f"Explaining the {len(images)} images of the {what}.")
        pairs = zip(images.paths, images.labels, strict=True)
        return [Subject(root / name, name, label) for name, label in pairs]

    def _root(self, card: ModelCard, data_root: str | Path | None) -> Path:
        """The folder of images: the one given, else the one the model was trained on."""
        from otx.data.digits import resolve_data_root

        given = data_root if data_root is not None else (self.recipe.data_root if self._data_root_given else None)
        root = resolve_data_root(given) if given is not None else Path(card.recipe["data_root"])
        if given is None and not root.is_dir():
            raise DataError(f"the folder the model was trained on is gone: {root}", fix="give --data_root FOLDER")
        return root

    def _recipe_of_data(self, card: ModelCard) -> Recipe:
        """This engine's recipe, with the data set and the split of a model where no others were given."""
        own = card.recipe["data"]
        keys = ("test_share", "val_share", "split_file")
        changes = {"seed": card.recipe["seed"], **{f"data.{key}": own[key] for key in keys}}
        if not self._data_root_given:
            changes["data_root"] = str(self._root(card, None))
        return self.recipe.override({**changes, **self._changes})

    def _split_file(self, path: Path, card: ModelCard, root: Path) -> Path | None:
        if self.recipe.data.split_file is not None:
            return Path(self.recipe.data.split_file)
        run = run_of(path)
        return run.split if run and _same_data(root, Path(card.recipe["data_root"]), run) else None

    def _dataset(self, path: Path, card: ModelCard, root: Path) -> Dataset:
        """The images of a folder, split as they were for the training of the model."""
        from otx.data.dataset import load_dataset

        data = card.recipe["data"]
        dataset = load_dataset(
            root,
            seed=card.recipe["seed"],
            test_share=data["test_share"],
            val_share=data["val_share"],
            split_file=self._split_file(path, card, root),
            min_classes=1 if card.num_old else 2,
        )
        if not set(dataset.classes) <= set(card.classes) or (
            len(dataset.classes) < len(card.classes) and not card.num_old
        ):
            raise DataError(
                f"the model knows the classes {', '.join(card.classes)}; {root} has {', '.join(dataset.classes)}",
                fix="give the --data_root the model was trained on, or a folder of class folders it knows",
            )
        return dataset.with_classes(card.classes)

    def _test_images(self, path: Path, card: ModelCard, data_root: str | Path | None) -> tuple[Path, Subset, str]:
        """The images to test, and in words which they are."""
        from otx.data.dataset import load_test_images

        root = self._root(card, data_root)
        is_own = root.resolve() == Path(card.recipe["data_root"]).resolve()
        if not is_own and self._split_file(path, card, root) is None:
            images, what = load_test_images(root, card.classes)
            self.reporter.note(f"{root} is not the folder the model was trained on: testing on {what}.")
            return root, images, what
        dataset = self._dataset(path, card, root)
        for note in dataset.notes:
            self.reporter.note(note)
        return root, dataset.test, "test split"

    def _sample_images(self, path: Path) -> list[NDArray[np.uint8]]:
        """A few images to check an export with: validation images, or noise where the data is not at hand."""
        import numpy as np

        from otx.data.decode import decode_image
        from otx.errors import ImageError, InputError

        images: list[NDArray[np.uint8]] = []
        card = self._card(path)
        try:
            root, subset, _ = self._test_images(path, card, None)
            step = max(1, len(subset.paths) // CHECK_IMAGES)
            for name in subset.paths[::step][:CHECK_IMAGES]:
                try:
                    images.append(decode_image(root / name))
                except ImageError:
                    continue
        except InputError as error:
            self.reporter.warn(f"The export is checked on noise, not on photos: {error.what}")
        if not images:
            rng = np.random.default_rng(0)
            images = [rng.integers(0, 256, (200 + 8 * i, 240, 3), dtype=np.uint8) for i in range(8)]
        return images


def choose_recipe(recipe: Recipe | None, model: str | None) -> Recipe:
    """The recipe to use: `model` alone names a recipe; beside one it, or `timm/NAME`, replaces the network only."""
    if model is None:
        return recipe or load_recipe(DEFAULT_RECIPE)
    if model.startswith(TIMM_PREFIX) or recipe is not None:
        base = recipe or load_recipe(DEFAULT_RECIPE)
        return with_model(base, model if model.startswith(TIMM_PREFIX) else load_recipe(model).model.name)
    return load_recipe(model)


def find_models(task: str | None = TASK, pattern: str | None = None) -> tuple[ModelEntry, ...]:
    """The shipped recipes with what their networks cost: the lines of `otx find`."""
    from otx.models.table import MODELS
    from otx.recipe import RECIPES, read_yaml

    entries = []
    for name in list_models(task, pattern):
        path = RECIPES / f"{name}.yaml"
        plain = read_yaml(path)
        info = MODELS[plain["model"]["name"]]
        entries.append(ModelEntry(TASK, plain["recipe_id"], name, info.gflops, info.params_m, path))
    return tuple(entries)


def _same_data(root: Path, trained_on: Path, run: RunFolder) -> bool:
    """Whether a folder is the one a run was trained on: by its place, or because it holds the run's files."""
    if root.resolve() == trained_on.resolve():
        return True
    from otx.data.dataset import read_split

    if not root.is_dir():
        return False
    paths = [path for _, path, _, _ in read_split(run.split)]
    folders = {entry.name for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith(".")}
    return folders == {path.split("/")[0] for path in paths} and all((root / path).is_file() for path in paths[:100])


def _folder_of_run(path: Path) -> Path:
    """The run folder that a person named, by itself or by a file in it."""
    if not path.exists():
        raise UsageError(f"there is no run {path}", fix="`ls otx-workspace` shows the runs")
    run = None if path.is_dir() else run_of(path)
    return run.path if run is not None else path


def _one_of(option: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise UsageError(f"{option} {value}", allowed=allowed)


def _must_exist(path: Path | None) -> None:
    if path is not None and not path.exists():
        raise UsageError(f"no such file: {path}", fix="`ls otx-workspace/.latest/train/` shows the newest run")
    if path is not None and path.is_dir():
        raise UsageError(f"{path} is a folder", fix=f"--checkpoint {path / 'model.safetensors'}")
