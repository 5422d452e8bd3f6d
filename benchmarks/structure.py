"""Measure the structure of the code: python benchmarks/structure.py [SRC]

Prints the lengths of functions and modules, the numbers of parameters, and which rooms import which; the limits are
those of tests/unit/test_structure.py.
"""

from __future__ import annotations

import ast
import statistics
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

SRC = Path(__file__).resolve().parents[1] / "src" / "otx"
Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class FunctionFigures:
    """A function: its place in the code, its lines, its parameters without self, and the positional ones."""

    place: str
    lines: int
    parameters: int
    positional: int
    is_typed: bool


def modules(src: Path = SRC) -> dict[str, ast.Module]:
    """The modules of a package by their path relative to it."""
    return {
        str(file.relative_to(src)): ast.parse(file.read_text(encoding="utf-8")) for file in sorted(src.rglob("*.py"))
    }


def functions(trees: dict[str, ast.Module]) -> list[FunctionFigures]:
    found = []
    for name, tree in trees.items():
        for node in ast.walk(tree):
            if isinstance(node, Function):
                own = node.args
                positional = [each for each in (*own.posonlyargs, *own.args) if each.arg not in ("self", "cls")]
                every = [*positional, *own.kwonlyargs]
                typed = node.returns is not None and all(each.annotation is not None for each in every)
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                found.append(FunctionFigures(f"{name}:{node.name}", lines, len(every), len(positional), typed))
    return found


def lines_of(src: Path = SRC) -> dict[str, int]:
    return {
        str(file.relative_to(src)): file.read_text(encoding="utf-8").count("\n") for file in sorted(src.rglob("*.py"))
    }


@dataclass(frozen=True)
class Import:
    """One import inside the package: from where, of what, and whether it is inside a function or only for types."""

    importer: str
    imported: str
    is_lazy: bool
    is_for_types: bool


def imports(src: Path = SRC) -> list[Import]:
    """Every import of one module of the package by another, as dotted names without the package's."""
    trees = modules(src)
    names = {_dotted(path) for path in trees}
    found = []
    for path, tree in trees.items():
        for node, is_lazy, is_for_types in _walk(tree):
            for target in _targets(node, names):
                found.append(Import(_dotted(path), target, is_lazy, is_for_types))
    return found


def _dotted(path: str) -> str:
    return path.removesuffix(".py").removesuffix("__init__").strip("/").replace("/", ".")


def _walk(tree: ast.AST, lazy: bool = False, types: bool = False) -> Iterator[tuple[ast.AST, bool, bool]]:
    for child in ast.iter_child_nodes(tree):
        for_types = types or (isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING")
        yield child, lazy, for_types
        yield from _walk(child, lazy or isinstance(child, (*Function.__args__, ast.Lambda)), for_types)


def _targets(node: ast.AST, names: set[str]) -> Iterator[str]:
    if isinstance(node, ast.ImportFrom) and node.module is not None and node.module.split(".")[0] == "otx":
        room = node.module.removeprefix("otx").strip(".")
        inner = [f"{room}.{alias.name}".strip(".") for alias in node.names]
        modules_named = [name for name in inner if name in names]
        yield from modules_named or [room]


def room_of(module: str) -> str:
    """The room of a module: its folder, or the module itself at the top level."""
    return module.split(".")[0]


def main() -> None:
    src = Path(sys.argv[1]) if len(sys.argv) > 1 else SRC
    every, sizes = functions(modules(src)), lines_of(src)
    lengths = sorted(each.lines for each in every)
    print(
        f"{len(every)} functions: median {statistics.median(lengths):g} lines, "
        f"95 % within {lengths[int(0.95 * len(lengths))]}"
    )
    longest = sorted(every, key=lambda each: -each.lines)[:8]
    print("longest:", ", ".join(f"{each.place} {each.lines}" for each in longest))
    print(f"over 60 lines: {sum(each.lines > 60 for each in every)}, over 40: {sum(each.lines > 40 for each in every)}")
    many = [each for each in every if each.parameters > 6]
    print(f"more than six parameters: {len(many)}:", ", ".join(f"{each.place} {each.parameters}" for each in many))
    print(
        "largest modules:", ", ".join(f"{name} {size}" for name, size in sorted(sizes.items(), key=lambda e: -e[1])[:8])
    )
    lazy = sorted({each.importer for each in imports(src) if each.is_lazy and not each.is_for_types})
    print("imports inside functions:", ", ".join(lazy))


if __name__ == "__main__":
    main()
