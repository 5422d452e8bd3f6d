"""Hooks of MkDocs: pages that are made from the code when the site is built, and files from outside of docs/.

A link in README.md or in docs/ is written as it is valid in the repository; here it becomes one of the site.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any, get_type_hints

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from otx.arguments import GROUPS, SETTING, Parser
from otx.catalogue import load_recipe, recipe_names
from otx.cli import parser_of
from otx.commands import VERBS
from otx.networks.table import MODELS
from otx.recipe import DEFAULT_RECIPE, Recipe
from otx.schema import all_settings, describe

ROOT = Path(__file__).resolve().parents[1]
PAGES = ("ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md")
LINK = re.compile(r"(!?\[[^\]]*\]\()([^)\s#]*)(#[^)\s]*)?\)")
CODE = re.compile(r"(^```.*?^```|`[^`\n]*`)", re.DOTALL | re.MULTILINE)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages and the files that are not in docs/."""
    made = {
        "reference/settings.md": settings_page(),
        "reference/command-line.md": command_line_page(),
        "reference/recipes.md": recipes_page(),
        "reference/python.md": PYTHON,
        "index.md": read("README.md"),
        **{name: read(name) for name in PAGES},
    }
    for name, text in made.items():
        files.append(File.generated(config, name, content=text))
    for path in sorted((ROOT / "examples").rglob("*")):
        if path.is_file():
            files.append(File.generated(config, str(path.relative_to(ROOT)), abs_src_path=str(path)))
    return files


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links within the repository into links within the site."""
    uri = page.file.src_uri
    is_outside = uri in PAGES or uri.startswith("examples/")
    source = "README.md" if uri == "index.md" else uri if is_outside else f"docs/{uri}"
    parts = CODE.split(markdown)
    parts[::2] = [LINK.sub(lambda found: _link(found, source, uri), text) for text in parts[::2]]
    return "".join(parts)


def _link(found: re.Match[str], source: str, uri: str) -> str:
    start, target, anchor = found[1], found[2], found[3] or ""
    if not target or ":" in target:
        return found[0]
    place = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
    place = "index.md" if place == "README.md" else place.removeprefix("docs/")
    return f"{start}{posixpath.relpath(place, posixpath.dirname(uri) or '.')}{anchor})"


def cell(text: object) -> str:
    """A text within a table."""
    return str(text).replace("|", "\\|").replace("\n", " ").replace("<", "&lt;")


def code(value: Any) -> str:
    """A value as YAML has it, as code; nothing for none."""
    if value is None or value == "":
        return ""
    words = {True: "true", False: "false"}
    text = words[value] if isinstance(value, bool) else str(list(value)) if isinstance(value, tuple) else str(value)
    return f"`{text}`"


SETTINGS = """# Settings

All settings of a training. Each is a key of a recipe (YAML) and an option of `otx train`: `training.loss` is
`--training.loss` on the command line and `overrides={"training.loss": ...}` in Python. `otx train --print_config`
prints the settings of a training as YAML. This page is made from `src/otx/recipe.py`.
"""


def settings_page() -> str:
    """A table of each section of the schema; it says where a shipped recipe has another value."""
    parts = [SETTINGS]
    for title, rows in _sections(Recipe):
        table = ["| setting | default | allowed | what it does |", "|---|---|---|---|", *rows]
        parts.append("\n".join([f"## {title or 'General'}", "", *table]))
    parts.append(_recipe_values())
    return "\n\n".join(parts) + "\n"


def _sections(schema: type, prefix: str = "") -> Iterator[tuple[str, list[str]]]:
    hints = get_type_hints(schema)
    rows, inner = [], []
    for item in fields(schema):
        if is_dataclass(hints[item.name]):
            inner.append(item.name)
            continue
        default = None if item.default is MISSING else item.default
        allowed, key = allowed_values(hints[item.name], item.metadata), f"{prefix}{item.name}"
        rows.append(f"| `{key}` | {code(default)} | {cell(allowed)} | {cell(item.metadata['help'])} |")
    yield prefix.rstrip("."), rows
    for name in inner:
        yield from _sections(hints[name], f"{prefix}{name}.")


def allowed_values(kind: Any, limits: Any) -> str:
    """Type and range of a setting, in words."""
    low, high = limits["low"], limits["high"]
    words = [f"`{choice}`" for choice in limits["choices"]]
    text = ", ".join(words) if words and kind is str else " or ".join([describe(kind), *words])
    if low is None and high is None:
        return text
    least = low if isinstance(low, int) else f"{low:g}"
    most = high if isinstance(high, int) else f"{high:g}" if high is not None else ""
    return f"{text}, {least} or more" if high is None else f"{text}, {least} to {most}"


def _recipe_values() -> str:
    """Where the shipped recipes differ from the defaults."""
    lines = ["## Values of the recipes", "", "What a shipped recipe sets, where that is not the default.", ""]
    lines += ["| recipe | settings |", "|---|---|"]
    defaults = {info.key: info.default for info in all_settings(Recipe)}
    for name in recipe_names():
        recipe = load_recipe(name)
        values = {key: _value(recipe, key) for key in defaults if key not in ("recipe_id", "name")}
        other = [f"`{key}: {code(value)[1:-1]}`" for key, value in values.items() if value != defaults[key]]
        lines.append(f"| `{name}` | {', '.join(other)} |")
    return "\n".join(lines)


def _value(recipe: Recipe, dotted: str) -> Any:
    value: Any = recipe
    for name in dotted.split("."):
        value = getattr(value, name)
    return value


COMMAND_LINE = """# Command line

