"""Whatever arrives on the control topics: an answer or a refusal that is counted, and nothing smuggled into prompts."""

import asyncio
import json
from functools import cache

import pytest
from hypothesis import example, given
from hypothesis import settings as limits
from hypothesis import strategies as st
from pydantic import ValidationError
from tokenizers import Tokenizer

from streamer.dialogue import Dialogue
from streamer.mqtt.address import Address
from streamer.mqtt.info import started_at
from streamer.mqtt.publisher import Publisher
from streamer.mqtt.requests import MAX_BYTES, Request, Responder
from streamer.mqtt.said import Said
from streamer.mqtt.topics import Topics
from streamer.settings import Dialogue as DialogueSettings
from streamer.settings import Mqtt
from telme.bundle import COMPACT, Bundle
from telme.features.text import Prompter

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=12,
)
NAMED = st.fixed_dictionaries({}, optional=dict.fromkeys(("text", "speaker", "transaction", "started_at"), JSON))
PAYLOADS = st.one_of(
    st.binary(max_size=300),
    JSON.map(lambda value: json.dumps(value).encode()),
    NAMED.map(lambda value: json.dumps(value).encode()),
    NAMED.map(lambda value: json.dumps(value, ensure_ascii=False).encode(errors="surrogatepass")),
)


@cache
def publisher() -> Publisher:
    """One that is not connected: what arrives is handed to it as if it were."""

    async def made() -> Publisher:
        return Publisher(Mqtt(), Address.parse("mqtt://nowhere"), "robot")

    return asyncio.run(made())


@given(payload=PAYLOADS)
@example(payload=b'{"text": "' + b"x" * (MAX_BYTES - 20) + b'"}')
@example(payload=b'{"text": "a", "text": 3}')
@example(payload=b'{"transaction": ' + b"9" * 6000 + b"}")
@example(payload=b'{"transaction": "\\ud800"}')
@example(payload=b"[" * MAX_BYTES)
def test_every_payload_is_taken_or_counted(payload: bytes) -> None:
    heard: list[Said] = []
    receiving = publisher()
    receiving.on_said(heard.append)
    before = receiving.status().rejected
    receiving._take_said(payload)
    assert len(heard) + receiving.status().rejected - before == 1
    assert started_at(payload) is None or b"started_at" in payload
    message = asyncio.run(Responder(Topics("robot")).answer(Request("status", payload)))
    answered = json.loads(message.payload)
    assert answered["status"] == "error"
    assert len(message.payload) < 2 * MAX_BYTES


@pytest.fixture(scope="module")
def prompter() -> tuple[Prompter, Tokenizer]:
    """Of the bundle that ships."""
    bundle = Bundle.open(COMPACT)
    tokenizer = Tokenizer.from_file(str(bundle.folder / bundle.manifest.text.tokenizer))
    return Prompter(bundle.manifest.text, tokenizer), tokenizer


SPECIAL = ("<s1>", "<s9>", "</s>", "<s>", "<mask>", "<pad>", "[MASK]", "[SEP]", "[CLS]", "[PAD]", "[UNK]", "＜ｓ１＞")
WORDS = st.text(max_size=20) | st.sampled_from(SPECIAL) | st.sampled_from(["Now", "feels", "##", "Ġ", "\u200b", "\x00"])


@limits(max_examples=60)
@given(texts=st.lists(st.lists(WORDS, max_size=8), min_size=1, max_size=6), glue=st.sampled_from(["", " ", "\n"]))
@example(texts=[list(SPECIAL)], glue="")
@example(texts=[[*"<mask>"], [*"[SEP]"]], glue="")
def test_text_from_outside_smuggles_no_special_token_into_a_prompt(
    prompter: tuple[Prompter, Tokenizer], texts: list[list[str]], glue: str
) -> None:
    prompts, tokenizer = prompter
    dialogue = Dialogue(DialogueSettings())
    for words in texts:
        try:
            said = Said.model_validate_json(json.dumps({"text": glue.join(words)}))
        except ValidationError:
            continue
        dialogue.add(said.speaker or "robot", said.text, 0.0)
    turns = dialogue.context("person", glue.join(texts[-1]), 0.0)
    special = {number for number, token in tokenizer.get_added_tokens_decoder().items() if token.special}
    found = [token for token in prompts.encode(turns).tolist() if token in special]
    unknown = tokenizer.token_to_id("[UNK]")
    # Of its own, a prompt has a speaker for each turn that fits and for the question, a separator and the mask.
    assert len([token for token in found if token != unknown]) <= len(turns) + 3
    alone = prompts.encode(turns[-1:]).tolist()
    own = [token for token in alone if token in special and token != unknown]
    assert len(own) == 4
