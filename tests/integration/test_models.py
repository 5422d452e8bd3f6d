"""The networks: their stored costs, their weights, and a real training of every shipped recipe."""

from __future__ import annotations

import http.server
import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file

from conftest import SMALL, Recorder
from images import write_classes
from otx import Engine
from otx.catalogue import recipe_names
from otx.errors import ModelError
from otx.model.modelfile import read_card
from otx.networks.build import build_network, model_info
from otx.networks.cost import measure_cost
from otx.networks.table import FINGERPRINTS, MODELS
from otx.networks.weights import initial_model
from otx.networks.weights_file import check_weights_fit, fingerprint

NETWORK = "mobilenetv3_small_050"
KNOWN = "mobilenetv3_small_100"
# GFLOPs and millions of parameters of OTX's table
OTX_COSTS = {"mobilenet_v3_large": (0.44, 4.29), "efficientnet_b0": (0.81, 4.09), "efficientnet_v2": (5.76, 20.23)}


@pytest.mark.parametrize("name", sorted(MODELS))
def test_the_stored_cost_is_what_the_network_costs(name: str) -> None:
    gflops, params_m = measure_cost(MODELS[name].network, 10, 224, 224)
    assert MODELS[name].gflops == pytest.approx(gflops, rel=0.01)
    assert MODELS[name].params_m == pytest.approx(params_m, rel=0.01)


@pytest.mark.parametrize("name", sorted(OTX_COSTS))
def test_the_cost_agrees_with_the_table_of_otx(name: str) -> None:
    assert (MODELS[name].gflops, MODELS[name].params_m) == pytest.approx(OTX_COSTS[name], rel=0.06)


@pytest.mark.parametrize("name", sorted(MODELS))
def test_a_record_says_what_timm_says(name: str) -> None:
    ours, timms = MODELS[name], model_info(f"timm/{MODELS[name].network}")
    assert (ours.weights, ours.licence, ours.mean, ours.std) == (timms.weights, timms.licence, timms.mean, timms.std)


@pytest.mark.parametrize("network", sorted(FINGERPRINTS))
def test_a_fingerprint_is_that_of_the_network(network: str) -> None:
    state = timm.create_model(network, num_classes=3).state_dict()
    assert fingerprint({name: list(value.shape) for name, value in state.items()}) == FINGERPRINTS[network]


def test_every_network_of_the_table_has_a_fingerprint() -> None:
    assert {entry.network for entry in MODELS.values()} <= set(FINGERPRINTS)


@pytest.fixture
def steady_statistics(monkeypatch: pytest.MonkeyPatch) -> None:
    """Batch norm that hardly moves: the statistics of two tiny batches make a deep network so ill-conditioned that
    PyTorch in float32 and in float64 differ as much as PyTorch and OpenVINO."""
    from otx.networks import weights

    create = weights.create

    def create_steady(*arguments: Any, **options: Any) -> torch.nn.Module:
        model = create(*arguments, **options)
        for layer in model.modules():
            if isinstance(layer, torch.nn.BatchNorm2d):
                layer.momentum = 0.001
        return model

    monkeypatch.setattr(weights, "create", create_steady)


@pytest.mark.usefixtures("steady_statistics")
@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.slow) if name == "tv_efficientnet_v2_l" else name for name in recipe_names()],
)
def test_every_shipped_recipe_trains_and_exports(name: str, tmp_path: Path) -> None:
    data = write_classes(tmp_path / "data", {"ant": 8, "bee": 8})
    size = 56 if name == "dino_v2" else 32
    changes = {**SMALL, "data.input_size": size, "data.train_subset.batch_size": 6, "max_epochs": 1}
    changes["optimizer.lr"] = 1e-4
    engine = Engine(data, model=name, work_dir=tmp_path / "ws", overrides=changes)
    result = engine.train()
    assert len(result.epochs) == 1
    assert engine.test().num_images == 4
    assert engine.export().path.is_file()


@pytest.mark.parametrize("num_classes", [2, 300])
def test_a_new_head_begins_with_about_equal_classes(num_classes: int) -> None:
    torch.manual_seed(0)
    probabilities = build_network(NETWORK, num_classes, 32, 32).eval()(torch.randn(4, 3, 32, 32)).softmax(1)
    assert probabilities.max() < 2 / num_classes


