"""Fusion and distillation on paired data: nothing leaks, every arm sees the same, chance stays chance."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from telme.corpora import ravdess
from telme.corpora.mosi import FILE as MOSI
from telme.training.config import Distillation, Schedule
from telme.training.distillation import Answer

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "bench"))

from paired_parts import Part  # noqa: E402
from paired_study import Study  # noqa: E402
from paired_trial import Arm, Data, Fold, Lesson, Outcome, Plan, Recipe, Roles, Trial, rotating  # noqa: E402

INTENSITIES, PRESENCES = "intensities", "presences"


@pytest.fixture(scope="module")
def plan(corpora: Path) -> Plan:
    """Real faces of twelve actors, as two modalities: how strong the action units are, and which are there."""
    seen = {clip: units for clip, units in ravdess.action_units(corpora / "ravdess").items() if int(clip[-2:]) <= 12}
    units = torch.from_numpy(np.stack(list(seen.values())))
    data = Data(
        features={INTENSITIES: units[:, :17], PRESENCES: units[:, 17:]},
        truth=torch.tensor([int(clip[6:8]) - 1 for clip in seen]),
        groups=np.array([clip[-2:] for clip in seen]),
        labels=ravdess.LABELS,
    )
    recipe = Recipe(
        Schedule(epochs=6, batch=64, learning_rate=1e-2),
        part_dropout=dict.fromkeys(data.features, 0.1),
        betas=(0.5,),
        distillations=(Distillation(temperature=2, alpha=0.1),),
        cross_fits=2,
    )
    roles = (Roles(INTENSITIES, audio=PRESENCES, visual=None), Roles(PRESENCES, audio=None, visual=INTENSITIES))
    return Plan(data, roles, (Lesson(INTENSITIES, PRESENCES),), recipe)


@pytest.fixture(scope="module")
def fold(plan: Plan) -> Fold:
    return rotating(plan.data.groups, folds=3, dev=2)[0]


@pytest.fixture(scope="module")
def outcomes(plan: Plan, fold: Fold) -> dict[Arm, Outcome]:
    return Trial(plan, fold, seed=0).run()


def accuracies(plan: Plan, fold: Fold, outcomes: dict[Arm, Outcome]) -> dict[Arm, float]:
    truth = plan.data.truth.numpy()[fold.test]
    return {arm: float((outcome.test == truth).mean()) for arm, outcome in outcomes.items()}


def same(first: dict[Arm, Outcome], second: dict[Arm, Outcome]) -> bool:
    return first.keys() == second.keys() and all(
        first[arm].dev == second[arm].dev and np.array_equal(first[arm].test, second[arm].test) for arm in first
    )


@pytest.mark.parametrize(("groups", "folds", "dev"), [(20, 4, 2), (31, 4, 5), (6, 3, 1)])
def test_no_group_is_in_two_splits_and_each_is_tested_once(groups: int, folds: int, dev: int) -> None:
    names = np.random.default_rng(0).permutation(np.repeat([f"{name:02}" for name in range(groups)], 5))
    rotated = rotating(names, folds, dev)
    for one in rotated:
        splits = [set(names[rows]) for rows in (one.train, one.dev, one.test)]
        assert sum(map(len, splits)) == len(set.union(*splits)) == groups
        assert len(splits[1]) == dev
    assert sorted(np.concatenate([one.test for one in rotated])) == list(range(len(names)))


def test_every_arm_answers_the_same_utterances_better_than_chance(
    plan: Plan, fold: Fold, outcomes: dict[Arm, Outcome]
) -> None:
    assert {arm.family for arm in outcomes} >= {
        INTENSITIES,
        PRESENCES,
        f"{INTENSITIES} leads, cross-fitted answers",
        f"{PRESENCES} leads, own answers",
        f"{PRESENCES} taught by {INTENSITIES}, own answers",
    }
    assert all(outcome.test.shape == fold.test.shape for outcome in outcomes.values())
    assert min(accuracies(plan, fold, outcomes).values()) > 0.27  # the commonest emotions have 2 of 15 each


def test_the_test_labels_change_nothing(plan: Plan, fold: Fold, outcomes: dict[Arm, Outcome]) -> None:
    truth = plan.data.truth.clone()
    truth[fold.test] = 0
    assert same(outcomes, Trial(replace(plan, data=replace(plan.data, truth=truth)), fold, seed=0).run())


def test_shuffled_labels_end_at_chance(plan: Plan, fold: Fold) -> None:
    shuffled = replace(plan, shuffled=True)
    reached = list(accuracies(plan, fold, Trial(shuffled, fold, seed=0).run()).values())
    # 240 utterances, but an actor's takes are alike: as sure as 60 that are not, so chance deviates by 4 points.
    assert np.mean(reached) < 0.2
    assert max(reached) < 0.27


def test_cross_fitted_answers_do_not_know_the_own_group_s_labels(plan: Plan, fold: Fold) -> None:
    actor = plan.data.groups == plan.data.groups[fold.train[0]]
    truth = plan.data.truth.clone()
    truth[actor] = (truth[actor] + 1) % len(plan.data.labels)
    other = replace(plan, data=replace(plan.data, truth=truth))
    first, second = (Trial(each, fold, seed=0) for each in (plan, other))
    own = [trial._part(INTENSITIES, fold.train) for trial in (first, second)]
    crossed = [trial._cross_fitted(INTENSITIES, answer) for trial, answer in zip((first, second), own, strict=True)]
    assert not torch.equal(own[0].logits[actor], own[1].logits[actor])
    assert torch.equal(crossed[0].logits[actor], crossed[1].logits[actor])
    assert not torch.equal(crossed[0].logits[fold.train], crossed[1].logits[fold.train])
    for rows in (fold.dev, fold.test):
        assert torch.equal(crossed[0].vector[rows], own[0].vector[rows])


def test_exchanged_answers_belong_to_other_utterances_with_the_label(plan: Plan, fold: Fold) -> None:
    trial = Trial(plan, fold, seed=0)
    rows = torch.arange(len(plan.data.truth), dtype=torch.float32)[:, None]
    exchanged = trial._exchanged(Answer(rows, rows)).vector[:, 0].long()
    assert torch.equal(plan.data.truth[exchanged], plan.data.truth)
    assert sorted(exchanged[fold.train].tolist()) == fold.train.tolist()
    assert not (exchanged[fold.train] == torch.from_numpy(fold.train)).any()


def test_constant_features_say_nothing() -> None:
    part = Part(torch.tensor([[1.0, 5.0], [3.0, 5.0]]), hidden=4, vector=3, labels=2, dropout=0).eval()
    assert torch.equal(part(torch.tensor([[2.0, 5.0]])), part(torch.tensor([[2.0, 7.0]])))


def test_a_study_chooses_on_dev_and_goes_on_where_it_was(plan: Plan, fold: Fold, tmp_path: Path) -> None:
    wide = replace(plan, roles=plan.roles[:1], lessons=(), recipe=replace(plan.recipe, betas=(0.01, 1.0)))
    study = Study("faces", wide, [fold], [0], plan.data.groups, tmp_path).run()
    family = f"{INTENSITIES} leads, own answers"
    (chosen,) = study.chosen(family)
    assert study.dev(chosen, 0) == max(study.dev(arm, 0) for arm in study.settings(family))
    (kept,) = tmp_path.glob("*.json")
    written = kept.stat().st_mtime_ns
    again = Study("faces", wide, [fold], [0], plan.data.groups, tmp_path).run()
    assert kept.stat().st_mtime_ns == written
    assert same(study.outcomes[0, 0], again.outcomes[0, 0])
    difference = study.difference(INTENSITIES, family)
    assert difference.value == pytest.approx(study.score([chosen]).accuracy - study.score([Arm(INTENSITIES)]).accuracy)


@pytest.mark.slow
@pytest.mark.corpora
def test_the_script_for_ravdess_runs_on_a_few_clips(corpora: Path, tmp_path: Path) -> None:
    folder = tmp_path / "corpora" / "ravdess"
    folder.mkdir(parents=True)
    for actor in range(13, 21):
        for clip in (corpora / "ravdess" / "audio").glob(f"03-01-*-01-01-01-{actor:02}.flac"):
            (folder / clip.name).symlink_to(clip)
    (folder / ravdess.ACTION_UNITS).symlink_to(corpora / "ravdess" / ravdess.ACTION_UNITS)
    output = run("paired_ravdess.py", tmp_path)
    assert "32 test utterances, 1 fold(s), 1 seed(s)" in output
    assert "64 test utterances, 4 fold(s), 1 seed(s)" in output
    assert "| speech leads, cross-fitted answers |" in output


@pytest.mark.slow
@pytest.mark.corpora
def test_the_script_for_mosi_runs_on_a_few_videos(corpora: Path, tmp_path: Path) -> None:
    folder = tmp_path / "corpora" / "mosi"
    folder.mkdir(parents=True)
    with np.load(corpora / "mosi" / MOSI) as arrays:
        some = {}
        for split, videos in (("train", 5), ("test", 24)):
            kept = np.isin(arrays[f"{split}_video_id"], np.unique(arrays[f"{split}_video_id"])[:videos])
            some |= {name: arrays[name][kept] for name in arrays.files if name.startswith(split)}
    np.savez(folder / MOSI, **some)
    output = run("paired_mosi.py", tmp_path)
    assert output.count("## CMU-MOSI") == 4
    assert "| text leads, cross-fitted answers |" in output


def run(script: str, folder: Path) -> str:
    """The tables that a script prints, after one epoch with one seed."""
    options = ("--output", folder / "output", "--seeds", "0", "--epochs", "1")
    process = subprocess.run(
        [sys.executable, ROOT / "bench" / script, folder / "corpora", *options], capture_output=True, text=True
    )
    assert process.returncode == 0, process.stderr
    assert (folder / "output" / "tables.md").read_text() + "\n" == process.stdout
    assert all(study["differences"] for study in json.loads((folder / "output" / "figures.json").read_text()))
    return process.stdout
