"""A training from recipe to run folder: check the input, create the folder, train, write the summary."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from otx.catalogue import load_recipe
from otx.data.check import write_check
from otx.data.dataset import Dataset
from otx.data.known import write_known
from otx.data.loader import loader_note
from otx.data.split_file import write_split
from otx.errors import StoppedError, UsageError
from otx.events import Reporter, SilentReporter, heartbeat
from otx.files import clear_leftovers, write_csv, write_json, write_text
from otx.findings import CheckResult, LearningCurve
from otx.model.card import ModelCard
from otx.model.modelfile import save_model
from otx.recipe import AUTO, BATCH_SIZE, Recipe
from otx.results import EpochResult, TrainResult
from otx.signals import name_of
from otx.training.acceleration.threads import KeptThreads
from otx.training.batch_size import as_decided, fill_memory, is_measured
from otx.training.budget import Budget
from otx.training.calibrate import calibrate_model
from otx.training.candidates import with_chosen_network
from otx.training.compute import find_shard, share
from otx.training.defaults import with_defaults
from otx.training.devices import Compute
from otx.training.fit import Outcome, fit
from otx.training.inputs import Inputs, open_inputs
from otx.training.kept import KeptModel
from otx.training.known_classes import learn_known
from otx.training.learning_curve import look_ahead, read_curve
from otx.training.linear_probe import Features, has_linear_head, probe
from otx.training.loop import Job
from otx.training.module import Classifier
from otx.training.objective import choose_objective
from otx.training.prepare import prepare_network, prepare_process
from otx.training.pseudo_labels import PseudoLabel, PseudoLabels, write_pseudo_labels
from otx.training.starting_point import (
    BaseModel,
    StartingPoint,
    TrainingRequest,
    choose_start,
    load_base,
    with_intensity,
)
from otx.training.state import was_fitted
from otx.training.summary import Clock, facts_of, provenance_of, write_summary
from otx.training.usable_images import leave_out_unreadable, load_images
from otx.workspace import RunFolder, new_folder, set_latest
from otx.yaml_text import dump_yaml

LIBRARIES = ("otx", "torch", "timm", "lightning", "torchvision")


@KeptThreads()
def train(
    recipe: Recipe,
    reporter: Reporter,
    *,
    checkpoint: Path | None = None,
    renames: Mapping[str, str] | None = None,
    run: RunFolder | None = None,
    budget: Budget | None = None,
) -> TrainResult:
    """Train a model.

    Args:
        checkpoint: begin from this model; classes of the data that it does not know are added to it.
        renames: new names of the model's classes.
        run: go on with this run from its last checkpoint, instead of starting a new one.
        budget: how long it may take; default: for ever.

    Raises:
        DataError, ModelError, UsageError: something given cannot be used; nothing was started.
        TrainingError: the training failed.
        StoppedError: a signal ended it before there was a model; one that comes before the first step is let through.
    """
    request = TrainingRequest(recipe, checkpoint, dict(renames or {}), run)
    try:
        return _train(request, budget or Budget(), reporter)
    except KeyboardInterrupt:
        if find_shard(recipe.engine).is_main:
            reporter.note("The training had not begun yet: the same command starts it again.")
        raise


def _train(request: TrainingRequest, budget: Budget, reporter: Reporter) -> TrainResult:
    clock = Clock()
    compute = Compute.choose(request.recipe)
    reporter = reporter if compute.is_main else SilentReporter()
    watch = prepare_process(request.recipe, compute, reporter)
    request = replace(request, recipe=_with_known_batch_size(request, compute))
    base = load_base(request)
    dataset = load_images(request.recipe, request.run, reporter, min_classes=1 if base else 2)
    chosen = with_chosen_network(request.recipe, base, dataset, compute, budget, reporter)
    request = replace(request, recipe=chosen)
    with heartbeat(reporter, "loading the network"):
        start = choose_start(request, base, dataset, reporter)
    start = with_intensity(start, dataset, request.recipe, reporter)
    # the last check, since it takes longest
    dataset = dataset.with_classes(start.classes)
    dataset, guessed = PseudoLabels(start, request.recipe, compute, budget, reporter).join(dataset)
    dataset, found = leave_out_unreadable(dataset, start.preprocessing, request.recipe, reporter, budget)
    reporter.note(f"Network {start.info.network} from {start.origin}; training in {compute.why}, on {compute.device}.")
    if start.warning:
        reporter.warn(start.warning)
    objective = choose_objective(start, dataset, request.recipe, reporter)
    prepare_network(start, request.recipe, compute, watch, reporter)
    is_fitted = _begins_fitted(request, start, dataset)
    # in the run folder it stays open: a training that begins with this model may be of another kind
    fill = functools.partial(with_defaults, dataset=dataset, objective=objective, is_fitted=is_fitted)
    with open_inputs(dataset, start.preprocessing, filled := fill(request.recipe)) as inputs:
        is_probed = is_fitted and request.run is None and compute.is_main
        # on rank 0; the other ranks get its weights with the network
        before, probed = probe(start, inputs, request.recipe, compute, budget, reporter) if is_probed else (None, None)
        _check_has_work(request.recipe, before, compute)
        card = _card(start, dataset, request.recipe, num_old=start.num_old if objective.is_balanced else 0)
        module = Classifier(start, objective, filled, card=card.to_json(), is_fitted=is_fitted)
        if request.recipe.data.train_subset.batch_size == AUTO and compute.is_main:
            with_batch = fill_memory(module, request.recipe, len(dataset.train), compute, reporter)
            request = replace(request, recipe=with_batch)
        run = request.run or _create_run(request.recipe, dataset, found, compute, guessed)
        recipe = request.recipe if compute.is_main else as_decided(request.recipe, load_recipe(run.config))
        card = replace(card, recipe=_plain(recipe, dataset))
        module.card = card.to_json()
        module.recipe = fill(recipe)
        provenance = provenance_of(request, run)
        if compute.is_main:
            _write_beginning(run, request, recipe, start.base if objective.keeps_old else None, provenance)
            with heartbeat(reporter, "reading the images once more"):
                write_known(dataset, run.known)
            # what more labels would add cannot be told from labels that are no person's
            if probed is not None and not guessed:
                with heartbeat(reporter, "looking whether more images would help"):
                    look_ahead(probed, start.classes, len(dataset.train), run, recipe.seed)
        reporter.note(f"Run folder: {run.path}")
        _note_transport(inputs, module.recipe, reporter)
        job = Job(module, inputs, run, card, compute, watch, reporter, before, request.run is not None, budget)
        outcome = fit(job)
        if compute.is_main and not outcome.stop.interrupted:
            _complete_model(job, outcome, probed)
    result = _result(run, outcome, start, compute, read_curve(run))
    if compute.is_main:
        facts = {**facts_of(run, module.recipe, card, compute), "trainings": outcome.trainings}
        write_summary(run, {**result.to_dict(), **provenance, **facts, **clock.read()})
    return result


def _complete_model(job: Job, outcome: Outcome, probed: Features | None) -> None:
    """Add to the model file what makes its probabilities right, and what tells known images from others.

    Raises:
        StoppedError: a signal came before that was done.
    """
    if outcome.late is not None:
        what = f"{name_of(outcome.late)} came when the epochs were over, before {job.run.model} was calibrated"
        raise StoppedError(outcome.late, what, fix=job.run.how_to_go_on)
    kept = KeptModel(job)
    if job.module.recipe.training.calibrate:
        calibrate_model(kept)
    # its scores are computed from the calibrated logits
    learn_known(kept, outcome.best, probed)


def _note_transport(inputs: Inputs, recipe: Recipe, reporter: Reporter) -> None:
    data, processes = recipe.data, recipe.engine.num_devices
    if note := loader_note(inputs.train, int(data.train_subset.batch_size or BATCH_SIZE), data.num_workers, processes):
        reporter.note(note)


def _with_known_batch_size(request: TrainingRequest, compute: Compute) -> Recipe:
    """The recipe, with a number for a batch size of `auto` unless it must be measured on a GPU."""
    recipe = request.recipe
    if request.run is not None:
        return as_decided(recipe, load_recipe(request.run.config))
    if not is_measured(compute.device):
        return as_decided(recipe, recipe.override({"data.train_subset.batch_size": BATCH_SIZE}))
    return recipe


def _begins_fitted(request: TrainingRequest, start: StartingPoint, dataset: Dataset) -> bool:
    """Whether the classifier is fitted before the first epoch; of a resumed run, whether it was."""
    if request.run is not None:
        return was_fitted(request.run.last_checkpoint)
    may_fit = request.recipe.training.head_first and has_linear_head(start.network)
    return may_fit and start.has_new_classifier(dataset)


def _check_has_work(recipe: Recipe, before: EpochResult | None, compute: Compute) -> None:
    if recipe.max_epochs == 0 and before is None and compute.is_main:
        raise UsageError(
            "--max_epochs 0 fits the classifier alone, to features of a pretrained network; there are none here",
            fix="give --model.weights FILE, or a larger --max_epochs",
        )


def _plain(recipe: Recipe, dataset: Dataset) -> dict[str, Any]:
    return {**recipe.to_dict(), "data_root": str(dataset.root.resolve())}


def _card(start: StartingPoint, dataset: Dataset, recipe: Recipe, *, num_old: int) -> ModelCard:
    return ModelCard(
        network=start.info.network,
        classes=start.classes,
        preprocessing=start.preprocessing,
        origin=start.origin,
        recipe=_plain(recipe, dataset),
        versions={name: version(name) for name in LIBRARIES},
        num_old=num_old,
    )


def _create_run(
    recipe: Recipe,
    dataset: Dataset,
    found: CheckResult | None,
    compute: Compute,
    guessed: Sequence[PseudoLabel],
) -> RunFolder:
    """Create the run folder on rank 0, and share its path with the other ranks."""
    if not compute.is_main:
        return RunFolder(Path(share("", compute.shard, compute.device)))
    work_dir = Path(recipe.work_dir)
    run = RunFolder(new_folder(work_dir))
    write_text(run.config, dump_yaml(recipe))
    bad = [] if found is None else sorted((*found.broken, *found.empty), key=lambda image: image.path)
    write_csv(run.bad_images, ("path", "reason"), ((image.path, image.reason) for image in bad))
    if found is not None:
        write_check(found, run.suspicions)
    write_split(dataset, run.split)
    write_pseudo_labels(guessed, dataset.classes, run)
    set_latest(work_dir, "train", run.path)
    share(str(run.path.resolve()), compute.shard, compute.device)
    return run


def _write_beginning(
    run: RunFolder, request: TrainingRequest, recipe: Recipe, base: BaseModel | None, provenance: Mapping[str, Any]
) -> None:
    """Save what a new run began from and will need, or the changed recipe of a resumed one."""
    if provenance.get("checkpoint"):
        write_json(run.begun_from, provenance)
    if request.run is None:
        if base is not None:
            save_model(run.base, base.network.state_dict(), base.card)
        return
    clear_leftovers(run.path)
    if load_recipe(run.config) != recipe:
        # so that the next --resume uses the settings given now
        write_text(run.config, dump_yaml(recipe))


def _result(
    run: RunFolder, outcome: Outcome, start: StartingPoint, compute: Compute, curve: LearningCurve | None
) -> TrainResult:
    return TrainResult(
        run_dir=run.path,
        model_path=run.model,
        best_epoch=outcome.best.epoch,
        best_accuracy=outcome.best.val_accuracy,
        epochs=outcome.epochs,
        stop_reason=outcome.stop_reason,
        origin=start.origin,
        precision=compute.precision,
        interrupted=outcome.stop.interrupted,
        stop=outcome.stop,
        learning_curve=curve,
    )
