"""`otx check` finds every kind of fault planted among real photos, and nothing in a clean folder."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageEnhance
from sklearn.datasets import load_sample_images

from otx.data.check import check_dataset, find_copies, scan_images, write_check
from otx.data.load import load_dataset
from otx.data.near_duplicates import MAX_BITS, close_pairs, group_alike, join, perceptual_hashes
from otx.data.preprocessing import Preprocessing
from otx.errors import UsageError
from otx.evaluation.mislabelled import find_mislabelled, in_doubt, out_of_sample
from otx.findings import CheckResult, Finding, ImageRef, Mislabelled
from otx.plain import structured

SIDE = 106


@pytest.fixture(scope="session")
def crops(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Crops of scikit-learn's two photos, one class for each, in train/, val/ and test/."""
    root = tmp_path_factory.mktemp("crops")
    for name, photo in zip(("temple", "flower"), load_sample_images().images, strict=True):
        places = [(y, x) for y in range(0, 427 - SIDE, SIDE) for x in range(0, 640 - SIDE, SIDE)]
        for number, (y, x) in enumerate(places):
            subset = ("train", "train", "val", "test")[number % 4]
            path = root / subset / name / f"{number:02}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(photo[y : y + SIDE, x : x + SIDE]).save(path, quality=92)
    return root


@pytest.fixture
def photos(crops: Path, tmp_path: Path) -> Path:
    """The crops, to plant faults in."""
    return Path(shutil.copytree(crops, tmp_path / "photos"))


def check(root: Path, side: int = 32, resize_type: str = "standard", split_file: Path | None = None) -> CheckResult:
    size = Preprocessing(side, side, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), resize_type)
    return check_dataset(load_dataset(root, split_file=split_file), size)


def found(suspicions: CheckResult) -> dict[str, list[str]]:
    """The paths of the findings, by kind, without empty kinds."""
    return {kind: [place.path for place, _ in rows] for kind, rows in suspicions.by_kind().items() if rows}


def test_a_clean_folder_has_no_findings(crops: Path) -> None:
    result = check(crops)
    assert found(result) == {}
    assert (result.num_images, result.layout) == (48, "train/val/test")
    assert [(item.name, item.train, item.val, item.test) for item in result.classes] == [
        ("flower", 12, 6, 6),
        ("temple", 12, 6, 6),
    ]


def cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:900])


def without_content(path: Path) -> None:
    path.write_bytes(b"")


def save(change: Callable[[Image.Image], Image.Image]) -> Callable[[Path], None]:
    def apply(path: Path) -> None:
        with Image.open(path) as image:
            change(image).save(path, "PNG")

    return apply


@pytest.mark.parametrize(
    ("kind", "spoil", "reason"),
    [
        ("broken", cut_off, "truncated"),
        ("empty", without_content, "the file is empty"),
        ("tiny", save(lambda image: image.resize((40, 31))), "40x31 pixels, a side under 32"),
        ("huge", save(lambda image: image.resize((5001, 5000))), "5001x5000 pixels, over 25 million"),
        ("odd", save(lambda image: image.resize((500, 100))), "500x100 pixels, 5.0 to 1"),
        ("odd", save(lambda image: image.convert("L")), "grey, as 1 of 48 images"),
        ("odd", save(lambda image: image.convert("RGBA")), "alpha channel, as 1 of 48 images"),
        ("odd", save(lambda image: Image.new("RGB", image.size, (9, 99, 200))), "all of one colour"),
    ],
)
def test_one_spoilt_image_is_the_one_finding(
    kind: str, spoil: Callable[[Path], None], reason: str, photos: Path
) -> None:
    spoil(photos / "train" / "flower" / "05.jpg")
    result = check(photos)
    assert found(result) == {kind: ["train/flower/05.jpg"]}
    (finding,) = getattr(result, kind)
    assert (finding.label, reason in finding.reason) == ("flower", True)


