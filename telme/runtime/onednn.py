"""What oneDNN remembers, with which CTranslate2 and OpenVINO calculate on CPUs."""

import os


def forget_shapes() -> None:
    """Has oneDNN, in this process and from its first use on, not keep what it has compiled for every shape.

    For a model of speech that is up to a megabyte for each length, of which it keeps several hundred, and utterances
    hardly ever have the same length. `python bench/new_lengths.py` measures it.
    """
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "0")
