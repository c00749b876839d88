"""The speaker encoder as it is shipped: a folder with a manifest, one model file, a model card and a licence."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from telme.bundle import BundleError, Part, read_manifest, verify

SPEAKER = Path(__file__).parent / "weights" / "speaker"


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class VoiceSpec(_Model):
    """How speech becomes the encoder's input: windows of a mel spectrogram, 25 ms every 10 ms, as power."""

    sample_rate_hz: Literal[16000] = 16000
    mel_bins: int = Field(gt=0)
    level_dbfs: float = Field(le=0, description="quieter speech is amplified to this level")
    window_frames: int = Field(gt=0, description="length of a window; shorter speech makes a shorter one")
    step_frames: int = Field(gt=0, description="from the start of a window to that of the next")
    coverage: float = Field(gt=0, le=1, description="least share of the last window that must be speech")
    windows_max: int = Field(gt=0, description="of longer speech so many windows, evenly spread, are heard")

    @model_validator(mode="after")
    def _without_gaps(self) -> Self:
        if self.step_frames > self.window_frames:
            raise ValueError(f"step_frames ({self.step_frames}) is above window_frames ({self.window_frames})")
        return self


class VoiceManifest(_Model):
    schema_version: Literal["telme.voice/1"] = "telme.voice/1"
    source: str = Field(description="where the weights come from")
    source_sha256: str = Field(pattern="^[0-9a-f]{64}$")
    licence: str
    encoder: Part
    voice: VoiceSpec


@dataclass(frozen=True)
class VoiceBundle:
    """A folder whose manifest was read and whose model was verified."""

    folder: Path
    manifest: VoiceManifest

    @property
    def model(self) -> Path:
        return self.folder / self.manifest.encoder.file

    @classmethod
    def open(cls, folder: Path | str = SPEAKER) -> Self:
        """Raises BundleError where the manifest or the model is missing or damaged."""
        folder = Path(folder)
        text = read_manifest(folder)
        try:
            manifest = VoiceManifest.model_validate_json(text)
        except ValidationError as error:
            where = ".".join(str(step) for step in error.errors()[0]["loc"])
            raise BundleError(
                f"The manifest of {folder} is not one of a speaker encoder ({where or 'as a whole'}: "
                f"{error.errors()[0]['msg']}); make it again with `telme-export speaker-encoder`."
            ) from error
        verify(folder, "speaker encoder", manifest.encoder.file, manifest.encoder.sha256)
        return cls(folder, manifest)
