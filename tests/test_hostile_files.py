"""Settings files and bundles that somebody spoilt: one sentence, in little memory."""

import json
import os
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given
from hypothesis import settings as limits
from hypothesis import strategies as st

from streamer.configuration import ConfigurationError, load, to_yaml
from streamer.settings import StreamSettings
from telme.bundle import COMPACT, MANIFEST, Bundle, BundleError, Manifest

MEMORY_MAX = 64 << 20
SETTINGS = to_yaml(StreamSettings())
SECTIONS = list(StreamSettings.model_fields)
IN_ONE_FOLDER = limits(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)


@contextmanager
def little_memory() -> Iterator[None]:
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < MEMORY_MAX
    finally:
        tracemalloc.stop()


YAML_PIECES = st.sampled_from(
    [
        *(
            "- ",
            ": ",
            "? ",
            "{",
            "}",
            "[",
            "]",
            "&a ",
            "*a",
            "!!int ",
            "<<: ",
            "|\n ",
            "--- ",
            "%",
            "\t",
            "\n",
            "'",
            '"',
        ),
        *(
            "0x",
            "1_",
            "1e999",
            "-.inf",
            ".nan",
            "2026-13-13",
            "1:99:99",
            "~",
            "null",
            "yes",
            "\ufeff",
            "level",
            *SECTIONS,
        ),
    ]
)


@IN_ONE_FOLDER
@given(text=st.lists(YAML_PIECES | st.text(max_size=5), max_size=30).map("".join))
@example(text="stop_s: 0x_")
@example(text="1: 2")
@example(text="? [a]\n: b")
@example(text="null: 2")
@example(text="log: 2026-11-22")
@example(text="mqtt: {url: 'mqtt://[::1'}")
@example(text="mqtt: {url: 'mqtt://a:99999999'}")
def test_any_settings_file_is_read_or_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "stream.yaml"
    file.write_bytes(text.encode(errors="surrogatepass"))
    with little_memory():
        refusal = refused(lambda: load({}, {}, file), ConfigurationError)
    assert refusal is None or refusal.isprintable()


@IN_ONE_FOLDER
@given(
    at=st.integers(0, len(SETTINGS)), cut=st.integers(0, 200), inserted=st.binary(max_size=8), flags=st.text(max_size=9)
)
def test_spoilt_settings_are_read_or_refused(tmp_path: Path, at: int, cut: int, inserted: bytes, flags: str) -> None:
    file = tmp_path / "stream.yaml"
    file.write_bytes(SETTINGS[:at].encode() + inserted + SETTINGS[at + cut :].encode())
    refusal = refused(lambda: load({flags: flags}, {f"TELME_{flags}": flags}, file), ConfigurationError)
    assert refusal is None or refusal.isprintable()


def refused(attempt: Callable[[], object], kind: type[Exception]) -> str | None:
    """The sentence of a refusal; whatever else is raised is a fault."""
    try:
        attempt()
    except kind as error:
        return str(error)
    return None


# Bundles.

MANIFEST_TEXT = (COMPACT / MANIFEST).read_bytes()


def paths(value: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Of every value in nested JSON."""
    yield above
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from paths(inner, (*above, key))


PATHS = [path for path in paths(json.loads(MANIFEST_TEXT)) if path]
VALUES = st.sampled_from(
    [None, True, -1, 0, 1, 10**9, 10**18, 1e308, -0.5, "", "../x", "/etc/passwd", "a" * 10_000, [], {}, ["x"] * 1000]
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle whose manifest may be written over; its parts are links into a copy, for none may lie outside."""
    made = tmp_path_factory.mktemp("bundle")
    for file in COMPACT.rglob("*"):
        if file.is_file():
            target = made / file.relative_to(COMPACT)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(file.read_bytes() if file.stat().st_size < 100_000 else b"stands for a part")
    return made


@IN_ONE_FOLDER
@given(path=st.sampled_from(PATHS), value=VALUES)
def test_a_manifest_with_any_other_value_is_refused_in_a_sentence(
    folder: Path, path: tuple[Any, ...], value: Any
) -> None:
    manifest = json.loads(MANIFEST_TEXT)
    inner = manifest
    for step in path[:-1]:
        inner = inner[step]
    inner[path[-1]] = value
    (folder / MANIFEST).write_text(json.dumps(manifest))
    with little_memory():
        refusal = refused(lambda: Bundle.open(folder), BundleError)
    assert refusal is not None  # at the latest because the parts are not those of the manifest
    assert "\n" not in refusal


@IN_ONE_FOLDER
@given(at=st.integers(0, len(MANIFEST_TEXT)), cut=st.integers(0, 50), inserted=st.binary(max_size=8))
def test_a_spoilt_manifest_is_refused_in_a_sentence(folder: Path, at: int, cut: int, inserted: bytes) -> None:
    (folder / MANIFEST).write_bytes(MANIFEST_TEXT[:at] + inserted + MANIFEST_TEXT[at + cut :])
    assert refused(lambda: Bundle.open(folder), BundleError)


@pytest.mark.parametrize(
    ("section", "field"),
    [
        *[("text", "max_tokens"), ("audio", "max_s"), ("audio", "mel_bins")],
        *[("visual", "size_px"), ("visual", "frames"), ("visual", "rate_hz"), ("visual", "margin")],
    ],
)
def test_what_decides_over_memory_has_a_bound(section: str, field: str) -> None:
    manifest = json.loads(MANIFEST_TEXT)
    manifest[section][field] = 10**9
    with pytest.raises(ValueError, match=f"{section}.{field}"):
        Manifest.model_validate_json(json.dumps(manifest))


def test_a_part_that_is_no_file_is_refused_and_not_waited_for(folder: Path) -> None:
    (folder / MANIFEST).write_bytes(MANIFEST_TEXT)
    part = folder / json.loads(MANIFEST_TEXT)["parts"]["text"]["file"]
    part.unlink()
    os.mkfifo(part)
    with pytest.raises(BundleError, match="no regular file"):
        Bundle.open(folder)
