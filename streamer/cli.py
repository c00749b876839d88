"""`telme-stream`: emotions in conversation, live, over MQTT."""

import argparse
import asyncio
import json
import os
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from streamer import logs
from streamer.configuration import (
    ConfigurationError,
    Tree,
    load,
    merge,
    nested,
    parse_assignment,
    parse_stream,
    to_yaml,
)
from streamer.ending import end_by_signal, end_process, signals_given_back
from streamer.events import json_schema
from streamer.http_server import HttpServerError
from streamer.json_lines import OutputError
from streamer.mqtt import asyncapi
from streamer.mqtt.errors import BrokerError, OutboxError, TakenOverError
from streamer.service import serve
from streamer.settings import StreamSettings
from streamer.signals import SourceError
from streamer.sources.devices import list_devices
from streamer.speech_model import TranscriberError
from streamer.supervision import Read
from streamer.vad import VadError
from streamer.viewer.page import PageError
from telme.bundle import BundleError

_STANDARD_ERROR = 2

EXIT_CODES = """\
exit codes:
  0    the source ended, or the stream was stopped by Ctrl-C or SIGTERM
  1    an unexpected failure; the log holds the traceback
  2    a setting, file, device, model, bundle, broker, outbox or output cannot be used; one sentence says why
  3    another telme-stream of the same node name was started later, and stays
  130  stopped by a second Ctrl-C, without finishing the utterance in hand, or by Ctrl-C while the program was loaded
"""

USER_ERRORS = (
    BrokerError,
    BundleError,
    ConfigurationError,
    HttpServerError,
    OutboxError,
    OutputError,
    PageError,
    SourceError,
    TranscriberError,
    VadError,
)


def main(arguments: Sequence[str] | None = None) -> int:
    _open_standard_files()
    options = _parser().parse_args(arguments)
    try:
        read = partial(load, _flags(options), file=options.config)
        settings = read()
        if options.print_config:
            return _print(to_yaml(settings))
        if options.print_schema:
            return _print(json.dumps(json_schema(), indent=2) + "\n")
        if options.print_asyncapi:
            return _print(asyncapi.to_yaml())
        if options.list_devices:
            return _print(list_devices() + "\n")
        logs.configure(settings.log.level, settings.log.format)
        with signals_given_back():
            asyncio.run(_serve(settings, read))
    except USER_ERRORS as error:
        sys.stderr.write(f"telme-stream: {error}\n")
        return 3 if isinstance(error, TakenOverError) else 2
    except KeyboardInterrupt:
        return 130
    return 0


async def _serve(settings: StreamSettings, read: Read) -> None:
    try:
        if not await serve(settings, read):
            end_process(0)
    finally:
        end_by_signal()


def _open_standard_files() -> None:
    """Where the shell closed one (`2>&-`), its number would go to the next file that is opened, and logs into that."""
    while (number := os.open(os.devnull, os.O_RDWR)) <= _STANDARD_ERROR:
        pass
    os.close(number)
    if sys.stderr is None:
        sys.stderr = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 - for as long as the program runs


