from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamer.arrivals import WINDOW_S
from streamer.wall_clock import WallClock

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
ROUNDING_S = 1e-5  # dates are in microseconds


def seconds(moment: datetime) -> float:
    """Since noon."""
    return (moment - NOON).total_seconds()


class Machine:
    """Its clock, which somebody sets, and the time for which it runs."""

    def __init__(self) -> None:
        self.now = NOON
        self.runs_s = 1000.0

    def wall_clock(self, *, live: bool) -> WallClock:
        return WallClock(lambda: self.now, live, lambda: self.runs_s)

    def wait(self, seconds: float) -> None:
        self.runs_s += seconds
        self.set(seconds)

    def set(self, by_s: float) -> None:
        self.now += timedelta(seconds=by_s)


@given(st.lists(st.tuples(st.floats(0, 10), st.floats(0, 10)), max_size=20))
def test_a_file_is_played_from_the_moment_at_which_it_is_opened(heard: list[tuple[float, float]]) -> None:
    machine = Machine()
    wall_clock = machine.wall_clock(live=False)
    machine.wait(3)
    wall_clock.begin()
    for number, (waited_s, end_s) in enumerate(heard, start=1):
        machine.wait(waited_s)
        wall_clock.heard(end_s)
        assert seconds(wall_clock.began_at(number)) == pytest.approx(3, abs=ROUNDING_S)
        assert wall_clock.late_s(end_s) is None


@given(late_s=st.lists(st.floats(0, 5), min_size=1, max_size=3000), set_by_s=st.floats(-1e6, 1e6))
def test_sound_that_comes_late_does_not_date_a_live_stream_late(late_s: list[float], set_by_s: float) -> None:
    """A tenth of a second of sound at a time, each somewhat late; then the machine's clock is set."""
    machine = Machine()
    wall_clock = machine.wall_clock(live=True)
    came_s = 0.0
    for number, late in enumerate(late_s, start=1):
        machine.wait(number / 10 + late - came_s)
        came_s = number / 10 + late
        wall_clock.heard(number / 10)
        recent = late_s[max(0, number - int(10 * WINDOW_S)) : number]
        assert -ROUNDING_S < seconds(wall_clock.began_at(number)) < min(recent) + ROUNDING_S
        told = wall_clock.late_s(number / 10)
        assert told is not None
        assert late - min(recent) - ROUNDING_S < told < late + ROUNDING_S
    machine.set(set_by_s)
    began_s = seconds(wall_clock.began_at(len(late_s) + 1))
    assert set_by_s - ROUNDING_S < began_s < set_by_s + min(recent) + ROUNDING_S


def test_a_sound_card_that_drifts_does_not_move_the_dates() -> None:
    """It is a thousandth too slow, then as much too fast, each for a day: the date is off by what a minute makes."""
    machine = Machine()
    wall_clock = machine.wall_clock(live=True)
    end_s = 0.0
    for rate in (0.999, 1.001):
        for _ in range(24 * 360):
            machine.wait(10)
            end_s += 10 * rate
            wall_clock.heard(end_s)
        dated = wall_clock.began_at(round(end_s)) + timedelta(seconds=end_s)
        assert abs((machine.now - dated).total_seconds()) < 0.08


def test_all_events_of_an_utterance_are_dated_alike() -> None:
    machine = Machine()
    wall_clock = machine.wall_clock(live=True)
    wall_clock.heard(1.0)
    first = wall_clock.began_at(1)
    machine.set(-3600)
    wall_clock.heard(1.5)
    assert wall_clock.began_at(1) == first
    assert wall_clock.began_at(2) < first
