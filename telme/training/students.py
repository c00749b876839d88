"""What the students answer together where there is no text, and how sure they may be of it."""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from telme.bundle import Modality, Score
from telme.evaluation import Evaluation, bootstrap_interval, fit_temperature, softmax, weighted_f1
from telme.training.company import Batch, Company, Pairing
from telme.training.encodings import Part

Students = Mapping[Modality, Part]
STUDENTS: Sequence[Modality] = ("audio", "visual")


def without_text(students: Students, batch: Batch, together: float = 1.0) -> npt.NDArray[np.float32]:
    """The mean of the present students' calibrated log-probabilities (n, C), as the live recogniser answers.

    together: temperature by which it is divided where both are present. Where both are missing, every emotion is as
    likely as the others.
    """
    total = np.zeros((len(batch.truth), len(students["audio"].about.labels)))
    for modality in STUDENTS:
        part = students[modality]
        logits = part.logits(getattr(batch, modality)).numpy()
        present = getattr(batch, f"{modality}_present").numpy()[:, None]
        total += present * np.log(np.maximum(softmax(logits, part.about.temperature), np.finfo(np.float64).tiny))
    number = (batch.audio_present + batch.visual_present).numpy()[:, None]
    return np.asarray(total / np.maximum(number, 1) / np.where(number > 1, together, 1.0), np.float32)


def judge_students(
    students: Students, material: Mapping[str, Company], labels: Sequence[str], corpus: str, seed: int
) -> tuple[float, tuple[Score, ...]]:
    """The temperature of both students together, fitted on dev, and the scores on test, where all have both.

    Two independent witnesses who agree may be surer than either: their log-probabilities add up, which a temperature
    of 1/2 makes of the mean; the more one repeats the other, the nearer is it to 1.
    material: as the fusion is trained on. corpus: whose emotions the students are asked for.
    """
    random = np.random.default_rng(seed)
    found = {}
    for split in ("dev", "test"):
        company = material[split]
        batch = company.pair(Pairing(), random)
        both = np.flatnonzero((batch.audio_present * batch.visual_present).numpy())
        if not len(both):
            return 1.0, ()
        groups = [company.text.groups[place] for place in both] if company.text.groups else []
        found[split] = Evaluation.of(without_text(students, batch)[both], batch.truth.numpy()[both], labels, groups)
    dev, test = found["dev"], found["test"]
    together = fit_temperature(dev.logits, dev.truth)
    data = f"{corpus} test, {len(test.truth)} utterances, audio and visual without text; {material['test'].note}"
    figures = {
        "weighted_f1": (weighted_f1(test.counts), bootstrap_interval(test.resampled_counts())),
        "calibration_error_before": (test.calibration_error(), None),
        "calibration_error": (test.calibration_error(together), None),
    }
    return together, tuple(
        Score(part="students", data=data, metric=metric, value=value, interval=interval)
        for metric, (value, interval) in figures.items()
    )