def _print(text: str) -> int:
    """Raises OutputError; but a reader that has gone, as `head` does, has what it wanted."""
    if sys.stdout is None:
        raise OutputError("cannot print: the standard output is closed.")
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except OSError as error:
        # What is left in the buffer would fail again when the program ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(error, BrokenPipeError):
            raise OutputError(f"cannot print: {error.strerror}.") from error
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="telme-stream",
        description="Recognise emotion in conversation, utterance by utterance, and publish it over MQTT.",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    sources = parser.add_argument_group("sources")
    sources.add_argument("--media", metavar="FILE|URL", help="media file or stream, with sound and perhaps a picture")
    sources.add_argument("--fast", action="store_true", help="read media files as fast as possible")
    sources.add_argument("--microphone", metavar="NAME|INDEX", help='"default" is the system\'s own')
    sources.add_argument(
        "--camera",
        metavar="INDEX|PATH|URL",
        help="a camera; without --microphone the default microphone listens along",
    )
    sources.add_argument(
        "--add-stream",
        metavar="NAME=FILE|URL",
        action="append",
        default=[],
        help="one of several streams in this process, from a media file or stream; repeat it for each",
    )
    sources.add_argument("--list-devices", action="store_true", help="print microphones and cameras, and exit")
    models = parser.add_argument_group("models")
    models.add_argument("--bundle", metavar="DIR|hf://ORG/NAME", help="recogniser to run; the compact one ships")
    models.add_argument("--asr", metavar="MODEL", help='faster-whisper name, folder, package:NAME/FOLDER, or "none"')
    models.add_argument(
        "--speakers", metavar="N", type=int, help="tell at most so many people apart by voice and seat; 1 tells nobody"
    )
    models.add_argument("--language", metavar="CODE", help="spoken language, as in en; null detects it")
    models.add_argument(
        "--straight", action="store_true", help="begin only when an utterance is over, and publish finals only"
    )
    events = parser.add_argument_group("events")
    events.add_argument("--mqtt", metavar="URL", help="mqtt://[user@]host[:port] or mqtts://…")
    events.add_argument("--broker", choices=["embedded"], help="start a broker on loopback and publish there")
    events.add_argument("--node", metavar="NAME", help="this machine's name in topics")
    events.add_argument("--stream", metavar="NAME", help="this stream's name in topics")
    events.add_argument("--json", action="store_true", default=None, help="one event a line on stdout")
    events.add_argument("--provisional", action="store_true", default=None, help="provisional events as lines, too")
    events.add_argument("--no-transcript", action="store_true", help="keep what was said out of events")
    events.add_argument("--viewer", metavar="PORT", type=int, help="serve the live page on this loopback port")
    events.add_argument("--report", action="store_true", default=None, help="say at the end how late events were")
    events.add_argument("--metrics", metavar="PORT", type=int, help="serve Prometheus metrics on this loopback port")
    general = parser.add_argument_group("general")
    general.add_argument("--config", metavar="FILE", type=Path, help="YAML settings file, as --print-config writes it")
    general.add_argument(
        "--set",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="any setting, as in segmentation.hangover_ms=700 or speakers.names=anna,ben",
    )
    general.add_argument("--log-level", choices=["debug", "info", "warning", "error"])
    general.add_argument("--log-format", choices=["human", "json"])
    general.add_argument("--print-config", action="store_true", help="print all settings, documented, and exit")
    general.add_argument("--print-schema", action="store_true", help="print the event's JSON Schema, and exit")
    general.add_argument("--print-asyncapi", action="store_true", help="print all topics and messages, and exit")
    return parser


_SETTING_OF_FLAG = {
    "media": "sources.media",
    "microphone": "sources.microphone",
    "camera": "sources.camera",
    "bundle": "recognition.bundle",
    "asr": "transcription.model",
    "language": "transcription.language",
    "speakers": "speakers.people_max",
    "mqtt": "mqtt.url",
    "broker": "mqtt.broker",
    "node": "node",
    "stream": "stream",
    "json": "output.json_lines",
    "provisional": "output.provisional",
    "viewer": "output.viewer_port",
    "report": "output.report",
    "metrics": "output.metrics_port",
    "log_level": "log.level",
    "log_format": "log.format",
}


def _flags(options: argparse.Namespace) -> Tree:
    def given() -> Iterator[Tree]:
        for assignment in options.set:
            yield parse_assignment(assignment)
        for text in options.add_stream:
            yield parse_stream(text, fast=options.fast)
        if options.fast and not options.add_stream:
            yield nested("sources.fast", True)
        for flag, key in _SETTING_OF_FLAG.items():
            value = getattr(options, flag)
            if value is not None:
                yield nested(key, value)
        if options.straight:
            yield nested("recognition.speculate", False)
        if options.no_transcript:
            yield nested("output.transcript", False)

    return merge(given())


if __name__ == "__main__":
    sys.exit(main())
