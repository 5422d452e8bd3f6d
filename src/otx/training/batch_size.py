"""The largest batch that fits a GPU's memory, and the error when a batch does not fit."""

from __future__ import annotations

import contextlib
import gc
import math
from collections.abc import Callable, Iterator
from typing import TypeVar

import torch

from otx.data.transport import Batch
from otx.errors import TrainingError
from otx.events import Reporter, heartbeat
from otx.memory import is_out_of_memory
from otx.recipe import AUTO, BATCH_SIZE, Recipe
from otx.training.devices import Compute
from otx.training.frozen import freeze_statistics
from otx.training.module import Classifier

MOST = 1024
STEP = 8
SPARE = 0.1
SMALLER = "a smaller --data.input_size, a smaller network, or --engine.device cpu"
Fits = Callable[[int], bool]
Answer = TypeVar("Answer")


def is_measured(device: str) -> bool:
    """Whether `auto` searches for the largest batch. On a CPU larger ones are no faster and would fill the memory."""
    return device == "gpu"


def largest_that_fits(fits: Fits, most: int) -> int:
    """The largest batch from 1 to `most` that fits, or 0. Doubles until one does not fit, then bisects.

    Args:
        fits: whether so many images fit; where some do, fewer do. From 8 images on it is asked for multiples of 8, and
            for `most`.
    """
    sizes = [*(size for size in (1, 2, 4) if size < most), *range(STEP, most, STEP), most]
    last, good, bad = len(sizes) - 1, -1, len(sizes)
    number = min(3, last)
    while bad - good > 1:
        if fits(sizes[number]):
            good = number
        else:
            bad = number
        # from 8 on, the place of twice as many images
        number = min(2 * good - 2, last) if bad > last else (good + bad) // 2
    return sizes[good] if good >= 0 else 0


@contextlib.contextmanager
def trial_steps(module: Classifier, compute: Compute) -> Iterator[Fits]:
    """Whether a batch of this size fits with a tenth to spare. Tries a training step on black images.

    Weights, statistics and random numbers are afterwards what they were.
    """
    place, size = compute.place, module.recipe.data.input_size
    before = {name: value.detach().cpu().clone() for name, value in module.network.state_dict().items()}

    def fits(count: int) -> bool:
        try:
            _step(module, math.ceil(count / (1 - SPARE)), size, compute)
            return True
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
        # after the except block, since the error keeps the step's tensors alive
        free_memory(module)
        return False

    with torch.random.fork_rng([torch.cuda.current_device()] if place == "cuda" else []):
        try:
            module.to(place).network.train()
            module.move_teacher()
            freeze_statistics(module.network, whole=module.is_frozen())
            yield fits
        finally:
            module.network.load_state_dict(before)
            module.network.train()
            free_memory(module)


def _step(module: Classifier, count: int, size: tuple[int, int], compute: Compute) -> None:
    """Fill the memory as a training step does: images, activations, gradients, optimizer state."""
    images = torch.zeros(count, 3, *size, dtype=torch.uint8, device=compute.place)
    batch = Batch(images, torch.zeros(count, dtype=torch.int64, device=compute.place), ())
    kind = torch.float16 if compute.precision == "16" else torch.bfloat16
    with torch.autocast(compute.place, kind, enabled=compute.precision != "32"):
        loss = module.loss_of(batch)
    torch.autograd.backward(loss)
    module.make_optimizer(fused=False).step()


def free_memory(module: Classifier) -> None:
    """Free the gradients and all unused memory of the GPU."""
    module.zero_grad(set_to_none=True)
    gc.collect()
    torch.cuda.empty_cache()


def find_batch_size(module: Classifier, most: int, compute: Compute) -> int:
    """The largest batch that can be trained on, at most `most` and at most 1024.

    Raises:
        TrainingError: not even one image can.
    """
    with trial_steps(module, compute) as fits:
        found = largest_that_fits(fits, min(most, MOST))
    if found == 0:
        raise TrainingError(_too_large(1, module.recipe.data.input_size), fix=SMALLER)
    return found


