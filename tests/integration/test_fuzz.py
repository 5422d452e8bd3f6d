"""Any input: no traceback, no hang, exit codes 0, 1 or 2. Inputs that once failed are kept as examples."""

from __future__ import annotations

import contextlib
import io
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image

from images import write_classes
from otx.cli import VERBS, main
from otx.data.decode import check_image, decode_image
from otx.data.reading import Reading
from otx.errors import ImageError
from otx.recipe import Recipe
from otx.schema import all_settings
from otx.yaml_text import dump_yaml

BOUNDED = settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
KINDS = ["PNG", "JPEG", "BMP", "WEBP", "TIFF", "GIF"]
KEYS = [info.key for info in all_settings(Recipe)]
VALUES = st.one_of(
    st.text(max_size=20),
    st.integers().map(str),
    st.floats().map(str),
    st.sampled_from(
        ["null", "[1, 2", "{a: 1}", "!!python/object:os.x", "&a [*a]", "1,2", "0x", "2026-99-99", "~", "a, [b"]
    ),
)


def run(*arguments: str) -> tuple[int, str]:
    """Exit code and error output of a command; argparse raises SystemExit after --help."""
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        try:
            code = main(list(arguments))
        except SystemExit as error:
            code = int(error.code or 0)
    return code, said.getvalue()


def check(*arguments: str) -> None:
    code, said = run(*arguments)
    assert code in (0, 1, 2)
    assert code == 0 or said.startswith(("error: ", "warning: ")) or "\nerror: " in said
    assert "Traceback" not in said


def encoded(kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.linear_gradient("L").resize((24, 16)).convert("RGB").save(buffer, kind)
    return buffer.getvalue()


@BOUNDED
@given(
    kind=st.sampled_from(KINDS),
    edits=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.binary(max_size=6)), max_size=6),
    cut=st.floats(0, 1),
)
def test_mutated_images_are_decoded_or_refused(
    kind: str, edits: list[tuple[float, bytes]], cut: float, tmp_path: Path
) -> None:
    data = bytearray(encoded(kind))
    for place, new in edits:
        start = int(place * len(data))
        data[start : start + len(new)] = new
    path = tmp_path / "image"
    path.write_bytes(data[: max(1, int(cut * len(data)))])
    try:
        pixels = decode_image(path, Reading(1_000_000))
        assert pixels.ndim == 3
        assert pixels.shape[2] == 3
    except ImageError as error:
        assert error.what
    check_image(path, Reading(1_000_000))


@BOUNDED
@given(text=st.text(st.characters(codec="utf-8"), max_size=200))
@example(text="seed: 2026-99-99")
@example(text="seed: " + "9" * 5000)
@example(text="[" * 100_000)
@example(text="- " * 5000)
@example(text="\x00")
@example(text="? [a]\n: 1")
@example(text="<<: 1")
def test_any_text_is_a_recipe_or_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(text, encoding="utf-8")
    check("train", "--config", str(path), "--print_config")


@BOUNDED
@given(place=st.integers(0, 10_000), new=st.text(st.characters(codec="utf-8"), max_size=8), gone=st.integers(0, 8))
def test_an_edited_recipe_is_read_or_refused(place: int, new: str, gone: int, tmp_path: Path) -> None:
    text = dump_yaml(Recipe())
    start = place % len(text)
    path = tmp_path / "recipe.yaml"
    path.write_text(text[:start] + new + text[start + gone :], encoding="utf-8")
    check("train", "--config", str(path), "--print_config")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_classes(tmp_path_factory.mktemp("data"), {"a": 5, "b": 5}, size=(4, 4))


@BOUNDED
@given(
    rows=st.lists(
        st.tuples(
            st.sampled_from(["a/000.png", "b/001.png", "../x", ""]) | st.text(max_size=8),
            st.text(max_size=5),
            st.sampled_from(["train", "val", "test", "tset"]) | st.text(max_size=5),
        ).map(",".join)
        | st.text(max_size=20),
        max_size=8,
    ),
    header=st.sampled_from(["path,class,subset\n", ""]),
)
@example(rows=["\x00"], header="path,class,subset\n")
@example(rows=['"'], header="path,class,subset\n")
def test_any_split_file_is_read_or_refused(rows: list[str], header: str, root: Path, tmp_path: Path) -> None:
    path = tmp_path / "split.csv"
    path.write_text(header + "\n".join(rows), encoding="utf-8", errors="surrogatepass")
    # missing weights end the command after the split file is read, at the latest
    weights = ["--model", "timm/test_resnet", "--model.weights", str(tmp_path / "gone.pth")]
    code, said = run("train", "--data_root", str(root), "--data.split_file", str(path), *weights)
    assert code == 2
    assert "error: " in said
    assert "Traceback" not in said


@BOUNDED
@given(
    verb=st.sampled_from([*VERBS, "", "-x", "trian"]),
    options=st.lists(
        st.one_of(
            st.tuples(st.sampled_from(KEYS).map("--{}".format), VALUES).map("=".join),
            st.sampled_from(["--resume", "--checkpoint", "--output", "--help", "--", "-", "--config=", "--rename=x"]),
            st.text(max_size=10),
        ),
        max_size=5,
    ),
)
@example(verb="train", options=["--max_epochs=2026-99-99"])
@example(verb="train", options=["--data.mean=a, [b"])
@example(verb="train", options=["--seed=" + "9" * 5000])
@example(verb="predict", options=["\x00"])
@example(verb="test", options=["--checkpoint=\x00"])
@example(verb="train", options=["--data_root=\x00"])
@example(verb="train", options=["--config=\x00.yaml"])
@example(verb="test", options=["--checkpoint=" + "x" * 5000])
@example(verb="predict", options=["x" * 5000])
@example(verb="train", options=["--data_root=" + "x" * 5000])
def test_any_command_line_works_or_is_refused(
    verb: str, options: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    kept = [option for option in options if "digits" not in option]
    check(verb, *kept, *(["--print_config"] if verb == "train" else []))


@pytest.mark.parametrize(
    "arguments",
    [
        ["train", "--max_epochs=2026-99-99"],
        ["predict", "no such\nfile"],
        ["test", "--checkpoint", "/dev/null"],
        ["find", "--pattern", "["],
        ["train", "--data_root", "/proc/self/mem"],
    ],
)
def test_processes_say_it_in_words(arguments: list[str], tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "otx", *arguments], capture_output=True, text=True, timeout=120, cwd=tmp_path
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr
