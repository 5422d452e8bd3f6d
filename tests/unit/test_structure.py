"""The structure in ARCHITECTURE.md holds: which room imports which, no cycles, short functions, few parameters."""

from __future__ import annotations

import importlib.util
import re
import statistics
import sys
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parents[2]
LIGHT = {
    "errors", "schema", "plain", "confusion", "results", "findings", "events", "machine", "limits", "memory", "places",
    "signals", "spawn", "child", "files", "workspace", "recipe", "catalogue", "yaml_text", "results_machine",
    "commands", "local_server", "browser", "results_label", "elsewhere", "duration",
}  # fmt: skip
ROOMS = {
    "networks": set(),
    "data": set(),
    "model": {"data", "networks"},
    "inference": {"model", "networks", "data"},
    "evaluation": {"inference", "model", "data"},
    "export": {"inference", "model", "data"},
    "report": {"evaluation", "inference", "model", "data"},
    "demo": {"inference", "model", "data"},
    "training": {"model", "networks", "data"},
    "active": {"model", "data"},
    "label": {"active", "evaluation", "inference", "model", "networks", "data"},
    "verbs": {"training", "report", "demo", "label", "evaluation", "export", "inference", "model", "networks", "data"},
}
# modules where a library such as torch is optional, and where the command line must start at once
LAZY = {"", "engine", "cli", "completion", "inference.predictor", "export.export", "verbs.libraries"}
PRINTS = {"cli", "console", "console_machine", "console_progress", "console_show"}
# the Python API, and the bodies of its methods: their parameters are the options of a verb
PUBLIC = re.compile(r"engine\.py:(__init__|label|train|test|export|benchmark)|verbs/\w+\.py:run")


def load_structure() -> ModuleType:
    spec = importlib.util.spec_from_file_location("structure", ROOT / "benchmarks" / "structure.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["structure"] = module
    spec.loader.exec_module(module)
    return module


structure = load_structure()
IMPORTS = [each for each in structure.imports() if not each.is_for_types]
FUNCTIONS = structure.functions(structure.modules())


def test_a_room_imports_only_what_the_table_allows() -> None:
    arrows = {(structure.room_of(each.importer), structure.room_of(each.imported), each.importer) for each in IMPORTS}
    wrong = [
        (importer, room)
        for own, room, importer in arrows
        if own in ROOMS and room != own and room not in ROOMS[own] | LIGHT
    ]
    assert wrong == []


def test_the_light_modules_import_no_room_but_the_table_of_networks() -> None:
    wrong = [
        each
        for each in IMPORTS
        if each.importer in LIGHT and each.imported not in LIGHT | {"networks.table"} and not each.is_lazy
    ]
    assert wrong == []


def test_the_diagram_of_the_architecture_is_that_of_the_table() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    (diagram,) = re.findall(r"```mermaid\n(.*?)```", text, re.DOTALL)
    drawn = {tuple(line.split(" --> ")) for line in map(str.strip, diagram.splitlines()) if " --> " in line}
    rooms = {(room, other) for room, others in ROOMS.items() for other in others}
    assert {(a, b) for a, b in drawn if a in ROOMS} <= rooms
    # the diagram leaves out an arrow that others imply
    assert reachable(drawn) >= rooms


def reachable(arrows: set[tuple[str, ...]]) -> set[tuple[str, ...]]:
    found = set(arrows)
    while more := {(a, d) for a, b in found for c, d in found if b == c} - found:
        found |= more
    return found


def test_no_module_imports_itself_by_way_of_others() -> None:
    arrows = {(each.importer, each.imported) for each in IMPORTS if not each.is_lazy and each.importer != each.imported}
    assert [(a, b) for a, b in reachable(arrows) if a == b] == []


def test_imports_inside_functions_are_where_a_library_is_optional() -> None:
    assert {each.importer for each in IMPORTS if each.is_lazy} <= LAZY


def test_only_the_command_line_shows_results() -> None:
    showing = {each.importer for each in IMPORTS if each.imported in PRINTS - {"cli"}}
    assert showing <= PRINTS


def test_functions_are_short() -> None:
    lengths = sorted(each.lines for each in FUNCTIONS)
    assert [each for each in FUNCTIONS if each.lines > 60] == []
    assert len([each for each in FUNCTIONS if each.lines > 40]) <= 6
    assert statistics.median(lengths) <= 7
    assert lengths[int(0.95 * len(lengths))] <= 26


def test_functions_take_few_parameters() -> None:
    assert [each.place for each in FUNCTIONS if each.parameters > 6 and not PUBLIC.search(each.place)] == []
    assert [each.place for each in FUNCTIONS if each.positional > 7] == []


def test_every_signature_is_typed() -> None:
    assert [each.place for each in FUNCTIONS if not each.is_typed] == []


def test_modules_are_small() -> None:
    sizes = structure.lines_of()
    assert sizes["cli.py"] <= 250
    # the Python API has a docstring for each verb
    assert sizes["engine.py"] <= 325
    assert {name: size for name, size in sizes.items() if size > 330} == {}
