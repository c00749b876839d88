"""A bundle is read only when it is whole; everything else is refused with one sentence."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from telme import bundle as bundles
from telme.bundle import MANIFEST, Bundle, BundleError, FusionSpec, Manifest, UnsureText, json_schema, sha256_of
from telme.labels import MELD


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A whole bundle, whose parts are no models: opening one only looks at names and hashes."""
    parts = {}
    for name in ("text", "audio", "visual", "fusion"):
        path = tmp_path / f"{name}.onnx"
        path.write_bytes(name.encode() * 100)
        parts[name] = {
            "file": path.name,
            "sha256": sha256_of(path),
            "bytes": path.stat().st_size,
            "precision": "int8",
            "inputs": [{"name": "x", "dtype": "float32", "shape": ["batch", 3], "ranges": {"batch": [1, 32]}}],
            "outputs": [{"name": "logits", "dtype": "float32", "shape": ["batch", 7]}],
        }
    for name in ("tokenizer.json", "MODEL_CARD.md"):
        (tmp_path / name).write_text("{}")
    manifest = {
        "schema_version": "telme.bundle/1",
        "name": "small",
        "labels": MELD,
        "parts": parts,
        "text": {
            "tokenizer_sha256": sha256_of(tmp_path / "tokenizer.json"),
            "max_tokens": 32,
            "separator_token": "</s>",
            "mask_token": "<mask>",
            "pad_token": "<pad>",
            "speaker_tokens": ["<s1>"],
        },
        "audio": {"kind": "log_mel", "max_s": 8.0},
        "visual": {"kind": "frames", "size_px": 32, "channels": 1, "frames": 8, "mean": [0.5], "std": [0.25]},
        "fusion": {"beta": 0.1},
        "training": {"config": "small", "seed": 1, "commit": "0", "corpora": ["MELD"], "licence": "research"},
        "documents": [{"file": "MODEL_CARD.md", "sha256": sha256_of(tmp_path / "MODEL_CARD.md")}],
    }
    (tmp_path / MANIFEST).write_text(json.dumps(manifest))
    return tmp_path


def change(folder: Path, path: str, value: Any) -> None:
    """Set one key of the manifest, given as `a.b.c`."""
    manifest = json.loads((folder / MANIFEST).read_text())
    *steps, last = path.split(".")
    place = manifest
    for step in steps:
        place = place[step]
    place[last] = value
    (folder / MANIFEST).write_text(json.dumps(manifest))


def refusal(folder: Path) -> str:
    with pytest.raises(BundleError) as error:
        Bundle.open(folder)
    message = str(error.value)
    assert "\n" not in message
    assert message.endswith(".")
    return message


def test_a_whole_bundle_opens(folder: Path) -> None:
    bundle = Bundle.open(str(folder))
    assert bundle.manifest.labels == MELD
    assert bundle.path(bundle.manifest.parts.text) == folder / "text.onnx"
    assert bundle.sha256 == sha256_of(folder / MANIFEST)


def test_the_manifest_survives_a_round_trip(folder: Path) -> None:
    manifest = Bundle.open(folder).manifest
    assert Manifest.model_validate_json(manifest.model_dump_json()) == manifest


def test_the_manifest_fits_its_json_schema(folder: Path) -> None:
    jsonschema.Draft202012Validator.check_schema(json_schema())
    jsonschema.validate(json.loads((folder / MANIFEST).read_text()), json_schema())


def test_no_such_folder(tmp_path: Path) -> None:
    assert "is not a bundle: cannot read manifest.json" in refusal(tmp_path / "nothing")


def test_a_file_instead_of_a_folder(folder: Path) -> None:
    assert "is not a bundle" in refusal(folder / "text.onnx")


@pytest.mark.parametrize("name", ["text.onnx", "audio.onnx", "visual.onnx", "fusion.onnx", "tokenizer.json"])
def test_one_changed_byte(folder: Path, name: str) -> None:
    path = folder / name
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    message = refusal(folder)
    assert "is damaged" in message
    assert name in message


def test_a_changed_licence_or_card_is_noticed(folder: Path) -> None:
    (folder / "MODEL_CARD.md").write_text("Good for everything.")
    assert "MODEL_CARD.md" in refusal(folder)


def test_missing_part(folder: Path) -> None:
    (folder / "audio.onnx").unlink()
    message = refusal(folder)
    assert "audio part" in message
    assert "No such file" in message


def test_part_that_is_a_folder(folder: Path) -> None:
    (folder / "audio.onnx").unlink()
    (folder / "audio.onnx").mkdir()
    assert "audio part" in refusal(folder)


@pytest.mark.parametrize(
    "file",
    ["/etc/hostname", "../text.onnx", "parts/../../text.onnx", "parts/../text.onnx", "./text.onnx", "a\x00b", ""],
)
def test_path_that_leaves_the_folder_or_could(folder: Path, file: str) -> None:
    change(folder, "parts.text.file", file)
    refusal(folder)


