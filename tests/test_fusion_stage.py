"""The fusion stage from corpora on disk to a checkpoint, with small random parts."""

import csv
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import nn

from telme.bundle import AudioSpec, FusionSpec, TextSpec, UnsureText, VisualSpec
from telme.corpora import fer2013
from telme.labels import FER2013, MELD
from telme.models.audio import AudioDimensions, AudioStudent, WhisperDimensions
from telme.models.fusion import ASF, FusionDimensions
from telme.models.teacher import Teacher, TeacherDimensions
from telme.models.visual import VisualDimensions, VisualStudent
from telme.training import checkpoint, config, fusion
from telme.training.company import Pairing
from telme.training.config import FusionSettings, Schedule, TextNoise, TrainingConfig
from telme.training.encodings import AudioPart, TextPart, VisualPart
from telme.training.errors import TrainingError

COMPACT = Path(__file__).parents[1] / "configs" / "compact.yaml"
TOKENS = ["[PAD]", "[UNK]", "[SEP]", "[MASK]", "<s1>", "<s2>", "Now", "feels", "well", "no", "yes"]
VISUAL = VisualSpec(kind="face_crops", size_px=48, channels=1, frames=8, mean=(0.5,), std=(0.25,))


def write_corpora(folder: Path) -> None:
    random = np.random.default_rng(0)
    for name in ("meld", "ravdess", "emodb", "fer2013"):
        (folder / name).mkdir(parents=True)
    for split in ("train", "dev", "test"):
        with (folder / "meld" / f"{split}_sent_emo.csv").open("w", newline="") as file:
            table = csv.writer(file)
            table.writerow(["Utterance", "Speaker", "Emotion", "Dialogue_ID", "Utterance_ID"])
            table.writerows(["well no", "ab"[place % 2], label, 0, place] for place, label in enumerate(MELD))
    names = [f"03-01-{emotion:02}-01-01-01-{actor}" for emotion in range(1, 9) for actor in (10, 15, 17)]
    noise = random.uniform(-0.1, 0.1, 4000)
    for path in [
        *(folder / "ravdess" / name for name in names),
        *(folder / "emodb" / f"{s}a01Wa" for s in (11, 12, 13)),
    ]:
        soundfile.write(path.with_suffix(".flac"), noise, 16_000)
    faces = random.integers(0, 256, (210, 48, 48), np.uint8)
    labels = np.arange(210, dtype=np.uint8) % 7
    np.savez(
        folder / "fer2013" / fer2013.FILE,
        x_train=faces[:196],
        y_train=labels[:196],
        x_val=faces[196:],
        y_val=labels[196:],
        classes=list(FER2013.to_meld),
    )


def save_part(folder: Path, part: str, model: nn.Module, preprocessing: object, tokenizer: Tokenizer | None) -> None:
    about = checkpoint.Checkpoint(
        part=part,
        labels=MELD,
        architecture=asdict(model.dimensions),
        preprocessing=preprocessing,
        corpora=(f"corpus of {part}",),
        licence=f"licence of {part}",
        config="small",
        seed=0,
        commit="unknown",
    )
    checkpoint.save(folder / part, about, model, tokenizer)