`otx VERB -h` shows the usual options of a verb, `otx VERB --help-all` all of them. This page is made from the
parsers.

Exit codes: 0; 1 when the work failed, the disk is full or something in use was removed; 2 when what was given cannot
be used; 3 when `otx test` misses a target (`--min_accuracy`, `--min_recall`); 130 after Ctrl-C; 143 after SIGTERM.
Without a terminal, a line every half minute says how far the work is.

`eval "$(otx completion bash)"` (or zsh, fish) lets the shell complete verbs, options, recipes and classes.
"""


def command_line_page() -> str:
    """A section of each verb."""
    return "\n\n".join([COMMAND_LINE, *(_verb(name) for name in VERBS)]) + "\n"


def _verb(name: str) -> str:
    parser: Parser = parser_of(name, ["--help"])
    lines = [f"## otx {name}", "", parser.summary, "", "```sh", *parser.verb.examples, "```", ""]
    places = " ".join(f"[{action.metavar}]" for action in parser._actions if not action.option_strings)
    lines += [f"Usage: `otx {name} {places}`".replace(" `", "`"), ""] if places else []
    lines += ["| option | what it does |", "|---|---|"]
    groups = sorted(parser._action_groups, key=lambda group: GROUPS.index(group.title) if group.title in GROUPS else 0)
    for group in groups:
        for action in group._group_actions:
            if name == "train" and action.dest.startswith(SETTING):
                continue
            metavar = action.metavar if isinstance(action.metavar, str) else ""
            flag = ", ".join(action.option_strings)
            shown = f"{flag} {metavar}".strip() if action.nargs != 0 else flag
            lines.append(f"| `{cell(shown)}` | {cell(str(action.help).replace('%%', '%'))} |")
    if name == "train":
        lines += ["", "Besides these, every [setting](settings.md) is an option, such as `--training.loss`."]
    return "\n".join(lines)


RECIPES = f"""# Recipes, weights and licences

`otx find` prints this list. `{DEFAULT_RECIPE}` is the default. GFLOPs are twice the multiply-adds of convolutions and
matrix products, for one image of 224 x 224; both figures are those of a head of ten classes
(`tests/integration/test_models.py` computes them again). This page is made from `src/otx/networks/table.py`.

The licence is that of the pretrained weights, as their page on the Hugging Face hub states it. otx itself is
Apache-2.0. A licence of weights says nothing about the photos they were trained on: ImageNet's terms allow research
and education only, and whether that concerns a network trained on it is disputed. `--model.pretrained false` avoids
the question, and needs many more photos. A network of timm that is not listed (`--model timm/NAME`) has its own
licence: look it up on its page before you ship a model. Some allow no commercial use (CC-BY-NC), for instance those
of ConvNeXt-V2 and MAE; those of DINOv3 have a licence of their own.
"""


def trained_on(weights: str) -> str:
    """The photos that published weights were trained on, which timm's names of weights tell."""
    if weights.endswith("lvd142m"):
        return "LVD-142M, without labels"
    return "ImageNet-21k, then ImageNet-1k" if "in21k" in weights else "ImageNet-1k"


def recipes_page() -> str:
    """The table of networks."""
    lines = [RECIPES, "| recipe | good for | GFLOPs | parameters (M) | weights | trained on | licence |"]
    lines.append("|---|---|---|---|---|---|---|")
    for name in recipe_names():
        info = MODELS[name]
        photos = trained_on(info.weights)
        lines.append(
            f"| `{name}` | {info.good_for} | {info.gflops:.2f} | {info.params_m:.2f} | `{info.weights}` | {photos} "
            f"| {info.licence} |"
        )
    ids = ["", "## Recipe IDs", "", "`--config` also takes OTX's recipe IDs.", ""]
    ids += ["| recipe | recipe ID |", "|---|---|"]
    ids += [f"| `{name}` | `{load_recipe(name).recipe_id}` |" for name in recipe_names()]
    return "\n".join([*lines, *ids]) + "\n"


PYTHON = """# Python

One `Engine` is one classifier; each verb of the command line is one of its methods, with the same options.

```python
from otx import Engine

engine = Engine("my_photos")
engine.train(max_epochs=10)
print(engine.test().top1)
```

A script that trains needs `if __name__ == "__main__":` around its calls where processes are spawned (macOS, Windows).

## Engine

::: otx.Engine

::: otx.list_models

## Results

::: otx.results
    options:
      show_root_heading: false
      filters: ["!^_", "!to_dict"]

## Findings of `otx check`

::: otx.findings
    options:
      show_root_heading: false

## Progress and notes

::: otx.events
    options:
      show_root_heading: false

## Errors

::: otx.errors
    options:
      show_root_heading: false
      filters: ["!^_"]
"""
