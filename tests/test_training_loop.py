"""The loop really learns, schedules by optimiser steps, and continues after a kill as if nothing had happened."""

import multiprocessing
import os
import signal
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from step_gradients import gradients
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from telme.training.config import Schedule
from telme.training.errors import TrainingError
from telme.training.loop import KEPT, STATE, decay_groups, fit, rate_factor


class Blobs:
    """Two clouds of points. `kill_in`: the epoch in whose first batch the process kills itself."""

    def __init__(self, kill_in: int | None = None) -> None:
        torch.manual_seed(0)
        self.model: nn.Module = nn.Sequential(nn.Linear(2, 8), nn.LayerNorm(8), nn.Dropout(0.2), nn.Linear(8, 2))
        self.labels = torch.arange(64) % 2
        self.points = torch.randn(64, 2) + 3.0 * self.labels[:, None]
        self.kill_in = kill_in
        self.epoch = 0

    def train_batches(self, epoch: int) -> list[tuple[Tensor, Tensor]]:
        order = torch.randperm(64, generator=torch.Generator().manual_seed(epoch))
        self.epoch = epoch
        return [(self.points[part], self.labels[part]) for part in order.split(10)]

    def items(self, batch: tuple[Tensor, Tensor]) -> Mapping[str, int]:
        return {"loss": len(batch[1])}

    def losses(self, batch: tuple[Tensor, Tensor]) -> Mapping[str, Tensor]:
        if self.kill_in == self.epoch:
            os.kill(os.getpid(), signal.SIGKILL)
        points, labels = batch
        return {"loss": cross_entropy(self.model(points), labels)}

    def evaluate(self) -> Mapping[str, float]:
        right = self.model(self.points).argmax(1) == self.labels
        return {"score": right.float().mean().item()}


SCHEDULE = Schedule(epochs=4, batch=10, learning_rate=0.02, accumulation=2)


def test_learns_and_leaves_the_best_weights_in_the_model(tmp_path: Path) -> None:
    task = Blobs()
    metrics = fit(task, SCHEDULE, tmp_path, seed=1)
    assert metrics["score"] > 0.9
    assert task.evaluate() == metrics
    assert not task.model.training


@pytest.mark.parametrize(("keep", "score"), [("best", 0.9), ("last", 0.8)])
def test_the_best_epoch_on_dev_is_kept_or_the_last(keep: str, score: float, tmp_path: Path) -> None:
    class Overtrained(Blobs):
        """Best after its second epoch."""

        def evaluate(self) -> Mapping[str, float]:
            self.weights = [parameter.clone() for parameter in self.model.parameters()]
            if self.epoch == 1:
                self.at_best = self.weights
            return {"score": [0.5, 0.9, 0.9, 0.8][self.epoch]}

    task = Overtrained()
    assert fit(task, SCHEDULE.model_copy(update={"keep": keep}), tmp_path, seed=1) == {"score": score}
    for kept, best, last in zip(task.model.parameters(), task.at_best, task.weights, strict=True):
        assert not torch.equal(best, last)
        assert torch.equal(kept, best if keep == "best" else last)


def test_every_epoch_s_metrics_are_logged(tmp_path: Path) -> None:
    fit(Blobs(), SCHEDULE, tmp_path, seed=1)
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert set(events.Tags()["scalars"]) == {"train_loss", "score"}
    assert [event.step for event in events.Scalars("score")] == [1, 2, 3, 4]


def _run_until_killed(folder: Path) -> None:
    fit(Blobs(kill_in=2), SCHEDULE, folder, seed=1)


def test_a_killed_run_ends_in_the_same_weights(tmp_path: Path) -> None:
    fit(Blobs(), SCHEDULE, tmp_path / "whole", seed=1)
    process = multiprocessing.get_context("spawn").Process(target=_run_until_killed, args=(tmp_path / "cut",))
    process.start()
    process.join(120)
    assert process.exitcode == -signal.SIGKILL
    fit(Blobs(), SCHEDULE, tmp_path / "cut", seed=1)
    for name in (KEPT, STATE):
        whole, cut = load_file(tmp_path / "whole" / name), load_file(tmp_path / "cut" / name)
        assert whole.keys() == cut.keys()
        for key in whole:
            assert torch.equal(whole[key], cut[key]), key