@pytest.mark.parametrize(
    ("resize_type", "what"),
    [("standard", "squeezed to 96x96"), ("letterbox", "with black beside it"), ("crop", "of which 1/5 is seen")],
)
def test_a_long_image_is_named_with_what_the_resize_does(resize_type: str, what: str, photos: Path) -> None:
    save(lambda image: image.resize((500, 100)))(photos / "train" / "flower" / "05.jpg")
    (finding,) = check(photos, 96, resize_type).odd
    assert finding.path == "train/flower/05.jpg"
    assert what in finding.reason


def test_an_image_smaller_than_the_input_is_named_and_many_are_counted(photos: Path) -> None:
    save(lambda image: image.resize((60, 50)))(photos / "train" / "flower" / "05.jpg")
    (finding,) = check(photos, 96).small
    assert (finding.path, finding.reason) == ("train/flower/05.jpg", "60x50 pixels, enlarged to 96x96")
    many = check(photos, 224)
    assert many.small == ()
    assert many.notes[-1].startswith("48 of 48 images are smaller than the network's input of 224x224")
    assert "train/flower/05.jpg, has 60x50" in many.notes[-1]


def test_cmyk_among_colour_is_odd(photos: Path) -> None:
    path = photos / "test" / "temple" / "03.jpg"
    with Image.open(path) as image:
        image.convert("CMYK").save(path)
    assert found(check(photos)) == {"odd": ["test/temple/03.jpg"]}


def test_a_grey_data_set_is_not_odd(photos: Path) -> None:
    for path in photos.glob("*/*/*"):
        save(lambda image: image.convert("L"))(path)
    assert found(check(photos)) == {}


def copied(source: Path, target: Path, change: Callable[[Image.Image], Image.Image], quality: int) -> None:
    with Image.open(source) as image:
        change(image).save(target, "JPEG", quality=quality)


@pytest.mark.parametrize(
    ("change", "quality"),
    [
        (lambda image: image, 30),
        (lambda image: image.resize((70, 70)), 80),
        (lambda image: image.resize((300, 250)), 60),
        (lambda image: ImageEnhance.Brightness(image).enhance(0.8), 90),
        (lambda image: image.convert("L"), 90),
    ],
)
def test_a_training_image_in_test_is_a_leak_whatever_its_name_size_and_quality(
    change: Callable[[Image.Image], Image.Image], quality: int, photos: Path
) -> None:
    for name in ("flower/08", "temple/12"):
        copied(photos / "train" / f"{name}.jpg", photos / "test" / f"{name} again.jpg", change, quality)
    (first, second) = check(photos).leaks
    assert [(pair.first.path, pair.second.path, pair.exact) for pair in (first, second)] == [
        ("train/flower/08.jpg", "test/flower/08 again.jpg", False),
        ("train/temple/12.jpg", "test/temple/12 again.jpg", False),
    ]
    assert 0.98 <= first.likeness < 1


def test_the_same_bytes_are_an_exact_copy_and_a_leak_of_every_evaluation_image(photos: Path) -> None:
    source = photos / "train" / "flower" / "08.jpg"
    for target in ("train/flower/x.jpg", "val/flower/y.jpg", "test/flower/z.jpg"):
        shutil.copy(source, photos / target)
    result = check(photos)
    assert [(len(group.images), group.exact) for group in result.copies] == [(4, True)]
    assert [(pair.second.path, pair.second.subset, pair.likeness) for pair in result.leaks] == [
        ("test/flower/z.jpg", "test", 1.0),
        ("val/flower/y.jpg", "val", 1.0),
    ]


def test_copies_within_train_are_no_leak_and_under_two_labels_a_conflict(photos: Path) -> None:
    copied(photos / "train/flower/08.jpg", photos / "train/temple/08 too.jpg", lambda image: image.resize((80, 80)), 70)
    result = check(photos)
    assert result.leaks == ()
    (pair,) = result.conflicts
    assert {pair.first.path, pair.second.path} == {"train/flower/08.jpg", "train/temple/08 too.jpg"}
    assert {pair.first.label, pair.second.label} == {"flower", "temple"}


