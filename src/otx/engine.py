"""The front door in Python: one method a verb. `otx VERB --a b` is `Engine(...).VERB(a=b)`.

The command line is derived from these signatures: an option is a parameter, whose annotation (`otx.options`) has its
help and what is allowed; a docstring adds what the help does not say. A value out of range is a UsageError. What a
method does is in the module `otx.verbs.VERB`, which is imported when it is called: nothing heavy is loaded before.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from otx import options as o
from otx import results as r
from otx.catalogue import choose_recipe, load_recipe
from otx.events import LogReporter, Reporter, heartbeat
from otx.findings import CheckResult
from otx.options import File, checked
from otx.places import prepare_places
from otx.recipe import TASK, Recipe
from otx.workspace import find_work_dir

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
        checkpoint: a model file, a Lightning checkpoint or an exported file (IR `.xml`, ONNX), which every verb uses
            unless it is given another; default: the newest training.
        recipe: a whole recipe, instead of `model`.
        device: `auto`, `cpu` or `gpu`.
        overrides: values of single settings, `{"data.train_subset.batch_size": 4}`.
        reporter: who is told what happens; default: Python's logger `otx`.

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
        self.checkpoint = self._start = None if checkpoint is None else Path(checkpoint)
        prepare_places(find_work_dir(self.recipe.work_dir))
        self.reporter: Reporter = reporter or LogReporter()
        self._asked, self._has_recipe = asked, recipe is not None or model is not None

    @classmethod
    def from_config(
        cls, config_path: str | Path, data_root: File = None, work_dir: File = None, **options: Any
    ) -> "Engine":
        """An engine of a recipe: its name, its ID or the path of a YAML file; `options` as for `Engine`."""
        return cls(data_root, recipe=load_recipe(config_path), work_dir=work_dir, **options)

    def check(
        self, *, data_root: o.CheckRoot = None, checkpoint: o.CheckModel = None, output: o.CheckOutput = None
    ) -> CheckResult:
        """Look at every image: what is broken, empty, tiny, huge, odd, there twice, or in train and test alike.

        Args:
            checkpoint: also list probably mislabelled images, by the features of this model. Where no other data set is
                given, its own and its split are looked at, and what was found goes to its run folder for the report.

        Raises:
            DataError: the folder cannot be used.
        """
        return self._call(Engine.check, locals())

    def train(
        self,
        *,
        max_epochs: int | None = None,
        seed: int | None = None,
        deterministic: bool | None = None,
        precision: str | None = None,
        checkpoint: o.StartModel = None,
        rename: o.Renames = None,
        resume: o.Resume = False,
    ) -> r.TrainResult:
        """Train a model.

        Args:
            max_epochs, seed, deterministic, precision: the settings of the recipe of that name.
            checkpoint: classes it does not know are added to those it knows, and without a recipe or model of their own
                its settings hold.
            rename: new names of that model's classes, `{"rose": "roses"}`.

        Raises:
            DataError, ModelError, RecipeError, UsageError: something given cannot be used; nothing was started.
            InputError: the script that calls this lacks `if __name__ == "__main__":` (macOS, Windows).
            TrainingError: the training failed.
            StoppedError: Ctrl-C or SIGTERM came before there was a model. Later ones end the training between two
                steps, and what is returned says so (`interrupted`).
        """
        options = checked(Engine.train, locals())
        settings = {"max_epochs": max_epochs, "seed": seed, "deterministic": deterministic, "precision": precision}
        changes = {key: value for key, value in settings.items() if value is not None}
        from otx.preflight import prepare_training

        session = self._session()
        recipe = prepare_training(session, changes, **options)
        with heartbeat(self.reporter, "starting"):
            from otx.verbs import train
        result = train.run(session, recipe, changes, **options)
        self.checkpoint = session.checkpoint
        return result

    def training_recipe(self, start: Path | None = None, changes: Mapping[str, Any] | None = None) -> Recipe:
        """The settings of a training: this engine's, or those of the model it begins from where none were asked for."""
        return self._session().training_recipe(start or self._start, changes or {})

    def test(
        self, *, checkpoint: o.AnyModel = None, data_root: File = None, output: o.FiguresOutput = None
    ) -> r.TestResult:
        """Measure a model on test images: those of its own data set that it was not trained on, or another folder's.

        Args:
            data_root: default: the folder the model was trained on.
        """
        return self._call(Engine.test, locals(), data_root=data_root)

    def predict(self, sources: Sources, *, checkpoint: File = None, output: File = None) -> tuple[r.Prediction, ...]:
        """Predict images (files, folders and globs); options as for `iter_predict`."""
        return tuple(self.iter_predict(sources, checkpoint=checkpoint, output=output))

    def iter_predict(
        self,
        sources: o.Images,
        *,
        checkpoint: o.AnyModel = None,
        output: o.PredictOutput = None,
        resume: o.ResumeRows = False,
    ) -> Iterator[r.Prediction]:
        """`predict` for any number of images: the predictions come one by one, and none is kept.

        Args:
            resume: what `output` holds already is not given again.

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
        """Write a model as OpenVINO IR or ONNX file, and check that it answers as the model does.

        Args:
            export_precision: of the weights.
            preprocessing: `modelapi`: described in the file, done by its reader; `embedded`: part of the graph.
            explain: let the file also give `saliency_map` and `feature_vector`.

        Raises:
            ExportError: the exported file differs from the model; it is not kept.
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
        """Write a model as INT8 IR, and measure it beside FP32 and FP16 on the validation images.

        Args:
            max_drop: accuracy it may lose (0 to 1); layers are turned back to floats until that holds. None: no limit.
            subset_size: images of the training split to calibrate with.
            explain: as for `export`; an IR that has saliency maps keeps them.
            batch_size: the fixed batch size of the file; with a free one OpenVINO crashes on some processors.

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
        """Write saliency maps: where in an image the model sees a class.

        Args:
            targets: the classes to show: `predicted`, `true` (test split only), `all`, or the name of one.
        """
        return self._call(Engine.explain, locals())

    def report(self, runs: o.Runs = None, *, output: o.ReportOutput = None) -> Path:
        """Write the page of a run again, or one page of several runs side by side.

        Args:
            runs: run folders, or files in them.

        Raises:
            UsageError: there is no such run, or `output` is a file that is no report.
        """
        return self._call(Engine.report, locals())

    def demo(self, *, checkpoint: o.DemoModel = None, port: o.Port = 0) -> "Demo":
        """Serve a page on this machine that classifies photos, until the `Demo` that is returned is closed.

        An exported file answers, without torch. Of a training that has none with saliency maps, one is made first.

        Args:
            port: of 127.0.0.1; 0 takes a free one.
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
    ) -> r.BenchmarkResult:
        """Measure how fast model files are, side by side and in turns: latency of one image, throughput, memory.

        Args:
            batch, streams: each batch size is measured with each number of batches that OpenVINO computes side by side.
            seconds: how long each figure of each file is measured.

        Raises:
            UsageError: a device is not there, or a file is given twice.
            DataError, ModelError: there are no images to decode; a file is no model file.
            RunError: a runtime fails.
        """
        return self._call(Engine.benchmark, locals())

    def env(self, *, output: o.EnvironmentOutput = None) -> r.Environment:
        """What this machine and this installation are, for a report; what cannot be found out says why."""
        return self._call(Engine.env, locals())

    @property
    def work_dir(self) -> Path:
        """The folder that holds the run folders; the current folder where it is one and no other was asked for."""
        return self._session().work_dir

    def _session(self) -> "Session":
        from otx.verbs.session import Session

        return Session(self.recipe, self._asked, self._has_recipe, self.reporter, self.checkpoint, self._start)

    def _call(self, method: Callable[..., Result], given: Mapping[str, Any], **more: Any) -> Result:
        """Let the verb of a method run, when its options (among its local variables) are allowed."""
        options = checked(method, given)
        verb = import_module(f"otx.verbs.{method.__name__.removeprefix('iter_')}")
        result: Result = verb.run(self._session(), **more, **options)
        return result
