"""The microphone, through real PortAudio and a private sound server."""

import asyncio
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import numpy.typing as npt
import pytest
import soundfile
from devices.network import mjpeg_camera
from devices.reading import AWAY_S, BACK_S, reading
from devices.sound_server import SoundServer
from hypothesis import given, settings
from hypothesis import strategies as st

from streamer.settings import Sources
from streamer.signals import SAMPLE_RATE_HZ, SourceError
from streamer.sources.backoff import Backoff
from streamer.sources.devices import list_devices, portaudio
from streamer.sources.losses import Losses
from streamer.sources.microphone import Capture, Microphone
from streamer.sources.open import open_source
from streamer.sources.ring import Block, BlockRing

BLOCK = SAMPLE_RATE_HZ // 50


@pytest.fixture(scope="module")
def server() -> Iterator[SoundServer]:
    with tempfile.TemporaryDirectory(prefix="pulse") as folder, pytest.MonkeyPatch.context() as patch:
        server = SoundServer(Path(folder))
        for name, value in server.environment.items():
            patch.setenv(name, value)
        server.start()
        restart_portaudio()
        yield server
        server.stop()


@pytest.fixture
def sound(tmp_path: Path) -> Path:
    """Two seconds of noise, which correlates with nothing but itself."""
    path = tmp_path / "noise.wav"
    rng = np.random.default_rng(1)
    soundfile.write(path, np.convolve(rng.normal(0, 0.1, 2 * SAMPLE_RATE_HZ), np.ones(4) / 4), SAMPLE_RATE_HZ)
    return path


def restart_portaudio() -> None:
    portaudio()._terminate()
    portaudio()._initialize()


def microphone(device: str = "vmic", stall_s: float = 1.0) -> Microphone:
    return Microphone(device, stall_s=stall_s, backoff=Backoff(0.1, 0.5))


def correlation(heard: npt.NDArray[np.float32], played: npt.NDArray[np.float32]) -> float:
    """The best over all delays, 1 if `played` is in `heard` unchanged."""
    size = 1 << (len(heard) + len(played)).bit_length()
    products = np.fft.irfft(np.fft.rfft(heard, size) * np.fft.rfft(played, size).conj())
    best = int(products[: len(heard) - len(played)].argmax())
    return float(products[best] / np.linalg.norm(played) / np.linalg.norm(heard[best : best + len(played)]))


@pytest.mark.slow
@pytest.mark.parametrize("device", ["vmic", "VMI", "0", "default"])
async def test_what_is_played_is_heard_without_a_gap(server: SoundServer, sound: Path, device: str) -> None:
    async with reading(microphone(device)) as got:
        await got.until(lambda: len(got.chunks) > 0)
        began_s = time.monotonic() - got.chunks[-1].end / SAMPLE_RATE_HZ
        player = server.play(sound)
        await got.until(lambda: got.chunks[-1].end > 3.5 * SAMPLE_RATE_HZ)
        ended_s = time.monotonic()
        player.wait()
    played, _ = soundfile.read(sound, dtype="float32")
    assert correlation(got.sound(), played) > 0.95
    assert got.gaps == []
    assert got.frames == []
    assert all(len(chunk.samples) <= SAMPLE_RATE_HZ // 10 for chunk in got.chunks)
    assert abs(ended_s - began_s - got.chunks[-1].end / SAMPLE_RATE_HZ) < 0.2, "samples count the time"


@pytest.mark.slow
async def test_a_microphone_with_an_inverted_channel_is_heard(
    server: SoundServer, sound: Path, caplog: pytest.LogCaptureFixture
) -> None:
    played, rate_hz = soundfile.read(sound, dtype="float32")
    soundfile.write(sound, np.stack([played, -played], axis=1), rate_hz)
    async with reading(microphone()) as got:
        await got.until(lambda: len(got.chunks) > 0)
        player = server.play(sound)
        await got.until(lambda: got.chunks[-1].end > 3.5 * SAMPLE_RATE_HZ)
        player.wait()
    assert correlation(got.sound(), played[rate_hz:]) > 0.95
    assert caplog.text.count('microphone "vmic": its channels cancel each other out') == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("lose", "restore", "stalls"),
    [
        (SoundServer.unplug, SoundServer.plug_in, 0),
        (SoundServer.stop, SoundServer.start, 0),
        (SoundServer.freeze, SoundServer.thaw, 1),
    ],
)
async def test_a_microphone_that_was_away_comes_back_on_a_true_clock(
    server: SoundServer,
    sound: Path,
    lose: Callable[[SoundServer], None],
    restore: Callable[[SoundServer], None],
    stalls: int,
) -> None:
    device = microphone()
    async with reading(device) as got:
        await got.until(lambda: len(got.chunks) > 50)
        zero_s = time.monotonic() - device.now_s()
        await asyncio.to_thread(lose, server)
        await asyncio.sleep(1.5)
        away = len(got.chunks)
        await asyncio.to_thread(restore, server)
        await got.until(lambda: len(got.chunks) > away + 50)
        begin = got.chunks[-1].end
        player = server.play(sound)
        await got.until(lambda: got.chunks[-1].end > begin + 3 * SAMPLE_RATE_HZ)
        drift_s = time.monotonic() - zero_s - device.now_s()
        player.wait()
    played, _ = soundfile.read(sound, dtype="float32")
    assert correlation(got.sound()[begin:], played) > 0.95
    assert device.counters.reopened == 1
    assert device.counters.stalls == stalls
    assert device.counters.lost_samples == sum(got.gaps) > SAMPLE_RATE_HZ
    assert abs(drift_s) < 0.2


