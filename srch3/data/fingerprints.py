"""What training has to know of many texts without keeping them: which are equal, and how long each is."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int64

from srch3.data.corpus import Corpus
from srch3.data.lookup import digest_of


class Fingerprints(NamedTuple):
    """One entry per document.

    Attributes:
        numbers: From zero on; equal for texts of which 64 bits of a hash are equal, so for equal texts.
        lengths: Characters; 0 where there is nothing but white space.
    """

    numbers: Int64[np.ndarray, "docs"]
    lengths: Int64[np.ndarray, "docs"]


def fingerprints(corpus: Corpus, document_ids: Sequence[str]) -> Fingerprints:
    """Reads each document once, however often its id comes, in the order of the corpus."""
    known = {document_id: corpus.row(document_id) for document_id in dict.fromkeys(document_ids)}
    asked = np.fromiter((known[document_id] for document_id in document_ids), np.int64, len(document_ids))
    rows, places = np.unique(asked, return_inverse=True)
    lengths = np.empty(len(rows), np.int64)
    digests = bytearray()
    for place, row in enumerate(rows.tolist()):
        text = corpus.texts[row]
        lengths[place] = 0 if is_blank(text) else len(text)
        digests += digest_of(text)[:8]
    _, numbers = np.unique(np.frombuffer(bytes(digests), np.int64), return_inverse=True)
    return Fingerprints(numbers[places], lengths[places])


def is_blank(text: str) -> bool:
    """Whether there is nothing but white space."""
    return not text or text.isspace()
