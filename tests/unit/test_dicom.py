"""DICOM files are read with their own window, or with the range that is measured or given."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from pydicom.dataset import FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, RLELossless, generate_uid

from otx.data.dataset import Dataset, Subset
from otx.data.decode import check_image, decode_image, preview_image
from otx.data.intensity import measure_intensity
from otx.data.layout import scan
from otx.data.reading import Reading
from otx.errors import ImageError

VALUES = np.linspace(0, 2000, 32 * 48).reshape(32, 48).astype(np.uint16)


def dicom(values: NDArray[Any] = VALUES, *, compress: bool = False, **attributes: Any) -> bytes:
    """A DICOM file with these values; `attributes` are its elements by keyword."""
    file = pydicom.Dataset()
    file.file_meta = FileMetaDataset()
    file.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    file.file_meta.MediaStorageSOPClassUID = file.SOPClassUID = CTImageStorage
    file.file_meta.MediaStorageSOPInstanceUID = file.SOPInstanceUID = generate_uid()
    file.Rows, file.Columns = values.shape[-2:] if values.ndim == 2 or values.shape[2] != 3 else values.shape[:2]
    bits = values.dtype.itemsize * 8
    file.BitsAllocated, file.BitsStored, file.HighBit = bits, bits, bits - 1
    file.PixelRepresentation = int(values.dtype.kind == "i")
    file.SamplesPerPixel, file.PhotometricInterpretation = 1, "MONOCHROME2"
    file.PixelData = values.tobytes()
    for name, value in attributes.items():
        setattr(file, name, value)
    if compress:
        file.compress(RLELossless)
    buffer = io.BytesIO()
    file.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def expected(values: NDArray[Any], low: float, high: float) -> NDArray[np.uint8]:
    return np.round(((values.astype(float) - low) / (high - low)).clip(0, 1) * 255).astype(np.uint8)


@pytest.mark.parametrize("compress", [False, True])
def test_the_own_window_is_respected(compress: bool) -> None:
    pixels = decode_image(dicom(compress=compress, WindowCenter=1000, WindowWidth=401))
    np.testing.assert_array_equal(pixels[:, :, 1], expected(VALUES, 799.5, 1199.5))


def test_the_first_of_several_windows_and_the_rescale_are_used() -> None:
    data = dicom(WindowCenter=[0, 40], WindowWidth=[401, 80], RescaleSlope=1, RescaleIntercept=-1000)
    np.testing.assert_array_equal(decode_image(data)[:, :, 0], expected(VALUES.astype(float) - 1000, -200.5, 199.5))


def test_monochrome1_is_inverted() -> None:
    data = dicom(PhotometricInterpretation="MONOCHROME1", WindowCenter=1000, WindowWidth=401)
    np.testing.assert_array_equal(decode_image(data)[:, :, 0], 255 - expected(VALUES, 799.5, 1199.5))


def test_a_range_that_is_given_comes_before_the_window() -> None:
    data = dicom(WindowCenter=1000, WindowWidth=401)
    pixels = decode_image(data, Reading(intensity=(0.0, 2000.0), own_windows=False))
    np.testing.assert_array_equal(pixels[:, :, 0], expected(VALUES, 0, 2000))


def test_colours_and_the_first_of_several_frames_are_read() -> None:
    colours = np.random.default_rng(0).integers(0, 256, (32, 48, 3)).astype(np.uint8)
    colour = dicom(colours, SamplesPerPixel=3, PhotometricInterpretation="RGB", PlanarConfiguration=0)
    np.testing.assert_array_equal(decode_image(colour), colours)
    frames = np.stack([VALUES, VALUES[::-1]])
    pixels = decode_image(dicom(frames, NumberOfFrames=2, WindowCenter=1000, WindowWidth=2001))
    np.testing.assert_array_equal(pixels[:, :, 0], expected(VALUES, -0.5, 1999.5))


def test_files_without_a_window_are_measured_and_found_without_a_suffix(tmp_path: Path) -> None:
    for number in range(4):
        path = tmp_path / "ab"[number % 2] / ("IM0001" if number < 2 else "2.dcm")
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(dicom(VALUES + number))
    found = scan(tmp_path)
    assert {name: len(paths) for name, paths in found.splits["all"].items()} == {"a": 2, "b": 2}
    train, none = Subset.of([("a/IM0001", 0), ("b/IM0001", 1)]), Subset.of([])
    dataset = Dataset(tmp_path, ("a", "b"), "class folders", train, none, none)
    assert measure_intensity(dataset, Reading(), 0) == (0, 4095)
    assert preview_image(tmp_path / "a/IM0001").kind == "more than 8 bits"


def test_a_file_without_an_image_or_cut_off_is_an_error_in_words(tmp_path: Path) -> None:
    head = pydicom.dcmread(io.BytesIO(dicom()))
    del head.PixelData
    buffer = io.BytesIO()
    head.save_as(buffer, enforce_file_format=True)
    with pytest.raises(ImageError, match="a DICOM file without an image"):
        decode_image(buffer.getvalue())
    (tmp_path / "cut.dcm").write_bytes(dicom()[:900])
    assert check_image(tmp_path / "cut.dcm") is not None
    with pytest.raises(ImageError, match="limit of 100"):
        decode_image(dicom(), Reading(100))
