"""The configurations of the paper's scale, run on miniature corpora of real clips with tiny backbones.

The clips are GRID's talking faces under the names of MELD's and IEMOCAP's files; each emotion has clips of its own.
"""

import csv
import logging
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import (
    Data2VecAudioConfig,
    Data2VecAudioModel,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaModel,
    TimesformerConfig,
    TimesformerModel,
)

from telme.bundle import AudioSpec, FusionSpec, VisualSpec
from telme.corpora import meld
from telme.labels import IEMOCAP, MELD
from telme.models.audio import AudioDimensions, AudioStudent
from telme.models.fusion import ASF, FusionDimensions
from telme.models.teacher import Teacher, TeacherDimensions
from telme.models.visual import VisualDimensions, VisualStudent
from telme.training import answers, checkpoint, cli, config

CONFIGS = Path(__file__).parents[1] / "configs"
PARTS = ("text", "audio", "visual", "fusion")
SAID = ("get out of here", "oh that is vile", "do not leave me", "how great", "see you at ten", "i miss her", "what")
SIZES = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}

pytestmark = [pytest.mark.slow, pytest.mark.corpora]


@pytest.fixture(scope="module")
def backbones(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Tiny models with random weights, saved as transformers saves the ones that the configurations name."""
    folder = tmp_path_factory.mktemp("backbones")
    torch.manual_seed(0)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=special, initial_alphabet=alphabet)
    tokenizer.train_from_iterator(SAID, trainer)
    names = {
        "bos_token": "<s>",
        "pad_token": "<pad>",
        "sep_token": "</s>",
        "unk_token": "<unk>",
        "mask_token": "<mask>",
    }
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(folder / "roberta")
    places = {"max_position_embeddings": 514, "pad_token_id": 1}
    RobertaModel(RobertaConfig(**SIZES, **places, vocab_size=tokenizer.get_vocab_size())).save_pretrained(
        folder / "roberta"
    )
    convolutions = {"conv_dim": [8] * 7, "conv_pos_kernel_size": 5, "num_conv_pos_embeddings": 2}
    Data2VecAudioModel(Data2VecAudioConfig(**SIZES, **convolutions, num_conv_pos_embedding_groups=2)).save_pretrained(
        folder / "data2vec"
    )
    TimesformerModel(TimesformerConfig(**SIZES, image_size=32, patch_size=16, num_frames=8)).save_pretrained(
        folder / "timesformer"
    )
    return {name: folder / name for name in ("roberta", "data2vec", "timesformer")}


@pytest.fixture(scope="module")
def grid(corpora: Path) -> list[Path]:
    clips = sorted((corpora / "clips").glob("grid_*.mpg"))
    assert len(clips) == len(MELD)
    return clips


def ffmpeg(*arguments: str | Path) -> None:
    subprocess.run(["ffmpeg", "-v", "error", "-y", "-threads", "1", *map(str, arguments)], check=True)


def write_meld(folder: Path, grid: list[Path]) -> None:
    """Two dialogues a split; of train, one clip is damaged and one is missing, as in the real corpus."""
    short = [folder / f"{label}.mp4" for label in MELD]
    folder.mkdir(parents=True)
    for clip, path in zip(grid, short, strict=True):
        ffmpeg("-t", "1.2", "-i", clip, "-c:v", "libx264", "-preset", "ultrafast", "-c:a", "aac", path)
    for split, name in meld.CLIPS.items():
        (folder / name).mkdir()
        with (folder / f"{split}_sent_emo.csv").open("w", newline="") as file:
            table = csv.writer(file)
            table.writerow(["Utterance", "Speaker", "Emotion", "Dialogue_ID", "Utterance_ID"])
            for dialogue in range(2):
                for place, label in enumerate(MELD):
                    table.writerow([SAID[place], f"speaker {place % 2}", label, dialogue, place])
                    shutil.copy(short[place], folder / name / f"dia{dialogue}_utt{place}.mp4")
    for path in short:
        path.unlink()
    damaged = folder / "train_splits" / "dia0_utt3.mp4"
    damaged.write_bytes(damaged.read_bytes()[:2000])
    (folder / "train_splits" / "dia1_utt5.mp4").unlink()


def write_iemocap(folder: Path, grid: list[Path]) -> None:
    """One dialogue a split: its video is all six clips in a row, its wavs are theirs."""
    avi, wavs = Path("Session1/dialog/avi/DivX"), Path("Session1/sentences/wav")
    (folder / avi).mkdir(parents=True)
    listed = folder / "clips.txt"
    listed.write_text("".join(f"file '{clip}'\noutpoint 1.2\n" for clip in grid[: len(IEMOCAP)]))
    video = folder / avi / "dialogue.avi"
    ffmpeg("-f", "concat", "-safe", "0", "-i", listed, "-c:v", "mpeg4", "-bf", "2", "-an", video)
    for number, split in enumerate(("train", "dev", "test"), 1):
        dialogue = f"Ses01F_impro{number:02}"
        shutil.copy(video, folder / avi / f"{dialogue}.avi")
        (folder / wavs / dialogue).mkdir(parents=True)
        with (folder / f"IEMOCAP_{split}.csv").open("w", newline="") as file:
            table = csv.writer(file)
            table.writerow(
                ["Utterance", "Speaker", "Dialogue_ID", "Start_Time", "End_Time", "Wav_Path", "Video_Path", "Emotion"]
            )
            for place, label in enumerate(IEMOCAP):
                name = f"{dialogue}_{'FM'[place % 2]}{place:03}"
                wav, seen = wavs / dialogue / f"{name}.wav", avi / f"{dialogue}.avi"
                ffmpeg("-t", "1.2", "-i", grid[place], "-vn", folder / wav)
                there = "./dataset/IEMOCAP_full_release"
                times = (1.2 * place, 1.2 * (place + 1))
                table.writerow([SAID[place], name, dialogue, *times, f"{there}/{wav}", f"{there}/{seen}", label])


def shrunk(name: str, backbones: dict[str, Path], folder: Path, decoded: Path | None = None) -> Path:
    """The configuration as it ships, with tiny backbones that learn fast."""
    raw: dict[str, Any] = yaml.safe_load((CONFIGS / name).read_text())
    raw["teacher"]["backbone"] = str(backbones["roberta"])
    raw["audio"]["backbone"] = str(backbones["data2vec"])
    raw["visual"]["backbone"] = str(backbones["timesformer"])
    raw["visual"]["input"]["size_px"] = 32
    raw["fusion"]["heads"] = 2
    raw["decoded"] = decoded and str(decoded)
    for section in ("teacher", "audio", "visual", "fusion"):
        raw[section]["schedule"] |= {"epochs": 30, "learning_rate": 5e-3, "bf16": False}
        if section != "fusion":
            raw[section]["vector"] = 16
    path = folder / name
    path.write_text(yaml.safe_dump(raw))
    return path


def on_test(about: dict[str, checkpoint.Checkpoint]) -> dict[str, float]:
    """Each part's weighted F1 on the test split, with everything present."""
    return {
        part: score.value
        for part, each in about.items()
        for score in each.scores
        if score.metric == "weighted_f1" and " test, " in score.data
        if part != "fusion" or ", text, audio and visual; speech and pictures of the same utterance" in score.data
    }


def test_meld_from_clips_to_four_parts(
    tmp_path: Path, grid: list[Path], backbones: dict[str, Path], caplog: pytest.LogCaptureFixture
) -> None:
    write_meld(tmp_path / "corpora" / "meld", grid)
    run = tmp_path / "run"
    command = [str(shrunk("meld.yaml", backbones, tmp_path)), "--corpora", str(tmp_path / "corpora")]
    command += ["--output", str(run)]
    with caplog.at_level(logging.INFO):
        assert cli.main(command) == 0
    assert "MELD: 1 left out: clip missing or empty in train_splits" in caplog.text
    assert "meld: 1 utterances left out: sound file unreadable" in caplog.text
    assert "meld: 1 utterances left out: video file unreadable" in caplog.text
    assert "dia0_utt3.mp4 holds no readable pictures" in caplog.text

    about = {part: checkpoint.read(run / part) for part in PARTS}
    assert all(each.labels == MELD and each.corpora == ("MELD",) for each in about.values())
    assert all(each.config == "meld" for each in about.values())
    assert about["fusion"].preprocessing == FusionSpec(beta=0.1)
    assert min(on_test(about).values()) > 0.5, on_test(about)  # always the same emotion would be 0.04
    assert on_test(about).keys() == about.keys()
    checkpoint.load(run / "text", Teacher, TeacherDimensions)
    checkpoint.load(run / "audio", AudioStudent, AudioDimensions)
    checkpoint.load(run / "visual", VisualStudent, VisualDimensions)
    _, fusion = checkpoint.load(run / "fusion", ASF, FusionDimensions)
    assert fusion.dimensions == FusionDimensions(16, 16, 16, 7, heads=2, dropout=0.2)
    # 42 clips less two, once as sound and once as pictures
    decoded = sorted((run / "decoded").iterdir())
    assert len(decoded) == 2 * 40
    assert all(path.suffix == ".safetensors" for path in decoded)

    written = {path: path.stat().st_mtime_ns for path in decoded}
    assert cli.main([*command, "--stage", "fusion"]) == 0  # a run that is complete is only scored again
    assert {path: path.stat().st_mtime_ns for path in (run / "decoded").iterdir()} == written


def test_iemocap_from_clips_to_four_parts(tmp_path: Path, grid: list[Path], backbones: dict[str, Path]) -> None:
    write_iemocap(tmp_path / "corpora" / "iemocap", grid)
    run, clips = tmp_path / "run", tmp_path / "clips"
    command = [str(shrunk("iemocap.yaml", backbones, tmp_path, clips)), "--corpora", str(tmp_path / "corpora")]
    assert cli.main([*command, "--output", str(run)]) == 0
    decoded = set(clips.iterdir())
    assert len(decoded) == 2 * 18
    about = {part: checkpoint.read(run / part) for part in PARTS}
    assert all(each.labels == IEMOCAP and each.corpora == ("IEMOCAP",) for each in about.values())
    assert about["fusion"].preprocessing == FusionSpec(beta=0.2)
    assert min(on_test(about).values()) > 0.5, on_test(about)
    _, fusion = checkpoint.load(run / "fusion", ASF, FusionDimensions)
    assert fusion.dimensions.labels == 6
    written = {prediction.heading.name: prediction for prediction in answers.predict(run, tmp_path / "corpora")}
    whole = written["fusion-text-audio-visual"]
    assert whole.heading.labels == IEMOCAP
    assert whole.heading.note == "speech and faces of the utterances themselves"
    assert {"text-iemocap", "audio-iemocap", "visual-iemocap", "students-audio-visual"} < written.keys()
    assert set(clips.iterdir()) == decoded  # evaluating decodes nothing again
    assert not (run / "decoded").exists()


def test_parts_are_not_mixed_with_those_of_another_run(
    tmp_path: Path, grid: list[Path], backbones: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    write_meld(tmp_path / "corpora" / "meld", grid)
    write_iemocap(tmp_path / "corpora" / "iemocap", grid)
    run = tmp_path / "run"

    def refused(name: str, stage: str, **teacher: int) -> str:
        """The last line of what the command says where it refuses; "" where it does as it is told."""
        path = shrunk(name, backbones, tmp_path)
        raw = yaml.safe_load(path.read_text())
        for section in ("teacher", "audio", "visual", "fusion"):
            raw[section]["schedule"]["epochs"] = 1
        raw["teacher"]["schedule"] |= teacher
        path.write_text(yaml.safe_dump(raw))
        options = ["--corpora", str(tmp_path / "corpora"), "--output", str(run), "--stage", stage]
        if cli.main([str(path), *options]) == 0:
            return ""
        return capsys.readouterr().err.splitlines()[-1]

    assert refused("meld.yaml", "all") == ""
    written = {path: path.read_bytes() for path in run.glob("*/model.safetensors")}
    assert refused("meld.yaml", "all") == ""
    assert {path: path.read_bytes() for path in written} == written

    assert "with other labels and other utterances; remove" in refused("iemocap.yaml", "teacher")
    for stage in ("audio", "visual"):
        assert "sadness, surprise, not in ang" in refused("iemocap.yaml", stage)
    assert "sadness, surprise, not in ang" in refused("iemocap.yaml", "fusion")

    table = tmp_path / "corpora" / "meld" / "train_sent_emo.csv"
    said = table.read_bytes()
    table.write_bytes(said.replace(b"speaker 0", b"somebody else"))
    for stage in ("teacher", "audio", "visual", "fusion"):
        assert "with other utterances; remove" in refused("meld.yaml", stage)
    table.write_bytes(said)

    shutil.rmtree(run / "text")
    about = (run / "fusion" / "checkpoint.json").read_bytes()
    assert f"with other text/model.safetensors; remove {run}/audio/fit" in refused("meld.yaml", "all", epochs=2)
    assert "with other text/model.safetensors" in refused("meld.yaml", "visual", epochs=2)
    shutil.rmtree(run / "fusion" / "fit")
    assert f"remove {run}/audio and train" in refused("meld.yaml", "fusion", epochs=2)
    assert (run / "fusion" / "checkpoint.json").read_bytes() == about
    for part in ("audio", "visual"):
        shutil.rmtree(run / part / "fit")
    assert refused("meld.yaml", "all", epochs=2) == ""
    assert (run / "fusion" / "checkpoint.json").read_bytes() != about


def test_without_clips_a_sentence_says_where_they_belong(
    tmp_path: Path, grid: list[Path], backbones: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    write_meld(tmp_path / "corpora" / "meld", grid)
    shutil.rmtree(tmp_path / "corpora" / "meld" / "dev_splits_complete")
    command = [str(shrunk("meld.yaml", backbones, tmp_path)), "--corpora", str(tmp_path / "corpora")]
    assert cli.main([*command, "--output", str(tmp_path / "run"), "--stage", "visual"]) == 2
    said = capsys.readouterr().err
    assert "No utterance of the dev split of MELD has a video that can be read; put the clips into" in said


MISTAKES: dict[str, tuple[str, dict[str, Any], str]] = {
    "no such teacher": ("teacher", {"backbone": "/no/such/folder"}, "/no/such/folder is no folder of transformers"),
    "no such encoder": ("visual", {"backbone": "/no/such/folder"}, "/no/such/folder is no folder of transformers"),
    "crops": ("visual", {"input": {"kind": "face_crops"}}, "set visual.input.kind: frames"),
    "frames": ("visual", {"input": {"frames": 4}}, "looks at 8 frames and visual.input.frames is 4"),
    "stills": ("visual", {"corpus": "iemocap"}, "visual.corpus is iemocap and conversations is meld"),
    "strangers": ("audio", {"corpora": ["iemocap"]}, "audio.corpora names iemocap, but conversations is meld"),
    "clips on stills": ("visual", {"corpus": "fer2013", "input": {"kind": "face_crops"}}, "describe a face_cnn"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_setting_that_does_not_fit_is_one_sentence(
    mistake: str, tmp_path: Path, backbones: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    stage, changes, said = MISTAKES[mistake]
    path = shrunk("meld.yaml", backbones, tmp_path)
    raw = yaml.safe_load(path.read_text())
    for name, value in changes.items():
        raw[stage][name] = raw[stage][name] | value if isinstance(value, dict) else value
    path.write_text(yaml.safe_dump(raw))
    (tmp_path / "meld").mkdir()
    for split in meld.CLIPS:
        (tmp_path / "meld" / f"{split}_sent_emo.csv").write_text(
            "Utterance,Speaker,Emotion,Dialogue_ID,Utterance_ID\noh,a,joy,0,0\n"
        )
    assert cli.main([str(path), "--corpora", str(tmp_path), "--output", str(tmp_path / "run"), "--stage", stage]) == 2
    error = capsys.readouterr().err
    assert said in error.splitlines()[-1]
    assert "Traceback" not in error


@pytest.mark.parametrize("name", ["meld.yaml", "iemocap.yaml"])
def test_the_configurations_are_the_paper_s(name: str) -> None:
    run = config.load(CONFIGS / name)
    assert run.teacher is not None
    assert run.audio is not None
    assert run.visual is not None
    assert run.fusion is not None
    assert run.teacher.backbone == "roberta-large"
    assert run.teacher.vector == run.audio.vector == run.visual.vector == 768
    assert run.audio.distillation == run.visual.distillation
    assert isinstance(run.audio.input, AudioSpec)
    assert isinstance(run.visual.input, VisualSpec)
    assert (run.audio.vector + run.visual.vector) % run.fusion.heads == 0
    on_meld = name == "meld.yaml"
    assert run.labels == (MELD if on_meld else IEMOCAP)
    assert run.audio.distillation.temperature == (4.0 if on_meld else 2.0)
    assert run.teacher.schedule.learning_rate == (1e-6 if on_meld else 1e-5)
    assert (run.fusion.beta, run.fusion.heads, run.fusion.schedule.epochs) == ((0.1, 3, 10) if on_meld else (0.2, 4, 8))
