"""Any bytes on the control topics: `python fuzz/topics.py -max_total_time=60` (options are libFuzzer's)."""

import asyncio
import json
import logging
import sys

import atheris

with atheris.instrument_imports(include=["streamer.mqtt", "streamer.dialogue", "telme.features.text"]):
    from tokenizers import Tokenizer

    from streamer.dialogue import Dialogue
    from streamer.mqtt.info import started_at
    from streamer.mqtt.requests import Request, Responder
    from streamer.mqtt.said import Said
    from streamer.mqtt.topics import Topics
    from streamer.settings import Dialogue as DialogueSettings
    from telme.bundle import COMPACT, Bundle
    from telme.features.text import Prompter

BUNDLE = Bundle.open(COMPACT)
SPEC = BUNDLE.manifest.text
TOKENIZER = Tokenizer.from_file(str(BUNDLE.folder / SPEC.tokenizer))
MASK = TOKENIZER.token_to_id(SPEC.mask_token)
PROMPTER = Prompter(SPEC, TOKENIZER)
RESPONDER = Responder(Topics("robot"))

logging.disable()  # every refusal is a warning


def read(data: bytes) -> None:
    response = asyncio.run(RESPONDER.answer(Request("status", data)))
    if json.loads(response.payload)["status"] != "error":
        raise AssertionError(f"nobody registered this: {response.payload}")
    started_at(data)
    say(data.decode(errors="replace"))
    try:
        said = Said.model_validate_json(data)
    except ValueError:
        return
    say(said.text)


def say(text: str) -> None:
    """One mask, at the end, whatever is said."""
    dialogue = Dialogue(DialogueSettings())
    dialogue.add("robot", text, 0.0)
    ids = PROMPTER.encode(dialogue.context("person", text, 0.0)).tolist()
    if ids.index(MASK) != len(ids) - 1 or len(ids) > SPEC.max_tokens:
        raise AssertionError(f"no prompt: {ids}")


def main() -> None:
    atheris.Setup(sys.argv, read)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
