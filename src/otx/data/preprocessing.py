"""How an image becomes the input of a network: defined once, and carried by every model file."""

from __future__ import annotations

import functools
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from otx.data.reading import WHITE, Bands, Range, Reading
from otx.recipe import CROP, LETTERBOX, RESIZE_TYPES, STANDARD, DataSettings
from otx.schema import shown

MAX_SIDE = 10_000

Colour = tuple[float, float, float]


@functools.cache
def opencv() -> Any:
    """OpenCV without its own threads.

    They do not survive in a forked process, where the next call would wait for them for ever. We decode and resize
    images in parallel in our own threads or processes.
    """
    import cv2

    cv2.setNumThreads(1)
    return cv2


def reduced(image: NDArray[np.uint8], shorter: int) -> NDArray[np.uint8]:
    """Resize an image (H, W, 3) to `shorter` pixels at its shorter side, by nearest neighbours.

    It does not average, since `Preprocessing.resize` does not either: a network should learn from images as grainy as
    those that it is tested on.
    """
    cv2 = opencv()
    height, width = image.shape[:2]
    factor = shorter / min(height, width)
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    small: NDArray[np.uint8] = cv2.resize(image, size, interpolation=cv2.INTER_NEAREST)
    return small


def centre(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The square in the middle of an image (H, W, 3)."""
    height, width = image.shape[:2]
    if height > width:
        top = (height - width) // 2
        return image[top : top + width]
    left = (width - height) // 2
    return image[:, left : left + height]


def bilinear(image: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """Resize an image (H, W, 3) without antialiasing, rounding as OpenVINO does."""
    if image.shape[:2] == (height, width):
        return image
    # with 8 bits OpenCV rounds down, OpenVINO to the nearest: one pixel in eight would differ
    resized = opencv().resize(image.astype(np.float32), (width, height), interpolation=opencv().INTER_LINEAR)
    return np.asarray(np.rint(resized), np.uint8)


@dataclass(frozen=True)
class Letterbox:
    """Where an image lies in a frame that it does not fill: the height and width it gets, and the black above and left.

    Source: the arithmetic of openvino-model-api's `fit_to_window_letterbox`, in 32-bit floats.
    """

    height: int
    width: int
    top: int
    left: int

    @classmethod
    def fit(cls, image: tuple[int, int], frame: tuple[int, int]) -> Letterbox:
        """Fit an image of (height, width) into a frame of (height, width)."""
        sides = np.asarray(image, np.float32)
        scale = (np.asarray(frame, np.float32) / sides).min()
        height, width = (max(1, int(side)) for side in np.rint(sides * scale))
        return cls(height, width, (frame[0] - height) // 2, (frame[1] - width) // 2)

    def paste(self, image: NDArray[Any], frame: tuple[int, int]) -> NDArray[Any]:
        """Lay a resized image (height, width, ...) into a black frame."""
        canvas = np.zeros((*frame, *image.shape[2:]), image.dtype)
        canvas[self.top : self.top + self.height, self.left : self.left + self.width] = image
        return canvas

    def cut(self, frame: NDArray[Any]) -> NDArray[Any]:
        """The part of a frame that the image covers."""
        return frame[self.top : self.top + self.height, self.left : self.left + self.width]


@dataclass(frozen=True)
class Preprocessing:
    """Read an image as `reading` says, resize it to `height` x `width`, then `(rgb - mean) / std`.

    `mean` and `std` are in units of the 8-bit pixel (0 to 255), in the order red, green, blue. `intensity`,
    `own_windows` and `bands` are those of `Reading`. `resize_type` is `standard` (the aspect ratio changes),
    `letterbox` (it is kept, with black beside the image) or `crop` (the square in the middle).
    """

    height: int
    width: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    resize_type: str = STANDARD
    intensity: Range | None = None
    own_windows: bool = True
    bands: Bands | None = None

    @classmethod
    def of(cls, data: DataSettings, mean: Colour, std: Colour) -> Preprocessing:
        """That of a recipe; `mean` and `std` are for pixels from 0 to 1."""
        height, width = data.input_size
        own_windows = data.intensity is None
        return cls(height, width, _scaled(mean), _scaled(std), data.resize, data.intensity, own_windows, data.bands)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Preprocessing:
        mean, std = data["mean"], data["std"]
        limits, bands = data.get("intensity"), data.get("bands")
        return cls(
            int(data["height"]),
            int(data["width"]),
            (mean[0], mean[1], mean[2]),
            (std[0], std[1], std[2]),
            data.get("resize_type", STANDARD),
            None if limits is None else (float(limits[0]), float(limits[1])),
            bool(data.get("own_windows", True)),
            None if bands is None else (int(bands[0]), int(bands[1]), int(bands[2])),
        )

    def check(self) -> None:
        """Raise TypeError or ValueError if a field has a wrong type or value."""
        if not (0 < self.height <= MAX_SIDE and 0 < self.width <= MAX_SIDE):
            raise ValueError(f"images of {self.height}x{self.width}")
        numbers = (*self.mean, *self.std, *(self.intensity or ()))
        if not all(isinstance(value, (int, float)) for value in numbers):
            raise TypeError(f"mean {shown(self.mean)}, std {shown(self.std)}")
        if self.resize_type not in RESIZE_TYPES:
            raise ValueError(f"resize_type {shown(self.resize_type)}")
        if self.intensity is not None and not self.intensity[0] < self.intensity[1]:
            raise ValueError(f"intensity {shown(self.intensity)}")
        if self.bands is not None and min(self.bands) < 1:
            raise ValueError(f"bands {shown(self.bands)}")

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the network's input."""
        return self.height, self.width

    def reading(self, max_pixels: int) -> Reading:
        """How its images are read."""
        return Reading(max_pixels, self.intensity, self.own_windows, self.bands)

    def resize(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Resize one image (H, W, 3) to (height, width, 3), bilinear without antialiasing.

        openvino-model-api builds the same resize into a graph, so an exported model sees the same pixels there as here.
        """
        return self.resize_to(image, self.size)

    def resize_to(self, image: NDArray[np.uint8], frame: tuple[int, int]) -> NDArray[np.uint8]:
        """Resize one image (H, W, 3) to another height and width than the network's."""
        if self.resize_type == LETTERBOX:
            place = Letterbox.fit(image.shape[:2], frame)
            return place.paste(bilinear(image, place.height, place.width), frame)
        return bilinear(centre(image) if self.resize_type == CROP else image, *frame)

    def on_image(self, maps: NDArray[np.float32], height: int, width: int) -> NDArray[np.float32]:
        """Saliency maps (C, h, w) of the network's input as maps of the whole image of `height` x `width`.

        Outside what the network saw, they are 0.
        """
        if self.resize_type == STANDARD:
            return maps
        cv2 = opencv()
        large = [cv2.resize(each, self.size[::-1], interpolation=cv2.INTER_CUBIC).clip(0, 1) for each in maps]
        if self.resize_type == LETTERBOX:
            return np.stack([Letterbox.fit((height, width), self.size).cut(each) for each in large])
        side = min(height, width)
        around = (round(self.height * height / side), round(self.width * width / side))
        place = Letterbox(*self.size, (around[0] - self.height) // 2, (around[1] - self.width) // 2)
        return np.stack([place.paste(each, around) for each in large])

    def normalise(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Turn images (N, height, width, 3) into network input (N, 3, height, width)."""
        mean, std = np.asarray(self.mean, np.float32), np.asarray(self.std, np.float32)
        scaled = (images.astype(np.float32) - mean) / std
        return np.ascontiguousarray(scaled.transpose(0, 3, 1, 2))


def _scaled(colour: Colour) -> Colour:
    """A colour in units of the 8-bit pixel."""
    red, green, blue = colour
    return red * WHITE, green * WHITE, blue * WHITE
