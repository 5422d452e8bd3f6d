"""`otx optimize`: write a model as INT8 IR, and measure it beside FP32 and FP16."""

from __future__ import annotations

import tempfile
from pathlib import Path

from otx.data.dataset import ImageSet, Split, pick_evenly
from otx.errors import UsageError
from otx.events import heartbeat
from otx.export.export import ExportRequest, export_model
from otx.export.optimize import Int8Request, NetworkInputs, halve, optimize_model, precision_of
from otx.model.trained import TrainedModel
from otx.results import OptimizeResult
from otx.verbs.export import note_lost_score
from otx.verbs.session import Session
from otx.verbs.shown import show_export
from otx.workspace import set_latest


def run(
    session: Session,
    *,
    checkpoint: Path | None,
    max_drop: float | None,
    subset_size: int,
    explain: bool,
    batch_size: int,
    output: Path | None,
) -> OptimizeResult:
    """Quantise with a calibration set of training images, and measure on the validation images."""
    # the newest export may have no maps
    model = session.model(checkpoint, prefer_export=not explain)
    session.check_room(model, output)
    request = session.data_request()
    with heartbeat(session.reporter, "reading the folder"):
        dataset = model.dataset(request)
    folder = output or model.output_folder(session.work_dir)
    calibration = pick_evenly(dataset.train, subset_size, model.recipe.seed)
    size = model.card.preprocessing
    with tempfile.TemporaryDirectory(prefix="otx.") as scratch:
        with heartbeat(session.reporter, "exporting"):
            variants = _variants(session, model, Path(scratch), explain=explain)
        int8 = Int8Request(
            NetworkInputs(ImageSet(dataset.root, calibration, Split.TRAIN, request.max_pixels), size),
            NetworkInputs(ImageSet(dataset.root, dataset.val, Split.VAL, request.max_pixels), size),
            max_drop,
            batch_size,
        )
        result = optimize_model(variants, folder, int8, session.reporter)
    set_latest(session.work_dir, "optimize", folder)
    show_export(session, model, folder, result)
    return result


def _variants(session: Session, model: TrainedModel, scratch: Path, *, explain: bool) -> dict[str, Path]:
    """A model's IRs by precision; missing ones are written into a scratch folder."""
    path = model.path
    if model.is_exported and explain and not model.card.explain:
        raise UsageError(f"--explain: {path} has no saliency maps", fix="give the model file: RUN/model.safetensors")
    if not model.is_exported:
        images = model.sample_images(session.data_request(), session.reporter)
        path = export_model(path, scratch, ExportRequest(explain="auto" if explain else ""), images).path
        note_lost_score(session, model, path)
    if path.suffix != ".xml":
        raise UsageError(f"{path} is neither an IR nor a model file", allowed=["*.xml", "*.safetensors", "*.ckpt"])
    precision = precision_of(path)
    if precision == "INT8":
        raise UsageError(f"{path} is INT8 already", fix="give the file it was made from")
    if precision == "FP16":
        return {"FP16": path}
    return {"FP32": path, "FP16": halve(path, scratch / "exported_model_fp16.xml")}