@pytest.mark.parametrize(
    ("network", "message"),
    [
        ("mobilenetv3_smal_050", "timm has no network 'mobilenetv3_smal_050': did you mean 'mobilenetv3_small_050'"),
        ("mobilenetv3_small_050.nobody", "timm has no weights 'nobody' of mobilenetv3_small_050"),
    ],
)
def test_an_unknown_network_names_the_nearest(network: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        build_network(network, 2, 32, 32)


def _start(weights: Path, network: str = NETWORK) -> Any:
    return initial_model(network, 3, 32, 32, pretrained=True, weights=str(weights))


def _backbone(path: Path, num_classes: int = 5, network: str = NETWORK) -> dict[str, torch.Tensor]:
    torch.manual_seed(3)
    state = dict(build_network(network, num_classes, 32, 32).state_dict())
    save_file(state, path) if path.suffix == ".safetensors" else torch.save({"state_dict": state}, path)
    return state


@pytest.mark.parametrize("name", ["weights.safetensors", "weights.pth"])
def test_weights_of_a_file_are_loaded_and_the_head_may_differ(name: str, tmp_path: Path) -> None:
    state = _backbone(tmp_path / name)
    start = _start(tmp_path / name)
    assert torch.equal(start.network.state_dict()["conv_stem.weight"], state["conv_stem.weight"])
    assert start.origin == f"weights file {name} (242 of 244 tensors, the rest is the new head)"
    assert start.warning == ""


def test_weights_of_another_network_are_counted_and_refused(tmp_path: Path) -> None:
    _backbone(tmp_path / "weights.safetensors")
    with pytest.raises(
        ModelError, match=r"does not fit MobileNetV3: \d+ of 312 tensors fit; \d+ of another shape"
    ) as caught:
        _start(tmp_path / "weights.safetensors", "mobilenetv3_large_100")
    assert "missing in the file" in caught.value.what


@pytest.mark.parametrize("network", ["convnext_atto", "deit_tiny_patch16_224"])
def test_weights_that_timm_cannot_rename_are_counted_and_refused(network: str, tmp_path: Path) -> None:
    """timm's own functions for that fail with a KeyError on the weights of another kind of network."""
    _backbone(tmp_path / "weights.pth", network=KNOWN)
    with pytest.raises(ModelError, match="does not fit .* tensors fit; .* unknown to the network"):
        _start(tmp_path / "weights.pth", network)


def test_weights_may_lack_the_counters_of_batch_norm(tmp_path: Path) -> None:
    state = _backbone(tmp_path / "all.safetensors", network=KNOWN)
    kept = {name: value for name, value in state.items() if not name.endswith("num_batches_tracked")}
    save_file(kept, tmp_path / "weights.safetensors")
    check_weights_fit(tmp_path / "weights.safetensors", KNOWN)
    start = _start(tmp_path / "weights.safetensors", KNOWN)
    assert torch.equal(start.network.state_dict()["conv_stem.weight"], state["conv_stem.weight"])


def test_a_header_tells_weights_of_another_network(tmp_path: Path) -> None:
    state = _backbone(tmp_path / "weights.safetensors", network=KNOWN)
    check_weights_fit(tmp_path / "weights.safetensors", KNOWN)
    check_weights_fit(tmp_path / "weights.safetensors", f"{KNOWN}.lamb_in1k")
    check_weights_fit(tmp_path / "weights.safetensors", "test_resnet")
    with pytest.raises(ModelError, match=f"does not fit resnet18: it holds the weights of {KNOWN}") as caught:
        check_weights_fit(tmp_path / "weights.safetensors", "resnet18")
    assert "--model tv_mobilenet_v3_small" in caught.value.fix
    save_file({f"net.{name}": value for name, value in state.items()}, tmp_path / "renamed.safetensors")
    with pytest.raises(ModelError, match=f"244 tensors, which are not those of {KNOWN}"):
        check_weights_fit(tmp_path / "renamed.safetensors", KNOWN)


def test_a_header_leaves_a_transformer_of_another_input_size_to_timm(tmp_path: Path) -> None:
    network = "deit_tiny_patch16_224"
    save_file(dict(build_network(network, 3, 96, 96).state_dict()), tmp_path / "small.safetensors")
    check_weights_fit(tmp_path / "small.safetensors", network)
    assert _start(tmp_path / "small.safetensors", network).pretrained


def test_weights_that_lack_a_tensor_are_refused(tmp_path: Path) -> None:
    state = _backbone(tmp_path / "all.safetensors")
    del state["conv_stem.weight"]
    save_file(state, tmp_path / "weights.safetensors")
    with pytest.raises(ModelError, match=r"1 missing in the file \(conv_stem.weight\)"):
        _start(tmp_path / "weights.safetensors")


class Bomb:
    """Leaves a mark when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return (os.mkdir, (str(self.mark),))


@pytest.mark.parametrize("kind", ["pickle", "cut", "text", "missing", "header"])
def test_a_file_that_is_no_weights_is_refused_and_runs_nothing(kind: str, tmp_path: Path) -> None:
    path = tmp_path / ("weights.pth" if kind in ("pickle", "text") else "weights.safetensors")
    if kind == "pickle":
        torch.save({"conv_stem.weight": Bomb(tmp_path / "boom")}, path)
    elif kind == "cut":
        _backbone(path)
        path.write_bytes(path.read_bytes()[:1000])
    elif kind == "text":
        path.write_text("hello")
    elif kind == "header":
        path.write_bytes((2**32).to_bytes(8, "little") + b"{}")
    with pytest.raises(ModelError, match=r"weights\.(pth|safetensors)"):
        _start(path)
    assert not (tmp_path / "boom").exists()


def test_without_the_hub_it_is_said_once_and_training_goes_on(tmp_path: Path, recorder: Recorder) -> None:
    data = write_classes(tmp_path / "data", {"ant": 8, "bee": 8})
    changes = {**SMALL, "model.pretrained": True, "max_epochs": 1}
    engine = Engine(data, model="tv_mobilenet_v3_small", work_dir=tmp_path / "ws", overrides=changes, reporter=recorder)
    result = engine.train()
    assert result.origin == read_card(result.model_path).origin == "random weights"
    assert len(recorder.warnings) == 1
    for part in ("timm/mobilenetv3_small_100.lamb_in1k", "Starting from random weights", "--model.weights FILE"):
        assert part in recorder.warnings[0]


class Hub(http.server.BaseHTTPRequestHandler):
    """The part of the Hugging Face hub that the download of one file needs."""

    content = b""

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        found = self.path.endswith("/resolve/main/model.safetensors") or self.path == "/"
        self.send_response(200 if found else 404)
        self.send_header("ETag", '"0123456789abcdef"')
        self.send_header("X-Repo-Commit", "0" * 40)
        self.send_header("Content-Length", str(len(self.content) if found else 0))
        self.end_headers()
        if body and found:
            self.wfile.write(self.content)

    def log_message(self, *_: Any) -> None: ...


def test_pretrained_weights_come_from_the_hub_and_then_from_its_cache(tmp_path: Path) -> None:
    torch.manual_seed(3)
    state = dict(build_network("mobilenetv3_small_100", 1000, 32, 32).state_dict())
    save_file(state, tmp_path / "model.safetensors")
    Hub.content = (tmp_path / "model.safetensors").read_bytes()
    code = (
        "import json, torch; from otx.networks.weights import initial_model; "
        "s = initial_model('mobilenetv3_small_100', 3, 32, 32, pretrained=True, weights=None); "
        "print(json.dumps([s.origin, s.warning, s.network.state_dict()['conv_stem.weight'].sum().item()]))"
    )
    environment = {**os.environ, "HF_HOME": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        environment["HF_ENDPOINT"] = f"http://127.0.0.1:{server.server_port}"
        answers = []
        for _ in range(2):
            done = subprocess.run(
                [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120, check=True
            )
            answers.append(json.loads(done.stdout))
            server.shutdown()
    origin = "pretrained weights timm/mobilenetv3_small_100.lamb_in1k"
    expected = state["conv_stem.weight"].sum().item()
    assert answers == [[origin, "", pytest.approx(expected)]] * 2
