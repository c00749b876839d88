"""Media files and live URLs, decoded for real."""

import asyncio
import re
import socketserver
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest
from brokers import until
from devices import broadcast
from devices.network import Server, file_server, live_url, rtsp_camera
from devices.reading import AWAY_S, BACK_S, Reading, read_all, reading
from streams import CONVERSATION

from streamer.settings import Sources
from streamer.signals import SAMPLE_RATE_HZ, AudioChunk, Source, SourceCounters, SourceError
from streamer.sources.backoff import Backoff
from streamer.sources.container import connect
from streamer.sources.decoding import PictureDecoder, SoundDecoder
from streamer.sources.media_file import Pace
from streamer.sources.media_live import LiveMedia
from streamer.sources.open import open_source
from streamer.sources.picture import FrameGrid

RATE_HZ = 5.0
TONE = "sine=frequency=440:sample_rate=44100"
PICTURE = "testsrc=size=320x240:rate=25"


def ffmpeg(*arguments: str | Path) -> None:
    subprocess.run(["ffmpeg", "-v", "error", "-y", *arguments], check=True)


def media(address: Path | str, *, fast: bool = True, rate_hz: float = RATE_HZ, stall_ms: int = 1000) -> Source:
    settings = Sources(
        media=str(address), fast=fast, stall_ms=stall_ms, reopen_min_ms=100, reopen_max_ms=500, microphone=None
    )
    return open_source(settings, rate_hz)


def assert_same(one: Reading, other: Reading) -> None:
    """Bit by bit: chunks, frames and the order of both."""
    assert [chunk.start for chunk in one.chunks] == [chunk.start for chunk in other.chunks]
    np.testing.assert_array_equal(one.sound(), other.sound())
    assert [frame.time_s for frame in one.frames] == [frame.time_s for frame in other.frames]
    for a, b in zip(one.frames, other.frames, strict=True):
        np.testing.assert_array_equal(a.image, b.image)


def assert_pictures_come_first(got: Reading) -> None:
    """No chunk comes before a frame that is older than the chunk's end, nor a frame before it is due."""
    newest_s = 0.0
    for index, item in enumerate(got.order):
        if isinstance(item, AudioChunk):
            newest_s = item.end / SAMPLE_RATE_HZ
        else:
            assert item.time_s >= newest_s
            following = next((i for i in got.order[index:] if isinstance(i, AudioChunk)), None)
            assert following is None or item.time_s < following.end / SAMPLE_RATE_HZ


