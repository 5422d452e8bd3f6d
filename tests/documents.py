"""Commands with their output in the documents: find them, run them again, compare what they print."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

BLOCK = re.compile(r"```console\n(.*?)```", re.DOTALL)
# what is said every half minute where there is no terminal, and what a busy machine is told
PROGRESS = re.compile(r".+: (\d+ of \d+, \d+ %|still at work).*|Other programs use this machine.*")
ELIDED = "..."


@dataclass(frozen=True)
class Session:
    """One command of a document (`$ otx test`) and the lines below it."""

    command: str
    lines: tuple[str, ...]

    @property
    def arguments(self) -> list[str]:
        return shlex.split(self.command, comments=True)


def sessions_of(block: str) -> list[Session]:
    """The commands of one block, each with its output."""
    found: list[tuple[str, list[str]]] = []
    for line in block.rstrip("\n").split("\n"):
        if line.startswith("$ "):
            found.append((line[2:], []))
        elif found:
            found[-1][1].append(line)
    return [Session(command, tuple(lines)) for command, lines in found]


def sessions(text: str) -> Iterator[Session]:
    """All commands of a document's console blocks, in their order."""
    for block in BLOCK.findall(text):
        yield from sessions_of(block)


def run(command: str, folder: Path) -> list[str]:
    """Run a command in a shell; the lines that it prints, on standard output and standard error.

    Raises:
        RuntimeError: it failed.
    """
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=folder,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"`{command}` ended with {done.returncode}:\n{done.stdout}")
    return [line.rstrip() for line in done.stdout.strip("\n").split("\n") if not PROGRESS.fullmatch(line)]


def with_new_output(text: str, answer: Callable[[str], list[str]]) -> str:
    """The document with what its commands print now; what it leaves out (`...`) is left out again."""

    def block(found: re.Match[str]) -> str:
        lines = []
        for session in sessions_of(found[1]):
            lines += [f"$ {session.command}", *_as_long_as(session.lines, answer(session.command))]
        return "\n".join(["```console", *lines, "```"])

    return BLOCK.sub(block, text)


def _as_long_as(old: Sequence[str], printed: list[str]) -> list[str]:
    """The output, with as many lines at its start and at its end as the document shows before and after `...`."""
    if ELIDED not in old or len(printed) <= len(old):
        return printed
    before = old.index(ELIDED)
    after = len(old) - before - 1
    return [*printed[:before], ELIDED, *printed[len(printed) - after :]]


# what depends on the data, the random weights or the processor, and not on the code
VARIES = (
    (re.compile(r"(Not c|C)alibrated.*"), "Calibrated or not"),
    (re.compile(r"The training ended: .*"), "The training ended"),
    (re.compile(r"Best: .*? top-1"), "Best: EPOCH top-1"),
    (re.compile(r"Twice as many training photos.*"), "Twice as many training photos"),
    (
        re.compile(r"training in (32, since this processor has no bf16|bf16, which this processor has)"),
        "training in PRECISION",
    ),
    (re.compile(r"\S*/\S+|\S+\.(?:xml|safetensors|onnx|html|csv)\b"), "PATH"),
    (re.compile(r"[━─]+"), "─"),
    (re.compile(r"-?\d[\d.,]*(?:e[+-]?\d+)?"), "#"),
    (re.compile(r"(?:# min )?# (?:s|ms)\b"), "TIME"),
    (re.compile(r" best$"), ""),
    (re.compile(r"\s+"), " "),
)
SOMETIMES = re.compile(r"val/\w+ is not rising.*|warning: .*")


def shape(lines: Sequence[str]) -> list[str]:
    """What stays the same from run to run: numbers, times, files and widths of tables are masked.

    Lines that are then equal to the one before, such as those of epochs, count once.
    """
    masked: list[str] = []
    for line in lines:
        plain = "" if SOMETIMES.fullmatch(line) else line
        for pattern, text in VARIES:
            plain = pattern.sub(text, plain)
        plain = plain.strip()
        if plain and (not masked or masked[-1] != plain):
            masked.append(plain)
    return masked
