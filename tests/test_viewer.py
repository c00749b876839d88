"""The live views: a terminal, and a page in a real browser."""

import asyncio
import io
import logging
import shutil
import socket
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from xml.etree import ElementTree

import pytest
from emotion_events import emotion_event, emotion_events
from hypothesis import given, settings
from playwright.async_api import Browser, Page, async_playwright, expect
from rich.cells import cell_len
from rich.console import Console

from streamer.events import EmotionEvent, Heard, ModalityScores
from streamer.viewer.page import LivePage, PageError
from streamer.viewer.terminal import TerminalView, to_svg

CHROMIUM = shutil.which("chromium")  # None is the browser that playwright installs
CHROMIUM_FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def event(number: int, said: str | None = "Hello there.", **changes: object) -> EmotionEvent:
    transcript = None if said is None else Heard(text=said, confidence=0.9, language="en")
    return emotion_event(number).model_copy(update={"transcript": transcript, **changes})


# The terminal


class Terminal(io.TextIOWrapper):
    """What a console writes to, with an encoding."""

    def __init__(self, encoding: str = "utf-8") -> None:
        super().__init__(io.BytesIO(), encoding=encoding)

    def text(self) -> str:
        self.flush()
        return self.buffer.getvalue().decode(self.encoding)


def shown(*events: EmotionEvent, encoding: str = "utf-8", **console: object) -> str:
    terminal = Terminal(encoding)
    with TerminalView(Console(file=terminal, **console)) as view:
        for one in events:
            view.publish(one)
    return terminal.text()


def test_a_pipe_gets_plain_text_with_everything_in_it() -> None:
    text = shown(event(3, "Dogs are sitting by the door!"))
    assert "\x1b" not in text
    for part in (
        "person  joy 75 %",
        "6.0–7.0 s",
        "“Dogs are sitting by the door!”  heard 90 %",
        "joy       █████████████▌      75 %    text     joy 75 %",
        "audio    –",
        "visual   –",
        "valence  ······│··●··· +0.50",
        "arousal  ·····●│······ -0.25",
        "600 ms after the last word",
        "endpoint 500 queue 1 text 20",
    ):
        assert part in text


def test_a_missing_transcript_is_said() -> None:
    assert "(no transcript)" in shown(event(1, None))


def test_a_provisional_event_is_a_line_that_is_overwritten() -> None:
    perhaps = [event(1, phase="provisional", event_id=name) for name in "ab"]
    text = shown(*perhaps, event(1, "Dogs."), event(2), force_terminal=True, color_system=None)
    first, second, final = text.split("\x1b[2K")
    for line in (first, second):
        assert "perhaps  joy 75 %" in line
        assert "\n" not in line
        assert line.endswith("\r")
    assert "“Dogs.”" in final


def test_with_several_streams_each_event_says_whose_it_is() -> None:
    text = shown(event(1), event(2, stream="hall"), event(3))
    assert text.count("main · ") == text.count("hall · ") == 1


@pytest.mark.parametrize("terminal", [{}, {"force_terminal": True, "_environ": {"TERM": "dumb"}}])
def test_where_no_line_can_be_overwritten_only_final_events_are_shown(terminal: dict[str, object]) -> None:
    assert shown(event(1, phase="provisional"), **terminal) == ""


def test_a_terminal_gets_colours_but_no_cursor_tricks() -> None:
    text = shown(event(1), force_terminal=True, color_system="standard")
    assert "\x1b[33m" in text  # joy is yellow
    assert all(code.partition("m")[0].replace(";", "").isdigit() for code in text.split("\x1b[")[1:])


def test_what_was_said_cannot_change_the_view() -> None:
    text = shown(event(1, "[red]no[/red] \x1b[2J\x07 :smile: \u202eabc"))
    assert "[red]no[/red]" in text
    assert ":smile:" in text
    assert not {"\x1b", "\x07", "\u202e"} & set(text)


def test_an_old_terminal_gets_ascii() -> None:
    text = shown(event(1, "Grüße"), encoding="ascii")
    assert '"Gr??e"' in text
    assert "joy       ##############" in text