@pytest.mark.slow
async def test_a_microphone_is_heard_soon_after_its_return(server: SoundServer) -> None:
    async with reading(open_source(Sources(microphone="vmic"), rate_hz=5)) as got:
        await got.until(lambda: len(got.chunks) > 10)
        await asyncio.to_thread(server.unplug)
        await asyncio.sleep(AWAY_S)
        await asyncio.to_thread(server.plug_in)
        assert await got.seconds_until_more(got.chunks) < BACK_S


@pytest.mark.slow
async def test_a_sound_server_that_pauses_shortly_leaves_the_clock_true(server: SoundServer) -> None:
    device = microphone()
    async with reading(device) as got:
        await got.until(lambda: len(got.chunks) > 100)
        zero_s = time.monotonic() - device.now_s()
        server.freeze()
        await asyncio.sleep(0.7)
        server.thaw()
        await asyncio.sleep(4)
        drift_s = time.monotonic() - zero_s - device.now_s()
    assert device.counters.reopened == 0
    assert device.counters.lost_samples == sum(got.gaps)
    assert abs(drift_s) < 0.2


async def test_a_microphone_that_is_not_there_is_refused_with_those_there_are(server: SoundServer) -> None:
    with pytest.raises(SourceError, match=r'No microphone "banana"; there are: 0 "vmic"'):
        async with microphone("banana"):
            pass
    with pytest.raises(SourceError, match=r'No microphone "99"; there are: '):
        async with microphone("99"):
            pass


@pytest.mark.slow
async def test_a_microphone_that_cannot_be_opened_is_named(server: SoundServer) -> None:
    server.stop()
    try:
        with pytest.raises(SourceError, match=r'Microphone "vmic" cannot be opened|No microphone "vmic"'):
            async with microphone():
                pass
    finally:
        server.start()
        restart_portaudio()


def test_devices_are_listed_with_index_name_and_rates(server: SoundServer) -> None:
    text = list_devices()
    assert '  0: "vmic", ' in text
    assert "16000 Hz" in text
    assert "(default)" in text
    assert "Cameras:" in text


