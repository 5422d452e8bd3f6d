"""The lever `try.refit`: after a training, train again on training and validation images together.

The second training begins with the same weights (the fitted classifier, which is fitted to all images here), has as
many steps as the first one had until its best epoch, with the same learning rates, and keeps the averaged weights of
its last step. No image is left that could choose or measure it but those of the test.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from otx.data.dataset import ImageSet, Split, Subset
from otx.data.loader import ImageSubset
from otx.model.regression import fit_regression
from otx.training.average import Average
from otx.training.budget import Budget
from otx.training.inputs import plain_batches, to_network_input
from otx.training.linear_probe import PENALTIES, compute_features
from otx.training.loop import Loop
from otx.training.recorder import LiveLine
from otx.training.state import Schedule

Weights = dict[str, torch.Tensor]


@dataclass
class Steps(Budget):
    """Ends every epoch after so many steps."""

    count: int = 0
    done: int = 0

    def ends_epoch(self) -> bool:
        self.done += 1
        return self.done % self.count == 0


def refitted(loop: Any) -> Weights:
    """The weights of a training like that of `loop` (`levers.Watched`) on its training and validation images."""
    inputs, recorder, module = loop.job.inputs, loop.recorder, loop.module
    module.network.load_state_dict(loop.start)
    union = joined(inputs.train, inputs.val, loop.recipe.data.max_image_pixels)
    fit_classifier(loop, union)
    per_epoch, best = len(loop.batches), recorder.best.epoch
    if best < 0:
        return dict(module.network.state_dict())
    fabric, state = loop.fabric, loop.state
    state.optimizer = module.make_optimizer(fused=loop.job.compute.precision != "16")
    state.schedule = Schedule(state.optimizer, loop.recipe.scheduler)
    state.average = Average(module.network, module.recipe.training.average_epochs or 0.0)
    state.average.begin(per_epoch)
    job = replace(loop.job, inputs=replace(inputs, train=union), budget=Steps(count=per_epoch))
    again = Loop(job, fabric, state, loop.stop)
    scores = {epoch.epoch: recorder.score(epoch) for epoch in recorder.epochs}
    module.train()
    for epoch in range(best + 1):
        again.train_epoch(epoch, LiveLine(loop.reporter, f"epoch {epoch + 1} again"))
        state.schedule.update(scores[epoch])
    return dict(state.average.weights())


def joined(train: ImageSubset, val: ImageSubset, max_pixels: int) -> ImageSubset:
    """The images of both, with the augmentation of the first."""
    both = Subset.of(
        [each for part in (train, val) for each in zip(part.subset.paths, part.subset.labels, strict=True)]
    )
    images = ImageSet(train.root, both, Split.TRAIN, max_pixels)
    return ImageSubset(images, train.preprocessing, augmentation=train.augmentation, reduces=True, cache=2**28)


def fit_classifier(loop: Any, images: ImageSubset) -> None:
    """Fit the classifier to all images, with the penalty whose classifier is most like that of the start."""
    network = loop.module.network
    place = str(loop.fabric.device)
    head = network.get_classifier()
    rows, labels = compute_features(
        network,
        plain_batches(images, range(len(images)), loop.recipe),
        to_network_input(images.preprocessing, place),
        device=place,
        half=loop.job.compute.is_half,
        on_progress=lambda _: None,
    )
    width, before = rows.shape[1], float(head.weight.norm())
    count = head.out_features
    fits = [fit_regression(rows, labels, count, penalty=penalty / width, balanced=True) for penalty in PENALTIES]
    best = min(fits, key=lambda fit: abs(float(np.linalg.norm(fit.weight)) - before))
    with torch.no_grad():
        head.weight.copy_(torch.from_numpy(best.weight))
        head.bias.copy_(torch.from_numpy(best.bias))