def test_link_to_outside_the_folder(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "text.onnx"
    (folder / "text.onnx").rename(elsewhere)
    (folder / "text.onnx").symlink_to(elsewhere)
    assert "points outside the bundle" in refusal(folder)


def test_unknown_key(folder: Path) -> None:
    change(folder, "visual.resize", "bicubic")
    assert "visual.resize" in refusal(folder)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("labels", ["anger"]),
        ("labels", ["anger", "anger"]),
        ("labels", ["anger", "bliss"]),
        ("parts.text.sha256", "0" * 63),
        ("parts.text.precision", "int4"),
        ("parts.text.outputs", [{"name": "logits", "dtype": "float32", "shape": ["batch", 6]}]),
        ("fusion.beta", 0),
        ("fusion.beta", "NaN"),
        ("fusion.unsure", {"beta": 0}),
        ("fusion.unsure", {"beta": 0.5, "low": 0.7, "high": 0.7}),
        ("fusion.unsure", {"beta": 0.5, "high": 1.1}),
        ("visual.kind", "face_crops"),
        ("visual.mean", [0.5, 0.5]),
        ("visual.std", [0.0]),
        ("audio.sample_rate_hz", 44_100),
        ("text.max_tokens", 10.5),
    ],
)
def test_values_that_cannot_be(folder: Path, path: str, value: Any) -> None:
    change(folder, path, value)
    assert "is not a valid manifest" in refusal(folder)


def test_a_manifest_without_a_rule_for_doubtful_text_has_one_bound(folder: Path) -> None:
    fusion = Bundle.open(folder).manifest.fusion
    assert fusion.unsure is None
    assert {fusion.bound(confidence) for confidence in (None, 0.0, 0.5, 1.0)} == {0.1}


def test_a_manifest_may_let_doubtful_text_be_shifted_further(folder: Path) -> None:
    change(folder, "fusion.unsure", {"beta": 0.5, "low": 0.3, "high": 0.8})
    jsonschema.validate(json.loads((folder / MANIFEST).read_text()), json_schema())
    fusion = Bundle.open(folder).manifest.fusion
    assert fusion.bound(None) == fusion.bound(0.8) == fusion.bound(1.0) == fusion.bound(float("nan")) == 0.1
    assert fusion.bound(0.3) == fusion.bound(0.0) == pytest.approx(0.5)
    assert fusion.bound(0.55) == pytest.approx(0.3)


@given(
    beta=st.floats(0.01, 2),
    unsure=st.floats(0.01, 2),
    low=st.floats(0, 0.49),
    high=st.floats(0.51, 1),
    less=st.floats(-1, 2),
    more=st.floats(-1, 2),
)
def test_the_bound_goes_one_way_and_stays_between_its_ends(
    beta: float, unsure: float, low: float, high: float, less: float, more: float
) -> None:
    spec = FusionSpec(beta=beta, unsure=UnsureText(beta=unsure, low=low, high=high))
    less, more = sorted((less, more))
    doubtful, sure = spec.bound(less), spec.bound(more)
    assert min(beta, unsure) - 1e-12 <= doubtful <= max(beta, unsure) + 1e-12
    assert (doubtful - sure) * (unsure - beta) >= -1e-12


def test_a_bundle_of_another_version_names_both(folder: Path) -> None:
    change(folder, "schema_version", "telme.bundle/2")
    message = refusal(folder)
    assert "telme.bundle/2" in message
    assert "telme.bundle/1" in message


def test_a_bundle_of_no_version_is_refused(folder: Path) -> None:
    manifest = json.loads((folder / MANIFEST).read_text())
    del manifest["schema_version"]
    (folder / MANIFEST).write_text(json.dumps(manifest))
    assert "schema_version: Field required" in refusal(folder)


def test_the_version_is_named_before_what_it_has_changed(folder: Path) -> None:
    (folder / MANIFEST).write_text('{"new": 1, "schema_version": "telme.bundle/2"}')
    assert "telme.bundle/2" in refusal(folder)


def test_a_huge_manifest_is_not_read(folder: Path) -> None:
    with (folder / MANIFEST).open("r+b") as file:
        file.truncate(1 << 40)  # sparse
    assert "larger than" in refusal(folder)


def test_an_endless_manifest_is_not_read(folder: Path) -> None:
    (folder / MANIFEST).unlink()
    (folder / MANIFEST).symlink_to("/dev/zero")
    assert "larger than" in refusal(folder)


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 100_000, b'{"name": NaN}'])
def test_bad_json(folder: Path, text: bytes) -> None:
    (folder / MANIFEST).write_bytes(text)
    assert "is not a valid manifest" in refusal(folder)


@given(st.binary(max_size=200))
def test_any_bytes_are_refused_with_a_sentence(tmp_path_factory: pytest.TempPathFactory, text: bytes) -> None:
    folder = tmp_path_factory.mktemp("bundle")
    (folder / MANIFEST).write_bytes(text)
    refusal(folder)


def test_the_bundle_that_ships_is_whole() -> None:
    bundle = Bundle.open(bundles.COMPACT)
    assert bundle.manifest.name == "compact"
    assert all(part.parity is not None for name, part in bundle.manifest.parts.named() if name != "face_detector")
    assert sum(path.stat().st_size for path in bundle.folder.rglob("*") if path.is_file()) < 45_000_000
    assert (bundle.folder / "MODEL_CARD.md").is_file()
