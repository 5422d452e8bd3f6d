"""Merged classes: old ones keep their places, and a grown network gives the same answers for them as before."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from otx.data.dataset import Dataset, Subset
from otx.errors import UsageError
from otx.networks.build import build_network
from otx.training.class_mapping import map_classes
from otx.training.incremental import Distillation, carry_over


def test_old_classes_keep_their_places_and_new_ones_follow_sorted() -> None:
    merge = map_classes(["rose", "daisy"], ["tulip", "aster", "daisy"])
    assert merge.classes == ("rose", "daisy", "aster", "tulip")
    assert (merge.num_old, merge.new, merge.absent, merge.warnings) == (2, ("aster", "tulip"), ("rose",), ())
    assert merge.notes == [
        "Classes the model knows and the data has: daisy.",
        "New classes: aster, tulip.",
        "Classes the model knows and the data lacks: rose.",
    ]


def test_a_renamed_class_is_the_same_class() -> None:
    merge = map_classes(["rose", "daisy"], ["roses", "daisy"], {"rose": "roses"})
    assert (merge.classes, merge.new, merge.absent) == (("roses", "daisy"), (), ())


@pytest.mark.parametrize("name", ["Blue Tit", "blue_tit", "bluetit", "BLUE-TIT"])
def test_names_that_differ_only_in_case_or_spaces_are_a_warning_with_the_option(name: str) -> None:
    (warning,) = map_classes(["blue tit", "cat"], [name, "cat"]).warnings
    assert f"--rename 'blue tit={name}'" in warning


@pytest.mark.parametrize(
    ("renames", "message"),
    [
        ({"ros": "roses"}, "--rename ros=roses: the model has no class 'ros': did you mean 'rose'?"),
        ({"rose": "daisy"}, "--rename: two classes of the model would be called daisy"),
    ],
)
def test_a_wrong_rename_is_said(renames: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError) as error:
        map_classes(["rose", "daisy"], ["rose"], renames)
    assert message in str(error.value)


@pytest.mark.parametrize("name", ["mobilenetv3_small_100", "deit_tiny_distilled_patch16_224", "resnet10t"])
def test_a_grown_network_answers_for_old_classes_as_before_and_for_new_ones_softly(name: str) -> None:
    torch.manual_seed(0)
    old, grown = build_network(name, 3, 64, 64).eval(), build_network(name, 5, 64, 64).eval()
    with torch.no_grad():
        for parameter in old.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.01)
    carry_over(grown, old)
    images = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        before, after = old(images), grown(images)
    torch.testing.assert_close(after[:, :3], before)
    assert float(after[:, 3:].abs().max()) < 1.0


def test_a_data_set_is_labelled_by_the_merged_classes() -> None:
    subset = Subset(("a/1", "b/1", "a/2"), (0, 1, 0))
    dataset = Dataset(root=Path(), classes=("a", "b"), layout="", train=subset, val=subset, test=subset)
    moved = dataset.with_classes(("x", "b", "a"))
    assert moved.classes == ("x", "b", "a")
    assert moved.train.labels == moved.val.labels == moved.test.labels == (2, 1, 2)


def test_only_classes_with_images_compete() -> None:
    past = Distillation(torch.nn.Identity(), [3, 1], 1.0)
    logits, labels = past.among_present(torch.arange(10.0).view(2, 5), torch.tensor([3, 1]))
    assert logits.tolist() == [[1.0, 3.0], [6.0, 8.0]]
    assert labels.tolist() == [1, 0]
