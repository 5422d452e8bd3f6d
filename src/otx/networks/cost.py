"""What a network costs: floating-point work and parameters."""

from __future__ import annotations

from otx.networks.build import build_network


def measure_cost(network: str, num_classes: int, height: int, width: int) -> tuple[float, float]:
    """GFLOPs of one image (2 x the multiply-adds of convolutions and matrix products) and millions of parameters.

    It runs no arithmetic: the network is built on torch's `meta` device.
    """
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    with torch.device("meta"):
        model = build_network(network, num_classes, height, width).eval()
        image = torch.empty(1, 3, height, width)
    with FlopCounterMode(display=False) as counter:
        model(image)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return counter.get_total_flops() / 1e9, parameters / 1e6
