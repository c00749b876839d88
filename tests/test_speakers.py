"""Whose voice is whose: names by likeness and seat, bounded, in the order in which people are first heard."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamer import settings
from streamer.speakers import Speakers, Voice
from streamer.speaking_face import Seats
from telme.features.faces import Box

DIMENSIONS = 256


def speakers(person: str = "person", **bounds: object) -> Speakers:
    return Speakers(settings.Speakers(**{"people_max": 4, **bounds}), person)


def voice(vector: np.ndarray, speech_ms: float = 2000) -> Voice:
    return Voice((vector / np.linalg.norm(vector)).astype(np.float32), speech_ms, elapsed_ms=1.0)


def voice_of(person: int, seed: int = 0, speech_ms: float = 2000) -> Voice:
    """Voices of one person have a cosine of about 0.8, those of two people one of about 0."""
    pure = np.zeros(DIMENSIONS)
    pure[person] = 1
    return voice(pure + np.random.default_rng([person, seed]).normal(0, 0.5 / DIMENSIONS**0.5, DIMENSIONS), speech_ms)


def heard(known: Speakers, voices: list[Voice], seen: list[Seats | None] | None = None) -> list[str]:
    names = []
    for one, seats in zip(voices, seen or [None] * len(voices), strict=True):
        names.append(known.name_of(one, seats))
        known.learn(one, seats)
    return names


def alike(cosine: float) -> tuple[Voice, Voice]:
    first, other = np.eye(DIMENSIONS)[:2]
    return voice(first), voice(cosine * first + (1 - cosine**2) ** 0.5 * other)


def seated(speaker: int, people: int = 2, moved: float = 0.0) -> Seats:
    """People side by side, two faces apart, of whom one speaks; all have moved by so many faces."""
    boxes = [Box(left, 0, left + 100, 100, 1.0) for left in (200.0 * n + 100 * moved for n in range(people))]
    return Seats(boxes.pop(speaker), tuple(boxes))


VOICES = st.builds(
    lambda seed, speech_ms: voice(np.random.default_rng(seed).normal(size=8), speech_ms),
    st.integers(0, 2**32 - 1),
    st.floats(0, 15_000),
)


@given(st.lists(VOICES, max_size=40), st.integers(2, 16))
def test_there_are_never_more_people_than_allowed_and_each_utterance_is_counted_once(
    voices: list[Voice], people_max: int
) -> None:
    known = speakers(people_max=people_max)
    names = heard(known, voices)
    assert set(names) <= {f"person-{n}" for n in range(1, people_max + 1)}
    counters = known.counters
    assert counters.people <= people_max
    assert counters.people + counters.recognised + counters.unlike + counters.short == len(voices)
    assert heard(speakers(people_max=people_max), voices) == names


@given(st.lists(st.integers(0, 3), min_size=1, max_size=30))
def test_people_who_sound_different_keep_their_names_in_whatever_order_they_speak(order: list[int]) -> None:
    names = heard(speakers(), [voice_of(person, seed) for seed, person in enumerate(order)])
    first_heard = list(dict.fromkeys(order))
    assert names == [f"person-{first_heard.index(person) + 1}" for person in order]


@given(st.lists(VOICES, max_size=20), VOICES)
def test_asking_who_it_is_teaches_nothing(voices: list[Voice], asked: Voice) -> None:
    known = speakers()
    heard(known, voices)
    people = known.counters.people
    assert known.name_of(asked) == known.name_of(asked)
    assert known.counters.people == people


def test_short_speech_makes_and_teaches_nobody() -> None:
    known = speakers(min_ms=1000)
    known.learn(voice_of(0))
    before = known.name_of(voice_of(0))
    for seed in range(20):
        short = voice_of(1, seed, speech_ms=999)
        assert known.name_of(short) == "person-1"
        known.learn(short)
    assert known.name_of(voice_of(0)) == before
    assert known.name_of(voice_of(1, speech_ms=1000)) == "person-2"
    assert (known.counters.people, known.counters.short) == (1, 20)


def test_where_all_places_are_taken_a_stranger_is_whom_he_is_most_like_and_teaches_nothing() -> None:
    known = speakers(people_max=2)
    heard(known, [voice_of(0), voice_of(1)])
    mixed = voice(voice_of(2).vector + 0.3 * voice_of(1).vector)
    assert heard(known, [mixed] * 5) == ["person-2"] * 5
    assert known.counters.unlike == 5
    assert known.name_of(voice_of(1, seed=1)) == "person-2"


def test_where_nobody_is_told_apart_there_is_one_name() -> None:
    known = speakers("guest", people_max=1)
    assert known.name_of(None) == "guest"
    assert heard(known, [voice_of(0), voice_of(1)]) == ["guest", "guest"]


def test_names_can_be_set() -> None:
    known = speakers("guest", names=["anna", "ben"])
    assert heard(known, [voice_of(person) for person in range(3)]) == ["anna", "ben", "guest-3"]


def test_without_a_voice_it_is_who_was_heard_last() -> None:
    known = speakers()
    assert known.name_of(None) == "person-1"
    heard(known, [voice_of(0), voice_of(1)])
    assert known.name_of(None) == "person-2"


def test_after_a_reset_the_next_one_is_the_first() -> None:
    known = speakers()
    heard(known, [voice_of(0), voice_of(1)])
    known.reset()
    assert known.counters.people == 0
    assert heard(known, [voice_of(1), voice_of(0)]) == ["person-1", "person-2"]


def test_more_than_sixteen_names_are_refused() -> None:
    with pytest.raises(ValueError, match="at most 16"):
        settings.Speakers(names=[f"n{i}" for i in range(17)])


def test_two_who_sound_alike_are_told_apart_by_whose_mouth_moves() -> None:
    ann, eve = alike(0.7)
    assert heard(speakers(), [ann, eve, ann, eve]) == ["person-1"] * 4
    seen = [seated(0), seated(1), seated(0, moved=0.4), seated(1, moved=-0.4)]
    assert heard(speakers(), [ann, eve, ann, eve], seen) == ["person-1", "person-2"] * 2


def test_one_who_sounds_otherwise_today_is_known_by_the_seat() -> None:
    calm, angry = alike(0.6)
    assert heard(speakers(), [calm, angry]) == ["person-1", "person-2"]
    assert heard(speakers(), [calm, angry], [seated(0), seated(0)]) == ["person-1", "person-1"]


def test_a_clear_voice_outweighs_a_mouth_that_is_taken_for_the_moving_one() -> None:
    ann, eve = alike(0.2)
    assert heard(speakers(), [ann, eve, ann], [seated(0), seated(1), seated(1)])[-1] == "person-1"


def test_a_seat_where_nobody_is_seen_says_nothing() -> None:
    ann, eve = alike(0.7)
    assert heard(speakers(), [ann, eve], [seated(0), seated(0, moved=5)]) == ["person-1", "person-1"]


def test_who_changes_seats_keeps_the_name_and_is_then_known_by_the_new_one() -> None:
    ann, alike_to_ann = alike(0.6)
    known = speakers()
    assert heard(known, [ann, ann], [seated(0), seated(0, moved=5)]) == ["person-1"] * 2
    assert known.name_of(alike_to_ann, seated(0, moved=5)) == "person-1"
    assert known.name_of(alike_to_ann, seated(0)) == "person-2"


@given(st.lists(st.tuples(VOICES, st.integers(0, 3)), max_size=30))
def test_seats_that_weigh_nothing_change_no_name(turns: list[tuple[Voice, int]]) -> None:
    voices = [one for one, _ in turns]
    seen: list[Seats | None] = [seated(speaker, people=4) for _, speaker in turns]
    assert heard(speakers(seat_likeness=0), voices, seen) == heard(speakers(), voices)


def test_after_a_reset_no_seat_is_known() -> None:
    ann, eve = alike(0.7)
    known = speakers()
    heard(known, [ann], [seated(0)])
    known.reset()
    assert heard(known, [eve, ann], [seated(0), seated(0)]) == ["person-1", "person-1"]
