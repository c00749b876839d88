"""The authors' evaluation of their weights, repeated by one command, against a second computation of all of it.

A miniature MELD and a miniature IEMOCAP of real clips, and random weights in the authors' format. The second
computation is written after their code: tables read by hand, FFmpeg's own program, OpenCV, transformers' encoders and
VideoMAE's processor, and the fusion in NumPy. It calls nothing of ours.
"""

import csv
import itertools
import json
import math
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import small_run
import soundfile
import soxr
import torch
from authors_release import Imported
from sklearn.metrics import f1_score
from transformers.models.videomae.image_processing_pil_videomae import VideoMAEImageProcessorPil

from telme.labels import IEMOCAP, MELD
from telme.predictions import Predictions
from telme.training.answers import CORRECTED
from telme.training.evaluate_cli import main

pytestmark = [pytest.mark.slow, pytest.mark.corpora]

COLUMNS = "Utterance,Speaker,Emotion,Dialogue_ID,Utterance_ID,Video_Path"
CLIPS = "output_repeated_splits_test"
# Speakers and texts of three dialogues. Chandler opens the second, where the first's speakers are still known; the
# control characters are a typographic apostrophe and a dash, as the authors' table has them.
SAID = (
    ("Monica", "There\x92s nothing to tell! "),
    ("Joey", "  C\x92mon, you\x92re going out with the guy! "),
    ("Chandler", "All right Joey \x97 be nice."),
    ("Joey", "What?"),
    ("Chandler", "Sounds like a date to me."),
    ("Monica", "<s2> is what I said"),
    ("Chandler", "Oh my </s> God!"),
    ("Ross", "Hi."),
    ("Monica", "Are you okay, sweetie?"),
    ("Ross", "I just feel like someone reached down my throat"),
)
LABELS = {"meld": MELD, "iemocap": IEMOCAP}
DIALOGUES = (0,) * 4 + (1,) * 3 + (2,) * 3
KEPT = 800  # samples of the miniature's longest sound
SIDE = 32
PROCESSOR = {  # that of MCG-NJU/videomae-base, at the miniature's size
    "size": {"shortest_edge": SIDE},
    "crop_size": {"height": SIDE, "width": SIDE},
    "image_mean": [0.485, 0.456, 0.406],
    "image_std": [0.229, 0.224, 0.225],
}


def ffmpeg(*arguments: str | Path) -> None:
    subprocess.run(["ffmpeg", "-v", "error", "-y", "-threads", "1", *map(str, arguments)], check=True)