def write_parts(folder: Path) -> None:
    torch.manual_seed(0)
    tokenizer = Tokenizer(models.WordLevel({token: place for place, token in enumerate(TOKENS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens([token for token in TOKENS if token[0] in "[<"])
    spec = TextSpec(
        tokenizer_sha256=sha256(tokenizer.to_str(pretty=True).encode()).hexdigest(),
        max_tokens=32,
        separator_token="[SEP]",
        mask_token="[MASK]",
        pad_token="[PAD]",
        speaker_tokens=("<s1>", "<s2>"),
    )
    bert = {"model_type": "bert", "vocab_size": len(TOKENS), "hidden_size": 16, "num_hidden_layers": 1}
    teacher = Teacher(TeacherDimensions({**bert, "num_attention_heads": 2, "intermediate_size": 16}, 12, 7))
    save_part(folder, "text", teacher, spec, tokenizer)
    audio = AudioStudent(AudioDimensions(WhisperDimensions(mel_bins=80, width=8, layers=1, heads=2), 8, 7))
    save_part(folder, "audio", audio, AudioSpec(kind="log_mel", max_s=10), None)
    cnn = {"model_type": "face_cnn", "channels": 1, "stem": 2, "widths": [4]}
    save_part(folder, "visual", VisualStudent(VisualDimensions(cnn, 4, 7)), VISUAL, None)


def test_from_corpora_to_checkpoint(tmp_path: Path) -> None:
    write_corpora(tmp_path / "corpora")
    write_parts(tmp_path / "run")
    schedule = Schedule(epochs=2, batch=3, learning_rate=1e-3)
    settings = FusionSettings(beta=0.3, heads=2, schedule=schedule, bf16_encoding=True)
    run = TrainingConfig(
        name="small",
        output=tmp_path / "run",
        corpora=tmp_path / "corpora",
        audio=config.load(COMPACT).audio,
        fusion=settings,
    )
    fusion.train(run)

    about, model = checkpoint.load(tmp_path / "run" / "fusion", ASF, FusionDimensions)
    assert model.dimensions == FusionDimensions(12, 8, 4, 7, heads=2, dropout=0.2)
    assert about.preprocessing == FusionSpec(beta=0.3)
    assert about.corpora == ("corpus of text", "corpus of audio", "corpus of visual")
    assert "licence of audio" in about.licence
    f1 = [score for score in about.scores if score.metric == "weighted_f1"]
    assert [score.part for score in f1] == ["fusion"] * 6 + ["students"]
    assert about.students_temperature != 1
    assert all(score.interval is not None and 0 <= score.value <= 1 for score in f1)
    paired = [score.data for score in f1 if "audio" in score.data and "random emotions" not in score.data]
    assert all("paired by label, which is easier than life" in data for data in paired)


def test_text_that_a_recogniser_misheard_is_trained_and_scored_with_its_confidence(tmp_path: Path) -> None:
    write_corpora(tmp_path / "corpora")
    write_parts(tmp_path / "run")
    settings = FusionSettings(
        beta=0.1,
        unsure=UnsureText(beta=1.0),
        noise=TextNoise(share=0.5, deletion=0.9),
        heads=2,
        schedule=Schedule(epochs=1, batch=3, learning_rate=1e-3),
    )
    audio = config.load(COMPACT).audio
    run = TrainingConfig(
        name="small", output=tmp_path / "run", corpora=tmp_path / "corpora", audio=audio, fusion=settings
    )
    parts = (
        TextPart.trained(run.folder / "text"),
        AudioPart.trained(run.folder / "audio"),
        VisualPart.trained(run.folder / "visual"),
    )
    material = fusion.encode(run, settings, *parts)
    confidence = {
        split: company.pair(Pairing(), np.random.default_rng(0)).confidence for split, company in material.items()
    }
    assert confidence.keys() == {"train", "dev", "test", fusion.MISHEARD}
    assert (confidence["test"] == 1).all()
    assert 0 <= confidence["train"].min() < 1 == confidence["train"].max()
    assert confidence[fusion.MISHEARD].shape == confidence["test"].shape

    fusion.train(run)
    about = checkpoint.read(run.folder / "fusion")
    assert about.preprocessing == FusionSpec(beta=0.1, unsure=UnsureText(beta=1.0))
    fused = [score.data for score in about.scores if score.part == "fusion"]
    assert len([data for data in fused if " test with 20 % word errors, " in data]) == len(fused) / 2


def test_a_missing_part_is_one_sentence(tmp_path: Path) -> None:
    settings = FusionSettings(schedule=Schedule(epochs=1, batch=1, learning_rate=1e-3))
    with pytest.raises(TrainingError, match=r"No trained part in .*text"):
        fusion.train(TrainingConfig(name="small", output=tmp_path, fusion=settings))


def test_plain_words_are_for_texts_without_their_own_speech(tmp_path: Path) -> None:
    write_parts(tmp_path)
    run = config.load(COMPACT.with_name("meld.yaml"))
    assert run.fusion is not None
    settings = run.fusion.model_copy(update={"plain_share": 0.1})
    parts = (
        TextPart.trained(tmp_path / "text"),
        AudioPart.trained(tmp_path / "audio"),
        VisualPart.trained(tmp_path / "visual"),
    )
    with pytest.raises(TrainingError, match=r"plain_share is 0\.1, but the utterances of meld have their own speech"):
        fusion.encode(run, settings, *parts)
