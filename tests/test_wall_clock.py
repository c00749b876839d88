from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamer.wall_clock import WINDOW_S, WallClock

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
ROUNDING_S = 1e-5  # dates are in microseconds


def seconds(moment: datetime) -> float:
    """Since noon."""
    return (moment - NOON).total_seconds()


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


@given(late_s=st.lists(st.floats(0, 5), min_size=1, max_size=3000), set_by_s=st.floats(-1e6, 1e6))
def test_sound_that_comes_late_does_not_date_a_live_stream_late(late_s: list[float], set_by_s: float) -> None:
    """A tenth of a second of sound at a time, each somewhat late; then the machine's clock is set."""
    clock = Clock()
    wall_clock = WallClock(clock, live=True)
    for number, late in enumerate(late_s, start=1):
        clock.now = NOON + timedelta(seconds=number / 10 + late)
        wall_clock.heard(number / 10)
        since = max(0, number - int(10 * WINDOW_S))
        assert -ROUNDING_S < seconds(wall_clock.began_at(number)) < min(late_s[since:number]) + ROUNDING_S
    after = len(late_s)
    for number in range(after + 1, after + 1 + 2 * int(10 * WINDOW_S)):
        clock.now = NOON + timedelta(seconds=set_by_s + number / 10)
        wall_clock.heard(number / 10)
    assert seconds(wall_clock.began_at(number)) == pytest.approx(set_by_s, abs=ROUNDING_S)


def test_a_sound_card_that_drifts_does_not_move_the_dates() -> None:
    """It is a thousandth too slow, then as much too fast, each for a day: the date is off by what a minute makes."""
    clock = Clock()
    wall_clock = WallClock(clock, live=True)
    end_s = 0.0
    for rate in (0.999, 1.001):
        for _ in range(24 * 360):
            clock.wait(10)
            end_s += 10 * rate
            wall_clock.heard(end_s)
        dated = wall_clock.began_at(round(end_s)) + timedelta(seconds=end_s)
        assert abs((clock.now - dated).total_seconds()) < 0.08


def test_all_events_of_an_utterance_are_dated_alike() -> None:
    clock = Clock()
    wall_clock = WallClock(clock, live=True)
    wall_clock.heard(1.0)
    first = wall_clock.began_at(1)
    clock.wait(-3600)
    wall_clock.heard(1.5)
    assert wall_clock.began_at(1) == first
    assert wall_clock.began_at(2) < first
