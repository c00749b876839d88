"""telme-evaluate on small runs with random weights: what it writes, what it refuses, and whether figures are right."""

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import small_run
import soundfile
import torch
from scipy.special import log_softmax, softmax
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score, precision_score, recall_score

from export import bundle as exporter
from export import parity
from telme import plots
from telme.corpora import fer2013, ravdess, waveforms
from telme.corpora.records import Utterance, grouping
from telme.features.text import Turn
from telme.labels import FER2013, MELD
from telme.predictions import Predictions
from telme.runtime.recognizer import Recognizer
from telme.training import checkpoint
from telme.training.answers import COMBINATIONS, Encoded, company
from telme.training.encodings import AudioPart, Encodings, TextPart
from telme.training.evaluate_cli import main

pytestmark = pytest.mark.slow  # eleven plots

LEARNT_FROM = {"text": "MELD", "audio": "RAVDESS", "visual": "FER2013", "fusion": "MELD"}
TEXT_ALONE = {"text-meld", "text-meld-misheard"}
NAMES = TEXT_ALONE | {
    "audio-ravdess",
    "visual-fer2013",
    "fusion-text",
    "fusion-text-audio",
    "fusion-text-visual",
    "fusion-text-audio-visual",
    "fusion-random-company",
    "fusion-text-audio-ravdess",
    "students-audio",
    "students-visual",
    "students-audio-visual",
}
ITEMS = {"audio-ravdess": 16, "fusion-text-audio-ravdess": 16, "visual-fer2013": 28}


