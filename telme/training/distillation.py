"""What the trained teacher says about utterances that have text, for students to learn from."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import Tensor

from telme.bundle import TextSpec
from telme.corpora.records import Utterance
from telme.features.authors_text import prompter
from telme.losses import feature_loss, response_loss
from telme.models.teacher import Teacher, TeacherDimensions
from telme.training import checkpoint
from telme.training.config import Distillation


@dataclass(frozen=True)
class Answer:
    """vector: (d,), the teacher's utterance vector. logits: (C,)."""

    vector: Tensor
    logits: Tensor


@torch.inference_mode()
def ask_teacher(folder: Path, utterances: Iterable[Utterance]) -> dict[str, Answer]:
    """The teacher's answers by utterance id; utterances without text get none.

    folder: the trained text part; looked at only when some utterance has text.
    Raises TrainingError when it is needed and missing or damaged.
    """
    asked = [utterance for utterance in utterances if utterance.turns]
    if not asked:
        return {}
    about, teacher = checkpoint.load(folder, Teacher, TeacherDimensions)
    if not isinstance(about.preprocessing, TextSpec):
        raise ValueError(f"{folder} is no text part")
    prompts = prompter(about.preprocessing, Tokenizer.from_file(str(folder / about.preprocessing.tokenizer)))
    answers = {}
    for utterance in asked:
        input_ids, attention_mask = prompts.batch([prompts.encode(utterance.turns)])
        vectors, logits = teacher(torch.from_numpy(input_ids), torch.from_numpy(attention_mask))
        answers[utterance.id] = Answer(vectors[0].clone(), logits[0].clone())
    return answers


def distillation_loss(student: Answer, teacher: Answer, settings: Distillation) -> Tensor:
    """What a batch did not learn, alpha * L_response + L_feature: vectors (B, d), logits (B, C)."""
    response = response_loss(student.logits, teacher.logits, settings.temperature)
    return settings.alpha * response + feature_loss(student.vector, teacher.vector)