def test_a_run_that_stops_early_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    fit(Blobs(), SCHEDULE, tmp_path / "whole", seed=1)
    early = Blobs()
    fit(early, SCHEDULE.model_copy(update={"stop_after": 2}), tmp_path / "parts", seed=1)
    assert early.epoch == 1
    fit(Blobs(), SCHEDULE, tmp_path / "parts", seed=1)
    whole, parts = (load_file(tmp_path / name / STATE) for name in ("whole", "parts"))
    for key in whole:
        assert torch.equal(whole[key], parts[key]), key


def test_a_run_with_its_channels_last_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    class Pictures(Blobs):
        """The points as pictures of three channels."""

        def __init__(self) -> None:
            super().__init__()
            layers = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4, 2))
            self.model = layers.to(memory_format=torch.channels_last)
            self.points = self.points.repeat(1, 14)[:, :27].reshape(64, 3, 3, 3)

    fit(Pictures(), SCHEDULE, tmp_path / "whole", seed=1)
    fit(Pictures(), SCHEDULE.model_copy(update={"stop_after": 2}), tmp_path / "parts", seed=1)
    fit(Pictures(), SCHEDULE, tmp_path / "parts", seed=1)
    whole, parts = (load_file(tmp_path / name / STATE) for name in ("whole", "parts"))
    for key in whole:
        assert torch.equal(whole[key], parts[key]), key


def test_another_run_is_not_continued(tmp_path: Path) -> None:
    fit(Blobs(), SCHEDULE, tmp_path, seed=1)
    with pytest.raises(TrainingError, match="other settings"):
        fit(Blobs(), SCHEDULE, tmp_path, seed=2)


def test_a_run_made_from_something_else_is_not_continued(tmp_path: Path) -> None:
    made_from = {"labels": "joy, anger", "utterances": "1", "text/model.safetensors": "2"}
    metrics = fit(Blobs(), SCHEDULE, tmp_path, seed=1, made_from=made_from)
    written = (tmp_path / STATE).read_bytes()
    assert fit(Blobs(), SCHEDULE, tmp_path, seed=1, made_from=made_from) == metrics
    with pytest.raises(TrainingError, match=r"other text/model.safetensors and other utterances; remove \S+ to train"):
        fit(Blobs(), SCHEDULE, tmp_path, seed=1, made_from={"labels": "joy, anger", "utterances": "3"})
    with pytest.raises(TrainingError, match="a run with unknown backbone; remove"):
        fit(Blobs(), SCHEDULE, tmp_path, seed=1, made_from={**made_from, "backbone": "4"})
    assert (tmp_path / STATE).read_bytes() == written


def test_a_damaged_state_is_named(tmp_path: Path) -> None:
    (tmp_path / STATE).write_bytes(b"no safetensors")
    with pytest.raises(TrainingError, match="not a training state"):
        fit(Blobs(), SCHEDULE, tmp_path, seed=1)


def test_a_loss_that_is_not_finite_ends_the_run_with_a_sentence(tmp_path: Path) -> None:
    task = Blobs()
    task.points[0] = torch.nan
    with pytest.raises(TrainingError, match="learning_rate"):
        fit(task, SCHEDULE, tmp_path, seed=1)


def test_the_rate_rises_over_the_warmup_and_falls_to_zero() -> None:
    rates = [rate_factor(step, steps=10, warmup=4) for step in range(11)]
    assert rates[:5] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert rates[5:] == sorted(rates[5:], reverse=True)
    assert rates[9] > 0.0
    assert rates[10] == 0.0
    assert rate_factor(0, steps=3, warmup=0) == 1.0


def test_the_schedule_counts_optimiser_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """7 batches, 2 per step: 4 steps in each of 4 epochs, and the last rate is one sixteenth's fall from zero."""
    rates: list[float] = []
    real = torch.optim.AdamW.step

    def step(self: torch.optim.AdamW) -> None:
        rates.append(self.param_groups[0]["lr"])
        real(self)

    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    fit(Blobs(), SCHEDULE.model_copy(update={"warmup_ratio": 0.0}), tmp_path, seed=1)
    assert rates == pytest.approx([0.02 * (16 - done) / 16 for done in range(16)])