@pytest.fixture(scope="module")
def small_corpora(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every emotion in every corpus: 5 dialogues, 2 actors, 28 faces to test on."""
    folder = tmp_path_factory.mktemp("corpora")
    random = np.random.default_rng(0)
    for name in ("meld", "ravdess", "fer2013"):
        (folder / name).mkdir()
    for split in ("train", "dev", "test"):
        with (folder / "meld" / f"{split}_sent_emo.csv").open("w", newline="") as file:
            table = csv.writer(file)
            table.writerow(["Utterance", "Speaker", "Emotion", "Dialogue_ID", "Utterance_ID"])
            for dialogue in range(5):
                for place, label in enumerate(MELD):
                    words = " ".join(random.choice(small_run.WORDS[2:12], 4))
                    table.writerow([words, "ab"[place % 2], label, dialogue, place])
    for emotion in range(1, 9):
        for actor in (15, 17, 18):  # 15 is of dev, on which exports are compared
            noise = random.uniform(-0.1, 0.1, 4000 + 800 * emotion)
            soundfile.write(folder / "ravdess" / f"03-01-{emotion:02}-01-01-01-{actor}.wav", noise, 16_000)
    faces = random.integers(0, 256, (56, 48, 48), np.uint8)
    labels = np.arange(56, dtype=np.uint8) % 7
    arrays = {"x_train": faces[:28], "y_train": labels[:28], "x_val": faces[28:], "y_val": labels[28:]}
    np.savez(folder / "fer2013" / fer2013.FILE, classes=list(FER2013.to_meld), **arrays)
    return folder


def write_run(folder: Path, seed: int) -> Path:
    small_run.write(folder, "face_crops", seed)
    for part, corpus in LEARNT_FROM.items():
        path = folder / part / checkpoint.ABOUT
        about = checkpoint.read(folder / part).model_copy(update={"corpora": (corpus,)})
        path.write_text(about.model_dump_json())
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, small_corpora: Path) -> tuple[Path, Path]:
    """Two evaluated runs; the second has only its text part."""
    folder = tmp_path_factory.mktemp("runs")
    found = (write_run(folder / "first", 0), write_run(folder / "second", 1))
    for part in ("audio", "visual", "fusion"):
        shutil.rmtree(found[1] / part)
    for run in found:
        assert main(["run", str(run), "--corpora", str(small_corpora)]) == 0
    return found


def test_figures_are_scikit_learn_s(runs: tuple[Path, Path]) -> None:
    report = json.loads((runs[0] / "evaluation" / "evaluation.json").read_text())
    assert {result["name"] for result in report["results"]} == NAMES
    assert report["parts"]["audio"] == {"config": "small", "seed": 0, "commit": "0123456"}
    for result in report["results"]:
        saved = (runs[0] / "evaluation" / "predictions" / f"{result['name']}.jsonl").read_text().splitlines()
        items = [json.loads(line) for line in saved[1:]]
        truth = [MELD.index(item["label"]) for item in items]
        logits = np.array([item["logits"] for item in items])
        answers = logits.argmax(1)
        options = {"labels": range(7), "zero_division": 0}
        assert result["items"] == len(items) == ITEMS.get(result["name"], 35)
        assert result["groups"] == len({item["group"] for item in items})
        assert result["confusion"] == confusion_matrix(truth, answers, labels=range(7)).tolist()
        assert result["weighted_f1"] == pytest.approx(f1_score(truth, answers, average="weighted", **options))
        assert result["macro_f1"] == pytest.approx(f1_score(truth, answers, average="macro", **options))
        assert result["accuracy"] == pytest.approx(accuracy_score(truth, answers))
        for name, score in (("f1", f1_score), ("precision", precision_score), ("recall", recall_score)):
            found = [one[name] for one in result["classes"]]
            assert found == pytest.approx(score(truth, answers, average=None, **options).tolist())
        for name, temperature in (("calibration_error_before", 1.0), ("calibration_error", result["temperature"])):
            assert result[name] == pytest.approx(calibration_error(logits / temperature, np.array(truth)))
        low, high = result["weighted_f1_interval"]
        assert 0 <= low <= high <= 1


def calibration_error(logits: np.ndarray, truth: np.ndarray) -> float:
    """Bin by bin, as the paper defines it."""
    p = softmax(logits, axis=1)
    confidence, right = p.max(1), p.argmax(1) == truth
    error = 0.0
    for number in range(15):
        inside = (confidence >= number / 15) & (confidence < (number + 1) / 15)
        if inside.any():
            error += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    return error


def read(run: Path, name: str) -> Predictions:
    return Predictions.read(run / "evaluation" / "predictions" / f"{name}.jsonl")


def test_what_items_are_grouped_by(runs: tuple[Path, Path]) -> None:
    found = {
        name: read(runs[0], name) for name in ("text-meld", "fusion-text-audio", "audio-ravdess", "visual-fer2013")
    }
    assert {name: one.heading.grouped_by for name, one in found.items()} == {
        "text-meld": "dialogue",
        "fusion-text-audio": "dialogue",
        "audio-ravdess": "speaker",
        "visual-fer2013": "item",
    }
    assert set(found["text-meld"].groups) == {f"test_dia{number}" for number in range(5)}
    assert set(found["audio-ravdess"].groups) == {"actor-17", "actor-18"}


def test_answers_are_the_parts_own(runs: tuple[Path, Path]) -> None:
    folder = runs[0] / "text"
    part = TextPart.trained(folder)
    utterance = Utterance("one", "test", "joy", "joy", "a", (Turn("a", "oh no"), Turn("b", "what is it")))
    vectors = part.encode([utterance]).vectors
    classifier = checkpoint.load(folder, small_run.Teacher, small_run.TeacherDimensions)[1].classifier
    torch.testing.assert_close(part.logits(vectors), vectors @ classifier.weight.T + classifier.bias)


def test_the_students_together_answer_with_the_mean_of_their_log_probabilities(runs: tuple[Path, Path]) -> None:
    audio, visual, both = (read(runs[0], f"students-{name}").logits for name in ("audio", "visual", "audio-visual"))
    np.testing.assert_allclose(np.exp(audio).sum(1), 1, rtol=1e-5)
    temperature = checkpoint.read(runs[0] / "fusion").students_temperature
    assert temperature != 1
    np.testing.assert_allclose(both, (audio + visual) / 2 / temperature, rtol=1e-5)
    np.testing.assert_allclose(audio, log_softmax(audio, axis=1), atol=1e-5)


def test_prescribed_sentences_are_fused_with_the_voices_that_say_them(
    runs: tuple[Path, Path], small_corpora: Path
) -> None:
    found = read(runs[0], "fusion-text-audio-ravdess")
    assert (found.heading.inputs, found.heading.grouped_by) == ("text + audio", "speaker")
    text, audio = TextPart.trained(runs[0] / "text"), AudioPart.trained(runs[0] / "audio")
    fusion = checkpoint.load(runs[0] / "fusion", small_run.ASF, small_run.FusionDimensions)[1].eval()
    clips = ravdess.load(small_corpora / "ravdess").split("test")
    assert found.ids == tuple(clip.id for clip in clips)
    for clip, logits in zip(clips, found.logits, strict=True):
        said = replace(clip, turns=(Turn("anybody", "Kids are talking by the door."),))
        assert clip.audio is not None
        heard = audio.encode([waveforms.Clip("ravdess", clip, waveforms.read(clip.audio))]).vectors
        one, none = torch.ones(1), torch.zeros(1)
        faces = torch.zeros(1, small_run.VECTOR["visual"])
        with torch.inference_mode():
            expected = fusion(text.encode([said]).vectors, heard, faces, one, none, torch.tensor([0.5]))[0]
        np.testing.assert_allclose(logits, expected, atol=1e-4)


def test_pairs_are_named_for_what_they_are(runs: tuple[Path, Path]) -> None:
    results = json.loads((runs[0] / "evaluation" / "evaluation.json").read_text())["results"]
    for result in results:
        paired = result["part"] in ("fusion", "students") and result["name"] != "fusion-text"
        assert bool(result["note"]) == paired
        if paired and result["name"] not in ("fusion-random-company", "fusion-text-audio-ravdess"):
            assert "paired by label, which is easier than life" in result["note"]


def test_plots_are_pictures_of_the_stated_size(runs: tuple[Path, Path]) -> None:
    folder = runs[0] / "evaluation" / "plots"
    assert {path.stem for path in folder.iterdir()} == NAMES | {"overview"}
    for path in folder.iterdir():
        picture = cv2.imread(str(path))
        width, height = plots.OVERVIEW_PX if path.stem == "overview" else plots.PREDICTIONS_PX
        assert picture.shape == (height, width, 3)
        assert picture.std() > 10


def test_own_clips_come_before_those_of_others() -> None:
    def encoded(ids: list[str], start: float) -> Encoded:
        utterances = [Utterance(one, "test", "joy", "joy", "a", dialogue="d") for one in ids]
        vectors = start + torch.arange(len(ids), dtype=torch.float32)[:, None]
        return Encoded(utterances, Encodings(vectors, np.full(len(ids), MELD.index("joy"))))

    modalities = {"text": encoded(["a", "b", "c"], 0), "audio": encoded(["c", "a"], 10), "visual": encoded(["x"], 20)}
    batch, note = company(modalities, ("text", "audio", "visual"))
    assert batch.audio_present.tolist() == [1, 0, 1]
    assert batch.audio[[0, 2], 0].tolist() == [11, 10]
    assert batch.visual[:, 0].tolist() == [20, 20, 20]
    assert note.startswith("speech of the utterances themselves; faces of other corpora paired by label")
    without, note = company(modalities, ("text", "visual"))
    assert not without.audio_present.any()
    assert note == "faces of other corpora paired by label, which is easier than life"
    assert company(modalities, ("text", "audio"))[1] == "speech of the utterances themselves"
    modalities["visual"] = encoded(["a", "b", "c"], 20)
    batch, note = company(modalities, ("text", "audio", "visual"))
    assert batch.visual[:, 0].tolist() == [20, 21, 22]
    assert note == "speech and faces of the utterances themselves"
    assert company(modalities, ("audio",))[1] == "speech of the utterances themselves"
    assert company(modalities, ("text", "visual"))[1] == "faces of the utterances themselves"


def test_who_speaks_only_once_is_no_group() -> None:
    faces = [Utterance(str(number), "test", "joy", "joy", speaker=str(number)) for number in range(3)]
    assert grouping(faces) == ("item", ("0", "1", "2"))
    assert len(COMBINATIONS) == len(set(COMBINATIONS)) == 2**3 - 1


def test_a_run_does_not_differ_from_itself(
    runs: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "same.json"
    assert main(["compare", str(runs[0]), str(runs[0] / "evaluation"), "--json", str(path)]) == 0
    comparisons = json.loads(path.read_text())
    assert {one["name"] for one in comparisons} == NAMES
    assert all((one["difference"], one["interval"]) == (0, [0, 0]) for one in comparisons)
    assert {one["p_value"] for one in comparisons if one["groups"] < 20} == {None}
    assert {one["p_value"] for one in comparisons if one["groups"] >= 20} <= {1}
    assert "+0.000 [+0.000, +0.000]" in capsys.readouterr().out


def test_two_runs_are_compared_on_the_same_items(
    runs: tuple[Path, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "compared.json"
    assert main(["compare", str(runs[0]), str(runs[1]), "--json", str(path)]) == 0
    misheard, one = json.loads(path.read_text())
    assert (misheard["name"], misheard["items"]) == ("text-meld-misheard", 35)
    assert (one["name"], one["items"], one["groups"], one["grouped_by"]) == ("text-meld", 35, 5, "dialogue")
    scores = [read(run, "text-meld").evaluation.metrics()["weighted_f1"] for run in runs]
    assert one["difference"] == pytest.approx(scores[1] - scores[0])
    assert one["interval"][0] <= one["difference"] <= one["interval"][1]
    assert one["p_value"] is None  # five dialogues allow none
    assert "fusion-text.jsonl is in one of the runs only" in caplog.text


def test_what_is_misheard_is_the_same_for_every_run_and_not_what_was_said(runs: tuple[Path, Path]) -> None:
    said, heard = (read(runs[0], name) for name in ("text-meld", "text-meld-misheard"))
    assert said.ids == heard.ids
    assert not np.allclose(said.logits, heard.logits)
    again = read(runs[1], "text-meld-misheard")
    assert heard.heading.data == again.heading.data == "MELD test with 20 % word errors"


def test_two_files_of_one_run_are_compared(runs: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    folder = runs[0] / "evaluation" / "predictions"
    assert main(["compare", str(folder / "text-meld.jsonl"), str(folder / "fusion-text-audio-visual.jsonl")]) == 0
    assert "text-meld → fusion-text-audio-visual" in capsys.readouterr().out


@pytest.fixture(scope="module")
def exported(runs: tuple[Path, Path], small_corpora: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first run as a bundle, one part of which must be asked one utterance at a time."""
    folder = tmp_path_factory.mktemp("bundles") / "small"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parity, "demand", lambda *_: None)  # so few random weights do not bear int8
        exporter.export(runs[0], folder, small_corpora, precisions={"text": "fp32", "audio": "int8-dynamic"})
    return folder


