"""telme-export: a trained run becomes a bundle that answers alike, or no bundle at all."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from time import sleep

import numpy as np
import onnx
import pytest
import small_run
from engine_plans import plans
from export_command import refused
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from safetensors.numpy import load_file, save_file

from export import bundle as exporter
from export import parity, part, together
from export.aside import aside
from export.choice import Way, fastest
from export.cli import main
from export.errors import ExportError, StrayError
from export.parity import Answer
from export.part import PartName
from export.precision import quantized
from export.samples import COUNT, Samples
from export.torch_model import TorchModel
from export.trained import Trained
from telme.bundle import COMPACT, Bundle, Precision
from telme.features.text import Turn
from telme.runtime import backends
from telme.runtime.onnxruntime import OnnxModel
from telme.runtime.recognizer import Inputs, Recognizer
from telme.voice import SPEAKER


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_run.write(tmp_path_factory.mktemp("runs") / "small")


@pytest.fixture(scope="session")
def exported(run: Path, corpora: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with every precision in it. Weights this small and random suffer from int8, so the demands are off."""
    folder = tmp_path_factory.mktemp("bundles") / "small"
    licence = tmp_path_factory.mktemp("licences") / "nobody.txt"
    licence.write_text("Do what you like.")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parity, "demand", lambda *_: None)
        patch.setattr(together, "demand", lambda *_: None)
        exporter.export(
            run,
            folder,
            corpora,
            precisions={"text": "int8", "audio": "int8-dynamic", "visual": "fp16", "fusion": "fp32"},
            licences=[licence],
        )
    return folder


@pytest.fixture(scope="session")
def samples(run: Path, corpora: Path) -> Samples:
    return Samples.read(corpora, Trained.read(run).specifications.visual)


@pytest.fixture
def inputs_read_once(samples: Samples, monkeypatch: pytest.MonkeyPatch) -> None:
    """Spares a test the seconds that reading the corpora takes."""
    monkeypatch.setattr(Samples, "read", lambda *_: samples)


@pytest.fixture
def broken(run: Path, tmp_path: Path) -> Path:
    """A copy of the run to break."""
    return Path(shutil.copytree(run, tmp_path / "run"))


@pytest.mark.corpora
def test_the_bundle_says_how_far_it_strays(exported: Path) -> None:
    manifest = Bundle.open(exported).manifest
    assert manifest.calibration.fused == 1.5
    assert manifest.calibration.audio_visual == 0.75
    assert manifest.training.corpora == ("MELD", "RAVDESS")
    assert len(manifest.training.scores) == 4
    for _, described in manifest.parts.named():
        assert described.parity is not None
        assert described.parity.items == COUNT
    assert manifest.parts.fusion.parity is not None
    assert manifest.parts.fusion.parity.max_abs_error < 1e-4
    assert manifest.end_to_end is not None
    assert manifest.end_to_end.items == COUNT
    assert 0 < manifest.end_to_end.max_abs_error < 0.5
    assert "All parts together, from 64 real inputs to scores" in (exported / "MODEL_CARD.md").read_text()


@pytest.mark.corpora
def test_parts_that_stray_only_together_are_refused(run: Path, exported: Path, samples: Samples) -> None:
    bundle, trained = Bundle.open(exported), Trained.read(run)
    assert together.agreement(trained, bundle, samples) == bundle.manifest.end_to_end
    swapped = {**(parts := together.models(trained)), "fusion": Opposite(parts["fusion"])}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(together, "models", lambda _: swapped)
        found = together.agreement(trained, bundle, samples)
    with pytest.raises(ExportError, match="The parts together stray from the trained ones"):
        together.demand(bundle.manifest, found)


class Opposite:
    """A fusion whose logits have the other sign."""

    def __init__(self, model: TorchModel) -> None:
        self._model = model

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {name: -value for name, value in self._model.run(inputs).items()}