class Split(Blobs):
    """Batches of these sizes, in double precision; of some points a second head learns as well."""

    def __init__(self, sizes: Sequence[int]) -> None:
        super().__init__()
        self.model = nn.ModuleDict({"first": nn.Linear(2, 2), "second": nn.Linear(2, 2)}).double()
        self.points = self.points.double()
        self.sizes = sizes

    def train_batches(self, epoch: int) -> list[tuple[Tensor, Tensor]]:
        parts = torch.arange(sum(self.sizes)).split(list(self.sizes))
        return [(self.points[part], self.labels[part]) for part in parts]

    def items(self, batch: tuple[Tensor, Tensor]) -> Mapping[str, int]:
        return {"first": len(batch[0]), "second": int(self.known(batch).sum())}

    def losses(self, batch: tuple[Tensor, Tensor]) -> Mapping[str, Tensor]:
        losses = {"first": cross_entropy(self.model["first"](batch[0]), batch[1])}
        if (known := self.known(batch)).any():
            losses["second"] = cross_entropy(self.model["second"](batch[0][known]), batch[1][known])
        return losses

    def known(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        return batch[0][:, 0] > 2

    def evaluate(self) -> Mapping[str, float]:
        return {"score": 0.0}


@settings(max_examples=30, deadline=None)
@given(sizes=st.lists(st.integers(1, 9), min_size=1, max_size=7), data=st.data())
def test_accumulated_batches_count_as_one(sizes: list[int], data: st.DataObject) -> None:
    """However items fall into the batches of a step, its gradient is that of one batch of them all."""
    accumulation = data.draw(st.integers(1, len(sizes)))
    steps = [sum(sizes[start : start + accumulation]) for start in range(0, len(sizes), accumulation)]
    apart, whole = gradients(Split(sizes), accumulation), gradients(Split(steps), 1)
    assert len(apart) == len(whole) == len(steps)
    for one, other in zip(chain.from_iterable(apart), chain.from_iterable(whole), strict=True):
        torch.testing.assert_close(one, other)


def test_vectors_do_not_decay_and_frozen_parameters_stay_out() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2))
    model[2].requires_grad_(False)
    matrices, vectors = decay_groups(model.parameters(), learning_rate=0.1, weight_decay=0.01)
    assert [p.shape for p in matrices["params"]] == [(4, 3)]
    assert matrices["weight_decay"] == 0.01
    assert [p.shape for p in vectors["params"]] == [(4,), (4,), (4,)]
    assert vectors["weight_decay"] == 0.0


def test_a_task_may_bring_its_own_rates(tmp_path: Path) -> None:
    class Own(Blobs):
        def parameter_groups(self, schedule: Schedule) -> list[dict[str, object]]:
            first, *_, last = self.model.children()
            return [
                *decay_groups(first.parameters(), 0.0, 0.0),
                *decay_groups(last.parameters(), schedule.learning_rate, 0.0),
            ]

    task = Own()
    before = [p.clone() for p in task.model.parameters()]
    fit(task, SCHEDULE, tmp_path, seed=1)
    after = list(task.model.parameters())
    assert torch.equal(before[0], after[0])
    assert not torch.equal(before[-2], after[-2])


def test_bf16_learns_too(tmp_path: Path) -> None:
    task = Blobs()
    metrics = fit(task, SCHEDULE.model_copy(update={"bf16": True}), tmp_path, seed=1)
    assert metrics["score"] > 0.9
    assert all(parameter.dtype == torch.float32 for parameter in task.model.parameters())


def test_a_split_that_makes_no_batch_is_one_sentence(tmp_path: Path) -> None:
    class Empty(Blobs):
        def train_batches(self, epoch: int) -> list[tuple[Tensor, Tensor]]:
            return []

    with pytest.raises(TrainingError, match=r"makes no batch of 10; change schedule\.batch"):
        fit(Empty(), SCHEDULE, tmp_path, seed=1)


def test_epochs_of_unequal_length_are_refused(tmp_path: Path) -> None:
    class Uneven(Blobs):
        def train_batches(self, epoch: int) -> list[tuple[Tensor, Tensor]]:
            return super().train_batches(epoch)[: 7 - 3 * epoch]

    with pytest.raises(ValueError, match="another number"):
        fit(Uneven(), SCHEDULE, tmp_path, seed=1)
