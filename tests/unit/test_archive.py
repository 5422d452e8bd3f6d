"""Archives as data roots: unpacked once, and never to anywhere but their own folder."""

from __future__ import annotations

import io
import os
import shutil
import tarfile
import zipfile
from pathlib import Path

import pytest

from images import write_classes
from otx.data import archive
from otx.data.digits import resolve_data_root
from otx.data.layout import scan
from otx.data.load import load_dataset
from otx.errors import DataError, StorageError


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("OTX_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.mark.parametrize(
    ("kind", "suffix"), [("zip", ".zip"), ("tar", ".tar"), ("gztar", ".tar.gz"), ("xztar", ".tar.xz")]
)
def test_an_archive_is_the_folder_in_it(kind: str, suffix: str, tmp_path: Path, cache: Path) -> None:
    write_classes(tmp_path / "in" / "photos", {"ant": 6, "bee": 6})
    made = Path(shutil.make_archive(str(tmp_path / "pets"), kind, tmp_path / "in"))
    assert made.name == f"pets{suffix}"
    root = resolve_data_root(made)
    assert root.is_relative_to(cache)
    dataset = load_dataset(root)
    assert (dataset.classes, dataset.root.name, len(dataset.train)) == (("ant", "bee"), "photos", 8)


def test_it_is_unpacked_once_and_again_when_it_has_changed(tmp_path: Path) -> None:
    write_classes(tmp_path / "in", {"ant": 2, "bee": 2})
    made = Path(shutil.make_archive(str(tmp_path / "pets"), "zip", tmp_path / "in"))
    first = archive.unpack(made)
    (first / "mark").touch()
    assert archive.unpack(made) == first and (first / "mark").exists()
    os.utime(made, (1, 1))
    assert archive.unpack(made) != first


def zipped(path: Path, name: str, mode: int = 0o100644) -> Path:
    with zipfile.ZipFile(path, "w") as file:
        item = zipfile.ZipInfo(name)
        item.external_attr = mode << 16
        file.writestr(item, "x")
    return path


def tarred(path: Path, name: str, kind: bytes = tarfile.REGTYPE) -> Path:
    with tarfile.open(path, "w") as file:
        member = tarfile.TarInfo(name)
        member.type, member.linkname = kind, "/etc/passwd"
        member.size = 1 if kind == tarfile.REGTYPE else 0
        file.addfile(member, io.BytesIO(b"x"))
    return path


@pytest.mark.parametrize("name", ["../out.png", "a/../../out.png", "/tmp/out.png", "..\\out.png", "C:/out.png"])
@pytest.mark.parametrize("make", [zipped, tarred])
def test_a_path_that_leads_out_is_refused_and_nothing_is_left(
    name: str, make: object, tmp_path: Path, cache: Path
) -> None:
    made = (zipped if make is zipped else tarred)(tmp_path / ("a.zip" if make is zipped else "a.tar"), name)
    with pytest.raises(DataError, match="holds a file that would be written outside of its folder"):
        archive.unpack(made)
    assert [path for path in cache.rglob("*") if path.is_file()] == []
    assert not (tmp_path / "out.png").exists()


def test_links_and_devices_are_not_unpacked(tmp_path: Path) -> None:
    assert list(archive.unpack(zipped(tmp_path / "a.zip", "link.png", 0o120777)).iterdir()) == []
    for number, kind in enumerate((tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE)):
        assert list(archive.unpack(tarred(tmp_path / f"{number}.tar", "x.png", kind)).iterdir()) == []


def test_what_does_not_fit_is_refused_whatever_the_archive_says(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = tmp_path / "bomb.zip"
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("a.png", bytes(50_000_000))
    free = shutil.disk_usage(tmp_path).free
    monkeypatch.setattr(archive, "SPARE", free - 10_000_000)
    with pytest.raises(StorageError, match="there is no room to unpack"):
        archive.unpack(made)
    assert [path for path in cache.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tar.gz"])
@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x03\x04" + bytes(100)])
def test_a_damaged_archive_says_so(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError) as caught:
        load_dataset(resolve_data_root(tmp_path / name))
    assert caught.value.fix


def packed(folder: Path, kind: str) -> Path:
    """An archive of 40 images; a zip file with the compression that its kind names, a tar file otherwise."""
    write_classes(folder / "in", {"ant": 20, "bee": 20})
    if not kind.startswith("ZIP"):
        return Path(shutil.make_archive(str(folder / "pets"), kind, folder / "in"))
    with zipfile.ZipFile(folder / "pets.zip", "w", getattr(zipfile, kind)) as file:
        for image in sorted((folder / "in").rglob("*.png")):
            file.write(image, image.relative_to(folder / "in"))
    return folder / "pets.zip"


@pytest.mark.parametrize("kind", ["ZIP_STORED", "ZIP_DEFLATED", "ZIP_BZIP2", "ZIP_LZMA", "gztar", "bztar", "xztar"])
def test_flipped_bytes_anywhere_are_an_error_and_nothing_is_left(kind: str, tmp_path: Path, cache: Path) -> None:
    made = packed(tmp_path, kind)
    whole = made.read_bytes()
    for place in range(100, len(whole), len(whole) // 5):
        data = bytearray(whole)
        data[place : place + 2] = bytes(255 - value for value in data[place : place + 2])
        made.write_bytes(data)
        with pytest.raises(DataError, match=f"{made.name} is damaged, or no archive: .*\n  fix: copy or download it"):
            archive.unpack(made)
    assert [path for path in cache.rglob("*") if path.is_file()] == []


def test_a_tar_file_with_a_damaged_header_is_not_taken_for_its_beginning(tmp_path: Path, cache: Path) -> None:
    write_classes(tmp_path / "in", {"ant": 3, "bee": 3})
    made = tmp_path / "pets.tar"
    with tarfile.open(made, "w", format=tarfile.GNU_FORMAT) as file:
        file.add(tmp_path / "in", "pets")
    made.write_bytes(made.read_bytes().replace(b"bee/001.png", b"bee/00x.png"))
    with pytest.raises(DataError, match="pets.tar is damaged, or no archive: a header in it is damaged"):
        archive.unpack(made)
    assert [path for path in cache.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("name", ["a.zip", "a.tar"])
def test_what_cannot_be_read_is_no_matter_of_the_cache(name: str, tmp_path: Path) -> None:
    (tmp_path / name).mkdir()
    with pytest.raises(DataError, match=f"{name} cannot be read: Is a directory"):
        archive.unpack(tmp_path / name)


def test_a_folder_that_holds_only_an_archive_names_it(tmp_path: Path) -> None:
    (tmp_path / "photos.zip").write_bytes(b"PK")
    with pytest.raises(DataError, match=r"holds no images, but photos\.zip\n  fix: give the archive: --data_root"):
        scan(tmp_path)