def test_all_four_ways_of_being_there_are_compared_end_to_end() -> None:
    turns, sound, picture = (
        [[Turn("a", "x")]] * 5,
        [np.zeros(16000, np.float32)] * 5,
        [[np.zeros((4, 4), np.uint8)]] * 5,
    )
    items = together.utterances(Samples(turns, sound, picture))
    missing = [(item.text is None, item.audio is None, item.frames is None) for item in items]
    assert [sum(each) for each in missing] == [0, 1, 1, 1, 0]
    assert [sum(each) for each in zip(*missing, strict=True)] == [1, 1, 1]


@pytest.mark.corpora
def test_shapes_and_ranges_stand_in_the_manifest(exported: Path) -> None:
    inputs = {tensor.name: tensor for tensor in Bundle.open(exported).manifest.parts.audio.inputs}
    assert inputs["features"].shape == ("batch", 80, "steps")
    assert inputs["features"].ranges == {"batch": (1, 32), "steps": (10, 400)}
    assert inputs["mask"].dtype == "bool"


@pytest.mark.corpora
@pytest.mark.parametrize("name", ["text", "audio", "visual", "fusion"])
def test_parts_are_single_files_without_traces_of_the_machine(exported: Path, name: str) -> None:
    path = exported / f"{name}.onnx"
    onnx.checker.check_model(path)
    content = path.read_bytes()
    assert str(Path(exporter.__file__).parents[1]).encode() not in content
    assert b".py" not in content


@pytest.mark.corpora
def test_the_card_and_the_licences_travel_along(exported: Path) -> None:
    card = (exported / "MODEL_CARD.md").read_text(encoding="utf-8")
    for words in ("non-commercial", "AI Act", "MELD", "RAVDESS", "random numbers", "0.050 to 0.150", "int8"):
        assert words in card
    assert (exported / "licences" / "nobody.txt").read_text() == "Do what you like."
    assert {document.file for document in Bundle.open(exported).manifest.documents} == {
        "MODEL_CARD.md",
        "licences/nobody.txt",
    }


@pytest.mark.corpora
def test_a_batch_answers_as_its_items_do_in_every_precision(exported: Path) -> None:
    recognizer = Recognizer.load(exported)
    random = np.random.default_rng(0)
    items = [
        Inputs(
            text=[Turn("a", "oh no, what is that?"), Turn("b", "the " * n)] if n % 3 else None,
            audio=random.standard_normal(8000 * n).astype(np.float32) / 10 if n % 2 else None,
            frames=[random.integers(0, 255, (16, 16), np.uint8) for _ in range(n)] if n != 5 else None,
        )
        for n in range(1, 8)
    ]
    together = recognizer.recognize_batch(items)
    for item, among_others in zip(items, together, strict=True):
        alone = recognizer.recognize(text=item.text, audio=item.audio, frames=item.frames)
        assert alone.modalities == among_others.modalities
        assert alone.scores == pytest.approx(among_others.scores, abs=1e-5)


@pytest.mark.corpora
@pytest.mark.slow
@pytest.mark.usefixtures("inputs_read_once")
def test_a_bundle_is_replaced_by_a_new_one(run: Path, exported: Path, corpora: Path, tmp_path: Path) -> None:
    output = Path(shutil.copytree(exported, tmp_path / "bundle"))
    fp32 = "text=fp32,audio=fp32,visual=fp32,fusion=fp32"
    assert main([str(run), "--output", str(output), "--corpora", str(corpora), "--precision", fp32]) == 0
    parts = Bundle.open(output).manifest.parts
    assert all(part.precision == "fp32" for _, part in parts.named())
    assert all(part.parity is not None and part.parity.max_abs_error < 1e-4 for _, part in parts.named())
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


