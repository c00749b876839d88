"""Settings: precedence, refusals in one sentence, and the documented YAML file."""

import re
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from streamer.cli import main
from streamer.configuration import (
    CONFIG_BYTES_MAX,
    ConfigurationError,
    load,
    merge,
    parse_assignment,
    parse_stream,
    to_yaml,
)
from streamer.settings import Sources, StreamSettings

DOCUMENTED = Path(__file__).parents[1] / "configs" / "stream.yaml"


def write(folder: Path, text: str) -> Path:
    file = folder / "stream.yaml"
    file.write_text(text, encoding="utf-8")
    return file


def test_flags_outrank_environment_outranks_file_outranks_defaults(tmp_path: Path) -> None:
    file = write(tmp_path, "segmentation: {hangover_ms: 600, start_ms: 120, min_ms: 300}\nnode: from-file\n")
    environment = {"TELME_SEGMENTATION__HANGOVER_MS": "700", "TELME_SEGMENTATION__START_MS": "150"}
    settings = load({"segmentation": {"hangover_ms": 800}}, environment, file)
    assert settings.segmentation.hangover_ms == 800
    assert settings.segmentation.start_ms == 150
    assert settings.segmentation.min_ms == 300
    assert settings.node == "from-file"
    assert settings.segmentation.max_ms == StreamSettings().segmentation.max_ms


def test_the_password_and_foreign_variables_are_no_settings() -> None:
    environment = {"TELME_MQTT_PASSWORD": "secret", "HOME": "/root"}
    assert load({}, environment) == StreamSettings()


def test_a_device_number_is_a_device_name() -> None:
    assert load({}, {"TELME_SOURCES__CAMERA": "0"}).sources.camera == "0"


@pytest.mark.parametrize(
    ("flags", "environment", "sentence"),
    [
        ({"segmentation": "3"}, {}, "segmentation (command line) is a section: name a setting in it"),
        ({"segmentation": {"hangover_ms": 10}}, {}, "segmentation.hangover_ms = 10 (command line)"),
        ({}, {"TELME_SEGMENTATION__HANGOVER_MS": "soon"}, "segmentation.hangover_ms = 'soon' (environment)"),
        ({}, {"TELME_COLOUR": "red"}, "Unknown setting colour (environment)"),
        ({"sources": {"media": "a.mp4", "camera": "0"}}, {}, "leave out microphone and camera"),
        ({"segmentation": {"min_ms": 5000, "max_ms": 2000}}, {}, "min_ms (5000 ms) must be below max_ms (2000 ms)"),
        ({"mqtt": {"url": "http://host"}}, {}, "begins with mqtt:// or mqtts://"),
        ({"node": "a/b"}, {}, "node = 'a/b'"),
        ({"streams": {"a": {"media": "a.mp4"}}, "stream": "b"}, {}, "streams takes the place of stream and sources"),
        ({"streams": {"a": {"media": "a.mp4"}}, "sources": {"camera": "0"}}, {}, "give the source of 'main' a name"),
        ({"streams": {"a": {}}}, {}, "stream 'a' has no source: give it media, a microphone or a camera"),
        ({"streams": {"info": {"media": "a.mp4"}}}, {}, "a stream cannot be called 'info'"),
        ({"streams": {"a": {"media": "a.mp4", "camera": "0"}}}, {}, "leave out microphone and camera"),
        (
            {"streams": {"a": {"microphone": "USB"}, "b": {"media": "a.mp4"}, "c": {"camera": "0"}}},
            {},
            "'a' and 'c' both listen to a microphone, which only one stream of a process may do",
        ),
        ({"dialogue": {"reset_after_s": float("nan")}}, {}, "dialogue.reset_after_s"),
    ],
)
def test_bad_values_are_refused_with_one_sentence(
    flags: dict[str, object], environment: dict[str, str], sentence: str
) -> None:
    with pytest.raises(ConfigurationError) as refusal:
        load(flags, environment)
    message = str(refusal.value)
    assert sentence in message
    assert "\n" not in message


def test_a_password_in_the_address_is_refused_and_not_repeated() -> None:
    with pytest.raises(ConfigurationError) as refusal:
        load({"mqtt": {"url": "mqtt://robot:hunter2@host"}}, {})
    assert "TELME_MQTT_PASSWORD" in str(refusal.value)
    assert "hunter2" not in str(refusal.value)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("- a\n- b\n", "must hold keys and values"),
        ("node: [unclosed\n", "not valid YAML at line"),
        ("nodes: x\n", "Unknown setting nodes"),
        ("x: " + "[" * 5000, "not valid YAML"),
        ("node: a\nstop_s: 1\nnode: b\n", r"not valid YAML at line 3 \(node stands there twice\)"),
        ("streams:\n  2: {media: a.mp4}\n  '2': {media: b.mp4}\n", r"line 3 \(2 stands there twice\)"),
        ("node: &a x\nstream: *a\n", "not valid YAML at line 2 .*neither aliases nor tags"),
        ("node: !!python/name:os.system x\n", "not valid YAML at line 1 .*neither aliases nor tags"),
        ("node: !!int ''\n", "neither aliases nor tags"),
        ("stop_s: 2026-02-31\n", "impossible value: day is out of range for month"),
        (f"stop_s: {'9' * 5000}\n", "impossible value"),
        (f"node: {'x' * 5000}\n", "Setting node = 'xxx.*…"),
        (f"{'x' * 500}: 1\n", "Unknown setting xxx.*… "),
        ('"a\\nb\\e[2J": 1\n', r"Unknown setting a\?b\?\[2J"),
        (f"#{'x' * CONFIG_BYTES_MAX}", "larger than 131072 bytes"),
    ],
)
def test_bad_files_are_refused_with_one_sentence(tmp_path: Path, text: str, sentence: str) -> None:
    with pytest.raises(ConfigurationError, match=sentence):
        load({}, {}, write(tmp_path, text))


