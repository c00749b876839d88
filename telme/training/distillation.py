"""What the trained teacher says about utterances that have text, for students to learn from."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from tokenizers import Tokenizer
from torch import Tensor

from telme.bundle import TextSpec
from telme.corpora.records import Utterance
from telme.features.authors_text import prompter
from telme.losses import feature_loss, response_loss
from telme.models.teacher import Teacher, TeacherDimensions
from telme.progress import tracked
from telme.training import checkpoint
from telme.training.bucketing import bucketed
from telme.training.config import Distillation
from telme.training.errors import TrainingError

_AT_ONCE = 16


@dataclass(frozen=True)
class Answer:
    """vector: (d,), the teacher's utterance vector. logits: (C,)."""

    vector: Tensor
    logits: Tensor


@torch.inference_mode()
def ask_teacher(folder: Path, utterances: Iterable[Utterance], vector: int | None = None) -> dict[str, Answer]:
    """The teacher's answers by utterance id; utterances without text get none.

    The teacher is frozen, and reads what was really said: it is asked once, before the student's training.
    folder: the trained text part; looked at only when some utterance has text.
    vector: length of the student's vectors, which L_feature compares with the teacher's; None where it does not.
    Raises TrainingError when the teacher is needed and missing or damaged, or its vectors have another length.
    """
    asked = [utterance for utterance in utterances if utterance.turns]
    if not asked:
        return {}
    about, teacher = checkpoint.load(folder, Teacher, TeacherDimensions)
    if not isinstance(about.preprocessing, TextSpec):
        raise ValueError(f"{folder} is no text part")
    if vector not in (None, teacher.dimensions.vector):
        raise TrainingError(
            f"The teacher's vectors have {teacher.dimensions.vector} values and the student's {vector}; set `vector` "
            "alike in both sections, since the student learns to make vectors like the teacher's."
        )
    reader = prompter(about.preprocessing, Tokenizer.from_file(str(folder / about.preprocessing.tokenizer)))
    prompts = [reader.encode(utterance.turns) for utterance in asked]
    device = Accelerator().device
    teacher.to(device)
    answers: dict[str, Answer] = {}
    batches = bucketed([len(prompt) for prompt in prompts], _AT_ONCE)
    for places in tracked(batches, len(batches), "asking the teacher", "batches"):
        input_ids, attention_mask = reader.batch([prompts[place] for place in places])
        vectors, logits = teacher(torch.from_numpy(input_ids).to(device), torch.from_numpy(attention_mask).to(device))
        for place, row_vector, row_logits in zip(places, vectors.cpu(), logits.cpu(), strict=True):
            answers[asked[place].id] = Answer(row_vector.clone(), row_logits.clone())
    return answers


def distillation_loss(student: Answer, teacher: Answer, settings: Distillation) -> Tensor:
    """What a batch did not learn, alpha * L_response + L_feature: vectors (B, d), logits (B, C)."""
    response = response_loss(student.logits, teacher.logits, settings.temperature)
    return settings.alpha * response + feature_loss(student.vector, teacher.vector)
