"""Fusion and distillation against their alternatives, on utterances that were really recorded together.

Every arm of a study sees the same utterances, the same splits and the same seeds. What a family of arms leaves open,
such as beta, is chosen on dev. Accuracy is the mean over seeds; its interval resamples whole groups (actors, videos),
as does the interval of a difference, with the same groups for both sides.
"""

import argparse
import json
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import product
from pathlib import Path

import numpy as np
import numpy.typing as npt
import rich
from paired_trial import CROSS_FITTED, EXCHANGED, OWN, Arm, Fold, Outcome, Plan, Trial, smoothed

from telme.evaluation import Counts, Difference, accuracy, bootstrap_interval, grouped_confusion, paired_bootstrap

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Score:
    """accuracy: mean over seeds. deviation: between seeds. interval: 95 %, over groups."""

    accuracy: float
    deviation: float
    interval: tuple[float, float]


@dataclass
class Study:
    """A plan, carried out.

    groups: (n,), what the intervals resample. folder: keeps each fold's and seed's outcomes, so that a study that was
        stopped goes on where it was.
    outcomes: by fold and seed.
    """

    name: str
    plan: Plan
    folds: Sequence[Fold]
    seeds: Sequence[int]
    groups: npt.NDArray[np.str_]
    folder: Path
    outcomes: dict[tuple[int, int], Mapping[Arm, Outcome]] = field(default_factory=dict)

    def run(self) -> "Study":
        for seed, place in product(self.seeds, range(len(self.folds))):
            started = time.perf_counter()
            self.outcomes[place, seed] = self._trial(place, seed)
            log.info(
                "%s, seed %d, fold %d of %d: %d arms in %.0f s",
                *(self.name, seed, place + 1, len(self.folds)),
                *(len(self.outcomes[place, seed]), time.perf_counter() - started),
            )
        return self

    def _trial(self, place: int, seed: int) -> dict[Arm, Outcome]:
        fold = self.folds[place]
        path = self.folder / f"{self.plan.fingerprint(fold)}-{seed}.json"
        if path.exists():
            kept = json.loads(path.read_text(encoding="utf-8"))
            return {Arm(*arm.split("; ")): Outcome(dev, np.array(test, np.int64)) for arm, (dev, test) in kept.items()}
        outcomes = Trial(self.plan, fold, seed).run()
        made = {"; ".join(arm): (outcome.dev, outcome.test.tolist()) for arm, outcome in outcomes.items()}
        self.folder.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(made), encoding="utf-8")
        return outcomes

    @property
    def families(self) -> list[str]:
        return list(dict.fromkeys(arm.family for arm in self.outcomes[0, self.seeds[0]]))

    def settings(self, family: str) -> list[Arm]:
        return [arm for arm in self.outcomes[0, self.seeds[0]] if arm.family == family]

    def dev(self, arm: Arm, place: int) -> float:
        return float(np.mean([self.outcomes[place, seed][arm].dev for seed in self.seeds]))

    def chosen(self, family: str) -> list[Arm]:
        """Per fold the arm of a family with the highest likelihood of dev's labels, over all seeds."""
        return [max(self.settings(family), key=lambda arm: self.dev(arm, place)) for place in range(len(self.folds))]

    def best_alone(self) -> str:
        """The family of one modality that has the highest likelihood of dev's labels, over all folds and seeds."""
        alone = [family for modality in self.plan.data.features for family in (modality, smoothed(modality))]
        return max(alone, key=lambda family: sum(self.dev(arm, place) for place, arm in enumerate(self.chosen(family))))

    def counts(self, arms: Sequence[Arm], seeds: Sequence[int]) -> Counts:
        """Confusion matrices by group (G, C, C), summed over seeds, of one arm per fold."""
        data = self.plan.data
        return np.concatenate(
            [
                sum(
                    grouped_confusion(
                        data.truth.numpy()[fold.test],
                        self.outcomes[place, seed][arms[place]].test,
                        self.groups[fold.test].tolist(),
                        len(data.labels),
                    )
                    for seed in seeds
                )
                for place, fold in enumerate(self.folds)
            ]
        )

    def score(self, arms: Sequence[Arm]) -> Score:
        by_seed = [accuracy(self.counts(arms, [seed]).sum(0)) for seed in self.seeds]
        everything = self.counts(arms, self.seeds)
        deviation = float(np.std(by_seed, ddof=1)) if len(by_seed) > 1 else 0.0
        return Score(accuracy(everything.sum(0)), deviation, bootstrap_interval(everything, accuracy))

    def difference(self, first: str, second: str) -> Difference:
        """How much more accurate the second family is than the first."""
        counts = (self.counts(self.chosen(family), self.seeds) for family in (first, second))
        return paired_bootstrap(*counts, accuracy)

    def comparisons(self) -> Iterator[tuple[str, str]]:
        """Pairs of families that the paper's claims are about: what it does without, and with it."""
        best = self.best_alone()
        for kind in (OWN, CROSS_FITTED):
            joined = f"vectors joined, {kind}"
            yield best, joined
            for roles in self.plan.roles:
                fused = f"{roles.leader} leads, {kind}"
                yield best, fused
                yield f"{roles.leader} leads nobody, {kind}", fused
                yield joined, fused
        for lesson in self.plan.lessons:
            for kind, untaught in product((OWN, CROSS_FITTED), (lesson.student, smoothed(lesson.student))):
                yield untaught, f"{lesson.family}, {kind}"
            yield f"{lesson.family}, {EXCHANGED}", f"{lesson.family}, {CROSS_FITTED}"


