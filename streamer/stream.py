"""What one stream of a process has for itself, and what it counts."""

import dataclasses
from typing import Any

from streamer.pipeline import Pipeline
from streamer.segmenter import Segmenter
from streamer.settings import StreamSettings
from streamer.vad import make_detector


def make_segmenter(settings: StreamSettings) -> Segmenter:
    """Loads a voice detector, so not in the event loop. Raises VadError where it cannot be had."""
    return Segmenter(settings.segmentation, make_detector(settings.vad), drafts=settings.recognition.speculate)


def counted(pipeline: Pipeline) -> dict[str, Any]:
    """Everything that a stream counts, ready for JSON."""
    return {
        "paused": pipeline.paused,
        "speaking": pipeline.segmenter.speaking,
        "dialogue_turns": len(pipeline.dialogue),
        "pipeline": dataclasses.asdict(pipeline.counters),
        "speculation": dataclasses.asdict(pipeline.speculation),
        "speakers": dataclasses.asdict(pipeline.speakers),
        "segmenter": dataclasses.asdict(pipeline.segmenter.counters),
        "pictures": dataclasses.asdict(pipeline.pictures),
        "source": dataclasses.asdict(pipeline.source.counters),
    }
