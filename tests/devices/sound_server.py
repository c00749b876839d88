"""A private PulseAudio as sound card: what is played on its sink "speaker" is heard by its microphone "vmic"."""

import os
import signal
import subprocess
import time
from pathlib import Path

PLAY_RATE_HZ = 48_000


class SoundServer:
    """Needs the programs pulseaudio, pactl, pacat and paplay, and ALSA's pulse plugin."""

    def __init__(self, folder: Path) -> None:
        """`folder`: an empty one, for sockets and state; its path must be short enough for a socket."""
        self._folder = folder
        self._socket = folder / "native"
        self._asoundrc = folder / "asoundrc"
        self._asoundrc.write_text(
            "pcm.!default { type pulse }\n"
            "ctl.!default { type pulse }\n"
            'pcm.vmic { type pulse device "vmic" hint { show on description "virtual microphone" } }\n'
        )
        self._server: subprocess.Popen[bytes] | None = None
        self._silence: subprocess.Popen[bytes] | None = None
        self._modules: list[str] = []

    @property
    def environment(self) -> dict[str, str]:
        """What a client of this server needs to have in its environment."""
        return {
            "XDG_RUNTIME_DIR": str(self._folder),
            "PULSE_RUNTIME_PATH": str(self._folder),
            "PULSE_STATE_PATH": str(self._folder),
            "PULSE_CONFIG_PATH": str(self._folder),
            "PULSE_SERVER": f"unix:{self._socket}",
            "ALSA_CONFIG_PATH": f"/usr/share/alsa/alsa.conf:{self._asoundrc}",
        }

    def start(self) -> None:
        self._server = subprocess.Popen(
            [
                *("pulseaudio", "-n", "--daemonize=no", "--exit-idle-time=-1", "--use-pid-file=no"),
                *("--realtime=no", "--high-priority=no", "--disable-shm=yes"),
                f"--log-target=file:{self._folder / 'pulse.log'}",
                *("-L", f"module-native-protocol-unix auth-anonymous=1 socket={self._socket}"),
            ],
            env=self._environ(),
        )
        deadline = time.monotonic() + 10
        while self._pactl("info", check=False).returncode != 0:
            if time.monotonic() > deadline:
                raise RuntimeError(f"PulseAudio does not start: {(self._folder / 'pulse.log').read_text()}")
            time.sleep(0.05)
        self.plug_in()

    def stop(self) -> None:
        """Kill the server, as a crash would."""
        self._hush()
        if self._server is not None:
            self._server.kill()
            self._server.wait()
        self._socket.unlink(missing_ok=True)

    def plug_in(self) -> None:
        """Add the microphone and wait until it delivers."""
        self._modules = [
            self._load("module-null-sink", "sink_name=speaker", f"rate={PLAY_RATE_HZ}", "channels=2"),
            self._load("module-remap-source", "master=speaker.monitor", "source_name=vmic"),
        ]
        self._pactl("set-default-source", "vmic")
        self._pactl("set-default-sink", "speaker")
        # A null sink that nothing plays on hardly ticks: silence keeps it awake, like a real card's clock.
        self._silence = subprocess.Popen(
            ["pacat", "--playback", "--device=speaker", f"--rate={PLAY_RATE_HZ}", "--latency-msec=20", "/dev/zero"],
            env=self._environ(),
        )
        record = ["parec", "--device=vmic", "--rate=16000", "--channels=1", "--latency-msec=20"]
        with subprocess.Popen(record, env=self._environ(), stdout=subprocess.PIPE) as recorder:
            assert recorder.stdout is not None
            recorder.stdout.read(3200)
            recorder.kill()

    def unplug(self) -> None:
        """Remove the microphone; its sink too, else PulseAudio moves the recording to another source."""
        self._hush()
        for module in reversed(self._modules):
            self._pactl("unload-module", module)

    def freeze(self) -> None:
        assert self._server is not None
        self._server.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        assert self._server is not None
        self._server.send_signal(signal.SIGCONT)

    def play(self, wav: Path) -> "subprocess.Popen[bytes]":
        return subprocess.Popen(["paplay", "--device=speaker", str(wav)], env=self._environ())

    def _hush(self) -> None:
        if self._silence is not None:
            self._silence.kill()
            self._silence.wait()

    def _load(self, *module: str) -> str:
        return self._pactl("load-module", *module).stdout.decode().strip()

    def _pactl(self, *command: str, check: bool = True) -> "subprocess.CompletedProcess[bytes]":
        return subprocess.run(["pactl", *command], env=self._environ(), capture_output=True, check=check, timeout=10)

    def _environ(self) -> dict[str, str]:
        return {**os.environ, **self.environment}
