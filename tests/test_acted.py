"""How bench/acted.py finds a take's event, and counts."""

from acted import WAYS, Take, _answers, _nearest, _share
from hypothesis import given
from hypothesis import strategies as st

Event = dict[str, float]
spans = st.lists(st.tuples(st.floats(0, 100), st.floats(0.1, 5)), max_size=8)


@given(spans, st.floats(0, 100), st.floats(0.1, 5))
def test_a_take_s_event_shares_most_of_its_time(events: list[tuple[float, float]], start: float, length: float) -> None:
    found = [{"start_s": at, "end_s": at + lasts} for at, lasts in events]
    nearest = _nearest(found, start, start + length)

    def shared(event: Event) -> float:
        return min(event["end_s"], start + length) - max(event["start_s"], start)

    assert (nearest is None) == all(shared(event) <= 0 for event in found)
    if nearest is not None:
        assert shared(nearest) == max(map(shared, found))


def test_answers_of_the_event_and_of_its_modalities() -> None:
    event = {"emotion": "joy", "modalities": {"text": None, "audio": {"anger": 0.3, "joy": 0.2, "fear": 0.5}}}
    assert dict(zip(WAYS, _answers(event), strict=True)) == {
        "event": "joy",
        "voice alone": "fear",
        "words alone": None,
    }
    assert _answers(None) == (None, None, None)


def test_a_take_without_an_event_is_wrong() -> None:
    takes = [Take("x", speaker, "joy", (answer,) * 3) for speaker in "ab" for answer in ("joy", "joy", "fear", None)]
    assert _share(takes, 0) == "0.500 (0.500 to 0.500)"
