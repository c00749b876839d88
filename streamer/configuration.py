"""Settings from flags, environment and a YAML file, merged and checked; and back to documented YAML.

Precedence, highest first: flags, `TELME_…` variables (`TELME_MQTT__URL` is `mqtt.url`), the YAML file, the defaults.
"""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from streamer.mqtt import password
from streamer.settings import StreamSettings

ENVIRONMENT_PREFIX = "TELME_"
CONFIG_BYTES_MAX = 1 << 17  # ten times what all settings with their comments take
_SHOWN_MAX = 80  # characters of a name or value in a message

# Variables that share the prefix and are no settings: the password never becomes part of what can be printed.
_NOT_SETTINGS = frozenset({password.VARIABLE, "TELME_CORPORA"})

Tree = dict[str, Any]


class ConfigurationError(Exception):
    """Settings that cannot be used; the message says which, why, and where the value came from."""


def load(flags: Tree, environment: Mapping[str, str] = os.environ, file: Path | None = None) -> StreamSettings:
    """Merge the layers and validate them.

    flags: nested like the settings, holding only what was given.
    Raises ConfigurationError on an unreadable file, an unknown key or a value out of range.
    """
    layers = {
        "command line": flags,
        "environment": _from_environment(environment),
        str(file): _from_yaml(file) if file is not None else {},
    }
    merged: Tree = {}
    for layer in reversed(layers.values()):
        merged = _overlay(merged, layer)
    try:
        return StreamSettings.model_validate(merged)
    except ValidationError as error:
        raise ConfigurationError(_sentence(error.errors()[0], layers)) from error


def nested(key: str, value: object) -> Tree:
    """`a.b`, 1 -> {"a": {"b": 1}}."""
    *outer, last = key.split(".")
    tree: Tree = {last: value}
    for name in reversed(outer):
        tree = {name: tree}
    return tree


def merge(trees: Iterator[Tree]) -> Tree:
    """Later trees win."""
    merged: Tree = {}
    for tree in trees:
        merged = _overlay(merged, tree)
    return merged


def to_yaml(settings: StreamSettings) -> str:
    """The settings as a YAML file with every key, its meaning and its bounds as comments."""
    return "\n".join(_document(type(settings), settings, indent="")) + "\n"


def _overlay(below: Tree, above: Tree) -> Tree:
    result = dict(below)
    for key, value in above.items():
        if isinstance(value, dict) and isinstance(result.get(key), dict):
            result[key] = _overlay(result[key], value)
        else:
            result[key] = value
    return result


def _from_environment(environment: Mapping[str, str]) -> Tree:
    names = sorted(name for name in environment if name.startswith(ENVIRONMENT_PREFIX) and name not in _NOT_SETTINGS)
    return merge(
        nested(name.removeprefix(ENVIRONMENT_PREFIX).lower().replace("__", "."), _scalar(environment[name]))
        for name in names
    )


def _from_yaml(file: Path) -> Tree:
    try:
        tree = yaml.load(_read(file), Loader=_PlainLoader)  # noqa: S506 - a SafeLoader that accepts less
    except OSError as error:
        raise ConfigurationError(f"Cannot read the settings file {file}: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"The settings file {file} is not UTF-8 text.") from error
    except (yaml.YAMLError, RecursionError) as error:
        mark = error.problem_mark if isinstance(error, yaml.MarkedYAMLError) else None
        where = f" at line {mark.line + 1}" if mark else ""
        what = f" ({error.problem})" if isinstance(error, _NotPlainError) else ""
        raise ConfigurationError(f"The settings file {file} is not valid YAML{where}{what}.") from error
    except ValueError as error:  # a number of thousands of digits, a 31st of June
        raise ConfigurationError(f"The settings file {file} holds an impossible value: {error}.") from error
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise ConfigurationError(f"The settings file {file} must hold keys and values, not a {type(tree).__name__}.")
    return tree


def _read(file: Path) -> str:
    """Raises OSError, UnicodeDecodeError, or ConfigurationError for what is no file of a settings file's size."""
    if file.exists() and not file.is_file():
        raise ConfigurationError(f"{file} is no regular file, so it is no settings file.")
    with file.open("rb") as opened:
        text = opened.read(CONFIG_BYTES_MAX + 1)
    if len(text) > CONFIG_BYTES_MAX:
        raise ConfigurationError(f"{file} is larger than {CONFIG_BYTES_MAX} bytes, so it is no settings file.")
    return text.decode("utf-8")


class _NotPlainError(yaml.MarkedYAMLError):
    pass


class _PlainLoader(yaml.SafeLoader):
    """Without aliases, of which a few lines can stand for gigabytes, and without tags, which settings do not need.

    Nor with a key that stands twice in one mapping, of which YAML would silently take the last.
    """

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]  # PyYAML leaves it untyped
        if isinstance(event, yaml.AliasEvent) or getattr(event, "tag", None) is not None:
            raise _NotPlainError(problem="settings have neither aliases nor tags", problem_mark=event.start_mark)
        return super().compose_node(parent, index)

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        mapping = super().compose_mapping_node(anchor)
        known: set[str] = set()
        for key, _ in mapping.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            if key.value in known:
                raise _NotPlainError(problem=f"{_short(key.value)} stands there twice", problem_mark=key.start_mark)
            known.add(key.value)
        return mapping


