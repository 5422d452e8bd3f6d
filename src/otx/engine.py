"""The Python API: one `Engine` method for each verb. `otx VERB --a b` is `Engine(...).VERB(a=b)`.

The command line is derived from these signatures: each option is a parameter, and its annotation (`otx.options`) holds
the help and the allowed values; a value out of range is a UsageError. The code of a verb is in `otx.verbs.VERB`, which
the method imports when it is called: nothing heavy is loaded before.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from otx import options as o
from otx import results as r
from otx import results_machine as m
from otx.catalogue import choose_recipe, load_recipe, note_of
from otx.events import LogReporter, Reporter, heartbeat
from otx.findings import CheckResult
from otx.options import File, checked
from otx.places import prepare_places
from otx.presets import preset_settings
from otx.recipe import TASK, Recipe
from otx.results_label import LabelTable
from otx.workspace import find_work_dir, model_of

if TYPE_CHECKING:
    from otx.demo.server import Demo
    from otx.verbs.session import Session

Sources = str | Path | Iterable[str | Path]
Result = TypeVar("Result")


class Engine:
    """Trains, tests, predicts and exports one image classifier.

    Args:
        data_root: folder of images; `digits` stands for scikit-learn's handwritten digits.
        model: name, ID or path of a recipe, or `timm/NAME` for any network of timm.
        work_dir: folder that holds the run folders.
        checkpoint: the model of every verb whose call names no other, of any kind; default: the newest training.
        recipe: a whole recipe; with it, `model` replaces only the network.
        device: `auto`, `cpu` or `gpu`.
        overrides: values of single settings, `{"data.train_subset.batch_size": 4}`.
        reporter: receives progress, notes and warnings; default: Python's logger `otx`.

    Raises:
        RecipeError: there is no such recipe or setting.
    """

    def __init__(
        self,
        data_root: File = None,
        *,
        model: File = None,
        work_dir: File = None,
        checkpoint: File = None,
        recipe: Recipe | None = None,
        device: str | None = None,
        task: str = TASK,
        overrides: Mapping[str, Any] | None = None,
        reporter: Reporter | None = None,
    ) -> None:
        asked: dict[str, Any] = dict(overrides or {})
        for key, value in (("data_root", data_root), ("work_dir", work_dir), ("engine.device", device)):
            if value is not None:
                asked[key] = str(value)
        base = choose_recipe(recipe, None if model is None else str(model))
        self.recipe = base.override({**asked, "task": task})
        self.checkpoint = self._start = None if checkpoint is None else model_of(checkpoint)
        prepare_places(find_work_dir(self.recipe.work_dir))
        self.reporter: Reporter = reporter or LogReporter()
        if note := note_of(self.recipe, model, asked.get("model.name")):
            self.reporter.note(note)
        self._asked, self._has_recipe = asked, recipe is not None or model is not None

    @classmethod
    def from_config(
        cls, config_path: str | Path, data_root: File = None, work_dir: File = None, **options: Any
    ) -> "Engine":
        """Make an engine from a recipe's name, ID or YAML file; `options` as for `Engine`."""
        return cls(data_root, recipe=load_recipe(config_path), work_dir=work_dir, **options)

    def check(
        self, *, data_root: o.CheckRoot = None, checkpoint: o.CheckModel = None, output: o.CheckOutput = None
    ) -> CheckResult:
        """Find images that are broken, empty, tiny, huge, odd, duplicated, or in train and also in val or test.

        Args:
            checkpoint: also list probably mislabelled images, by the features of this model, and say whether the
                images look like those it learned from (`shift`); then they need no labels. Without another data set
                its own is checked, and the findings go to its run folder for the report.

        Raises:
            DataError: the folder cannot be used.
        """
        return self._call(Engine.check, locals())

    def label(
        self,
        *,
        data_root: o.CheckRoot = None,
        checkpoint: o.LabelModel = None,
        apply: o.Apply = None,
        dry_run: o.DryRun = False,
        output: o.SortedOutput = None,
        port: o.Port = 0,
        open: o.OpenBrowser = True,
    ) -> LabelTable:
        """Open a page to label a pile of photos or to mend a data set, and return the table when the person is done.

        Args:
            apply: no page: move, copy or link the photos as they are labelled by now, or write a table.

        Raises:
            DataError: there are no photos in the folder.
            UsageError: another page has it, or nothing can be written there.
        """
        return self._call(Engine.label, locals())

    def train(
        self,
        *,
        max_epochs: int | None = None,
        seed: int | None = None,
        deterministic: bool | None = None,
        precision: str | None = None,
        preset: o.Preset = None,
        checkpoint: o.StartModel = None,
        rename: o.Renames = None,
        resume: o.Resume = False,
    ) -> r.TrainResult:
        """Train a model.

        Args:
            max_epochs, seed, deterministic, precision: replace the recipe's settings of the same names.
            checkpoint: the model to start from. Classes of the data that it lacks are added to its own; without a
                recipe or model for the engine, the training uses the settings stored in this checkpoint.
            rename: new names for that model's classes, `{"rose": "roses"}`.

        Raises:
            DataError, ModelError, RecipeError, UsageError: an input cannot be used; the training did not start.
            InputError: the calling script lacks `if __name__ == "__main__":` (macOS, Windows).
            TrainingError: the training failed.
            StoppedError: Ctrl-C or SIGTERM came before there was a model. A later signal ends the training between two
                steps, and the result says so (`interrupted`).
        """
        options = checked(Engine.train, locals())
        given = {"max_epochs": max_epochs, "seed": seed, "deterministic": deterministic, "precision": precision}
        changes = preset_settings(options.pop("preset"), self._asked, self.reporter)
        changes |= {key: value for key, value in given.items() if value is not None}
        from otx.preflight import prepare_training

        recipe = prepare_training(session := self._session(), changes, **options)
        with heartbeat(self.reporter, "starting"):
            from otx.verbs import train
        result = train.run(session, recipe, changes, **options)
        self.checkpoint = session.checkpoint
        return result

    def training_recipe(self, start: Path | None = None, changes: Mapping[str, Any] | None = None) -> Recipe:
        """The settings of a training: this engine's, or the start model's if no recipe or model was asked for."""
        return self._session().training_recipe(start or self._start, changes or {})

    def test(
        self,
        *,
        checkpoint: o.AnyModel = None,
        data_root: File = None,
        min_accuracy: o.MinAccuracy = None,
        min_recall: o.MinRecall = None,
        strict: o.Strict = False,
        unknown: o.UnknownFolder = None,
        output: o.FiguresOutput = None,
    ) -> r.TestResult:
        """Measure a model on the test split of its own data set (default), or on the images of another folder.

        With a target, the result's `verdict` says whether the lower end of the 95 % interval reaches it.
        """
        return self._call(Engine.test, locals(), data_root=data_root)

    def predict(
        self, sources: Sources, *, checkpoint: File = None, output: File = None, reject: bool = False
    ) -> tuple[r.Prediction, ...]:
        """Classify images (files, folders and globs); options as for `iter_predict`."""
        return tuple(self.iter_predict(sources, checkpoint=checkpoint, output=output, reject=reject))

    def iter_predict(
        self,
        sources: o.Images,
        *,
        checkpoint: o.AnyModel = None,
        output: o.PredictOutput = None,
        resume: o.ResumeRows = False,
        reject: o.Reject = False,
    ) -> Iterator[r.Prediction]:
        """Like `predict`, but for any number of images: yield the predictions one by one, and keep none.

        Args:
            resume: skip the images whose predictions `output` already holds.

        Raises:
            UsageError: `output` cannot be written, or with `resume` holds predictions of other images.
        """
        return self._call(Engine.iter_predict, locals())

    def export(
        self,
        *,
        checkpoint: o.TorchModel = None,
        export_format: o.ExportFormat = "OPENVINO",
        export_precision: o.ExportPrecision = "FP32",
        preprocessing: o.Where = "modelapi",
        input_color: o.InputColor = "RGB",
        explain: o.WithMaps = False,
        algorithm: o.Algorithm = "auto",
        output: o.ExportFolder = None,
        deploy: o.Deploy = None,
    ) -> r.ExportResult:
        """Export a model as OpenVINO IR or ONNX file, and check that the file gives the model's answers.

        Args:
            preprocessing: `modelapi`: the file describes it, its reader does it; `embedded`: part of the graph.
            explain: add the outputs `saliency_map` and `feature_vector`.

        Raises:
            ExportError: the file's answers differ from the model's; the file is not kept.
        """
        return self._call(Engine.export, locals())

    def optimize(
        self,
        *,
        checkpoint: o.SourceModel = None,
        max_drop: o.MaxDrop = None,
        subset_size: o.SubsetSize = 300,
        explain: o.WithMaps = False,
        batch_size: o.BatchSize = 1,
        output: o.ExportFolder = None,
    ) -> r.OptimizeResult:
        """Quantise a model to an INT8 IR, and compare it with FP32 and FP16 on the validation images.

        Args:
            max_drop: accuracy it may lose (0 to 1); layers are turned back to floats until that holds. None: no limit.
            explain: as for `export`; an IR that has saliency maps keeps them.
            batch_size: the fixed batch size of the file; with a dynamic one OpenVINO crashes on some processors.

        Raises:
            DataError: the images that the model was trained on are gone.
            RunError: OpenVINO or NNCF crashed.
        """
        return self._call(Engine.optimize, locals())

    def explain(
        self,
        sources: o.ImagesOrTest = None,
        *,
        checkpoint: o.MapsModel = None,
        targets: o.Targets = "predicted",
        algorithm: o.Algorithm = "auto",
        output: o.ExplainOutput = None,
    ) -> r.ExplainResult:
        """Write saliency maps: where in an image the model sees a class."""
        return self._call(Engine.explain, locals())

    def report(self, runs: o.Runs = None, *, output: o.ReportOutput = None) -> Path:
        """Write the report of a run (its folder, or a file in it) again, or one page that compares several runs.

        Raises:
            UsageError: there is no such run, or `output` is an existing file that is not a report.
        """
        return self._call(Engine.report, locals())

    def demo(self, *, checkpoint: o.DemoModel = None, port: o.Port = 0) -> "Demo":
        """Serve a web page on this machine that classifies photos, until the returned `Demo` is closed.

        The page uses an exported file, without torch. A run without one that has saliency maps is exported first.
        """
        return self._call(Engine.demo, locals())

    def benchmark(
        self,
        files: o.Files,
        *,
        device: o.Device = "CPU",
        batch: o.Batches = (1, 8),
        streams: o.Streams = ("auto",),
        seconds: o.Seconds = 2.0,
        decode: o.Decode = False,
        images: o.PhotosToDecode = None,
        memory: o.Memory = True,
        output: o.FiguresOutput = None,
    ) -> m.BenchmarkResult:
        """Compare the speed of model files, measured in turns: latency of one image, throughput, memory.

        Args:
            batch, streams: each batch size is measured with each number of streams (batches computed in parallel).

        Raises:
            UsageError: a device is missing, or a file is given twice.
            DataError, ModelError: there are no images to decode; a file is not a model file.
            RunError: a runtime fails.
        """
        return self._call(Engine.benchmark, locals())

    def env(self, *, output: o.EnvironmentOutput = None) -> m.Environment:
        """Describe this machine and this installation, for a bug report; a fact that cannot be found out says why."""
        return self._call(Engine.env, locals())

    @property
    def work_dir(self) -> Path:
        """The folder that holds the run folders: the one asked for, else the current folder if it holds runs."""
        return self._session().work_dir

    def _session(self) -> "Session":
        from otx.verbs.session import Session

        return Session(self.recipe, self._asked, self._has_recipe, self.reporter, self.checkpoint, self._start)

    def _call(self, method: Callable[..., Result], given: Mapping[str, Any], **more: Any) -> Result:
        """Check a method's options, taken from its local variables, and run its verb."""
        options, session = checked(method, given), self._session()
        verb = import_module(f"otx.verbs.{method.__name__.removeprefix('iter_')}")
        result: Result = verb.run(session, **more, **options)
        return result
