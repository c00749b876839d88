"""The live view in a terminal: one block for each utterance, as it comes.

Plain text where nobody looks (a pipe, a file), colours where somebody does. There a line that says what an utterance
seems to become is overwritten by the next one, and at last by the block; elsewhere it is left out.
"""

import io
import logging
import math
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Self

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from streamer.background_writer import BackgroundWriter
from streamer.events import EmotionEvent, Latency
from telme.bundle import MODALITIES

log = logging.getLogger(__name__)

WIDTH = 80

_WAITING_MAX = 256
_LAST_BLOCKS_S = 1.0
_BAR = 18  # characters
_GAUGE = 13
_STYLES = {
    **dict.fromkeys(("anger", "ang"), "red"),
    **dict.fromkeys(("disgust",), "green"),
    **dict.fromkeys(("fear",), "magenta"),
    **dict.fromkeys(("joy", "hap", "exc"), "yellow"),
    **dict.fromkeys(("neutral", "neu"), "white"),
    **dict.fromkeys(("sadness", "sad"), "blue"),
    **dict.fromkeys(("surprise",), "cyan"),
    **dict.fromkeys(("fru",), "dark_orange"),
}
_WIPE = "\x1b[2K"  # the line that the cursor is on
_PLAIN = str.maketrans({"█": "#", "▌": "#", "·": ".", "●": "o", "│": "|", "“": '"', "”": '"', "–": "-"})