@pytest.mark.corpora
async def test_a_clip_has_all_its_sound_and_five_frames_a_second(corpora: Path, tmp_path: Path) -> None:
    clip = corpora / "clips" / "grid_bbaf2n.mpg"
    got = await read_all(media(clip))
    ffmpeg("-i", clip, "-ac", "2", "-f", "f32le", tmp_path / "reference.f32")
    reference = np.fromfile(tmp_path / "reference.f32", np.float32).reshape(-1, 2).mean(axis=1)

    assert got.gaps == []
    assert got.chunks[0].start == 0
    assert got.chunks[-1].end == round(len(reference) * SAMPLE_RATE_HZ / 44_100)
    assert all(len(chunk.samples) <= SAMPLE_RATE_HZ // 10 for chunk in got.chunks)
    assert all(chunk.samples.dtype == np.float32 and abs(chunk.samples).max() <= 1 for chunk in got.chunks)
    np.testing.assert_allclose([frame.time_s for frame in got.frames], np.arange(15) / RATE_HZ, atol=0.001)
    assert all(frame.image.shape == (288, 360, 3) for frame in got.frames)
    assert_pictures_come_first(got)


@pytest.mark.corpora
@pytest.mark.slow
async def test_real_time_pace_gives_what_fast_gives_in_real_time(corpora: Path) -> None:
    clip = corpora / "clips" / "grid_lbax4n.mpg"
    fast = await read_all(media(clip))
    began_s = time.monotonic()
    paced = await read_all(media(clip, fast=False))
    took_s = time.monotonic() - began_s
    assert_same(fast, paced)
    assert_pictures_come_first(paced)
    assert 2.9 < took_s < 4


@pytest.mark.parametrize(
    ("suffix", "codecs"),
    [
        ("mp4", "-c:v libx264 -c:a aac"),
        ("mkv", "-c:v libx264 -c:a libopus -ar 48000"),
        ("ts", "-c:v libx264 -c:a aac"),
        ("mov", "-c:v mjpeg -c:a pcm_s16le"),
        ("avi", "-c:v mpeg4 -c:a pcm_s16le"),
    ],
)
async def test_a_flash_and_a_beep_stay_within_40_ms(tmp_path: Path, suffix: str, codecs: str) -> None:
    clip = tmp_path / f"flash.{suffix}"
    flash = "[0:v]drawbox=color=white:t=fill:enable='between(t,1.0,1.19)'[v]"
    beep = "[1:a]asetnsamples=441,volume='if(between(t,0.999,1.199),1,0)':eval=frame[a]"
    inputs = [
        "-f",
        "lavfi",
        "-i",
        "color=black:size=320x240:rate=25:duration=3",
        "-f",
        "lavfi",
        "-i",
        TONE + ":duration=3",
    ]
    ffmpeg(*inputs, "-filter_complex", f"{flash};{beep}", "-map", "[v]", "-map", "[a]", *codecs.split(), clip)
    got = await read_all(media(clip, rate_hz=50.0))
    heard = np.flatnonzero(abs(got.sound()) > 0.03) / SAMPLE_RATE_HZ
    seen = [frame.time_s for frame in got.frames if frame.image.mean() > 128]
    assert abs(heard[0] - seen[0]) < 0.04
    assert abs(heard[-1] - (seen[-1] + 0.04)) < 0.04
    assert len(seen) == 5


@pytest.mark.parametrize(
    ("arguments", "seconds"),
    [
        ("-ar 8000 -ac 1 -c:a pcm_u8", 2.0),
        ("-ar 44100 -ac 2 -c:a pcm_s16le", 2.0),
        ("-ar 48000 -ac 6 -c:a pcm_s24le", 2.0),
        ("-ar 96000 -ac 1 -c:a pcm_f64le", 2.0),
        ("-ar 16000 -ac 1 -c:a pcm_s32le", 2.0),
    ],
)
async def test_any_wav_becomes_16_khz_mono_of_exactly_its_length(
    tmp_path: Path, arguments: str, seconds: float
) -> None:
    wav = tmp_path / "tone.wav"
    channels = arguments.split()[3]
    everywhere = f"pan={channels}c|" + "|".join(f"c{i}=c0" for i in range(int(channels)))
    ffmpeg("-f", "lavfi", "-i", f"{TONE}:duration={seconds}", "-af", everywhere, *arguments.split(), wav)
    got = await read_all(media(wav))
    assert got.chunks[0].start == 0
    assert got.gaps == []
    assert got.chunks[-1].end == seconds * SAMPLE_RATE_HZ
    assert got.frames == []
    tone = got.sound()[1600:-1600]
    assert abs(tone.max() - 1 / 8) < 0.01, "ffmpeg's sine has an amplitude of 1/8"
    assert abs(np.abs(np.fft.rfft(tone)).argmax() * SAMPLE_RATE_HZ / len(tone) - 440) < 1


async def test_4k_video_is_scaled_down(tmp_path: Path) -> None:
    clip = tmp_path / "4k.mp4"
    picture = "color=0xDC7828:size=3840x2160:rate=10:duration=1"
    ffmpeg("-f", "lavfi", "-i", picture, "-f", "lavfi", "-i", f"{TONE}:duration=1", "-preset", "ultrafast", clip)
    got = await read_all(media(clip))
    assert len(got.frames) == 5
    assert all(frame.image.shape == (720, 1280, 3) for frame in got.frames)
    np.testing.assert_allclose(got.frames[0].image.mean(axis=(0, 1)), (0xDC, 0x78, 0x28), atol=12)


IDENTITY = struct.pack(">9i", 1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
QUARTER_TURN = struct.pack(">9i", 0, 1 << 16, 0, -1 << 16, 0, 0, 0, 0, 1 << 30)


async def test_a_picture_that_was_filmed_sideways_is_turned_upright(tmp_path: Path) -> None:
    clip, shown = tmp_path / "sideways.mp4", tmp_path / "shown.rgb"
    picture = "color=black:size=320x240:rate=10:duration=1,drawbox=w=160:h=120:color=white:t=fill"
    ffmpeg("-f", "lavfi", "-i", picture, "-f", "lavfi", "-i", f"{TONE}:duration=1", clip)
    head, track, rest = clip.read_bytes().partition(b"tkhd")
    clip.write_bytes(head + track + rest.replace(IDENTITY, QUARTER_TURN, 1))
    ffmpeg("-i", clip, "-frames:v", "1", "-pix_fmt", "rgb24", "-f", "rawvideo", shown)
    image = (await read_all(media(clip))).frames[0].image
    reference = np.fromfile(shown, np.uint8).reshape(320, 240, 3).astype(int)
    assert image.shape == reference.shape
    assert abs(image - reference).mean() < 4


async def test_variable_frame_rate_follows_the_timestamps(tmp_path: Path) -> None:
    """25 frames a second in the first second, 2 a second afterwards."""
    clip = tmp_path / "vfr.mkv"
    select = "select='lt(t,1)+not(mod(n,12))'"
    inputs = ["-f", "lavfi", "-i", f"{PICTURE}:duration=4", "-f", "lavfi", "-i", f"{TONE}:duration=4"]
    ffmpeg(*inputs, "-vf", select, "-fps_mode", "vfr", clip)
    times_s = np.array([frame.time_s for frame in (await read_all(media(clip))).frames])
    np.testing.assert_allclose(times_s[:5], np.arange(5) / RATE_HZ, atol=0.02)
    np.testing.assert_allclose(np.diff(times_s[6:]), 0.48, atol=0.01)


@pytest.mark.parametrize(("sound_s", "picture_s"), [(3, 1), (1, 3)])
async def test_sound_and_picture_of_different_length_are_both_read_to_the_end(
    tmp_path: Path, sound_s: int, picture_s: int
) -> None:
    clip = tmp_path / "uneven.mkv"
    inputs = ["-f", "lavfi", "-i", f"{PICTURE}:duration={picture_s}", "-f", "lavfi", "-i", f"{TONE}:duration={sound_s}"]
    ffmpeg(*inputs, "-c:a", "pcm_s16le", clip)
    got = await read_all(media(clip))
    assert got.chunks[-1].end == sound_s * SAMPLE_RATE_HZ
    assert len(got.frames) == picture_s * RATE_HZ
    assert_pictures_come_first(got)


async def test_sound_that_begins_late_and_pauses_keeps_its_times(tmp_path: Path) -> None:
    clip = tmp_path / "late.mkv"
    pause = "aselect='not(between(t,1,1.5))'"
    inputs = [
        "-f",
        "lavfi",
        "-i",
        f"{PICTURE}:duration=4",
        "-itsoffset",
        "0.5",
        "-f",
        "lavfi",
        "-i",
        f"{TONE}:duration=3",
    ]
    ffmpeg(*inputs, "-af", f"asetnsamples=441,{pause}", "-c:a", "pcm_s16le", clip)
    got = await read_all(media(clip))
    assert abs(got.chunks[0].start - 0.5 * SAMPLE_RATE_HZ) <= 320
    assert len(got.gaps) == 1
    assert abs(got.gaps[0] - 0.5 * SAMPLE_RATE_HZ) <= 320
    assert got.frames[0].time_s == 0


@pytest.mark.corpora
async def test_concatenated_clips_go_on_with_sound_and_picture(corpora: Path, tmp_path: Path) -> None:
    """Their timestamps begin anew in the middle."""
    clip = tmp_path / "twice.mpg"
    clip.write_bytes((corpora / "clips" / "grid_bbaf2n.mpg").read_bytes() * 2)
    once = await read_all(media(corpora / "clips" / "grid_bbaf2n.mpg"))
    twice = await read_all(media(clip))
    assert twice.gaps == []
    assert abs(twice.chunks[-1].end - 2 * once.chunks[-1].end) < 0.1 * SAMPLE_RATE_HZ
    assert 28 <= len(twice.frames) <= 30


@pytest.mark.corpora
async def test_a_picture_that_breaks_does_not_end_the_sound(corpora: Path, tmp_path: Path) -> None:
    """Every packet of the picture from its second second on is overwritten with noise."""
    whole, broken = tmp_path / "whole.mp4", tmp_path / "broken.mp4"
    ffmpeg("-i", corpora / "clips" / "grid_bbaf2n.mpg", "-c:v", "libx264", "-c:a", "aac", whole)
    data = bytearray(whole.read_bytes())
    rng = np.random.default_rng(1)
    with av.open(str(whole)) as container:
        for packet in container.demux(video=0):
            if packet.size and packet.pos is not None and packet.pts * packet.time_base > 1:
                data[packet.pos : packet.pos + packet.size] = rng.bytes(packet.size)
    broken.write_bytes(data)
    good, bad = await read_all(media(whole)), await read_all(media(broken))
    np.testing.assert_array_equal(good.sound(), bad.sound())
    assert 5 <= len(bad.frames) <= len(good.frames)


@pytest.mark.corpora
async def test_damaged_sound_leaves_a_gap_that_is_counted(corpora: Path, tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole.mp4", tmp_path / "broken.mp4"
    ffmpeg("-i", corpora / "clips" / "jfk.flac", "-t", "4", "-c:a", "aac", whole)
    data = bytearray(whole.read_bytes())
    with av.open(str(whole)) as container:
        for packet in container.demux(audio=0):
            if packet.size and packet.pos and 1 < packet.pts * packet.time_base < 2:
                data[packet.pos : packet.pos + packet.size] = b"\xff" * packet.size
    broken.write_bytes(data)
    source = media(broken)
    got = await read_all(source)
    assert got.chunks[-1].end > 3.9 * SAMPLE_RATE_HZ
    assert source.counters.lost_samples == sum(got.gaps) > 0.5 * SAMPLE_RATE_HZ


@pytest.mark.corpora
async def test_sound_alone_can_be_read_from_a_clip_with_a_picture(corpora: Path) -> None:
    clip = corpora / "clips" / "grid_bbaf2n.mpg"
    async with media(clip) as source:
        chunks = [chunk async for chunk in source.audio()]
    whole = await read_all(media(clip))
    assert [chunk.start for chunk in chunks] == [chunk.start for chunk in whole.chunks]


@pytest.mark.corpora
async def test_the_picture_can_be_read_after_the_sound_or_alone(corpora: Path) -> None:
    clip = corpora / "clips" / "grid_bbaf2n.mpg"
    async with media(clip) as source:
        assert len([chunk async for chunk in source.audio()]) > 100
        assert len([frame async for frame in source.frames()]) == 15
    async with media(clip) as source:
        assert len([frame async for frame in source.frames()]) == 15


@pytest.mark.corpora
async def test_a_reader_that_stops_leaves_no_thread(corpora: Path) -> None:
    async with reading(media(corpora / "clips" / "grid_bbaf2n.mpg", fast=False)) as got:
        await got.until(lambda: len(got.frames) >= 2)
    assert not [thread for thread in threading.enumerate() if "decoder" in thread.name]


@pytest.mark.corpora
async def test_a_chunk_comes_when_the_frames_before_its_end_have_been_dealt_with(corpora: Path) -> None:
    """However slowly: that is what makes events independent of pace and machine."""
    dealt_with = 0

    async def watch(source: Source) -> None:
        nonlocal dealt_with
        async for _ in source.frames():
            await asyncio.sleep(0.01)
            dealt_with += 1

    async with media(corpora / "clips" / "grid_bbaf2n.mpg") as source, asyncio.TaskGroup() as tasks:
        tasks.create_task(watch(source))
        async for chunk in source.audio():
            assert dealt_with == min(15, -(-chunk.end * RATE_HZ // SAMPLE_RATE_HZ))


@pytest.mark.parametrize("suffix", ["mkv", "ts", "wav"])
async def test_a_file_behind_a_url_is_a_file(tmp_path: Path, suffix: str) -> None:
    """Formats with and without a duration of their own."""
    clip = tmp_path / f"clip.{suffix}"
    picture = [] if suffix == "wav" else ["-f", "lavfi", "-i", f"{PICTURE}:duration=1"]
    ffmpeg(*picture, "-f", "lavfi", "-i", f"{TONE}:duration=1", clip)
    with file_server(tmp_path) as server:
        async with (source := media(server.url + clip.name)):
            assert not source.live
        assert_same(await read_all(media(server.url + clip.name)), await read_all(media(clip)))


async def test_a_live_url_without_picture_has_no_frames(tmp_path: Path) -> None:
    ffmpeg("-f", "lavfi", "-i", f"{TONE}:duration=2", tmp_path / "tone.wav")
    with live_url(tmp_path / "tone.wav") as server:
        async with media(server.url) as source:
            assert [frame async for frame in source.frames()] == []


async def test_a_cover_image_is_no_picture(tmp_path: Path) -> None:
    cover, song = tmp_path / "cover.png", tmp_path / "song.mp3"
    ffmpeg("-f", "lavfi", "-i", PICTURE, "-frames:v", "1", cover)
    ffmpeg("-f", "lavfi", "-i", f"{TONE}:duration=1", "-i", cover, "-map", "0", "-map", "1", "-c:v", "copy", song)
    got = await read_all(media(song))
    assert got.frames == []
    assert len(got.sound()) > 0.9 * SAMPLE_RATE_HZ


async def test_pictures_without_a_decoder_are_told_of_and_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    film = tmp_path / "film.mkv"
    ffmpeg("-f", "lavfi", "-i", f"{TONE}:duration=1", "-f", "lavfi", "-i", f"{PICTURE}:duration=1", film)
    film.write_bytes(film.read_bytes().replace(b"V_MPEG4/ISO/AVC", b"V_MPEG9/ISO/AVC"))
    got = await read_all(media(film))
    assert got.frames == []
    assert len(got.sound()) > 0.9 * SAMPLE_RATE_HZ
    assert "pictures in a format that cannot be decoded here are not looked at" in caplog.text


async def test_sound_without_a_decoder_gives_way_to_sound_with_one(tmp_path: Path) -> None:
    both = tmp_path / "both.mkv"
    sounds = ("-f", "lavfi", "-i", f"{TONE}:duration=1", "-f", "lavfi", "-i", f"{TONE}:duration=2")
    ffmpeg(*sounds, "-map", "0", "-map", "1", "-c:a:0", "flac", "-c:a:1", "libopus", both)
    both.write_bytes(both.read_bytes().replace(b"A_FLAC", b"A_FLUX"))
    got = await read_all(media(both))
    assert len(got.sound()) > 1.9 * SAMPLE_RATE_HZ


@pytest.fixture
def unusable(tmp_path: Path) -> Path:
    ffmpeg("-f", "lavfi", "-i", f"{TONE}:duration=1", "-c:a", "flac", tmp_path / "unknown.mkv")
    unknown = (tmp_path / "unknown.mkv").read_bytes().replace(b"A_FLAC", b"A_FLUX")
    (tmp_path / "unknown.mkv").write_bytes(unknown)
    (tmp_path / "empty.wav").touch()
    (tmp_path / "text.mp4").write_text("not a film")
    ffmpeg("-f", "lavfi", "-i", f"{PICTURE}:duration=1", tmp_path / "silent.mp4")
    whole = (tmp_path / "silent.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    return tmp_path


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("missing.mp4", r"Cannot read .*missing\.mp4: No such file or directory\.$"),
        ("empty.wav", r"empty\.wav is empty \(0 bytes\)\.$"),
        ("text.mp4", r"text\.mp4 is not a media file that can be read"),
        ("cut.mp4", r"cut\.mp4 is not a media file that can be read"),
        ("silent.mp4", r"silent\.mp4 has no sound"),
        ("unknown.mkv", r"unknown\.mkv has sound in a format that cannot be decoded here; convert it"),
        (".", r" is a folder"),
    ],
)
async def test_unusable_files_are_refused_with_a_sentence(unusable: Path, name: str, sentence: str) -> None:
    with pytest.raises(SourceError, match=sentence):
        async with media(unusable / name):
            pass


@pytest.mark.parametrize(
    ("address", "sentence"),
    [
        ("banana://host/x", "banana://host/x: unknown URL scheme banana"),
        ("http://user:secret@127.0.0.1:9/x", r"Cannot open http://127\.0\.0\.1:9/x: Connection refused"),
        ("/dev/null", "/dev/null is not a regular file"),
    ],
)
async def test_unusable_addresses_are_refused_with_a_sentence(address: str, sentence: str) -> None:
    with pytest.raises(SourceError, match=sentence):
        async with media(address):
            pass


@pytest.mark.slow
async def test_a_camera_that_wants_a_password_is_told_of_without_it() -> None:
    with rtsp_camera(CONVERSATION) as camera:
        for address in (camera.url.replace("se%3Acret", "wrong"), camera.url.replace("robot:se%3Acret@", "")):
            bare = rf"^rtsp://127\.0\.0\.1:{camera.port}/live does not let us in; check user and password"
            with pytest.raises(SourceError, match=bare):
                async with media(address):
                    pass
        async with reading(media(camera.url)) as got:
            await got.until(lambda: len(got.frames) > 5 and len(got.chunks) > 50)


@pytest.mark.corpora
@pytest.mark.slow
@pytest.mark.parametrize("fault", ["kill", "freeze"])
async def test_a_live_url_that_dies_and_comes_back_goes_on(corpora: Path, fault: str) -> None:
    with live_url(corpora / "clips" / "grid_bbaf2n.mpg") as server:
        source = media(server.url)
        async with reading(source) as got:
            assert source.live
            await got.until(lambda: len(got.frames) > 5 and len(got.chunks) > 50)
            zero_s = time.monotonic() - got.chunks[-1].end / SAMPLE_RATE_HZ
            if fault == "kill":
                server.kill()
            else:
                server.freeze()
            await asyncio.sleep(2.5)
            before, frames_before = got.chunks[-1].end, len(got.frames)
            if fault == "kill":
                server.start()
            else:
                server.thaw()
            await got.until(
                lambda: got.chunks[-1].end > before + SAMPLE_RATE_HZ and len(got.frames) > frames_before + 5
            )
            drift_s = time.monotonic() - zero_s - got.chunks[-1].end / SAMPLE_RATE_HZ
    assert abs(drift_s) < 1
    assert source.counters.reopened >= 1
    assert source.counters.stalls == (1 if fault == "freeze" else 0)
    assert source.counters.lost_samples == sum(got.gaps) > SAMPLE_RATE_HZ
    assert all(a.end <= b.start for a, b in pairwise(got.chunks))
    assert all(a.time_s < b.time_s for a, b in pairwise(got.frames))


@pytest.mark.slow
@pytest.mark.parametrize(("lose", "restore"), [(Server.kill, Server.start), (Server.freeze, Server.thaw)])
async def test_a_live_url_is_heard_soon_after_its_return(
    lose: Callable[[Server], None], restore: Callable[[Server], None]
) -> None:
    with live_url(CONVERSATION) as server:
        async with reading(open_source(Sources(media=server.url), RATE_HZ)) as got:
            await got.until(lambda: len(got.chunks) > 10)
            await asyncio.to_thread(lose, server)
            await asyncio.sleep(AWAY_S)
            await asyncio.to_thread(restore, server)
            assert await got.seconds_until_more(got.chunks) < BACK_S


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("broadcast")
    broadcast.record(folder)
    return folder


def assert_heard_once_and_dated_rightly(got: Reading) -> None:
    moments = broadcast.moments(got.sound(), SAMPLE_RATE_HZ)
    clock = [stream_s - broadcast_s for stream_s, broadcast_s in moments]
    assert max(clock) - min(clock) < 0.5
    assert min(later - earlier for (_, earlier), (_, later) in pairwise(moments)) > -broadcast.BLOCK_S


@pytest.mark.slow
@pytest.mark.parametrize("stored_s", [0.0, 6.0])
@pytest.mark.parametrize("fault", ["closes", "falls silent"])
async def test_nothing_is_heard_twice_and_the_clock_stays_right_after_a_live_url_breaks(
    recorded: Path, fault: broadcast.Fault, stored_s: float
) -> None:
    live = broadcast.Broadcast(recorded, stored_s=stored_s, fault=fault, fault_after_s=3.0)
    with live.on_air() as address:
        source = media(address, stall_ms=1500)
        async with reading(source) as got:
            await got.until(lambda: live.listeners == 2)
            broken_at = len(got.chunks)
            await got.until(lambda: len(got.chunks) > broken_at + 100)
    assert source.counters.reopened == 1
    assert_heard_once_and_dated_rightly(got)


async def test_sound_and_picture_keep_their_times_when_a_connection_comes_late(tmp_path: Path) -> None:
    """Later than a clock may jump within a connection; and what was heard and seen already is left out."""
    clip, heard_s, away_s = tmp_path / "clip.ts", 2000.0, 900.0
    ffmpeg("-f", "lavfi", "-i", PICTURE, "-f", "lavfi", "-i", TONE, "-t", "6", clip)
    for back_s in (0.0, 3.0):
        counters, grid = SourceCounters(), FrameGrid(RATE_HZ)
        assert grid.takes(heard_s - 0.1)
        with connect(str(clip), 1.0) as container:
            start_s = heard_s + (away_s if back_s == 0 else -back_s)
            zero_s = (container.start_time or 0) / 1e6 - start_s
            sound = SoundDecoder("clip", zero_s, counters, round(heard_s * SAMPLE_RATE_HZ))
            pictures = PictureDecoder("clip", zero_s, grid, counters, heard_s)
            chunks, frames = [], []
            for packet in container.demux():
                if packet.stream.type == "audio":
                    chunks += sound.feed(packet)
                else:
                    frames += pictures.feed(packet)
        begins_s = max(start_s, heard_s)
        assert chunks[0].start / SAMPLE_RATE_HZ == pytest.approx(begins_s, abs=0.1)
        assert chunks[-1].end / SAMPLE_RATE_HZ == pytest.approx(start_s + 6, abs=0.2)
        assert frames[0].time_s == pytest.approx(begins_s, abs=0.3)
        assert len(frames) == pytest.approx(RATE_HZ * (start_s + 6 - begins_s), abs=2)


@pytest.mark.slow
async def test_segments_longer_than_a_stall_are_heard_once(recorded: Path) -> None:
    live = broadcast.Broadcast(recorded, fault_after_s=broadcast.LONGEST_S)
    with live.on_air() as address:
        source = media(address.replace("live.ts", "live.m3u8"), stall_ms=1000)
        async with reading(source) as got:
            await got.until(lambda: got.chunks[-1:] != [] and got.chunks[-1].end > 16 * SAMPLE_RATE_HZ)
    assert source.counters == SourceCounters()
    assert_heard_once_and_dated_rightly(got)


async def test_of_several_sounds_the_default_is_heard(tmp_path: Path) -> None:
    clip = tmp_path / "two.mp4"
    silence = "anullsrc=sample_rate=44100:duration=1"
    ffmpeg(
        *("-f", "lavfi", "-i", silence, "-f", "lavfi", "-i", f"{TONE}:duration=1", "-map", "0", "-map", "1"),
        *("-c:a", "aac", "-disposition:a:0", "0", "-disposition:a:1", "default", clip),
    )
    assert np.abs((await read_all(media(clip))).sound()).max() > 0.1


async def test_a_file_that_is_cut_off_is_told_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    whole, cut = tmp_path / "whole.flac", tmp_path / "cut.flac"
    ffmpeg("-f", "lavfi", "-i", "anoisesrc=sample_rate=16000:duration=8:seed=1", whole)
    await read_all(media(whole))
    assert "cut off" not in caplog.text
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    await read_all(media(cut))
    assert re.search(r"cut\.flac: the sound ends after [34]\.. of 8\.0 s: the file may be cut off", caplog.text)


async def test_a_server_that_says_nothing_is_asked_less_and_less_often() -> None:
    begun: list[Iterator[float]] = []
    pauses: list[float] = []

    class Noted(Backoff):
        def pauses_s(self) -> Iterator[float]:
            begun.append(super().pauses_s())
            for pause_s in begun[-1]:
                pauses.append(pause_s)
                yield pause_s

    class Greeter(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.sendall(
                b"RIFF"
                + struct.pack("<I4s4sIHHIIHH4sI", 36, b"WAVE", b"fmt ", 16, 1, 1, 16000, 32000, 2, 16, b"data", 0)
            )

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Greeter) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"tcp://127.0.0.1:{server.server_address[1]}"
        source = LiveMedia(address, connect(address, 1.0), RATE_HZ, 1.0, Noted(0.01, 0.08))
        try:
            await until(lambda: source.counters.reopened >= 4)
        finally:
            await source.close()
            server.shutdown()
    assert len(begun) == 1
    assert pauses[:4] == [0.01, 0.02, 0.04, 0.08]


def test_the_longest_pause_leaves_time_to_open_within_the_two_seconds_promised() -> None:
    assert Sources().reopen_max_ms <= 1000


def test_the_pace_is_the_clocks() -> None:
    now_s = 100.0
    pace = Pace(lambda: now_s)
    assert pace.wait_s(0.5) == 0.5
    now_s = 102.0
    assert pace.wait_s(3.0) == 1.0
    assert pace.wait_s(1.0) == 0.0