def test_tiny_images_are_copies_only_where_they_are_the_same_file(photos: Path) -> None:
    for name in ("val/flower/a.png", "test/flower/b.png"):
        copied(photos / "train/flower/05.jpg", photos / name, lambda image: image.resize((20, 20)), 90)
    copied(photos / "train/flower/05.jpg", photos / "test/flower/c.png", lambda image: image.resize((21, 20)), 90)
    (group,) = check(photos).copies
    assert {place.path for place in group.images} == {"val/flower/a.png", "test/flower/b.png"}


def test_a_file_that_a_split_file_names_in_train_and_test_is_a_leak(crops: Path, tmp_path: Path) -> None:
    paths = [path.relative_to(crops).as_posix() for path in sorted(crops.glob("train/*/*"))]
    rows = [f"{path},{path.split('/')[1]},{'val' if number % 4 == 0 else 'train'}" for number, path in enumerate(paths)]
    rows.append(f"{paths[1]},{paths[1].split('/')[1]},test")
    (tmp_path / "split.csv").write_text("\n".join(["path,class,subset", *rows, ""]))
    (leak,) = check(crops, split_file=tmp_path / "split.csv").leaks
    assert (leak.first.path, leak.second.path, leak.second.subset) == (paths[1], paths[1], "test")


def test_suspicions_come_back_from_json_as_they_were(photos: Path, tmp_path: Path) -> None:
    shutil.copy(photos / "train/flower/08.jpg", photos / "test/temple/ä.jpg")
    cut_off(photos / "val" / "flower" / "02.jpg")
    result = check(photos)
    assert result.leaks and result.conflicts and result.broken
    for mislabelled in (None, (Mislabelled("a.jpg", "flower", "train", "temple", 0.75),)):
        whole = CheckResult(**{**vars(result), "mislabelled": mislabelled})
        write_check(whole, tmp_path / "found.json")
        assert structured(CheckResult, json.loads((tmp_path / "found.json").read_text())) == whole


def test_the_csv_file_has_a_row_for_each_finding(photos: Path, tmp_path: Path) -> None:
    shutil.copy(photos / "train/flower/08.jpg", photos / "test/flower/again.jpg")
    write_check(check(photos), tmp_path / "found.csv")
    assert (tmp_path / "found.csv").read_text().splitlines() == [
        "finding,path,label,subset,why",
        "leak,test/flower/again.jpg,flower,test,test; in train: train/flower/08.jpg",
        "copies,test/flower/again.jpg,flower,test,same bytes: train/flower/08.jpg",
    ]
    with pytest.raises(UsageError, match=r"found.txt: findings are written as .csv or .json"):
        write_check(check(photos), tmp_path / "found.txt")


def test_only_what_is_looked_at_closely_is_compared_but_all_is_decoded(photos: Path) -> None:
    cut_off(photos / "val" / "flower" / "02.jpg")
    paths = ["train/flower/08.jpg", "val/flower/02.jpg", "test/flower/03.jpg"]
    seen = scan_images(photos, paths, closely={"test/flower/03.jpg"})
    assert list(seen.looks) == ["test/flower/03.jpg"]
    assert [image.path for image in seen.bad] == ["val/flower/02.jpg"]


def test_nothing_is_like_nothing() -> None:
    assert group_alike(np.empty((0, 16, 16), np.uint8)) == []
    assert find_copies([], {}).groups == ()
    assert group_alike(np.full((3, 16, 16), 7, np.uint8)) == []


def test_the_search_finds_the_pairs_that_comparing_all_with_all_finds() -> None:
    rng = np.random.default_rng(0)
    hashes = rng.integers(0, 2**64, 300, dtype=np.uint64)
    for number in range(100):
        flips = rng.choice(64, number % 10, replace=False)
        hashes[200 + number] = hashes[number] ^ np.uint64(sum(1 << int(bit) for bit in flips))
    distances = np.bitwise_count(hashes[:, None] ^ hashes)
    expected = {(i, j) for i in range(300) for j in range(i + 1, 300) if distances[i, j] <= MAX_BITS}
    assert len(expected) == 80
    assert {(int(i), int(j)) for pairs in close_pairs(hashes) for i, j in pairs} == expected


