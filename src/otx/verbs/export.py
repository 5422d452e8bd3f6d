"""`otx export`: write a model as OpenVINO IR or ONNX file."""

from __future__ import annotations

from pathlib import Path

from otx.errors import UsageError
from otx.events import heartbeat
from otx.export.bundle import check_deploy, write_deploy_folder
from otx.export.export import ExportRequest, export_model
from otx.files import check_folder
from otx.model.metadata import spaceless, underscored
from otx.model.modelfile import read_card
from otx.model.trained import TrainedModel
from otx.results import ExportResult
from otx.verbs.session import Session
from otx.verbs.shown import show_export
from otx.workspace import set_latest


def run(
    session: Session,
    *,
    checkpoint: Path | None,
    export_format: str,
    export_precision: str,
    preprocessing: str,
    input_color: str,
    explain: bool,
    algorithm: str,
    output: Path | None,
    deploy: Path | None,
) -> ExportResult:
    """Write the file, compare its answers with PyTorch's, and put it into the run folder."""
    if input_color != "RGB" and preprocessing != "embedded":
        raise UsageError(
            f"--input_color {input_color} is for graphs that hold the preprocessing", fix="add --preprocessing embedded"
        )
    if deploy is not None:
        check_deploy(deploy, export_format, preprocessing)
    maps = algorithm if explain else ""
    request = ExportRequest(export_format, export_precision, preprocessing, input_color, maps)
    model = session.model(checkpoint)
    if model.is_exported:
        raise UsageError(f"{model.path} is exported already", fix="give the model file: RUN/model.safetensors")
    session.check_room(model, output)
    if deploy is not None:
        check_folder(deploy.parent, "choose another --deploy")
    folder = output or model.output_folder(session.work_dir)
    images = model.sample_images(session.data_request(), session.reporter)
    with heartbeat(session.reporter, "exporting"):
        result = export_model(model.path, folder, request, images)
    set_latest(session.work_dir, "export", folder)
    note_lost_score(session, model, result.path)
    show_export(session, model, folder, result)
    for name, label in zip(model.card.classes, spaceless(model.card.classes), strict=True):
        if label != underscored(name):
            session.reporter.note(
                f"openvino-model-api will call the class {name!r} {label}, since another has its name."
            )
    if deploy is not None:
        write_deploy_folder(result.path, deploy, images[0])
    return result


def note_lost_score(session: Session, model: TrainedModel, exported: Path) -> None:
    """Say so if a model can tell images of other things, and its exported file cannot."""
    if model.card.unknown_limit is None or read_card(exported).unknown_limit is not None:
        return
    if exported.suffix == ".onnx":
        why = "openvino-model-api cannot read a score from an ONNX file"
        fix = "--export_format OPENVINO keeps it"
    else:
        why = "the score of the graph is not that of the model: its numbers are too close to each other for 32 bits"
        fix = f"predict with {model.path} where it matters"
    session.reporter.note(f"`known` of its predictions will be empty, and --reject is refused: {why}; {fix}.")
