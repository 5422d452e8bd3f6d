"""The schema and the recipes: what is accepted, what is refused, and the error messages."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otx.arguments import settings_in
from otx.catalogue import RECIPES, list_models, load_recipe, recipe_names
from otx.cli import parser_of
from otx.errors import RecipeError, UsageError
from otx.recipe import BATCH_SIZE, Recipe, from_dict
from otx.schema import all_settings
from otx.yaml_text import dump_yaml, parse_text


@pytest.mark.parametrize("name", recipe_names())
def test_every_shipped_recipe_loads_and_is_its_own_file_name(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.name == recipe.model.name == name
    assert (RECIPES / f"{name}.yaml").read_text().startswith(f"# otx train --config {name} ")


@pytest.mark.parametrize("name", recipe_names())
def test_a_dumped_recipe_is_read_back_unchanged(name: str, tmp_path: Path) -> None:
    file = tmp_path / "configs.yaml"
    file.write_text(dump_yaml(load_recipe(name)))
    assert load_recipe(file) == load_recipe(name)


@pytest.mark.parametrize(
    ("reference", "name"),
    [
        ("Custom_Image_Classification_MobileNet-V3-large-1x", "mobilenet_v3_large"),
        ("Custom_Image_Classification_EfficinetNet-B0", "efficientnet_b0"),
        ("Custom_Image_Classification_EfficientNet-B0", "efficientnet_b0"),
        ("Custom_Image_Classification_EfficientNet-V2-S", "efficientnet_v2"),
        ("otx_mobilenet_v3_large", "mobilenet_v3_large"),
        ("src/otx/recipe/classification/multi_class_cls/mobilenet_v3_large.yaml", "mobilenet_v3_large"),
        ("src/otx/recipe/classification/multi_class_cls/otx_efficientnet_b0.yaml", "efficientnet_b0"),
    ],
)
def test_a_recipe_is_found_by_its_id_and_by_the_paths_of_otx(reference: str, name: str) -> None:
    assert load_recipe(reference).name == name


def test_the_three_recipes_have_the_values_of_otx() -> None:
    rates = {
        name: load_recipe(name).optimizer.lr for name in ("mobilenet_v3_large", "efficientnet_b0", "efficientnet_v2")
    }
    assert rates == {"mobilenet_v3_large": 0.0058, "efficientnet_b0": 0.0049, "efficientnet_v2": 0.0071}
    recipe = load_recipe("mobilenet_v3_large")
    assert (recipe.max_epochs, recipe.data.input_size, BATCH_SIZE) == (90, (224, 224), 64)
    assert (recipe.scheduler.factor, recipe.scheduler.patience, recipe.scheduler.num_warmup_steps) == (0.5, 1, 10)
    assert (recipe.training.early_stopping.patience, recipe.optimizer.momentum) == (3, 0.9)


def test_all_problems_are_named_at_once() -> None:
    with pytest.raises(RecipeError) as caught:
        from_dict({"max_epoch": 3, "data": {"train_subset": {"batch_size": "x"}}, "optimizer": {"lr": -1}}, "my.yaml")
    text = str(caught.value)
    assert "3 problems in my.yaml" in text
    assert "unknown key 'max_epoch': did you mean 'max_epochs'?" in text
    assert "'data.train_subset.batch_size' must be a whole number or auto, got 'x'" in text
    assert "'optimizer.lr' must be at least 0.0, got -1" in text


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"seed": True}, "'seed' must be a whole number, got True"),
        ({"precision": "b16"}, "must be one of auto, 32, bf16, 16, got 'b16': did you mean 'bf16'?"),
        ({"data": {"input_size": [224]}}, "'data.input_size' must be 2 whole numbers, got [224]"),
        ({"data": 3}, "'data' must hold settings, got 3"),
        ({"optimizer": {"lr": float("nan")}}, "'optimizer.lr' must be at least 0.0, got nan"),
        ({"optimizer": {"lr": float("inf")}}, "'optimizer.lr' must be at least 0.0, got inf"),
        (
            {"model": {"name": "mobilenet_v3_lrge"}},
            "unknown model 'mobilenet_v3_lrge': did you mean 'mobilenet_v3_large'?",
        ),
        ({"data": {"train_subset": {"augmentation": {"scale": [0.9, 0.1]}}}}, "scale' must rise, got [0.9, 0.1]"),
        ({"max_epochs": 3, "training": {"growing_epochs": 3}}, "growing_epochs' must be less than max_epochs (3)"),
        ({"training": {"early_stopping": {"patience": 0}}}, "patience' must be at least 1, got 0"),
    ],
)
def test_a_wrong_value_is_refused_with_what_is_allowed(data: dict[str, object], message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        from_dict(data, "my.yaml")
    assert message in str(caught.value)


def test_one_number_stands_for_height_and_width_and_text_for_numbers() -> None:
    recipe = from_dict({"data": {"input_size": 64}, "optimizer": {"lr": "1e-3"}}, "my.yaml")
    assert recipe.data.input_size == (64, 64)
    assert recipe.optimizer.lr == 0.001


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1", "is not a readable YAML file"),
        ("- 1\n- 2", "must hold settings (`key: value`), got list"),
        ("seed: 1\nseed: 2", "key 'seed' is given twice"),
        ("seed: !!python/object/apply:os.system ['true']", "is not a readable YAML file"),
        ("seed: \x00", "is not a readable YAML file"),
    ],
)
def test_a_bad_yaml_file_is_a_clear_error(text: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text(text)
    with pytest.raises(RecipeError, match="bad.yaml") as caught:
        load_recipe(file)
    assert message in str(caught.value)


def test_an_unknown_recipe_names_the_nearest() -> None:
    with pytest.raises(RecipeError, match="unknown recipe 'mobilenet_v3_larg': did you mean 'mobilenet_v3_large'"):
        load_recipe("mobilenet_v3_larg")
    with pytest.raises(RecipeError, match="no such recipe file: nowhere/my.yaml"):
        load_recipe("nowhere/my.yaml")


def test_override_takes_dotted_keys_and_names_wrong_ones() -> None:
    recipe = Recipe().override({"data.train_subset.batch_size": 4, "max_epochs": 2})
    assert (recipe.data.train_subset.batch_size, recipe.max_epochs) == (4, 2)
    with pytest.raises(
        RecipeError, match="unknown key 'data.train_subset.batchsize'.*did you mean 'data.train_subset.batch_size'"
    ):
        Recipe().override({"data.train_subset.batchsize": 4})
    with pytest.raises(RecipeError, match="'seed.x' is not a setting: 'seed' has no parts"):
        Recipe().override({"seed.x": 4})


def test_every_setting_has_a_line_of_help() -> None:
    settings = list(all_settings(Recipe))
    assert len(settings) > 30
    assert all(info.help and "\n" not in info.help for info in settings)


@given(st.floats(min_value=0, max_value=10), st.integers(1, 10**6), st.booleans())
def test_any_values_survive_yaml(lr: float, epochs: int, flag: bool) -> None:
    import yaml

    recipe = Recipe().override({"optimizer.lr": lr, "max_epochs": epochs, "deterministic": flag})
    assert from_dict(yaml.safe_load(dump_yaml(recipe)), "dump") == recipe


def test_option_text_is_read_as_its_type() -> None:
    assert parse_text("64,32", tuple[int, int]) == [64, 32]
    assert parse_text("[0.1, 1]", tuple[float, float]) == [0.1, 1]
    assert parse_text("null", int | None) is None
    assert parse_text("32", str) == "32"
    assert parse_text("{", int) == "{"
    assert parse_text("null", str | None) is None


@pytest.mark.parametrize("name", ["2024-05-01", "Smith, John", "a #b", "#1", "1.5", "yes", "a: b", "010", "~"])
def test_a_folder_may_have_any_name(name: str) -> None:
    given = parser_of("train").parse([f"--data_root={name}"])
    assert Recipe().override(settings_in(given)).data_root == name


def test_an_option_takes_values_below_zero() -> None:
    given = parser_of("train").parse(["photos", "--data.intensity", "-1000,400"])
    assert settings_in(given) == {"data.intensity": [-1000, 400]}


def test_list_models_filters_by_pattern_and_refuses_other_tasks() -> None:
    assert list_models()[0] == "mobilenet_v3_large"
    assert list_models(pattern="*efficient") == [
        "efficientnet_b0",
        "efficientnet_v2",
        "tv_efficientnet_b3",
        "tv_efficientnet_v2_l",
    ]
    assert list_models(task="MULTI_CLASS_CLS", pattern="EfficinetNet") == ["efficientnet_b0"]
    with pytest.raises(UsageError, match="unknown task 'DETECTION'"):
        list_models(task="DETECTION")


def test_a_model_beside_a_recipe_replaces_the_network_only() -> None:
    from otx.catalogue import choose_recipe

    assert choose_recipe(None, None) == load_recipe("mobilenet_v3_large")
    assert choose_recipe(None, "efficientnet_b0") == load_recipe("efficientnet_b0")
    mine = load_recipe("mobilenet_v3_large").override({"max_epochs": 3})
    assert choose_recipe(mine, "efficientnet_b0").optimizer.lr == 0.0058
    both = [choose_recipe(mine, name) for name in ("efficientnet_b0", "timm/resnet18")]
    assert [(recipe.model.name, recipe.max_epochs) for recipe in both] == [("efficientnet_b0", 3), ("timm/resnet18", 3)]