@settings(max_examples=30, deadline=None)
@given(emotion_events)
def test_any_event_fits_80_columns(one: EmotionEvent) -> None:
    terminal = {"force_terminal": True, "color_system": None}
    assert all(cell_len(line) <= 80 for line in shown(one, width=200, **terminal).splitlines())
    assert shown(one, width=40, **terminal)


def test_lines_about_the_stream_come_in_order() -> None:
    terminal = Terminal()
    with TerminalView(Console(file=terminal)) as view:
        view.status("listening to [microphone]")
        view.publish(event(1))
        view.status("stopped")
    lines = terminal.text().splitlines()
    assert lines[0] == "listening to [microphone]"
    assert lines[-1] == "stopped"


def test_a_terminal_that_stopped_delays_nobody(caplog: pytest.LogCaptureFixture) -> None:
    going_on = threading.Event()

    class Stopped(Terminal):
        def write(self, text: str) -> int:
            going_on.wait()
            return super().write(text)

    with TerminalView(Console(file=Stopped())) as view:
        for number in range(1000):
            view.publish(event(number))
        going_on.set()
    assert "did not take all" in caplog.text


def test_a_terminal_that_went_away_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    class Gone(Terminal):
        def write(self, text: str) -> int:
            raise BrokenPipeError(32, "Broken pipe")

    with caplog.at_level(logging.WARNING), TerminalView(Console(file=Gone())) as view:
        for number in range(10):
            view.publish(event(number))
    assert caplog.text.count("the terminal can no longer be written to: Broken pipe") == 1
    assert "did not take all" in caplog.text


def test_the_picture_is_svg() -> None:
    picture = to_svg([event(1), event(2)])
    assert ElementTree.fromstring(picture).tag == "{http://www.w3.org/2000/svg}svg"
    assert "Hello" in picture


# The page


@pytest.fixture
async def live_page() -> AsyncIterator[LivePage]:
    async with LivePage(0) as page:
        yield page


@pytest.fixture
async def browser() -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_FLAGS)
        yield browser
        await browser.close()


@pytest.fixture
async def tab(browser: Browser, live_page: LivePage) -> AsyncIterator[Page]:
    """The page, open and connected; a complaint of the browser fails the test."""
    complaints: list[str] = []
    tab = await browser.new_page()
    tab.on("console", lambda message: complaints.append(message.text))
    tab.on("pageerror", lambda error: complaints.append(str(error)))
    await tab.goto(live_page.url)
    await expect(tab.locator("#connection")).to_have_text("live")
    yield tab
    assert complaints == []


