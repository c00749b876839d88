from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from streamer.wall_clock import WallClock

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


class Clock:
    """A machine's clock, set by hand."""

    def __init__(self) -> None:
        self.now = NOON

    def __call__(self) -> datetime:
        return self.now

    def wait(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


@given(st.lists(st.tuples(st.floats(0, 10), st.floats(0, 10)), max_size=20))
def test_a_file_is_played_from_the_moment_at_which_it_is_opened(heard: list[tuple[float, float]]) -> None:
    clock = Clock()
    wall_clock = WallClock(clock, live=False)
    clock.wait(3)
    wall_clock.begin()
    for number, (waited_s, end_s) in enumerate(heard, start=1):
        clock.wait(waited_s)
        wall_clock.heard(end_s)
        assert wall_clock.began_at(number) == NOON + timedelta(seconds=3)


@given(st.lists(st.tuples(st.floats(-1e6, 1e6), st.floats(0, 1e6)), min_size=1, max_size=20))
def test_the_newest_sound_of_a_live_stream_was_made_just_now(heard: list[tuple[float, float]]) -> None:
    """However far the sound card has drifted, or the machine's clock was set."""
    clock = Clock()
    wall_clock = WallClock(clock, live=True)
    for number, (set_by_s, end_s) in enumerate(heard, start=1):
        clock.wait(set_by_s)
        wall_clock.heard(end_s)
        assert wall_clock.began_at(number) + timedelta(seconds=end_s) == clock.now


def test_all_events_of_an_utterance_are_dated_alike() -> None:
    clock = Clock()
    wall_clock = WallClock(clock, live=True)
    wall_clock.heard(1.0)
    first = wall_clock.began_at(1)
    clock.wait(3600)
    wall_clock.heard(1.5)
    assert wall_clock.began_at(1) == first
    assert wall_clock.began_at(2) > first
