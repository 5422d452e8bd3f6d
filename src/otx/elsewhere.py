"""What other tools call the options and settings of otx."""

from __future__ import annotations

from collections.abc import Collection

NAMES = {
    "optimizer.lr": ("lr", "lr0", "learning_rate"),
    "optimizer.name": ("optimizer", "opt"),
    "data.train_subset.batch_size": ("batch_size", "batch", "bs", "b"),
    "max_epochs": ("epochs", "num_epochs", "n_epochs"),
    "data_root": ("data", "dataset", "data_dir", "root", "source"),
    "data.input_size": ("imgsz", "img_size", "image_size", "size", "input_size", "resolution"),
    "data.num_workers": ("workers", "num_workers", "j"),
    "engine.device": ("device", "gpu", "gpus", "accelerator"),
    "engine.num_devices": ("num_devices", "devices"),
    "model": ("arch", "network", "net"),
    "model.weights": ("weights", "initial_checkpoint"),
    "model.pretrained": ("pretrained",),
    "training.early_stopping.patience": ("patience",),
    "work_dir": ("output_dir", "project", "save_dir"),
    "export_format": ("format",),
    "export_precision": ("half", "precision"),
}


def elsewhere(word: str, known: Collection[str]) -> str:
    """The option or setting, of those known, that other tools call `word`; an empty text if there is none.

    Args:
        word: as it was typed: `--batch-size`, or a key of YAML, of which the last part counts.
    """
    name = word.lstrip("-").replace("-", "_").rpartition(".")[2]
    return next((here for here, names in NAMES.items() if name in names and here in known), "")