def test_a_bundle_is_evaluated_as_it_answers_live(
    runs: tuple[Path, Path], exported: Path, small_corpora: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "evaluation"
    assert main(["bundle", str(exported), "--corpora", str(small_corpora), "--output", str(output)]) == 0
    capsys.readouterr()
    found = {path.stem: Predictions.read(path) for path in (output / "predictions").iterdir()}
    assert found.keys() == NAMES
    for name in ("text-meld", "text-meld-misheard", "visual-fer2013", "fusion-text", "students-visual"):
        trained = read(runs[0], name)
        assert found[name].heading == trained.heading
        assert found[name].ids == trained.ids
        np.testing.assert_allclose(found[name].logits, trained.logits, atol=0.01)
    recognizer = Recognizer.load(exported)
    spoken = found["audio-ravdess"]
    for place, clip in enumerate(ravdess.load(small_corpora / "ravdess").split("test")):
        heard = recognizer.encode_audio(waveforms.read(clip.audio)) if clip.audio else None
        assert heard is not None
        assert spoken.ids[place] == clip.id
        np.testing.assert_allclose(spoken.logits[place], heard.logits, atol=1e-4)
    assert main(["compare", str(runs[0]), str(output)]) == 0
    assert "text-meld-misheard" in capsys.readouterr().out


def test_a_bundle_that_does_not_say_what_it_learnt_from_is_not_evaluated(
    exported: Path, small_corpora: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = Path(shutil.copytree(exported, tmp_path / "bundle"))
    manifest = json.loads((bundle / "manifest.json").read_text())
    assert manifest["parts"]["audio"].pop("corpora") == ["RAVDESS"]
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    output = ("--corpora", small_corpora, "--output", tmp_path / "out")
    assert "which corpora its audio part learnt from" in refused(capsys, "bundle", bundle, *output)
    (bundle / "text.onnx").unlink()
    assert "text.onnx" in refused(capsys, "bundle", bundle, *output)
    assert "is not a bundle" in refused(capsys, "bundle", tmp_path / "nothing", *output)
    assert not (tmp_path / "out").exists()


def test_a_run_that_is_not_finished_is_evaluated_as_far_as_it_is(
    runs: tuple[Path, Path], small_corpora: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(runs[0], run)
    for part in ("audio", "visual", "fusion"):
        shutil.rmtree(run / part)
    assert main(["run", str(run), "--corpora", str(small_corpora)]) == 0
    assert {path.stem for path in (run / "evaluation" / "predictions").iterdir()} == TEXT_ALONE
    assert {path.stem for path in (run / "evaluation" / "plots").iterdir()} == {*TEXT_ALONE, "overview"}


def refused(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    capsys.readouterr()
    assert main([str(argument) for argument in arguments]) == 2
    message = capsys.readouterr().err.strip()
    assert message.startswith("telme-evaluate: ")
    assert "\n" not in message
    return message


def test_bad_input_is_one_sentence(
    runs: tuple[Path, Path], small_corpora: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(runs[0], run)
    assert "holds no trained part" in refused(capsys, "run", tmp_path / "nothing")
    assert "give the folder that holds MELD" in refused(capsys, "run", run, "--corpora", tmp_path)
    (tmp_path / "file").touch()
    message = refused(capsys, "run", run, "--corpora", small_corpora, "--output", tmp_path / "file" / "there")
    assert "Cannot write the evaluation" in message
    (run / "evaluation" / "evaluation.json").write_text("{}")
    assert "is no evaluation" in refused(capsys, "run", run, "--corpora", small_corpora)
    (run / "text" / checkpoint.WEIGHTS).write_bytes(b"\x00" * 20)
    message = refused(capsys, "run", run, "--corpora", small_corpora, "--output", tmp_path / "out")
    assert "train this part again" in message


def test_what_cannot_be_compared_is_one_sentence(
    runs: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "holds no evaluation" in refused(capsys, "compare", runs[0], tmp_path)
    other = tmp_path / "other"
    shutil.copytree(runs[0] / "evaluation", other)
    text = other / "predictions" / "text-meld.jsonl"
    text.write_text("\n".join(text.read_text().splitlines()[:-1]))
    assert "1 of the items of text-meld differ, such as test_dia4_utt6" in refused(capsys, "compare", runs[0], other)
    for path in (other / "predictions").iterdir():
        path.unlink()
    assert "have no predictions in common" in refused(capsys, "compare", runs[0], other)
