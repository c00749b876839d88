"""The visual student on clips of conversations, taught by the teacher."""

import multiprocessing
import os
import signal
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import small_run
import torch
from safetensors.numpy import save_file
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.functional import cross_entropy

from telme.bundle import VisualSpec
from telme.corpora.footage import Footage
from telme.corpora.records import Corpus, Utterance
from telme.features.text import Turn
from telme.labels import MELD
from telme.losses import feature_loss, response_loss
from telme.models.visual import VisualDimensions, VisualStudent
from telme.training.config import Distillation, Schedule, VisualSettings
from telme.training.distillation import Answer, ask_teacher
from telme.training.errors import TrainingError
from telme.training.loop import KEPT, STATE, fit
from telme.training.visual_footage import Batch, FootageTask, ShuffledFootage

TIMESFORMER = {
    "model_type": "timesformer",
    "image_size": 16,
    "patch_size": 8,
    "num_frames": 3,
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "hidden_dropout_prob": 0.0,
}
SPEC = VisualSpec(kind="frames", size_px=16, channels=3, frames=3, mean=(0.5,) * 3, std=(0.25,) * 3)
SETTINGS = VisualSettings(
    backbone=TIMESFORMER,
    vector=6,
    input=SPEC,
    corpus="meld",
    select_by="weighted_f1",
    distillation=Distillation(temperature=2.0, alpha=0.5),
    schedule=Schedule(epochs=1, batch=4, learning_rate=1e-3),
)


def task_in(folder: Path, settings: VisualSettings = SETTINGS, kind: type[FootageTask] = FootageTask) -> FootageTask:
    """Ten clips of one to three pictures in train, and seven in dev and test."""
    torch.manual_seed(0)
    random = np.random.default_rng(0)
    seen = []
    for split, count in (("train", 10), ("dev", 7), ("test", 7)):
        for place in range(count):
            label, name = MELD[place % 7], f"{split}-{place}"
            pictures = random.integers(0, 256, (1 + place % 3, 16, 16, 3), np.uint8)
            save_file({"array": pictures}, folder / name)
            seen.append(Footage(Utterance(name, split, label, label, "s"), folder / name))
    answers = {f"train-{place}": Answer(torch.randn(6), torch.randn(7)) for place in range(10)}
    corpus = Corpus("MELD", "none", [clip.utterance for clip in seen])
    student = VisualStudent(VisualDimensions(TIMESFORMER, 6, len(MELD)))
    return kind(student, corpus, seen, settings, 1, answers, MELD)


def test_every_clip_comes_once_an_epoch_in_an_order_that_can_be_repeated(tmp_path: Path) -> None:
    task = task_in(tmp_path)
    first, again, second = (list(task.train_batches(epoch)) for epoch in (0, 0, 1))
    assert [len(batch.truth) for batch in first] == [4, 4, 2]
    assert len(task.train_batches(0)) == 3
    assert all(torch.equal(a.frames, b.frames) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0].teacher_vectors, second[0].teacher_vectors)
    assert sorted(torch.cat([batch.truth for batch in first]).tolist()) == sorted(place % 7 for place in range(10))
    assert first[0].frames.shape[2:] == (3, 16, 16)
    assert first[0].mask.shape == first[0].frames.shape[:2]