def test_without_the_portaudio_library_one_sentence_says_what_to_install() -> None:
    program = (
        "import ctypes.util; ctypes.util.find_library = lambda name: None\n"
        "from streamer.sources.devices import list_devices; print(list_devices())"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "apt install libportaudio2" in done.stdout


@pytest.mark.slow
async def test_an_overrun_moves_the_clock_on_and_is_counted(
    server: SoundServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Overruns cannot be provoked through a sound server: the callback gets them with a raised flag."""
    on_block = Capture.on_block
    blocks = 0

    def lossy(self: Capture, samples: npt.NDArray[np.float32], frames: int, times: object, status: object) -> None:
        nonlocal blocks
        blocks += 1
        captured = SimpleNamespace(inputBufferAdcTime=blocks * 0.02 + (0.1 if blocks > 20 else 0))
        on_block(self, samples, frames, captured, SimpleNamespace(input_overflow=blocks == 21))

    monkeypatch.setattr(Capture, "on_block", lossy)
    device = microphone()
    async with reading(device) as got:
        await got.until(lambda: len(got.chunks) > 40)
    assert got.gaps == [SAMPLE_RATE_HZ // 10]
    assert device.counters.overruns == 1
    assert device.counters.lost_samples == SAMPLE_RATE_HZ // 10


@pytest.mark.slow
async def test_sound_nobody_takes_in_time_is_lost_and_counted(
    server: SoundServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streamer.sources.microphone.SOUND_KEPT", 10)
    device = microphone()
    async with device:
        await asyncio.sleep(1)
        first = await anext(device.audio())
    assert first.start == device.counters.lost_samples > SAMPLE_RATE_HZ // 4
    assert device.counters.overruns == device.counters.lost_samples // BLOCK


def block(captured_s: float, late_s: float = 0.0, overflowed: bool = False, skipped: int = 0) -> Block:
    """20 ms at 16 kHz, delivered at once but for `late_s`."""
    samples = np.zeros((BLOCK, 1), np.float32)
    return Block(samples, captured_s + 0.02 + late_s, captured_s, overflowed, skipped)


def test_reported_losses_are_counted_by_the_devices_clock() -> None:
    losses = Losses(SAMPLE_RATE_HZ)
    assert losses.before(block(5.0)) == 0
    assert losses.before(block(5.02)) == 0
    assert losses.before(block(5.14, overflowed=True)) == 1600
    assert losses.before(block(5.16)) == 0
    assert losses.before(block(5.2, skipped=BLOCK)) == BLOCK
    assert losses.before(block(0.0, overflowed=True, skipped=BLOCK)) == BLOCK, "a clock that jumps back is not believed"


@given(
    lost_ms=st.integers(120, 5000),
    before=st.integers(60, 400),
    late_ms=st.lists(st.integers(0, 400), min_size=900, max_size=900),
    drift_ppm=st.integers(-200, 200),
)
@settings(deadline=None, max_examples=30)
def test_silent_losses_are_found_despite_late_blocks_and_a_drifting_clock(
    lost_ms: int, before: int, late_ms: list[int], drift_ppm: int
) -> None:
    """Every tenth block is punctual, the others up to 400 ms late."""
    losses = Losses(SAMPLE_RATE_HZ)
    found = 0
    for number, late in enumerate(late_ms):
        captured_s = number * 0.02 * (1 + drift_ppm / 1e6) + (lost_ms / 1000 if number >= before else 0)
        found += losses.before(block(captured_s, late_s=late / 1000 if number % 10 else 0))
    assert abs(found - lost_ms * 16) <= 16 * 5


@pytest.mark.slow
async def test_a_device_whose_closing_hangs_is_left_alone_and_opened_again(
    server: SoundServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PortAudio's close can wait for ever when a sound server dies at the wrong moment."""
    close = portaudio().InputStream.close
    released = threading.Event()

    def hang_once(stream: object) -> None:
        monkeypatch.undo()
        released.wait()
        close(stream)

    monkeypatch.setattr(portaudio().InputStream, "close", hang_once)
    device = microphone(stall_s=0.5)
    async with reading(device) as got:
        await got.until(lambda: len(got.chunks) > 20)
        server.freeze()
        await asyncio.sleep(1)
        server.thaw()
        away = len(got.chunks)
        await got.until(lambda: len(got.chunks) > away + 20)
        released.set()
    assert device.counters.reopened == 1


@pytest.mark.slow
async def test_a_camera_beside_the_microphone_shares_its_clock(server: SoundServer) -> None:
    with mjpeg_camera() as camera:
        source = open_source(Sources(microphone="vmic", camera=camera.url, stall_ms=1000), rate_hz=5)
        async with reading(source) as got:
            await got.until(lambda: len(got.frames) >= 10 and len(got.chunks) >= 100)
            lag_s = got.chunks[-1].end / SAMPLE_RATE_HZ - got.frames[-1].time_s
    assert source.live
    assert abs(lag_s) < 0.4, "a frame every 200 ms"
    steps_s = np.diff([frame.time_s for frame in got.frames])
    assert (steps_s > 0).all()
    assert source.counters.lost_samples == 0


async def test_a_missing_camera_closes_the_microphone_again(server: SoundServer) -> None:
    with pytest.raises(SourceError, match="No camera 7"):
        async with open_source(Sources(microphone="vmic", camera="7"), rate_hz=5):
            pass
    assert not [thread for thread in threading.enumerate() if thread.name == "microphone"]


@given(st.lists(st.one_of(st.integers(1, 8), st.none()), max_size=80))
def test_a_ring_keeps_every_sample_or_says_how_many_it_skipped(steps: list[int | None]) -> None:
    """A number writes a block of that many samples, None reads one."""
    ring = BlockRing(slots=3, frames=8, channels=1)
    written = 0
    expected = 0
    for step in [*steps, None, None, None]:
        if step is not None:
            samples = np.arange(written, written + step, dtype=np.float32)[:, None]
            ring.write(samples, arrived_s=1.0, captured_s=2.0, overflowed=False)
            written += step
        elif (block := ring.read()) is not None:
            assert block.samples[0, 0] == expected + block.skipped
            assert (np.diff(block.samples[:, 0]) == 1).all()
            expected += block.skipped + len(block.samples)
    assert ring.read() is None
    assert expected <= written
