"""Several trainings from the same start, and the mean of their weights: a model soup.

Source: Wortsman et al., Model soups: averaging weights of multiple fine-tuned models improves accuracy without
increasing inference time, ICML 2022, arXiv 2203.05482.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch

from otx.files import write_json
from otx.model.modelfile import load_model
from otx.results import EpochResult
from otx.training.average import Average, Weights
from otx.training.loop import Loop
from otx.training.recorder import LiveLine, score_of
from otx.training.state import Schedule, write_checkpoint

# far apart, so that runs with neighbouring seeds share none
SEED_STEP = 1_000
# roughly the standard deviation, over images, of the difference between the figures of two models
DEVIATION = 0.2


def keep_start(loop: Loop) -> None:
    """Write the weights that the first training begins with, for the later ones."""
    if loop.recipe.training.soup > 1 and loop.fabric.is_global_zero:
        write_checkpoint(loop.run.start, {"weights": _copied(loop.module.network.state_dict())})


@dataclass
class Soup:
    """The trainings after the first one, and the mean of the weights that all of them have kept.

    Each begins with the weights of the first, has as many epochs as that had until its best one, with the same learning
    rates, and draws other crops in another order. After a signal the model is that of the first training, and a resumed
    run goes on with the trainings that were whole.

    Args:
        loop: the first training, which is over.
    """

    loop: Loop

    def train(self) -> None:
        """Train, and keep the mean unless its figure shows that it is worse; the recorder gets its figures."""
        best = self.loop.recorder.best
        # rank 0 writes the files that all of them read
        self.loop.fabric.barrier()
        if best is None or self._is_whole(best) or not self._can_train(best):
            return
        count, mean = self._first(best)
        seed, recipe = self.loop.module.recipe.seed, self.loop.module.recipe
        try:
            while count < recipe.training.soup and self._is_time(best):
                self.loop.module.recipe = replace(recipe, seed=seed + SEED_STEP * count)
                if not self._train_again(best, count + 1):
                    break
                count += 1
                _fold(mean, self.loop.state.average.weights(), 1 / count)
                self._save(count, mean, best)
        finally:
            self.loop.module.recipe = recipe
        if count > 1:
            self._keep(count, mean, best)

    def _is_whole(self, best: EpochResult) -> bool:
        """Whether a resumed run has all trainings already; the recorder gets the figures of those that it has."""
        path, recorder = self.loop.run.soup_result, self.loop.recorder
        if not path.is_file():
            return False
        known = json.loads(path.read_text(encoding="utf-8"))
        if known["epoch"] != best.epoch:
            return False
        if known["result"] is not None:
            recorder.soup, recorder.trainings = EpochResult(**known["result"]), known["trainings"]
        return bool(known["trainings"] >= self.loop.recipe.training.soup)

    def _is_time(self, best: EpochResult) -> bool:
        """Whether one more training fits into a limited time, as is told; only a whole one counts."""
        loop, budget = self.loop, self.loop.job.budget
        # after a resume without a further epoch, the speed is that of before
        slowest = max(epoch.seconds for epoch in loop.recorder.epochs if epoch.is_trained)
        seconds = (best.epoch + 1) * (budget.epoch_seconds or slowest)
        fits: bool = loop.fabric.broadcast(budget.affords(seconds, 1.0))
        if not fits:
            loop.reporter.note(f"--max_time: no time is left for another training of about {seconds:.0f} s.")
        return fits

    def _can_train(self, best: EpochResult) -> bool:
        loop, count = self.loop, self.loop.recipe.training.soup
        if count == 1 or loop.recipe.max_epochs == 0:
            return False
        why = ""
        if not loop.module.is_fitted or not loop.module.is_frozen():
            why = "it takes a fitted classifier, and statistics of batch norm that are kept"
        elif not best.is_trained:
            why = "the fitted classifier was better than each epoch"
        elif not (loop.run.start.is_file() and loop.run.epoch_checkpoint(best.epoch).is_file()):
            why = "the run began without it, and its first weights were not kept"
        if why:
            loop.reporter.note(f"--training.soup {count}: trained once, since {why}.")
        return not why

    def _first(self, best: EpochResult) -> tuple[int, Weights]:
        """How many trainings are in the mean so far, and the mean: of a run that was stopped, those it had."""
        if self.loop.run.soup.is_file():
            known = torch.load(self.loop.run.soup, map_location="cpu", weights_only=True)
            if known["epoch"] == best.epoch:
                return int(known["count"]), known["weights"]
        mean = load_model(self.loop.run.epoch_checkpoint(best.epoch))[0].state_dict()
        self._save(1, mean, best)
        return 1, mean

    def _save(self, count: int, mean: Weights, best: EpochResult) -> None:
        if self.loop.fabric.is_global_zero:
            write_checkpoint(self.loop.run.soup, {"count": count, "weights": mean, "epoch": best.epoch})

    def _train_again(self, best: EpochResult, number: int) -> bool:
        """Train from the first weights; return whether there was time for the whole of it."""
        loop, state, budget = self.loop, self.loop.state, self.loop.job.budget
        recipe, epochs = loop.module.recipe, best.epoch + 1
        start = torch.load(loop.run.start, map_location="cpu", weights_only=True)["weights"]
        loop.module.network.load_state_dict(start)
        loop.module.network.train()
        state.optimizer.state.clear()
        for group, rate in zip(state.optimizer.param_groups, state.rates, strict=True):
            group["lr"] = rate
        state.schedule = Schedule(state.optimizer, recipe.scheduler, loop.job.inputs.epochs_per_pass(recipe))
        state.average = Average(loop.module.network, recipe.training.average_epochs or 0.0)
        loop.batches = loop.job.inputs.train_batches(recipe, loop.job.compute)
        state.average.begin(len(loop.batches))
        loop.reporter.note(f"Training {number} of {recipe.training.soup} from the same start, {epochs} epochs.")
        scores = [loop.recorder.score(epoch) for epoch in loop.recorder.epochs if epoch.is_trained]
        for epoch in range(epochs):
            if not loop.fabric.broadcast(budget.allows_epoch()):
                return False
            line = LiveLine(loop.reporter, f"training {number}/{recipe.training.soup}, epoch {epoch + 1}/{epochs}")
            loop.train_epoch(epoch, line)
            if loop.fabric.broadcast(budget.is_used_up):
                return False
            state.schedule.update(scores[epoch])
        return True

    def _keep(self, count: int, mean: Weights, best: EpochResult) -> None:
        """Measure the mean, and keep it unless its figure is clearly worse than that of the best epoch."""
        loop = self.loop
        loop.module.network.load_state_dict(mean)
        loop.state.average = Average(loop.module.network, 0.0)
        measured = loop.validate(LiveLine(loop.reporter, f"mean of {count} trainings"))
        result = replace(
            best, val_loss=measured.loss, val_accuracy=measured.accuracy, val_probability=measured.probability
        )
        figure = loop.recorder.best_by
        is_worse = score_of(best, figure) - score_of(result, figure) > 2 * DEVIATION / len(loop.job.inputs.val) ** 0.5
        ours, theirs = (getattr(each, f"val_{figure}") for each in (result, best))
        loop.reporter.note(
            f"The mean of {count} trainings: val/accuracy {result.val_accuracy:.4f}, val/{figure} {ours:.4f}; epoch "
            f"{best.epoch + 1} of the first alone: {best.val_accuracy:.4f}, {theirs:.4f}. "
            + ("The first is kept." if is_worse else "The mean is kept.")
        )
        if not is_worse:
            loop.recorder.soup, loop.recorder.trainings = result, count
        if loop.fabric.is_global_zero:
            if not is_worse:
                loop.job.keep(result, mean)
            kept = None if is_worse else result.to_dict()
            write_json(loop.run.soup_result, {"epoch": best.epoch, "trainings": count, "result": kept})
            if count >= loop.recipe.training.soup:
                loop.run.soup.unlink(missing_ok=True)


def _copied(weights: Mapping[str, torch.Tensor]) -> Weights:
    return {name: value.detach().cpu().clone() for name, value in weights.items()}


def _fold(mean: Weights, weights: Weights, share: float) -> None:
    """Move the mean towards other weights, in place."""
    for name, value in mean.items():
        if value.is_floating_point():
            value.lerp_(weights[name].detach().cpu().to(value.dtype), share)
