"""The untrained visual student that a configuration describes."""

from typing import Any

from telme.models.visual import VisualDimensions, VisualStudent
from telme.training.errors import TrainingError


def described_student(backbone: dict[str, Any], vector: int, labels: int) -> VisualStudent:
    """A student with random weights. Raises TrainingError where `backbone` describes no network."""
    try:
        return VisualStudent(VisualDimensions(backbone, vector, labels))
    except (TypeError, ValueError, KeyError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise TrainingError(
            f"visual.backbone describes no network ({reason}); see FaceCNN in telme/models/face_cnn.py, or "
            "transformers' TimesformerConfig, for what it may hold."
        ) from error