def fill_memory(module: Classifier, recipe: Recipe, num_images: int, compute: Compute, reporter: Reporter) -> Recipe:
    """The recipe with the largest batch that fits the GPU; reports it."""
    share = max(1, num_images // (recipe.engine.num_devices * recipe.engine.num_nodes))
    with heartbeat(reporter, "looking for the largest batch"):
        found = find_batch_size(module, share, compute)
    filled = with_batch_size(recipe, found)
    reporter.note(
        f"--data.train_subset.batch_size auto: {found} images a step; learning rate {recipe.optimizer.lr:g} -> "
        f"{filled.optimizer.lr:g}, times the root of {found}/{BATCH_SIZE}."
    )
    return filled


def with_batch_size(recipe: Recipe, found: int) -> Recipe:
    """A recipe with batch size `auto`, with the number found. The recipe's learning rate is meant for a batch of 64.

    It changes with the root of the batch size, as OTX's adaptive batch size changes it.
    """
    lr = float(f"{recipe.optimizer.lr * math.sqrt(found / BATCH_SIZE):.4g}")
    return recipe.override({"data.train_subset.batch_size": found, "optimizer.lr": lr})


def as_decided(recipe: Recipe, decided: Recipe) -> Recipe:
    """A recipe, with the batch size and learning rate of another one if its own batch size is `auto`."""
    if recipe.data.train_subset.batch_size != AUTO:
        return recipe
    found = {"data.train_subset.batch_size": decided.data.train_subset.batch_size, "optimizer.lr": decided.optimizer.lr}
    return recipe.override(found)


def in_memory(work: Callable[[], Answer], explain: Callable[[bool], TrainingError]) -> Answer:
    """Do some work; if memory runs out, raise the error from `explain`.

    Args:
        explain: gets whether it was a GPU's memory. What the work had allocated may be freed by then.
    """
    try:
        return work()
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        is_gpu = isinstance(error, torch.OutOfMemoryError) or "CUDA" in str(error) or "CUDNN" in str(error)
    # after the except block, since the error keeps the tensors of all frames alive
    gc.collect()
    raise explain(is_gpu)


def out_of_memory(module: Classifier, compute: Compute, *, is_gpu: bool, after: str) -> TrainingError:
    """The error for a training that ran out of memory: on a GPU it names the largest batch that would have fitted.

    Args:
        after: how to go on with what there is, as the end of a sentence.
    """
    recipe, size = module.recipe, module.recipe.data.input_size
    count = recipe.data.train_subset.batch_size
    assert isinstance(count, int)
    if not is_gpu:
        return TrainingError(
            f"this machine's memory does not suffice to train on {count} images of {size[0]}x{size[1]} at a time",
            fix=f"--data.train_subset.batch_size {max(1, count // 2)}, or a smaller --data.cache_mb; {after}",
        )
    try:
        with trial_steps(module, compute) as fits:
            found = count if fits(count) else largest_that_fits(fits, count - 1)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        found = 0
    if found == 0:
        return TrainingError(_too_large(1, size), fix=SMALLER)
    if found == count:
        return TrainingError(
            f"the GPU's memory does not suffice, though it does for training steps of {count} images of "
            f"{size[0]}x{size[1]}: it was the validation, or another program",
            fix=f"--data.val_subset.batch_size {max(1, recipe.data.val_subset.batch_size // 2)}; {after}",
        )
    return TrainingError(
        f"{_too_large(count, size)}; {found} images would have fitted",
        fix=f"--data.train_subset.batch_size {found}, or auto, which finds that by itself; {after}",
    )


def _too_large(count: int, size: tuple[int, int]) -> str:
    images = "a single image" if count == 1 else f"{count} images"
    return f"the GPU's memory does not suffice for a training step of {images} of {size[0]}x{size[1]}"