async def test_a_browser_shows_events_as_they_come(tab: Page, live_page: LivePage) -> None:
    live_page.publish(event(1, "Dogs are sitting by the door!"))
    await expect(tab.locator("#emotion")).to_have_text("joy 75 %")
    await expect(tab.locator("#said")).to_have_text("Dogs are sitting by the door!")
    live_page.publish(event(2, None))
    await expect(tab.locator("#emotion")).to_have_text("anger 75 %")
    await expect(tab.locator("#said")).to_have_text("no transcript")

    bar = tab.locator('[data-label="joy"] i')
    assert await bar.evaluate("bar => bar.style.width") == "75%"
    await expect(tab.locator("#point")).to_have_attribute("cx", str(70 + 56 // 2))
    await expect(tab.locator("#point")).to_have_attribute("cy", str(70 + 56 // 4))
    await expect(tab.locator("#modalities")).to_contain_text("audiomissing")
    await expect(tab.locator("#latency")).to_contain_text("after the last word600 ms")
    turns = tab.locator("#turns li")
    await expect(turns).to_have_count(2)
    await expect(turns.last).to_contain_text("Dogs are sitting by the door!")


async def test_what_was_said_is_text_not_html(tab: Page, live_page: LivePage) -> None:
    hostile = '<img src=x onerror="document.title=1"><b>really</b>'
    live_page.publish(event(1, hostile, speaker="<i>me</i>", emotion='"><u>joy'))
    await expect(tab.locator("#said")).to_have_text(hostile)
    assert await tab.locator("main img, main b, #turns i, main u").count() == 0
    assert await tab.title() == "TelME Live"


async def test_a_revision_replaces_its_turn(tab: Page, live_page: LivePage) -> None:
    live_page.publish(event(1, None, phase="provisional", event_id="first"))
    await expect(tab.locator("#said")).to_have_text("…")
    await expect(tab.locator("#turns li.perhaps")).to_have_count(1)
    live_page.publish(event(1, "Dogs are sitting", event_id="second"))
    await expect(tab.locator("#said")).to_have_text("Dogs are sitting")
    await expect(tab.locator("#turns li")).to_have_count(1)
    await expect(tab.locator(".perhaps, .past")).to_have_count(0)


async def test_whoever_comes_late_sees_the_recent_events_once(browser: Browser, live_page: LivePage) -> None:
    for number in range(60):
        live_page.publish(event(number, phase="provisional", event_id=f"perhaps-{number}"))
        live_page.publish(event(number))
    late = await browser.new_page()
    await late.goto(live_page.url)
    await expect(late.locator("#turns li")).to_have_count(50)


async def test_the_page_reconnects_by_itself(browser: Browser) -> None:
    tab = await browser.new_page()
    async with LivePage(0) as first:
        port = port_of(first)
        await tab.goto(first.url)
        first.publish(event(1))
        await expect(tab.locator("#turns li")).to_have_count(1)
    await expect(tab.locator("#connection")).to_have_text("connecting again")
    async with LivePage(port) as second:
        second.publish(event(1))
        second.publish(event(2))
        await expect(tab.locator("#turns li")).to_have_count(2, timeout=20_000)
        await expect(tab.locator("#connection")).to_have_text("live")


async def test_every_modality_can_be_missing_or_there(tab: Page, live_page: LivePage) -> None:
    scores = {"joy": 0.6, "anger": 0.4}
    live_page.publish(event(1, modalities=ModalityScores(text=scores, audio=scores, visual=scores)))
    await expect(tab.locator("#modalities")).to_contain_text("visualjoy60 %")


@asynccontextmanager
async def request(
    page: LivePage, path: str, host: str = "127.0.0.1"
) -> AsyncIterator[tuple[str, asyncio.StreamReader]]:
    """The head of a response, and the rest to read on."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port_of(page))
    writer.write(f"GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
    yield (await reader.readuntil(b"\r\n\r\n")).decode(), reader
    writer.close()


def port_of(page: LivePage) -> int:
    return int(page.url.split(":")[2].strip("/"))


async def test_events_are_server_sent(live_page: LivePage) -> None:
    live_page.publish(event(7))
    async with request(live_page, "/events") as (head, body):
        assert "text/event-stream" in head
        data = (await body.readuntil(b"}\n\n")).decode()
    sent = data[data.index("data: ") + 6 : data.rindex("}") + 1]
    assert EmotionEvent.from_json(sent) == event(7)


async def test_a_browser_that_does_not_read_is_dropped_and_counted(live_page: LivePage) -> None:
    long = event(1, "word " * 20_000)
    async with request(live_page, "/events"), asyncio.timeout(20):
        while live_page.dropped == 0:
            live_page.publish(long)
            await asyncio.sleep(0.001)
    assert live_page.dropped == 1


async def test_other_names_for_this_machine_are_refused(live_page: LivePage) -> None:
    async with request(live_page, "/", host="localhost") as (head, _):
        assert head.startswith("HTTP/1.1 200")
    async with request(live_page, "/events", host="evil.example") as (head, _):
        assert head.startswith("HTTP/1.1 400")


async def test_only_loopback_listens(live_page: LivePage) -> None:
    assert live_page.url.startswith("http://127.0.0.1:")
    with socket.create_server(("127.0.0.2", port_of(live_page))):  # still free, which it is not under 0.0.0.0
        pass


async def test_a_port_in_use_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(PageError, match=rf"cannot use port {port} \(Address already in use\): choose another"):
            await LivePage(port).__aenter__()


async def test_without_the_extra_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("uvicorn", "streamer.viewer.page_server"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with pytest.raises(PageError, match=r'needs uvicorn: run `pip install "telme-live\[viewer\]"`\.'):
        await LivePage(0).__aenter__()
