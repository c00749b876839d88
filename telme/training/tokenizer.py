"""The teacher's tokenizer: its backbone's own, with a token for every speaker."""

from hashlib import sha256

from tokenizers import AddedToken, Tokenizer
from transformers import AutoTokenizer

from telme.bundle import HeardAs, TextSpec


def prepare_tokenizer(
    backbone: str, speakers: int, max_tokens: int, heard: HeardAs = "as_written"
) -> tuple[Tokenizer, TextSpec]:
    """The backbone's own tokenizer with the speaker tokens added, and the specification of the prompt.

    backbone: name on the model hub, or a folder. heard: how turns that a recogniser wrote are read.
    """
    source = AutoTokenizer.from_pretrained(backbone)
    tokenizer: Tokenizer = source.backend_tokenizer
    tokens = tuple(f"<s{number}>" for number in range(1, speakers + 1))
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in tokens])
    tokenizer.no_truncation()
    tokenizer.no_padding()
    spec = TextSpec(
        tokenizer_sha256=sha256(tokenizer.to_str(pretty=True).encode()).hexdigest(),
        max_tokens=max_tokens,
        separator_token=source.sep_token,
        mask_token=source.mask_token,
        pad_token=source.pad_token,
        speaker_tokens=tokens,
        heard=heard,
    )
    return tokenizer, spec
