"""Whose image a file is, as far as its name and its folders tell."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import product, takewhile
from pathlib import Path

from m3ae_core.modalities import ModalitySet

Words = tuple[str, ...]

#: A word, followed by a label, that announces the subject (``sub-01``, ``patient_0003``); ``p1`` only in front.
_SUBJECT = re.compile(
    r"(?:^|[^a-z0-9])(?:sub-([a-z0-9]+)|(?:sub|subj|subject|patient|pat|case|proband)[-_ ]?([0-9]+))"
    r"|^p[-_ ]?([0-9]+)"
)
#: Words that, joined with or followed by a number or label, tell visits, series and settings apart (as in BIDS).
_SETTING = re.compile(
    r"(?:ses|session|visit|v|tp|timepoint|time|day|d|week|w|month|m|year|y|fu|scan|t|run|acq|echo|rec|dir|inv"
    r"|series|ser|se|ce|desc|space|res|part|task|vol|im|img|image)([0-9]*)"
)
#: Words of protocols, planes, preparation and layout.
_COMMON = frozenset(
    """
    anat func dwi perf fmap mri mr nifti nii dicom dcm raw images imagestr imagests preprocessed processed derivatives
    registered reg coreg corrected bias bet brain stripped skullstripped native nativ file files data
    ax axial tra transversal sag sagittal cor coronal iso mprage mpr spgr fspgr bravo tfe spc vista cube tse fse gre
    tirm stir dark fluid blade fs swi adc fl ct1
    post pre gd gad gado km contrast with without mit ohne enhanced c plain baseline followup preop postop intraop
    """.split()  # noqa: SIM905  a list of a hundred words reads better so
)
_DATE = re.compile(r"(?:19|20)[0-9]{2}[-_. ]?[01][0-9][-_. ]?[0-3][0-9](?:[T_ -]?[0-9]{6})?(?![0-9])")
#: Stands before a label that a word announced as the subject's.
_ANNOUNCED = "subject"
#: The channel that ends a name of nnU-Net's.
_CHANNEL = re.compile("000[0-9]")
#: Longest number that stands for a series in front of a name (``005_T1``).
_SERIES_DIGITS = 4


def subject_in(name: str, modalities: ModalitySet) -> Words:
    """Return the words of a file's name that may tell its subject; none if nothing does.

    That is the label after ``sub``, ``patient`` and the like, else what precedes the sequence, without series numbers,
    dates and times, visits, settings, and common words.
    """
    words = _telling_words(name, modalities)
    is_series = bool(words) and words[0].isdigit() and len(words[0]) <= _SERIES_DIGITS
    return words[1:] if is_series else words


def folder_subjects(path: Path, modalities: ModalitySet) -> tuple[Words, ...]:
    """Return, outermost first, the words of those of a file's folders whose names may tell its subject."""
    found = []
    for part in path.absolute().parent.parts[1:]:
        has_sequence = _sequence_at(_words(part), modalities) is not None
        words = subject_in(part, modalities) if has_sequence else _telling_words(part, modalities)
        if words and _stem(part) != _stem(path.name):
            found.append(words)
    return tuple(found)


def names_differ(first: Words, second: Words, *, unlike: bool = False) -> bool:
    """Whether the words of two names tell two subjects; `unlike` is the answer for names made differently.

    The first word that differs decides. A number that follows a longer one that both share counts visits
    (``00012-000``, ``00012-001``). Names made differently tell two subjects if both hold numbers of three digits or
    more and share none.
    """
    for place, (one, other) in enumerate(zip(first, second, strict=False)):
        if one.lower() == other.lower():
            continue
        if _numbered_alike(one, other):
            return not any(word.isdigit() and len(word) > max(len(one), len(other)) for word in first[:place])
        if first[:place] == (_ANNOUNCED,):
            return True
        numbers = _numbers(first), _numbers(second)
        return (
            unlike or _are_codes(first, second, place) or (all(numbers) and numbers[0].isdisjoint(numbers[1]))
        )
    return False


def folders_differ(first: Sequence[Words], second: Sequence[Words]) -> bool:
    """Whether the folders of two files, see :func:`folder_subjects`, tell two subjects: below what is common to both.

    Every folder of the one must differ from every folder of the other.
    """
    both = zip(first, second, strict=False)
    shared = len([*takewhile(lambda pair: pair[0] == pair[1], both)])
    pairs = [*product(first[shared:], second[shared:])]
    return bool(pairs) and all(names_differ(one, other, unlike=True) for one, other in pairs)


def _telling_words(name: str, modalities: ModalitySet) -> Words:
    """Return the announced label, else the words before the sequence without those that tell no subject."""
    stem = _DATE.sub(" ", _stem(name))
    if announced := _SUBJECT.search(stem.lower()):
        return _ANNOUNCED, next(filter(None, announced.groups())).lstrip("0")
    words = _words(stem)
    end = _sequence_at(words, modalities)
    if end is None and _CHANNEL.fullmatch(words[-1] if words else ""):
        end = len(words) - 1
    named = [("", *words)[:-1], words]
    return tuple(
        word
        for before, word in list(zip(*named, strict=True))[:end]
        if not _is_common(word) and not (_SETTING.fullmatch(before.lower()) and not before[-1].isdigit())
    )


def _sequence_at(words: Words, modalities: ModalitySet) -> int | None:
    """Return the place of the first word that announces a sequence, alone or with the next one; None if none does."""
    tokens = {token for modality in modalities for token in modality.tokens}
    lower = [word.lower() for word in words]
    joined = (place for place, word in enumerate(lower) if {word, "".join(lower[place : place + 2])} & tokens)
    return next(joined, None)


def _is_common(word: str) -> bool:
    """Whether many patients' files share a word, or one patient's differ by it."""
    lower = word.lower()
    return lower in _COMMON or bool(_SETTING.fullmatch(lower)) or re.fullmatch("[23]d", lower) is not None


def _numbered_alike(one: str, other: str) -> bool:
    """Whether two words are a number each, after the same letters."""
    split = [re.fullmatch(r"([a-z]*)([0-9]+)", word.lower()) for word in (one, other)]
    return split[0] is not None and split[1] is not None and split[0].group(1) == split[1].group(1)


def _are_codes(first: Words, second: Words, place: int) -> bool:
    """Whether the words at a place are codes of capital letters before one number, as in ``CBICA_AAB_1``."""
    codes = [words[place] for words in (first, second)]
    capital = all(code.isalpha() and code.isupper() for code in codes) and len(codes[0]) == len(codes[1])
    after = [words[place + 1 : place + 2] for words in (first, second)]
    return capital and after[0] == after[1] and "".join(after[0]).isdigit()


def _numbers(words: Words) -> set[int]:
    """Return the numbers of three digits or more."""
    return {int(word) for word in words if re.fullmatch("[0-9]{3,}", word)}


def _words(name: str) -> Words:
    return tuple(re.findall("[A-Za-z0-9]+", name))


def _stem(name: str) -> str:
    return re.sub(r"\.nii(\.gz)?\Z", "", name, flags=re.IGNORECASE)
