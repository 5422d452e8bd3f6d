"""The faster layers give the outputs and gradients of the plain layers."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import timm
import torch
from torch import nn

from otx.training.acceleration.cpu_kernels import (
    KernelChoice,
    kernel_choices_of,
    set_kernel_choices,
    speed_up_depthwise,
)
from otx.training.acceleration.fold_batchnorm import fold_norms
from otx.training.acceleration.pooling import pool_by_products
from otx.training.frozen import freeze_statistics

SIZE = (64, 64)
NETWORKS = ["mobilenetv3_small_050", "efficientnet_b0", "tf_efficientnetv2_b0", "mobilenetv4_conv_small_050"]


def network(name: str) -> Any:
    """A network with batch norm statistics as if trained, and without dropout."""
    torch.manual_seed(0)
    built = timm.create_model(name, num_classes=5)
    for layer in built.modules():
        for random in ("drop_rate", "drop_path_rate", "drop_prob", "p"):
            if hasattr(layer, random):
                setattr(layer, random, 0.0)
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.running_mean, -0.1, 0.1)
            nn.init.uniform_(layer.running_var, 0.8, 1.2)
            nn.init.uniform_(layer.weight, 0.8, 1.2)
            nn.init.normal_(layer.bias, 0, 0.1)
    return built


def step(built: Any, *, half: bool = False, frozen: bool = False) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Logits and gradients of a step on the same images."""
    built.train()
    if frozen:
        freeze_statistics(built)
    images = torch.randn(6, 3, *SIZE, generator=torch.Generator().manual_seed(1))
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        logits = built(images.contiguous(memory_format=torch.channels_last)).float()
    built.zero_grad()
    nn.functional.cross_entropy(logits, torch.arange(6) % 5).backward()
    return logits.detach(), [parameter.grad for parameter in built.parameters()]


def distance(ours: list[torch.Tensor], theirs: list[torch.Tensor]) -> float:
    """The distance between two gradients, relative to the norm of the second."""
    apart = torch.cat([(one - other).flatten() for one, other in zip(ours, theirs, strict=True)])
    return float(apart.norm() / torch.cat([one.flatten() for one in theirs]).norm())


@pytest.mark.parametrize("name", NETWORKS)
def test_faster_layers_compute_the_same_in_float32(name: str) -> None:
    plain = network(name)
    fast = copy.deepcopy(plain)
    pool_by_products(fast)
    speed_up_depthwise(fast, SIZE, half=False, timed=True)
    assert kernel_choices_of(fast)
    assert list(fast.state_dict()) == list(plain.state_dict())
    expected, found = step(plain), step(fast)
    assert torch.allclose(found[0], expected[0], atol=1e-4)
    assert distance(found[1], expected[1]) < 1e-3


@pytest.mark.parametrize("name", NETWORKS)
def test_faster_layers_are_as_exact_as_plain_ones_in_bf16(name: str) -> None:
    plain = network(name)
    fast = copy.deepcopy(plain)
    pool_by_products(fast)
    speed_up_depthwise(fast, SIZE, half=True, timed=True)
    exact, half, ours = step(plain), step(plain, half=True), step(fast, half=True)
    assert float((ours[0] - exact[0]).norm()) < 1.5 * float((half[0] - exact[0]).norm())
    assert distance(ours[1], exact[1]) < 1.5 * distance(half[1], exact[1])


@pytest.mark.parametrize("size", [(32, 32), (33, 47)])
def test_maps_smaller_than_a_kernel_are_timed_with_their_padding(size: tuple[int, int]) -> None:
    built = network("tf_efficientnetv2_b0")
    speed_up_depthwise(built, size, half=False, timed=True)
    assert torch.isfinite(built.eval()(torch.zeros(1, 3, *size))).all()


def test_weights_that_are_no_numbers_are_not_folded() -> None:
    built = network("resnet18")
    nn.init.constant_(built.fc.weight, float("nan"))
    assert fold_norms(built, SIZE) == 0


@pytest.mark.parametrize("half", [True, False])
def test_without_the_clock_the_ways_are_the_same_every_time(half: bool) -> None:
    found = []
    for _ in range(2):
        built = network("efficientnet_b0")
        speed_up_depthwise(built, SIZE, half=half, timed=False)
        found.append(kernel_choices_of(built))
    assert found[0] == found[1]
    assert len(found[0]) == 16
    assert {way[0] for way in found[0]} == {"bf16" if half else "32"}
    assert any(way[3] for way in found[0])


@pytest.mark.parametrize("kernel", [3, 5, 7])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("padding", [0, 1, 3])
@pytest.mark.parametrize("size", [(9, 14), (12, 7)])
def test_a_gradient_in_parts_is_that_of_the_whole(
    kernel: int, stride: int, padding: int, size: tuple[int, int]
) -> None:
    torch.manual_seed(0)
    plain = nn.Conv2d(8, 8, kernel, stride, padding, groups=8)
    fast = copy.deepcopy(plain)
    holder = nn.Sequential(nn.Conv2d(3, 8, 1), fast)
    speed_up_depthwise(holder, size, half=False, timed=True)
    set_kernel_choices(holder, [("32", "32", "32", True)])
    images = torch.randn(3, 8, *size)
    given = [images.clone().requires_grad_() for _ in range(2)]
    for layer, own in zip((plain, fast), given, strict=True):
        layer(own).square().sum().backward()
    assert torch.allclose(given[0].grad, given[1].grad, atol=1e-4)
    for ours, theirs in zip(fast.parameters(), plain.parameters(), strict=True):
        assert torch.allclose(ours.grad, theirs.grad, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("name", [*NETWORKS, "resnet18", "resnetv2_50", "densenet121"])
def test_batch_norm_with_fixed_statistics_is_part_of_the_convolution(name: str) -> None:
    plain = network(name)
    folded = copy.deepcopy(plain)
    assert fold_norms(folded, SIZE) > 0
    assert list(folded.state_dict()) == list(plain.state_dict())
    expected, found = step(plain, frozen=True), step(folded, frozen=True)
    assert torch.allclose(found[0], expected[0], rtol=1e-3, atol=1e-3)
    assert distance(found[1], expected[1]) < 1e-2
    # with batch statistics nothing is folded
    assert torch.allclose(step(folded)[0], step(plain)[0], atol=1e-4)


def test_ways_are_kept_and_those_of_another_network_are_not_taken() -> None:
    one = network("efficientnet_b0")
    speed_up_depthwise(one, SIZE, half=True, timed=False)
    ways = kernel_choices_of(one)
    set_kernel_choices(one, [("32", "32", "32", False)] * len(ways))
    assert set(kernel_choices_of(one)) == {("32", "32", "32", False)}
    set_kernel_choices(one, ways)
    set_kernel_choices(one, ways[1:])
    assert kernel_choices_of(one) == ways
    assert KernelChoice(*ways[0])
