"""Faster depthwise convolutions on a CPU, with the same parameter names, weights and gradients.

The speed of a depthwise convolution depends on memory and on how well oneDNN handles its shape. The bf16 kernels are
twice as fast as the float32 ones in the forward pass, but ten to sixty times slower in the gradient of the images at a
stride of 2; and the gradient of a 5x5 kernel takes five times as long as that of a 5x3 one. So a short measurement
chooses, for each shape, how to compute the output and each of the two gradients.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from timm.layers.padding import pad_same
from torch import nn

from otx.training.acceleration.pooling import sum_of_rows

TIMED_IMAGES = 4
TURNS = 3
MIN_SPEEDUP = 0.7
COLUMNS = 3
DTYPES = {"bf16": torch.bfloat16, "32": torch.float32}
W = TypeVar("W")
Pair = tuple[int, int]
# stride, padding, dilation
Geometry = tuple[Pair, Pair, Pair]


@dataclass(frozen=True)
class KernelChoice:
    """How a depthwise convolution computes its output, the gradient of its images, and the gradient of its weights.

    Each is `bf16` or `32`; `split` computes the gradient of the weights for three columns of the kernel at a time.
    """

    output: str
    images: str
    weight: str
    split: bool


@dataclass(frozen=True)
class Shape:
    """All that determines the speed of a depthwise convolution, except the number of images."""

    channels: int
    size: Pair
    kernel: Pair
    stride: Pair
    padding: Pair
    dilation: Pair


def speed_up_depthwise(network: nn.Module, size: Pair, *, half: bool, timed: bool) -> None:
    """Make each depthwise convolution of a network on a CPU compute in the fastest way for its shape.

    Args:
        size: height and width of the network's input, in pixels.
        half: allow bf16, under autocast.
        timed: measure what is fastest; False: take what is expected to be fastest, the same every time.
    """
    shapes = _shapes(network, size)
    ways = {}
    for shape in dict.fromkeys(shapes.values()):
        outputs, images, weights = _candidates(shape, half=half)
        expected = KernelChoice(outputs[0], images[0], *weights[0])
        ways[shape] = _fastest(shape, outputs, images, weights) if timed else expected
    for layer, shape in shapes.items():
        layer.__class__ = _depthwise_class(type(layer))
        layer.way = ways[shape]  # type: ignore[assignment]


def kernel_choices_of(network: nn.Module) -> list[tuple[str, str, str, bool]]:
    """The choices of all depthwise convolutions, to store in a checkpoint, since each choice rounds differently."""
    return [(way.output, way.images, way.weight, way.split) for way in (layer.way for layer in _fast_layers(network))]


def set_kernel_choices(network: nn.Module, ways: list[tuple[str, str, str, bool]]) -> None:
    """Restore what `kernel_choices_of` gave; ignored if the number of layers differs, as after training on a GPU."""
    layers = _fast_layers(network)
    if len(layers) == len(ways):
        for layer, way in zip(layers, ways, strict=True):
            layer.way = KernelChoice(*way)


def _fast_layers(network: nn.Module) -> list[Any]:
    return [layer for layer in network.modules() if type(layer) in _CLASSES.values()]


def _shapes(network: nn.Module, size: Pair) -> dict[nn.Conv2d, Shape]:
    """The depthwise convolutions of a network, and the shape of each."""
    shapes: dict[nn.Conv2d, Shape] = {}

    def look(layer: Any, given: tuple[torch.Tensor, ...]) -> None:
        images = given[0]
        if _pads_itself(type(layer)):
            images = pad_same(images, layer.kernel_size, layer.stride, layer.dilation)
        height, width = images.shape[2:]
        shapes[layer] = Shape(
            layer.in_channels, (height, width), layer.kernel_size, layer.stride, layer.padding, layer.dilation
        )

    hooks = [
        layer.register_forward_pre_hook(look)
        for layer in network.modules()
        if isinstance(layer, nn.Conv2d)
        and layer.groups == layer.in_channels == layer.out_channels > 1
        and layer.padding_mode == "zeros"
        and not isinstance(layer.padding, str)
    ]
    was_training = network.training
    try:
        with torch.no_grad():
            network.eval()(torch.zeros(1, 3, *size))
    finally:
        network.train(was_training)
        for hook in hooks:
            hook.remove()
    return shapes


def _candidates(shape: Shape, *, half: bool) -> tuple[list[str], list[str], list[tuple[str, bool]]]:
    """The ways to compute the output, the gradient of the images and that of the weights, the likely fastest first."""
    kinds = ["bf16", "32"] if half else ["32"]
    splits = [True, False] if shape.kernel[1] > COLUMNS and shape.dilation == (1, 1) else [False]
    back = kinds if shape.stride == (1, 1) else kinds[::-1]
    return kinds, back, [(kind, split) for split in splits for kind in kinds]


def _fastest(shape: Shape, outputs: list[str], backs: list[str], weights: list[tuple[str, bool]]) -> KernelChoice:
    """The fastest way for each of the three computations, measured on a few images."""
    given = DTYPES[outputs[0]]
    channels_last: Any = {"memory_format": torch.channels_last}
    images = torch.ones(TIMED_IMAGES, shape.channels, *shape.size).to(given, **channels_last)
    weight = torch.ones(shape.channels, 1, *shape.kernel)
    geometry = (shape.stride, shape.padding, shape.dilation)
    output = _forward(images, weight, None, geometry, "32").to(given, **channels_last)

    def of_weight(way: tuple[str, bool]) -> torch.Tensor:
        return _weight_gradient(output, images, weight, geometry, way[0], split=way[1])

    return KernelChoice(
        _quickest(outputs, lambda kind: _forward(images, weight, None, geometry, kind)),
        _quickest(backs, lambda kind: _images_gradient(output, images, weight, geometry, kind)),
        *_quickest(weights, of_weight),
    )


def _quickest(ways: Sequence[W], work: Callable[[W], Any]) -> W:
    """The fastest way to do some work; the ways are timed in turns.

    The first way wins unless another is clearly faster, so that noise in the timing does not make two trainings differ.
    """
    best = [float("inf")] * len(ways)
    for turn in range(TURNS + 1 if len(ways) > 1 else 0):
        for number, way in enumerate(ways):
            started = time.perf_counter()
            work(way)
            if turn:
                best[number] = min(best[number], time.perf_counter() - started)
    fastest = best.index(min(best))
    return ways[fastest if best[fastest] < MIN_SPEEDUP * best[0] else 0]


def _forward(
    images: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    geometry: Geometry,
    kind: str,
) -> torch.Tensor:
    dtype = DTYPES[kind]
    own = None if bias is None else bias.to(dtype)
    output = torch.conv2d(
        images.to(dtype), weight.to(dtype), own, geometry[0], geometry[1], geometry[2], weight.shape[0]
    )
    return output.to(images.dtype)


def _images_gradient(
    gradient: torch.Tensor,
    images: torch.Tensor,
    weight: torch.Tensor,
    geometry: Geometry,
    kind: str,
) -> torch.Tensor:
    dtype = DTYPES[kind]
    # only the shape of the images is needed
    shaped = torch.empty_like(images, dtype=dtype)
    wanted = [True, False, False]
    found: torch.Tensor = _backward(gradient.to(dtype), shaped, weight.to(dtype), geometry, wanted)[0]
    return found.to(images.dtype)


def _weight_gradient(
    gradient: torch.Tensor,
    images: torch.Tensor,
    weight: torch.Tensor,
    geometry: Geometry,
    kind: str,
    *,
    split: bool,
) -> torch.Tensor:
    dtype = DTYPES[kind]
    gradient, images = gradient.to(dtype), images.to(dtype)
    wanted = [False, True, False]
    if not split:
        whole = weight.to(dtype)
        found: torch.Tensor = _backward(gradient, images, whole, geometry, wanted)[1]
        return found.to(weight.dtype)
    channels, _, rows, columns = weight.shape
    result = torch.empty_like(weight)
    part = images.new_empty(channels, 1, rows, COLUMNS)
    stride, padding, dilation = geometry
    needed = (gradient.shape[3] - 1) * stride[1] + COLUMNS
    for first in {*range(0, columns - COLUMNS, COLUMNS), columns - COLUMNS}:
        # the part of the images that these columns of the kernel see
        left = padding[1] - first
        seen = nn.functional.pad(images, (left, needed - left - images.shape[3], 0, 0))
        found = _backward(gradient, seen, part, (stride, (padding[0], 0), dilation), wanted)[1]
        result[..., first : first + COLUMNS] = found
    return result


def _backward(
    gradient: torch.Tensor,
    images: torch.Tensor,
    weight: torch.Tensor,
    geometry: Geometry,
    wanted: list[bool],
) -> tuple[Any, Any, Any]:
    found: tuple[Any, Any, Any] = torch.ops.aten.convolution_backward(
        gradient, images, weight, None, *geometry, False, (0, 0), weight.shape[0], wanted
    )
    return found


class _Depthwise(torch.autograd.Function):
    """A depthwise convolution that computes its output and its gradients as a `KernelChoice` says."""

    @staticmethod
    def forward(
        ctx: Any,
        images: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        geometry: Any,
        way: KernelChoice,
    ) -> torch.Tensor:
        ctx.save_for_backward(images, weight)
        ctx.geometry, ctx.way = geometry, way
        with torch.autocast("cpu", enabled=False):
            return _forward(images, weight, bias, geometry, way.output)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        images, weight = ctx.saved_tensors
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        of_images = of_weight = of_bias = None
        with torch.autocast("cpu", enabled=False):
            if ctx.needs_input_grad[0]:
                of_images = _images_gradient(gradient, images, weight, ctx.geometry, ctx.way.images)
            if ctx.needs_input_grad[1]:
                way = ctx.way
                of_weight = _weight_gradient(gradient, images, weight, ctx.geometry, way.weight, split=way.split)
            if ctx.needs_input_grad[2]:
                rows = gradient.permute(0, 2, 3, 1).reshape(1, -1, gradient.shape[1])
                of_bias = sum_of_rows(rows).view(-1).to(weight.dtype)
        return of_images, of_weight, of_bias, None, None


def _pads_itself(kind: type[nn.Module]) -> bool:
    """Whether it is timm's convolution with TensorFlow's padding, or a subclass of it."""
    return any(base.__name__ == "Conv2dSame" for base in kind.__mro__)


def _depthwise_class(kind: type[nn.Conv2d]) -> type[nn.Conv2d]:
    """A subclass that computes as its attribute `way` says, and keeps the padding of timm's `Conv2dSame`."""
    if kind not in _CLASSES:
        pads_itself = _pads_itself(kind)

        class Depthwise(kind):  # type: ignore[misc,valid-type]
            way: KernelChoice

            def forward(self, images: torch.Tensor) -> torch.Tensor:
                if pads_itself:
                    images = pad_same(images, self.kernel_size, self.stride, self.dilation)
                    return self._conv_forward(images, self.weight, self.bias)
                output: torch.Tensor = super().forward(images)
                return output

            def _conv_forward(
                self, images: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
            ) -> torch.Tensor:
                if torch.is_autocast_enabled("cpu"):
                    images = images.to(torch.get_autocast_dtype("cpu"))
                elif self.way.output != "32":
                    whole: torch.Tensor = super()._conv_forward(images, weight, bias)
                    return whole
                geometry = (self.stride, self.padding, self.dilation)
                output: torch.Tensor = _Depthwise.apply(images, weight, bias, geometry, self.way)
                return output

        _CLASSES[kind] = Depthwise
    return _CLASSES[kind]


_CLASSES: dict[type[nn.Conv2d], type[nn.Conv2d]] = {}