def report(study: Study) -> Iterator[str]:
    """Markdown: every family's accuracy, the differences that matter, and what dev chose from."""
    tested = sum(len(fold.test) for fold in study.folds)
    yield f"## {study.name}\n"
    yield f"{tested} test utterances, {len(study.folds)} fold(s), {len(study.seeds)} seed(s).\n"
    yield "| | accuracy % | between seeds ± | 95 % interval | chosen on dev |"
    yield "|---|---|---|---|---|"
    for family in study.families:
        arms = study.chosen(family)
        score = study.score(arms)
        settings = ", ".join(dict.fromkeys(arm.setting for arm in arms))
        cells = (family, _percent(score.accuracy), _percent(score.deviation), _range(score.interval), settings)
        yield f"| {' | '.join(cells)} |"
    yield "\n| from | to | points | 95 % interval | p |\n|---|---|---|---|---|"
    for first, second in study.comparisons():
        difference = study.difference(first, second)
        interval = _range(difference.interval, "+")
        yield f"| {first} | {second} | {100 * difference.value:+.1f} | {interval} | {difference.p_value:.3f} |"
    yield "\n| what dev chose from | setting | dev log-likelihood | test accuracy % |\n|---|---|---|---|"
    for family in study.families:
        for arm in study.settings(family):
            if arm.setting:
                dev = np.mean([study.dev(arm, place) for place in range(len(study.folds))])
                tested_at = study.score([arm] * len(study.folds)).accuracy
                yield f"| {family} | {arm.setting} | {dev:.3f} | {_percent(tested_at)} |"
    yield ""


def figures(study: Study) -> dict[str, object]:
    """What `report` shows, for programs."""
    return {
        "name": study.name,
        "seeds": list(study.seeds),
        "best_alone": study.best_alone(),
        "families": {
            family: {
                **asdict(study.score(study.chosen(family))),
                "chosen": [arm.setting for arm in study.chosen(family)],
                "settings": {
                    arm.setting: {
                        "dev": [study.dev(arm, place) for place in range(len(study.folds))],
                        "accuracy": study.score([arm] * len(study.folds)).accuracy,
                    }
                    for arm in study.settings(family)
                },
            }
            for family in study.families
        },
        "differences": [
            {"from": first, "to": second, **asdict(study.difference(first, second))}
            for first, second in study.comparisons()
        ],
    }


def parser(description: str) -> argparse.ArgumentParser:
    """The options that both corpora's scripts have."""
    options = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("corpora", type=Path, help="folder that holds the corpus's folder")
    options.add_argument("--output", type=Path, required=True, help="folder for what was encoded, outcomes and tables")
    options.add_argument("--seeds", type=int, nargs="+", default=list(range(5)))
    options.add_argument("--epochs", type=int, default=12, help="of every part and every fusion")
    options.add_argument("--shuffled-labels", action="store_true", help="a control: must end at chance")
    return options


def start_logging() -> None:
    """What a study does, on standard error; no bars, and not the epochs of the hundreds of parts that it trains."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    rich.reconfigure(quiet=True)
    for name in ("telme.training.loop", "telme.progress"):
        logging.getLogger(name).setLevel(logging.WARNING)


def carry_out(studies: Sequence[Study], output: Path) -> None:
    """Run all studies and print their tables; also written to `output` as `tables.md` and `figures.json`."""
    output.mkdir(parents=True, exist_ok=True)
    text = "\n".join(line for study in studies for line in report(study.run()))
    (output / "tables.md").write_text(text, encoding="utf-8")
    (output / "figures.json").write_text(json.dumps([figures(study) for study in studies], indent=1), encoding="utf-8")
    print(text)


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


def _range(interval: tuple[float, float], sign: str = "") -> str:
    low, high = (f"{100 * end:{sign}.1f}" for end in interval)
    return f"{low} to {high}"
