"""Record what OpenVINO compiles, in this process and in its children, or make it crash there."""

from __future__ import annotations

import ctypes
import json
import os
from pathlib import Path
from typing import Any

import pytest

SITE = """
import sys
if any("otx.child" in argument for argument in sys.orig_argv):
    import compile_spy
    compile_spy.install({path!r}, crash={crash!r})
"""


def install(path: str, *, crash: str = "") -> Any:
    """Make `openvino.Core.compile_model` log each model as a line, and crash on models with an operation `crash`."""
    import openvino

    own = openvino.Core.compile_model

    def compile_model(self: Any, model: Any, *arguments: Any, **options: Any) -> Any:
        nodes = model.get_ordered_ops() if isinstance(model, openvino.Model) else []
        types = {node.get_type_name() for node in nodes}
        if crash in types:
            ctypes.string_at(0)
        free = [
            node.get_friendly_name() for node in nodes if any(o.get_partial_shape().is_dynamic for o in node.outputs())
        ]
        with Path(path).open("a", encoding="utf-8") as lines:
            lines.write(json.dumps({"pid": os.getpid(), "is_int8": "FakeQuantize" in types, "free": free}) + "\n")
        return own(self, model, *arguments, **options)

    openvino.Core.compile_model = compile_model
    return own


def environment(folder: Path, *, crash: str = "") -> dict[str, str]:
    """The environment for processes whose children are recorded, in the file `folder/compiled`."""
    (folder / "sitecustomize.py").write_text(SITE.format(path=str(folder / "compiled"), crash=crash))
    places = [str(folder), str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    return {"PYTHONPATH": os.pathsep.join(filter(None, places))}


def watch(folder: Path, patch: pytest.MonkeyPatch) -> Path:
    """Start to record what is compiled here and in children; returns the file of the records."""
    import openvino

    patch.setattr(openvino.Core, "compile_model", openvino.Core.compile_model)
    install(str(folder / "compiled"))
    for name, value in environment(folder).items():
        patch.setenv(name, value)
    return folder / "compiled"


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
