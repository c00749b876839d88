"""What the trained teacher says about utterances that have text, for students to learn from."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import Tensor

from telme.bundle import TextSpec
from telme.corpora.records import Utterance
from telme.features.authors_text import prompter
from telme.losses import feature_loss, lengthen_gradient, response_loss
from telme.models.teacher import Teacher, TeacherDimensions
from telme.progress import tracked
from telme.training import networks
from telme.training.bucketing import bucketed
from telme.training.config import Distillation
from telme.training.errors import TrainingError
from telme.training.inputs import require_labels


@dataclass(frozen=True)
class Answer:
    """vector: (d,), the utterance vector. logits: (C,). Of several utterances, (B, d) and (B, C)."""

    vector: Tensor
    logits: Tensor


@torch.inference_mode()
def ask_teacher(
    folder: Path,
    utterances: Iterable[Utterance],
    vector: int | None = None,
    bf16: bool = False,
    *,
    labels: Sequence[str],
) -> dict[str, Answer]:
    """The teacher's answers by utterance id; utterances without text get none.

    The teacher is frozen, and reads what was really said: it is asked once, before the student's training.
    folder: the trained text part; looked at only when some utterance has text.
    vector: length of the student's vectors, which L_feature compares with the teacher's; None where it does not.
    bf16: calculate in bfloat16, as the student does; the answers are float32 all the same.
    labels: of the student.
    Raises TrainingError when the teacher is needed and missing or damaged, or has other labels or other vectors.
    """
    asked = [utterance for utterance in utterances if utterance.turns]
    if not asked:
        return {}
    about, teacher = networks.load(folder, Teacher, TeacherDimensions)
    if not isinstance(about.preprocessing, TextSpec):
        raise ValueError(f"{folder} is no text part")
    require_labels(about.labels, folder, labels)
    if vector not in (None, teacher.vector):
        raise TrainingError(
            f"The teacher's vectors have {teacher.vector} values and the student's {vector}; set `vector` "
            "alike in both sections, since the student learns to make vectors like the teacher's."
        )
    reader = prompter(about.preprocessing, Tokenizer.from_file(str(folder / about.preprocessing.tokenizer)))
    prompts = [reader.encode(utterance.turns) for utterance in asked]
    answers: dict[str, Answer] = {}
    batches = bucketed([len(prompt) for prompt in prompts], teacher.at_once)
    for places in tracked(batches, len(batches), "asking the teacher", "batches"):
        rows = teacher(reader.batch([prompts[place] for place in places]), bf16)
        for place, row, logits in zip(places, rows, teacher.logits(rows), strict=True):
            answers[asked[place].id] = Answer(row[: teacher.vector].clone(), logits.clone())
    return answers


class Distiller:
    """What a batch did not learn of the teacher, alpha * L_response + L_feature, in the company of those before it.

    L_intra correlates over the batch and L_feature's softmax runs over it, so both are noise in batches of four. A
    queue of past answers, as in MoCo (He et al., "Momentum Contrast for Unsupervised Visual Representation Learning",
    CVPR 2020, arXiv 1911.05722), makes the batch of B one of N: the loss is that of all N utterances, of which N - B
    are constants. The teacher is frozen, so only the student's past answers are out of date, by a few steps.

    The gradient reaches B of N utterances, each with its share 1 / N of the loss; it is multiplied by N / B, so that
    it weighs against a cross-entropy, the mean over B, as it does in a batch of N. With answers that are not out of
    date, the mean of the gradients over the N / B batches is the gradient of the batch of N.
    """

    def __init__(self, settings: Distillation) -> None:
        """Begins with an empty queue: to be made anew for every epoch, so that a resumed run goes on as it was."""
        self._settings = settings
        self._past: tuple[Answer, Answer] | None = None

    def loss(self, student: Answer, teacher: Answer) -> Tensor:
        """Vectors (B, d), logits (B, C); B at least 1. The batch then joins the queue, and the oldest leave it."""
        size = self._settings.queue
        if not size:
            return self._over(student, teacher)
        if self._past is None:
            together = (student, teacher)
        else:
            together = (_joined(self._past[0], student), _joined(self._past[1], teacher))
        loss = lengthen_gradient(self._over(*together), len(together[0].logits) / len(student.logits))
        self._past = (_last(together[0], size), _last(together[1], size))
        return loss

    def _over(self, student: Answer, teacher: Answer) -> Tensor:
        response = response_loss(student.logits, teacher.logits, self._settings.temperature)
        return self._settings.alpha * response + feature_loss(student.vector, teacher.vector)


def _joined(past: Answer, present: Answer) -> Answer:
    return Answer(torch.cat([past.vector, present.vector]), torch.cat([past.logits, present.logits]))


def _last(answers: Answer, size: int) -> Answer:
    return Answer(answers.vector[-size:].detach(), answers.logits[-size:].detach())