def write_meld(folder: Path, grid: list[Path]) -> None:
    """Ten clips, the last group of two: one of them of 31 s, one of five frames, one in stereo at 48 kHz."""
    (folder / CLIPS).mkdir(parents=True)
    with (folder / "test_meld_emo.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(COLUMNS.split(","))
        for place, ((speaker, text), dialogue) in enumerate(zip(SAID, DIALOGUES, strict=True)):
            name = f"dia{dialogue}_utt{place}.mp4"
            path = f"./dataset/MELD.Raw/{CLIPS}/{name}"
            table.writerow([text, speaker, MELD[place % len(MELD)], dialogue, place, path])
            length_s = {5: 31.0, 6: 0.2}.get(place, 0.6 + 0.15 * place)
            options = ["-stream_loop", "12", "-i", grid[place % len(grid)], "-t", str(length_s), "-c:v", "libx264"]
            rates = {2: ["-ac", "2", "-ar", "48000"], 5: ["-r", "2"]}.get(place, [])  # a long clip of few pictures
            ffmpeg(*options, "-preset", "ultrafast", "-c:a", "aac", *rates, folder / CLIPS / name)


def write_iemocap(folder: Path, grid: list[Path]) -> None:
    """Two dialogues of three utterances, whose videos are longer than the utterances and are shared."""
    for dialogue in (0, 1):
        name = f"Ses05F_impro0{dialogue}"
        avi, wavs = Path("Session5/dialog/avi/DivX"), Path("Session5/sentences/wav") / name
        (folder / avi).mkdir(parents=True, exist_ok=True)
        (folder / wavs).mkdir(parents=True)
        listed = folder / "clips.txt"
        listed.write_text("".join(f"file '{clip}'\n" for clip in grid[dialogue : dialogue + 3]))
        ffmpeg("-f", "concat", "-safe", "0", "-i", listed, "-c:v", "mpeg4", "-an", folder / avi / f"{name}.avi")
        for place in range(3):
            wav = folder / wavs / f"{name}_{'FM'[place % 2]}00{place}.wav"
            ffmpeg("-t", str(0.7 + 0.3 * place), "-i", grid[dialogue + place], "-vn", "-ar", "16000", wav)
    with (folder / "IEMOCAP_test.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        columns = ("Utterance", "Speaker", "Dialogue_ID", "Start_Time", "End_Time", "Wav_Path", "Video_Path", "Emotion")
        table.writerow(columns)
        for number, (dialogue, place) in enumerate(itertools.product((0, 1), range(3))):
            name = f"Ses05F_impro0{dialogue}"
            there = "./dataset/IEMOCAP_full_release/Session5"
            utterance = f"{name}_{'FM'[place % 2]}00{place}"
            files = (f"{there}/sentences/wav/{name}/{utterance}.wav", f"{there}/dialog/avi/DivX/{name}.avi")
            times = (0.2 + 2.9 * place, 1.7 + 3.1 * place)
            table.writerow([SAID[number][1], utterance, name, *times, *files, IEMOCAP[number]])


def rows_of(table: Path) -> list[dict[str, str]]:
    with table.open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def prompts_of(rows: list[dict[str, str]]) -> list[str]:
    """Speakers are forgotten one turn too late."""
    prompts, known, said, before = [], [], "", None
    for row in rows:
        if row["Speaker"] not in known:
            known.append(row["Speaker"])
        number = known.index(row["Speaker"]) + 1
        if before not in (None, row["Dialogue_ID"]):
            said, known = "", []
        before = row["Dialogue_ID"]
        said += f"<s{number}> {row['Utterance']} "
        prompts.append(f"{said.strip()} </s> Now <s{number}> feels")
    return prompts


def pieces_of(prompt: str, tokenizer: dict[str, int]) -> list[int]:
    """Single bytes, between special tokens of which those of speakers swallow the spaces around them."""
    bytes_of = bytes_to_unicode()
    ids = []
    for piece in re.split(r"(\s*<s[1-9]>\s*|</s>)", prompt):
        if re.fullmatch(r"\s*<s[1-9]>\s*|</s>", piece):
            ids.append(tokenizer[piece.strip()])
        else:
            ids += [tokenizer[bytes_of[byte]] for byte in piece.encode()]
    return [*ids[-511:], tokenizer["<mask>"]]


def vocabulary_of(run: Path) -> dict[str, int]:
    saved = json.loads((run / "text" / "tokenizer.json").read_text())
    return saved["model"]["vocab"] | {token["content"]: token["id"] for token in saved["added_tokens"]}


def bytes_to_unicode() -> dict[int, str]:
    """GPT-2's letters for bytes: printable ones stand for themselves, the others for letters from 256 on."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in plain]
    return {byte: chr(byte) for byte in plain} | {byte: chr(256 + place) for place, byte in enumerate(others)}


def sound_of(path: Path) -> np.ndarray:
    """librosa.load: soundfile, or what the program ffmpeg writes; the channels' mean; soxr; a length rounded up."""
    if path.suffix == ".wav":
        samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    else:
        probe = ["ffprobe", "-v", "error", "-select_streams", "a", "-show_entries", "stream=sample_rate,channels"]
        told = json.loads(subprocess.run([*probe, "-of", "json", path], capture_output=True, check=True).stdout)
        rate, channels = (int(told["streams"][0][name]) for name in ("sample_rate", "channels"))
        raw = subprocess.run(["ffmpeg", "-v", "error", "-i", path, "-f", "s16le", "-"], capture_output=True, check=True)
        samples = np.frombuffer(raw.stdout, "<i2").reshape(-1, channels).astype(np.float32) / 32768
    samples = samples.mean(axis=1)
    wanted = math.ceil(len(samples) * 22050 / rate)
    found = soxr.resample(samples, rate, 22050, quality="soxr_hq")
    return np.pad(found, (0, max(0, wanted - len(found))))[:wanted]


def frames_of_clip(path: Path) -> list[np.ndarray]:
    video = cv2.VideoCapture(str(path))
    length = int(video.get(cv2.CAP_PROP_FRAME_COUNT))
    frames = []
    while True:
        there, image = video.read()
        if not there:
            break
        frames.append(image)
    if length < 8:
        return frames + [frames[-1]] * (8 - len(frames))
    return [image for number, image in enumerate(frames, 1) if number % (length // 8) == 0][:8]


def frames_within(path: Path, start: float, end: float) -> list[np.ndarray]:
    video = cv2.VideoCapture(str(path))
    fps = video.get(cv2.CAP_PROP_FPS)
    first, last = max(start - 1, 0), end + 1
    step = fps * (last - first) // 8
    frames, count = [], 0
    while True:
        there, image = video.read()
        if not there:
            break
        if fps * first <= int(video.get(1)) <= fps * last:
            count += 1
            if count % step == 0:
                frames.append(image)
    return (frames + [frames[-1]] * 8)[:8]


def golden(imported: Imported, folder: Path) -> tuple[dict[str, np.ndarray], list[str]]:
    """Logits of each of their models, and what is true, in the table's order."""
    on_meld = imported.dataset == "meld"
    rows = rows_of(folder / ("test_meld_emo.csv" if on_meld else "IEMOCAP_test.csv"))
    vocabulary = vocabulary_of(imported.run)
    prompts = [pieces_of(prompt, vocabulary) for prompt in prompts_of(rows)]
    processor = VideoMAEImageProcessorPil(**PROCESSOR)
    groups: list[list[np.ndarray]] = []
    for start in range(0, len(rows), 4):
        sounds, pictures = [], []
        for row in rows[start : start + 4]:
            video = folder / row["Video_Path"].split("MELD.Raw/" if on_meld else "IEMOCAP_full_release/")[1]
            sound = sound_of(video if on_meld else folder / row["Wav_Path"].split("IEMOCAP_full_release/")[1])
            if on_meld and len(sound) / 22050 > 30:
                sounds.append(np.zeros(1412, np.float32))
                pictures.append(torch.zeros(8, 3, SIDE, SIDE))
                continue
            sounds.append(((sound - sound.mean()) / np.sqrt(sound.var() + 1e-7))[-KEPT:])
            times = () if on_meld else (float(row["Start_Time"]), float(row["End_Time"]))
            frames = frames_of_clip(video) if on_meld else frames_within(video, *times)
            pictures.append(processor(frames, return_tensors="pt")["pixel_values"][0])
        longest = max(map(len, sounds))
        padded = np.stack([np.pad(sound, (longest - len(sound), 0)) for sound in sounds]).astype(np.float32)
        group = prompts[start : start + 4]
        width = max(map(len, group))
        ids = torch.tensor([[1] * (width - len(prompt)) + prompt for prompt in group])
        mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in group])
        theirs = imported.theirs
        answers = (
            theirs.teacher(ids, mask),
            theirs.audio(torch.from_numpy(padded)),
            theirs.video(torch.stack(pictures)),
        )
        groups.append([one.double().numpy() for vector_and_logits in answers for one in vector_and_logits])
    text, text_logits, audio, audio_logits, seen, seen_logits = (
        np.concatenate(one) for one in zip(*groups, strict=True)
    )
    order = (audio, seen) if on_meld else (seen, audio)
    fused = imported.theirs.fused(text, *order)
    logits = {"text": text_logits, "audio": audio_logits, "visual": seen_logits, "fusion": fused}
    return logits, [row["Emotion"] for row in rows]


@pytest.fixture(scope="module")
def miniature(tmp_path_factory: pytest.TempPathFactory, corpora: Path) -> Callable[[str], Path]:
    """Data set -> a folder with meld/ or iemocap/, written when first asked for."""
    folder = tmp_path_factory.mktemp("corpora")
    grid = sorted((corpora / "clips").glob("grid_*.mpg"))

    def written(dataset: str) -> Path:
        if not (folder / dataset).is_dir():
            {"meld": write_meld, "iemocap": write_iemocap}[dataset](folder / dataset, grid)
        return folder

    return written


@pytest.fixture(scope="module", params=["meld", "iemocap"])
def imported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Imported:
    made = Imported(request.param, tmp_path_factory.mktemp(request.param))
    assert made.command() == 0
    return made


@torch.inference_mode()
def test_the_command_repeats_their_evaluation(imported: Imported, miniature: Callable[[str], Path]) -> None:
    corpora = miniature(imported.dataset)
    assert main(["run", str(imported.run), "--corpora", str(corpora), "--parity"]) == 0
    output = imported.run / "evaluation-parity"
    theirs, truth = golden(imported, corpora / imported.dataset)
    labels = LABELS[imported.dataset]
    report = json.loads((output / "evaluation.json").read_text())
    assert [one["part"] for one in report["results"]] == list(theirs)
    for figures in report["results"]:
        ours = Predictions.read(output / "predictions" / f"{figures['name']}.jsonl")
        golden_logits = theirs[figures["part"]]
        assert [labels[label] for label in ours.truth] == truth
        np.testing.assert_allclose(ours.logits, golden_logits, atol=1e-4)
        # Random weights tell utterances apart by little: ours may miss only a hundredth of that.
        assert (np.abs(ours.logits - golden_logits).max(axis=0) < 0.01 * np.ptp(golden_logits, axis=0)).all()
        answers = [labels[answer] for answer in golden_logits.argmax(1)]
        assert figures["weighted_f1"] == pytest.approx(f1_score(truth, answers, average="weighted", zero_division=0))
        assert "groups of four" in figures["note"]


@pytest.fixture(scope="module")
def on_meld(tmp_path_factory: pytest.TempPathFactory) -> Imported:
    made = Imported("meld", tmp_path_factory.mktemp("changed"))
    assert made.command() == 0
    return made


def test_without_the_switch_inputs_are_corrected(
    on_meld: Imported, miniature: Callable[[str], Path], tmp_path: Path
) -> None:
    """No answer depends on what is beside it, nor on which splits there are."""
    corpora = Path(shutil.copytree(miniature("meld"), tmp_path / "corpora"))
    table = corpora / "meld" / "test_meld_emo.csv"
    for split in ("train", "dev"):
        shutil.copy(table, table.with_name(f"{split}_meld_emo.csv"))

    def logits(name: str) -> dict[str, np.ndarray]:
        output = tmp_path / name
        assert main(["run", str(on_meld.run), "--corpora", str(corpora), "--output", str(output)]) == 0
        found = Predictions.read(output / "predictions" / "fusion-text-audio-visual.jsonl")
        assert CORRECTED in found.heading.note
        return dict(zip(found.ids, found.logits, strict=True))

    everything = logits("all")
    assert len(everything) == len(SAID)
    lines = table.read_text(encoding="utf-8").splitlines(keepends=True)
    table.write_text("".join([lines[0], *lines[5:8]]), encoding="utf-8")  # the second dialogue alone
    for name, alone in logits("one").items():
        np.testing.assert_allclose(alone, everything[name], atol=1e-4)


def test_a_clip_that_is_lost_keeps_its_place(
    on_meld: Imported, miniature: Callable[[str], Path], tmp_path: Path
) -> None:
    corpora = Path(shutil.copytree(miniature("meld"), tmp_path / "corpora"))
    (corpora / "meld" / CLIPS / "dia0_utt1.mp4").unlink()
    (corpora / "meld" / CLIPS / "dia2_utt8.mp4").write_bytes(b"no film")
    output = tmp_path / "out"
    assert main(["run", str(on_meld.run), "--corpora", str(corpora), "--output", str(output), "--parity"]) == 0
    found = Predictions.read(output / "predictions" / "fusion-text-audio-visual.jsonl")
    assert len(found.ids) == len(SAID)
    assert "2 clips that cannot be read count as silent and blank" in found.heading.note


def test_what_parity_cannot_be_had_of_is_one_sentence(
    on_meld: Imported, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = small_run.write(tmp_path / "own")
    assert main(["run", str(own), "--corpora", str(tmp_path), "--parity"]) == 2
    assert "was not imported from the TelME authors' release; leave out --parity." in capsys.readouterr().err
    assert main(["run", str(on_meld.run), "--corpora", str(tmp_path), "--parity"]) == 2
    assert "has no test_meld_emo.csv; copy it from the TelME authors' repository" in capsys.readouterr().err
    (tmp_path / "meld").mkdir()
    for text, said in {"Utterance,Speaker\n": "has no column", f"{COLUMNS}\na,b\n": "has a row that cannot be"}.items():
        (tmp_path / "meld" / "test_meld_emo.csv").write_text(text)
        assert main(["run", str(on_meld.run), "--corpora", str(tmp_path), "--parity"]) == 2
        error = capsys.readouterr().err.strip()
        assert said in error
        assert "\n" not in error