def test_a_device_is_no_settings_file() -> None:
    with pytest.raises(ConfigurationError, match="no regular file"):
        load({}, {}, Path("/dev/zero"))


def test_a_bomb_of_aliases_does_not_go_off(tmp_path: Path) -> None:
    lists = "".join(f"x{n + 1}: &x{n + 1} [{', '.join([f'*x{n}'] * 10)}]\n" for n in range(12))
    with pytest.raises(ConfigurationError, match="neither aliases nor tags"):
        load({}, {}, write(tmp_path, f"x0: &x0 [lol]\n{lists}node: *x12\n"))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="No such file"):
        load({}, {}, tmp_path / "nowhere.yaml")


def test_the_documented_file_holds_every_key_with_its_default() -> None:
    text = DOCUMENTED.read_text(encoding="utf-8")
    assert text.endswith(to_yaml(StreamSettings())), "run: telme-stream --print-config, and update configs/stream.yaml"
    assert load({}, {}, DOCUMENTED) == StreamSettings()


def test_bounds_say_whether_they_are_allowed_themselves() -> None:
    text = to_yaml(StreamSettings())
    assert re.search(r"above 0, to 300\n *stop_s:", text)
    assert re.search(r"above 0, below 1\n *likeness_min:", text)
    assert re.search(r"; 1 to 16\n *people_max:", text)
    for refused in ("stop_s=0", "speakers.likeness_min=1"):
        with pytest.raises(ConfigurationError):
            load(parse_assignment(refused), {})


def test_every_setting_is_documented() -> None:
    lines = to_yaml(StreamSettings()).splitlines()
    keys = [index for index, line in enumerate(lines) if line.strip() and not line.strip().startswith("#")]
    undocumented = [lines[index].strip() for index in keys if not lines[index - 1].strip().startswith("#")]
    assert undocumented == []


@given(
    st.builds(
        lambda hangover, node, turns: {
            "node": node,
            "segmentation": {"hangover_ms": hangover},
            "dialogue": {"turns_max": turns},
        },
        st.integers(50, 5000),
        st.from_regex(r"\A[A-Za-z0-9][A-Za-z0-9_.-]{0,20}\Z"),
        st.integers(1, 200),
    )
)
def test_printed_settings_read_back_the_same(tree: dict[str, object]) -> None:
    settings = StreamSettings.model_validate(tree)
    assert StreamSettings.model_validate(yaml.safe_load(to_yaml(settings))) == settings


def test_several_streams_are_settings_of_several_single_ones(tmp_path: Path) -> None:
    file = write(tmp_path, "streams: {kitchen: {media: a.mp4}, 2: {microphone: default, camera: 1}}\nnode: desk\n")
    flags = merge(iter([parse_stream("hall=rtsp://camera/1?a=b"), parse_assignment("streams.kitchen.fast=true")]))
    several = load(flags, {}, file)
    kitchen, two, hall = several.each()
    assert (kitchen.stream, kitchen.sources) == ("kitchen", Sources(media="a.mp4", fast=True))
    assert (two.stream, two.sources.camera) == ("2", "1")
    assert (hall.stream, hall.sources.media) == ("hall", "rtsp://camera/1?a=b")
    assert {one.node for one in (kitchen, two, hall)} == {"desk"}
    assert kitchen.each() == (kitchen,)
    assert StreamSettings.model_validate(yaml.safe_load(to_yaml(several))) == several


def test_fast_is_for_every_stream_that_is_added(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--add-stream", "a=1.mp4", "--add-stream", "b=2.mp4", "--fast", "--print-config"]) == 0
    added = StreamSettings.model_validate(yaml.safe_load(capsys.readouterr().out))
    assert {one.stream: one.sources.fast for one in added.each()} == {"a": True, "b": True}
    assert main(["--media", "1.mp4", "--fast", "--print-config"]) == 0
    assert StreamSettings.model_validate(yaml.safe_load(capsys.readouterr().out)).sources.fast


@pytest.mark.parametrize("text", ["kitchen", "=a.mp4", "kitchen="])
def test_a_stream_needs_a_name_and_a_medium(text: str) -> None:
    with pytest.raises(ConfigurationError, match="--add-stream needs NAME=FILE or NAME=URL"):
        parse_stream(text)


def test_set_needs_an_assignment() -> None:
    assert parse_assignment("segmentation.hangover_ms=700") == {"segmentation": {"hangover_ms": "700"}}
    assert load(parse_assignment("output.transcript=false"), {}).output.transcript is False
    assert load(parse_assignment("transcription.language=no"), {}).transcription.language == "no"
    assert load(parse_assignment("transcription.language=null"), {}).transcription.language is None
    assert load(parse_assignment("speakers.names=anna, ben"), {}).speakers.names == ("anna", "ben")
    assert load({}, {"TELME_SPEAKERS__NAMES": "anna"}).speakers.names == ("anna",)
    with pytest.raises(ConfigurationError, match="KEY=VALUE"):
        parse_assignment("segmentation.hangover_ms")