@pytest.mark.corpora
@pytest.mark.usefixtures("inputs_read_once")
def test_an_export_that_strays_writes_nothing(
    run: Path, corpora: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(parity.LIMITS, "fp16", parity.Limits(min_cosine=1.1, argmax_agreement=1.0))
    message = refused(capsys, run, "--output", tmp_path / "bundle", "--corpora", corpora, "--precision", "text=fp16")
    assert "The text part in fp16 strays from the trained one" in message
    assert list(tmp_path.iterdir()) == []


@pytest.mark.corpora
@pytest.mark.usefixtures("inputs_read_once")
def test_a_full_disk_leaves_the_old_bundle(
    run: Path,
    exported: Path,
    corpora: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    output = Path(shutil.copytree(exported, tmp_path / "bundle"))
    before = Bundle.open(output).sha256
    save = onnx.save
    monkeypatch.setattr(onnx, "save", lambda model, path: save(model, "/dev/full"))  # real ENOSPC, on Linux
    assert "No space left on device" in refused(capsys, run, "--output", output, "--corpora", corpora)
    assert Bundle.open(output).sha256 == before
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_not_a_run_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "is no run folder" in refused(capsys, tmp_path / "nothing", "--output", tmp_path / "bundle")
    assert "run telme-train" in refused(capsys, tmp_path, "--output", tmp_path / "bundle")
    (tmp_path / "checkpoint.pt").write_bytes(b"PK")
    assert "is no run folder" in refused(capsys, tmp_path / "checkpoint.pt", "--output", tmp_path / "bundle")


@pytest.mark.parametrize("part", ["text", "audio", "visual", "fusion"])
def test_a_missing_part(broken: Path, part: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(broken / part)
    message = refused(capsys, broken, "--output", tmp_path / "bundle")
    assert str(broken / part) in message
    assert not (tmp_path / "bundle").exists()


def _truncate_weights(run: Path) -> None:
    path = run / "audio" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])


def _another_part(run: Path) -> None:
    shutil.rmtree(run / "visual")
    shutil.copytree(run / "audio", run / "visual")


def _tensor_of_another_shape(run: Path) -> None:
    weights = load_file(run / "fusion" / "model.safetensors")
    name = max(weights, key=lambda name: weights[name].size)
    save_file({**weights, name: weights[name][:-1]}, run / "fusion" / "model.safetensors")


def _other_shapes(run: Path) -> None:
    _edit(run, "visual", lambda about: about["architecture"].update(vector=9))


def _other_labels(run: Path) -> None:
    _edit(run, "fusion", lambda about: about["labels"].reverse())


def _other_run(run: Path) -> None:
    _edit(run, "fusion", lambda about: about.update(config="large"))


def _other_kind_of_input(run: Path) -> None:
    shutil.copyfile(run / "audio" / "checkpoint.json", run / "about.json")
    kind = json.loads((run / "about.json").read_text())["preprocessing"]
    _edit(run, "visual", lambda about: about.update(preprocessing=kind))


def _no_tokenizer(run: Path) -> None:
    (run / "text" / "tokenizer.json").write_text("{}")


def _edit(run: Path, part: str, change: Callable[[dict[str, object]], object]) -> None:
    path = run / part / "checkpoint.json"
    about = json.loads(path.read_text())
    change(about)
    path.write_text(json.dumps(about))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (_truncate_weights, "do not fit"),
        (_other_shapes, "do not fit"),
        (_another_part, "holds the audio part of a model, not the visual part"),
        (_tensor_of_another_shape, "size mismatch"),
        (_other_labels, "differ in labels"),
        (_other_run, "differ in config"),
        (_other_kind_of_input, "AudioSpec instead of VisualSpec"),
        (_no_tokenizer, "is no tokenizer"),
    ],
)
def test_parts_that_do_not_fit(
    broken: Path, damage: Callable[[Path], None], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damage(broken)
    assert words in refused(capsys, broken, "--output", tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


def test_no_corpora(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    message = refused(capsys, run, "--output", tmp_path / "bundle", "--corpora", tmp_path)
    assert "real inputs" in message
    assert list(tmp_path.iterdir()) == []


def test_output_that_is_something_else(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "thesis.txt").write_text("the only copy")
    assert "exists and is no bundle" in refused(capsys, run, "--output", tmp_path)
    assert (tmp_path / "thesis.txt").exists()


@pytest.fixture
def shipped(tmp_path: Path) -> Path:
    return Path(shutil.copytree(COMPACT, tmp_path / "bundle"))


def test_a_folder_that_merely_has_a_manifest_is_not_replaced(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "manifest.json").write_text('{"name": "My web app", "start_url": "/"}')
    (tmp_path / "thesis.txt").write_text("the only copy")
    assert "exists and is no bundle" in refused(capsys, run, "--output", tmp_path)
    assert "exists and is no bundle" in refused(capsys, run, "--output", shutil.copytree(SPEAKER, tmp_path / "voice"))
    assert (tmp_path / "thesis.txt").exists()


@pytest.mark.parametrize("name", ["notes.txt", "runs/notes.txt"])
def test_a_bundle_with_somebody_s_own_files_is_not_replaced(
    run: Path, shipped: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (shipped / name).parent.mkdir(exist_ok=True)
    (shipped / name).write_text("mine")
    assert f"holds {name}, which is no file of the bundle there" in refused(capsys, run, "--output", shipped)
    assert (shipped / name).read_text() == "mine"


def test_the_folder_that_one_is_in_is_not_replaced(
    run: Path, shipped: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(shipped / "licences")
    for output in (".", ".."):
        assert refused(capsys, run, "--output", output)
    monkeypatch.chdir(shipped)
    assert "you are in it" in refused(capsys, run, "--output", ".")
    assert Bundle.open(shipped)


@pytest.mark.parametrize("dangling", [True, False])
def test_a_link_stays_and_what_it_points_to_is_replaced(tmp_path: Path, dangling: bool) -> None:
    real, link = tmp_path / "real", tmp_path / "link"
    link.symlink_to(real)
    if not dangling:
        real.mkdir()
    with aside(link, "the bundle") as folder:
        (folder / "new").touch()
    assert link.is_symlink()
    assert [path.name for path in real.iterdir()] == ["new"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "real"]


@pytest.mark.corpora
def test_a_command_that_is_told_to_end_leaves_nothing(run: Path, corpora: Path, tmp_path: Path) -> None:
    program = "import sys; from export.command import main; sys.exit(main())"
    arguments = [str(run), "--output", str(tmp_path / "bundle"), "--corpora", str(corpora)]
    process = subprocess.Popen([sys.executable, "-c", program, *arguments], stderr=subprocess.PIPE, text=True)
    while not any(tmp_path.iterdir()):
        assert process.poll() is None
        sleep(0.05)
    process.terminate()
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert said.splitlines()[-1] == "telme-export: interrupted; nothing was written."
    assert list(tmp_path.iterdir()) == []


def test_output_that_cannot_be(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    assert "Cannot write the bundle" in refused(capsys, run, "--output", tmp_path / "file" / "bundle")


@pytest.mark.parametrize("text", ["text", "text=int4", "face=int8", "text=int8;audio=int8"])
def test_unknown_precision(run: Path, text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    message = refused(capsys, run, "--output", tmp_path / "bundle", "--precision", text)
    assert "--precision cannot be" in message
    assert "int8-dynamic" in message


@pytest.mark.parametrize("samples", ["1", "0", "-3"])
def test_too_few_samples(run: Path, samples: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    message = refused(capsys, run, "--output", tmp_path / "bundle", "--samples", samples)
    assert f"--samples cannot be {samples}; give at least 2" in message


@pytest.mark.parametrize("megabytes", ["0", "1048577", "99999999999999999999"])
def test_a_workspace_that_no_gpu_has(
    run: Path, megabytes: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ("--target", "tensorrt", "--workspace-mb", megabytes)
    assert "give 1 to 1048576" in refused(capsys, run, "--output", tmp_path / "bundle", *flags)


def test_licences_that_are_not_there(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "holds no .txt" in refused(capsys, run, "--output", tmp_path / "bundle", "--licences", tmp_path)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8", "int8-dynamic"])
def test_demands(precision: Precision) -> None:
    said = [Answer(np.eye(4, dtype=np.float32)[i], np.eye(4, dtype=np.float32)[i]) for i in range(4)]
    parity.demand("text", precision, parity.compare(said, said))
    others = [said[0], said[1], said[3], said[2]]
    with pytest.raises(ExportError, match=r"50.0% of 4 items"):
        parity.demand("text", precision, parity.compare(said, others))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_values_that_are_not_finite_never_agree(bad: float) -> None:
    good, broken = np.ones(4, np.float32), np.array([1, bad, 1, 1], np.float32)
    with pytest.raises(ExportError, match="The trained text part gives NaN or infinity"):
        parity.demand_sound("text", [Answer(good, good), Answer(good, broken)])
    with pytest.raises(StrayError, match="text part in fp16 gives NaN or infinity") as stray:
        parity.demand_finite("text", "fp16", [Answer(broken, good)])
    assert stray.value.parity is None
    with np.errstate(invalid="ignore"):
        assert parity.compare([Answer(good, good)], [Answer(broken, good)]).min_cosine == -1.0


def test_the_cosine_of_large_vectors_is_one() -> None:
    large = np.full(4, 1e30, np.float32)
    assert parity.compare([Answer(large, large)], [Answer(large, large)]).min_cosine == pytest.approx(1.0)


@pytest.mark.corpora
@pytest.mark.usefixtures("inputs_read_once")
def test_a_trained_part_that_gives_nan_is_named(
    broken: Path, corpora: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = broken / "visual" / "model.safetensors"
    weights = load_file(path)
    weights["vector.weight"][0, 0] = np.nan
    save_file(weights, path)
    message = refused(capsys, broken, "--output", tmp_path / "bundle", "--corpora", corpora)
    assert "The trained visual part gives NaN or infinity" in message


def test_a_way_that_overflows_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plans()["visual"]
    overflowing, exact = Way("onnxruntime", "fp16"), Way("onnxruntime", "fp32")
    run = OnnxModel.run

    def computed(self: OnnxModel, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        found = run(self, inputs)
        return {name: value * np.nan for name, value in found.items()} if not tried.count("fp32") else found

    tried: list[Precision] = []
    export = Way.export
    monkeypatch.setattr(Way, "export", lambda self, *given: (tried.append(self.precision), export(self, *given))[1])
    monkeypatch.setattr(OnnxModel, "run", computed)
    made = fastest(plan, [[overflowing, exact]], tmp_path)
    assert made.precision == "fp32"
    assert [(trial.precision, trial.parity is None) for trial in made.trials] == [("fp32", False), ("fp16", True)]


@pytest.mark.parametrize("precision", ["int8-static", "int8-dynamic"])
@pytest.mark.parametrize("name", ["text", "audio", "visual", "fusion"])
def test_every_part_multiplies_in_int8(
    name: PartName, precision: Precision, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parity, "demand", lambda *_: None)
    plan = plans()[name]
    made = part.export(plan, precision, tmp_path)
    found = backends.load(tmp_path / made.file, made, threads=1).run(plan.example)
    wanted = TorchModel(plan.module, plan.signature).run(plan.example)
    # Logits of about 1, by weights that are random and few, which quantise worse than trained ones.
    np.testing.assert_allclose(found["logits"], wanted["logits"], atol=0.5)


@settings(deadline=None)
@given(arrays(np.float32, (6, 5), elements=st.floats(-1e4, 1e4, width=32)), st.sampled_from([0, 1]))
def test_int8_is_off_by_at_most_half_a_step(values: np.ndarray, axis: int) -> None:
    integers, scales = quantized(values, axis)
    steps = np.expand_dims(scales, 1 - axis)
    assert np.abs(integers.astype(np.int32)).max() <= 127
    assert np.all(np.abs(integers * steps - values) <= steps * 0.501)