def _scalar(text: str) -> object:
    """A flag's or variable's text: `null` is none, anything else is what the setting's type makes of it."""
    return None if text == "null" else text


def parse_assignment(text: str) -> Tree:
    """`segmentation.hangover_ms=700` -> a tree. Raises ConfigurationError where the form is not KEY=VALUE."""
    key, separator, value = text.partition("=")
    if not separator or not key:
        raise ConfigurationError(f"--set needs KEY=VALUE, as in --set segmentation.hangover_ms=700, not {text!r}.")
    return nested(key, _scalar(value))


def parse_stream(text: str, fast: bool = False) -> Tree:
    """`kitchen=rtsp://camera/1` -> a tree. Raises ConfigurationError where the form is not NAME=FILE or NAME=URL."""
    name, separator, media = text.partition("=")
    if not separator or not name or not media:
        raise ConfigurationError(
            f"--add-stream needs NAME=FILE or NAME=URL, as in --add-stream kitchen=rtsp://camera/1, not {text!r}."
        )
    return {"streams": {name: {"media": media, **({"fast": True} if fast else {})}}}


def _sentence(error: ErrorDetails, layers: Mapping[str, Tree]) -> str:
    path = [str(step) for step in error["loc"]]
    key = _short(".".join(path))
    source = next((f" ({name})" for name, layer in layers.items() if _holds(layer, path)), "")
    if error["type"] == "extra_forbidden":
        return f"Unknown setting {key}{source}; `telme-stream --print-config` lists all of them."
    if error["type"] == "model_type":
        return f"Setting {key}{source} is a section: name a setting in it, as `telme-stream --print-config` lists them."
    reason = error["msg"].removeprefix("Value error, ")
    if isinstance(error["input"], dict) or not path:
        return f"The settings {key or 'as a whole'}{source} do not fit: {reason}."
    value = "" if "password" in reason else f" = {_short(repr(error['input']))}"
    return f"Setting {key}{value}{source} is refused: {reason[0].lower()}{reason[1:]}."


def _short(text: str) -> str:
    """For one line of a terminal."""
    plain = "".join(character if character.isprintable() else "?" for character in text)
    return plain if len(plain) <= _SHOWN_MAX else f"{plain[:_SHOWN_MAX]}…"


def _holds(tree: object, path: list[str]) -> bool:
    for step in path:
        if not isinstance(tree, dict) or step not in tree:
            return False
        tree = tree[step]
    return bool(path)


def _document(model: type[BaseModel], values: BaseModel, indent: str) -> Iterator[str]:
    schemas = model.model_json_schema()["properties"]
    for name, field in model.model_fields.items():
        value = getattr(values, name)
        if isinstance(value, BaseModel):
            yield f"\n{indent}# {(type(value).__doc__ or name).splitlines()[0]}" if type(value).__doc__ else ""
            yield f"{indent}{name}:"
            yield from _document(type(value), value, indent + "  ")
            continue
        live = "reload changes it" if name in getattr(model, "reloadable", ()) else ""
        notes = "; ".join(note for note in (field.description, _bounds(schemas[name]), live) if note)
        if notes:
            yield f"{indent}# {notes}"
        plain = values.model_dump(mode="json", include={name})[name]
        yield f"{indent}{name}: {yaml.safe_dump(plain, default_flow_style=True, width=float('inf')).splitlines()[0]}"


def _bounds(schema: Mapping[str, Any]) -> str:
    """Of a setting, from its JSON Schema."""
    options = [schema, *schema.get("anyOf", [])]
    for option in options:
        if "enum" in option:
            return "one of " + ", ".join(map(str, option["enum"]))
        low, above = option.get("minimum"), option.get("exclusiveMinimum")
        high, below = option.get("maximum"), option.get("exclusiveMaximum")
        if low is not None and high is not None:
            return f"{low} to {high}"
        if (low, above) != (None, None) and (high, below) != (None, None):
            least = f"above {above}" if low is None else f"{low}"
            most = f"below {below}" if high is None else f"to {high}"
            return f"{least}, {most}"
    return ""
