"""The input of the classifier, for every kind of head in timm's networks."""

from __future__ import annotations

import pytest
import torch

from otx.networks.build import build_network
from otx.networks.head import classifier_input, pooled

NETWORKS = ("mobilenetv3_small_050", "test_efficientnet", "test_resnet", "test_convnext", "test_vit", "test_nfnet")


@torch.no_grad()
@pytest.mark.parametrize("name", NETWORKS)
def test_what_enters_the_classifier_gives_the_logits(name: str) -> None:
    network = build_network(name, 3, 160, 160).eval()
    images = torch.randn(2, 3, 160, 160, generator=torch.Generator().manual_seed(0))
    with classifier_input(network) as entered:
        logits = network(images)
        features = network.forward_features(images)
    (rows,) = entered
    assert rows.ndim == 2
    torch.testing.assert_close(network.get_classifier()(rows), logits)
    torch.testing.assert_close(pooled(network, features), rows)


def test_a_network_is_left_as_it_was() -> None:
    network = build_network("test_resnet", 3, 64, 64).eval()
    with pytest.raises(ValueError, match="stop"), classifier_input(network) as entered:
        raise ValueError("stop")
    network(torch.zeros(1, 3, 64, 64))
    assert entered == []