def test_processes_share_an_epoch_s_clips(tmp_path: Path) -> None:
    task = task_in(tmp_path)
    whole = list(task.train_batches(0))
    shares = [list(task.train_batches(0).share(number, 2)) for number in range(2)]
    assert [len(share) for share in shares] == [2, 1]
    for place, batch in enumerate(whole):
        assert torch.equal(shares[place % 2][place // 2].frames, batch.frames)


def test_the_loss_is_the_paper_s(tmp_path: Path) -> None:
    task = task_in(tmp_path)
    task.model.eval()
    batch = next(iter(task.train_batches(0)))
    vector, logits = task.student(batch.frames, batch.mask)
    expected = cross_entropy(logits, batch.truth) + 0.5 * response_loss(logits, batch.teacher_logits, 2.0)
    torch.testing.assert_close(task.losses(batch)["loss"], expected + feature_loss(vector, batch.teacher_vectors))


QUEUED = SETTINGS.model_copy(
    update={
        "distillation": Distillation(queue=7),
        "schedule": Schedule(epochs=3, batch=4, learning_rate=1e-3),
    }
)


class Killed(FootageTask):
    """Ends its process in the middle of the second epoch."""

    def train_batches(self, epoch: int) -> ShuffledFootage:
        self.left = 4 if epoch == 0 else 2
        return super().train_batches(epoch)

    def losses(self, batch: Batch) -> Mapping[str, Tensor]:
        self.left -= 1
        if not self.left:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().losses(batch)


def _run_until_killed(clips: Path, folder: Path) -> None:
    fit(task_in(clips, QUEUED, Killed), QUEUED.schedule, folder, seed=1)


def test_a_killed_run_with_a_queue_ends_in_the_same_weights(tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    fit(task_in(tmp_path, QUEUED), QUEUED.schedule, whole, seed=1)
    process = multiprocessing.get_context("spawn").Process(target=_run_until_killed, args=(tmp_path, cut))
    process.start()
    process.join(120)
    assert process.exitcode == -signal.SIGKILL
    fit(task_in(tmp_path, QUEUED), QUEUED.schedule, cut, seed=1)
    for name in (KEPT, STATE):
        one, other = load_file(whole / name), load_file(cut / name)
        assert all(torch.equal(one[key], other[key]) for key in one.keys() | other.keys())


def test_dev_selects_by_what_the_settings_say(tmp_path: Path) -> None:
    task = task_in(tmp_path)
    task.model.eval()
    metrics = task.evaluate()
    assert metrics["score"] == metrics["weighted_f1"]
    held_out = task.held_out()
    assert len(held_out["dev"].truth) == len(held_out["test"].truth) == 7


def test_the_teacher_says_the_same_in_company_as_alone(tmp_path: Path) -> None:
    folder = small_run.write(tmp_path) / "text"
    said = ["no", "what is it", "oh you", "that is the i", "a"] * 4
    turns = [tuple(Turn("ab"[i % 2], text) for i, text in enumerate(said[: n + 1])) for n in range(len(said))]
    everyone = [Utterance(str(n), "train", "joy", "joy", "s", turns=heard) for n, heard in enumerate(turns)]
    together = ask_teacher(folder, everyone, small_run.VECTOR["text"], labels=MELD)
    assert len(together) == len(everyone)
    for utterance in everyone[::6]:
        (alone,) = ask_teacher(folder, [utterance], small_run.VECTOR["text"], labels=MELD).values()
        torch.testing.assert_close(together[utterance.id].vector, alone.vector)
        torch.testing.assert_close(together[utterance.id].logits, alone.logits)


def test_a_hurried_teacher_says_nearly_the_same(tmp_path: Path) -> None:
    folder = small_run.write(tmp_path) / "text"
    asked = [Utterance(str(n), "train", "joy", "joy", "s", turns=(Turn("a", "what " * n),)) for n in range(1, 5)]
    exact, hurried = (ask_teacher(folder, asked, bf16=bf16, labels=MELD) for bf16 in (False, True))
    for name, answer in hurried.items():
        assert answer.logits.dtype == torch.float32
        torch.testing.assert_close(answer.logits, exact[name].logits, rtol=0.02, atol=0.02)
    assert any(not torch.equal(hurried[name].logits, exact[name].logits) for name in exact)


def test_vectors_of_different_lengths_cannot_be_compared(tmp_path: Path) -> None:
    folder = small_run.write(tmp_path) / "text"
    asked = [Utterance("1", "train", "joy", "joy", "s", turns=(Turn("a", "oh"),))]
    with pytest.raises(TrainingError, match="have 24 values and the student's 7; set `vector` alike"):
        ask_teacher(folder, asked, 7, labels=MELD)


def test_without_text_no_teacher_is_needed(tmp_path: Path) -> None:
    assert ask_teacher(tmp_path, [Utterance("1", "train", "joy", "joy", "s")], 7, labels=MELD) == {}