def test_many_copies_are_one_group_and_are_not_compared_in_pairs() -> None:
    rng = np.random.default_rng(0)
    thumbs = rng.integers(0, 250, (6000, 16, 16), dtype=np.uint8)
    thumbs[:5000] = thumbs[0]
    thumbs[:5000, 0, 0] += rng.integers(0, 5, 5000, dtype=np.uint8)
    assert [len(group) for group in group_alike(thumbs)] == [5000]


def test_a_hash_does_not_change_with_brightness_and_has_half_of_its_bits_set() -> None:
    thumbs = np.random.default_rng(0).integers(0, 200, (5, 16, 16), dtype=np.uint8)
    hashes = perceptual_hashes(thumbs)
    np.testing.assert_array_equal(np.bitwise_count(hashes), 32)
    assert (np.bitwise_count(hashes ^ perceptual_hashes(thumbs + np.uint8(40))) <= 2).all()


def test_links_join_to_groups() -> None:
    assert join([(5, 9), (1, 2), (9, 7), (4, 4)]) == [[1, 2], [5, 7, 9]]


def blobs(count: int) -> tuple[np.ndarray, list[int]]:
    """Features of three well separated classes."""
    rng = np.random.default_rng(0)
    labels = [number % 3 for number in range(count)]
    return (rng.normal(0, 1, (count, 12)) + 3 * np.eye(3, 12)[labels]).astype(np.float32), labels


def test_flipped_labels_are_found_and_the_true_ones_suggested() -> None:
    features, labels = blobs(300)
    wrong = [*range(0, 300, 20)]
    noisy = [(label + 1) % 3 if number in wrong else label for number, label in enumerate(labels)]
    doubts = find_mislabelled(features, noisy)
    hits = [doubt for doubt in doubts if doubt.index in wrong]
    assert len(hits) >= 13
    assert len(doubts) - len(hits) <= 5
    assert all(doubt.suggested == labels[doubt.index] for doubt in hits)
    assert [doubt.score for doubt in doubts] == sorted((doubt.score for doubt in doubts), reverse=True)


def test_a_wrong_label_is_not_confirmed_by_its_own_copies() -> None:
    features, labels = blobs(300)
    wrong, copies = (labels[0] + 1) % 3, np.zeros(20, np.int64)
    rows = np.concatenate([features, features[copies]])
    noisy = np.array([wrong, *labels[1:], *[wrong] * 20])
    apart = out_of_sample(rows, noisy, np.arange(320), 0)
    together = out_of_sample(rows, noisy, np.array([*range(300), *copies]), 0)
    assert together[0].argmax() == labels[0]
    assert together[0, wrong] < 0.5 * apart[0, wrong]


def test_classes_of_a_few_images_are_not_judged() -> None:
    features, labels = blobs(60)
    assert all(
        doubt.index < 60 for doubt in find_mislabelled(np.concatenate([features, features[:4]]), [*labels, *[3] * 4])
    )
    assert find_mislabelled(features, [0] * 60) == []


@pytest.mark.parametrize("groups", [[0] * 12, [0] * 6 + [1] * 6, [0, 1, 2, 3, 3, 3, 4, 5, 6, 7, 7, 7]])
def test_classes_of_a_few_pictures_and_their_copies_are_not_judged(groups: list[int]) -> None:
    features, _ = blobs(12)
    assert find_mislabelled(features, [0] * 6 + [1] * 6, groups) == []


def test_the_prunings_are_those_of_the_paper() -> None:
    probabilities = np.array([[0.9, 0.1], [0.8, 0.2], [0.2, 0.8], [0.1, 0.9], [0.3, 0.7], [0.95, 0.05]])
    labels = np.array([0, 0, 0, 1, 1, 1])
    # the mean confidence of class 0 is 0.633, of class 1 0.55: the third and the last image exceed the other class's
    assert in_doubt(probabilities, labels).tolist() == [False, False, True, False, False, True]


def test_a_finding_knows_its_place() -> None:
    assert Finding("a.jpg", "flower", "test", "the file is empty").place == ImageRef("a.jpg", "flower", "test")