class TerminalView:
    """Shows events on a console. When so many wait that the terminal must have stopped, the newest are dropped."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._overwrites = console.is_terminal and not console.is_dumb_terminal
        self._line_to_wipe = False
        self._streams: set[str] = set()
        self._writer: BackgroundWriter[EmotionEvent | str] = BackgroundWriter(
            self._write, name="the terminal", size=_WAITING_MAX, last_s=_LAST_BLOCKS_S
        )

    def __enter__(self) -> Self:
        self._writer.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """What waits is written first, unless the terminal has stopped."""
        self._writer.__exit__(kind, error, trace)
        if self._writer.missed:
            log.warning("the terminal did not take all of the events", extra={"not_shown": self._writer.missed})

    def publish(self, event: EmotionEvent) -> None:
        """Show an event; returns at once."""
        self._writer.put(event)

    def status(self, line: str) -> None:
        """Show a line about the stream itself, such as its source or its broker; returns at once."""
        self._writer.put(line)

    def _write(self, shown: EmotionEvent | str) -> None:
        provisional = isinstance(shown, EmotionEvent) and shown.phase == "provisional"
        if provisional and not self._overwrites:
            return
        block = self._block(shown) if isinstance(shown, EmotionEvent) else Text(shown, style="dim")
        text = _rendered(block, self._console)
        wiped = f"{_WIPE}{text}" if self._line_to_wipe else text
        # The cursor waits at the beginning of the line, so that even a log message begins there.
        self._console.file.write(wiped.rstrip("\n") + "\r" if provisional else wiped)
        self._console.file.flush()
        self._line_to_wipe = provisional

    def _block(self, event: EmotionEvent) -> RenderableType:
        self._streams.add(event.stream)
        return _block(event, name_stream=len(self._streams) > 1)


def to_svg(events: Iterable[EmotionEvent], title: str = "telme-stream") -> str:
    """The view of some events as an SVG picture."""
    console = Console(record=True, width=WIDTH, file=io.StringIO(), force_terminal=True, color_system="truecolor")
    for event in events:
        console.print(_block(event))
    return console.export_svg(title=title)


def _rendered(block: RenderableType, console: Console) -> str:
    """The block as the console would show it, no wider than the view is made for.

    Not by the console itself, which ends the program when its pipe breaks.
    """
    paper = Console(
        file=io.StringIO(),
        force_terminal=console.is_terminal,
        color_system=console.color_system,  # type: ignore[arg-type]  # rich gives its own names as plain strings
        width=min(console.width, WIDTH),
    )
    with paper.capture() as captured:
        paper.print(block)
    text = captured.get()
    if console.options.ascii_only:
        text = text.translate(_PLAIN)
    return text.encode(console.encoding, "replace").decode(console.encoding)


def _block(event: EmotionEvent, *, name_stream: bool = False) -> RenderableType:
    if event.phase == "provisional":
        return _headline(event, name_stream)
    columns = Table.grid(padding=(0, 3))
    columns.add_column(width=35)
    columns.add_column()
    total = f"{event.latency_ms.total:.0f} ms after the last word"
    columns.add_row(_bars(event.scores), Group(_modalities(event), Text(), _coordinates(event), total))
    return Group(
        _headline(event, name_stream),
        Padding(_transcript(event), (0, 2)),
        Padding(columns, (0, 2)),
        Padding(_stages(event.latency_ms), (0, 2)),
        Text(),
    )


def _headline(event: EmotionEvent, name_stream: bool) -> RenderableType:
    time = event.ended_at.astimezone().strftime("%H:%M:%S")
    name, confidence = event.emotion, f"{100 * event.confidence:.0f} %"
    perhaps = "  perhaps" if event.phase == "provisional" else ""
    title = Text.assemble(
        (f"{time}  ", "dim"),
        f"{event.stream} · " if name_stream else "",
        (event.speaker, "bold"),
        perhaps,
        "  ",
        (f"{name} {confidence}", f"bold {_style(name)}"),
        (f"  {event.start_s:.1f}–{event.end_s:.1f} s", "dim"),
    )
    return Rule(title, align="left", style=_style(name), characters="─")


def _transcript(event: EmotionEvent) -> Text:
    if event.transcript is None:
        return Text("(no transcript)", style="dim italic")
    # Text, not markup, so that nothing said can change the view; control characters would.
    said = "".join(character if character.isprintable() else " " for character in event.transcript.text)
    return Text.assemble((f"“{said}”", "italic"), (f"  heard {100 * event.transcript.confidence:.0f} %", "dim"))


def _bars(scores: Mapping[str, float]) -> Table:
    """Every class with its probability, the most probable first."""
    bars = Table.grid(padding=(0, 1))
    bars.add_column(width=9)
    bars.add_column(width=_BAR)
    bars.add_column(justify="right", width=5)
    for label, score in sorted(scores.items(), key=lambda item: -item[1]):
        full, half = divmod(round(score * 2 * _BAR), 2)
        bars.add_row(label, Text("█" * full + "▌" * half, style=_style(label)), f"{100 * score:.0f} %")
    return bars


def _modalities(event: EmotionEvent) -> Table:
    """What each modality says by itself."""
    table = Table.grid(padding=(0, 1))
    for modality in MODALITIES:
        scores = getattr(event.modalities, modality)
        if scores is None:
            table.add_row(f"{modality:8}", Text("–", style="dim"), "")
        else:
            label = max(scores, key=scores.__getitem__)
            table.add_row(f"{modality:8}", Text(label, style=_style(label)), f"{100 * scores[label]:.0f} %")
    return table


def _coordinates(event: EmotionEvent) -> Table:
    """Valence and arousal, each on a scale from -1 to 1."""
    table = Table.grid(padding=(0, 1))
    for name, value in (("valence", event.valence), ("arousal", event.arousal)):
        scale = ["·"] * _GAUGE
        scale[_GAUGE // 2] = "│"
        scale[math.floor((value + 1) / 2 * (_GAUGE - 1) + 0.5)] = "●"
        table.add_row(f"{name:8}", "".join(scale), f"{value:+.2f}")
    return table


def _stages(latency: Latency) -> Text:
    """Milliseconds of each stage that ran."""
    stages = latency.model_dump(exclude_none=True, exclude={"total"})
    return Text(" ").join(Text.assemble((f"{name} ", "dim"), f"{ms:.0f}") for name, ms in stages.items())


def _style(label: str) -> str:
    return _STYLES.get(label, "default")
