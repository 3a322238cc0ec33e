"""What a file holds, by its name: a sequence, a label map, nothing of ours, or a question.

Every word that points to another choice counts: where words contradict each other, the outcome is a question.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

from m3ae_core.io.folders import vocabulary as words_for
from m3ae_core.modalities import BRATS, KNOWN, ModalitySet

#: File-name word of our own results, which are neither input nor reference when they lie beside a case.
OWN_RESULT = "m3ae"
#: Why a file is not used whose name has no word of ours.
NO_WORD = "its name says no sequence"
#: The kind of a label map.
LABELS = "labels"

_ENTITY = re.compile(r"(?<![a-z0-9])(acq|run|rec|desc|echo|dir|space|res)-[a-z0-9]+")
_AGENT = re.compile(r"(?<![a-z0-9])ce-(?!t1|t2|fl)([a-z0-9]+)")  # BIDS; CE-T1 is no entity
_SILENT = re.compile(
    r"\Asub-[a-z0-9]+|(?<![a-z0-9])(?:ses|run|echo|space)-[a-z0-9]+"
)  # entities without our words
_CHANNEL = re.compile(r"(?P<case>.*?)(?:_|vol|(?<=\d{3}))(?P<channel>000\d)\Z", re.IGNORECASE)
_NO_AGENT = frozenset({"none", "no", "pre", "without", "native", "0", "off"})


@dataclass(frozen=True)
class Recognised:
    """What a name says.

    Attributes
    ----------
    kind
        The sequence, ``"labels"``, or empty where neither is certain.
    case
        The part of the name before what tells the kind; it names the case.
    why
        Why the file is not used, where it is not.
    candidates
        The sequences that it may be: not empty if it must be asked.
    channel
        The number of the channel, ``"0000"`` for instance, where that is all there is.
    """

    kind: str = ""
    case: str = ""
    why: str = ""
    candidates: tuple[str, ...] = ()
    channel: str = ""


@dataclass(frozen=True)
class _Word:
    """A word, where it starts in the name, and the sequence that it stands for, if any."""

    text: str
    start: int
    kind: str = ""


def recognise(
    name: str, modalities: ModalitySet = BRATS, channels: Mapping[str, str] | None = None
) -> Recognised:
    """Tell what the file called `name` holds; `channels` gives the sequences of ``0000`` and so on, where known."""
    stem = re.sub(r"\.nii(\.gz)?\Z", "", name, flags=re.IGNORECASE)
    if stem == name:
        return Recognised(why="not a NIfTI file")
    plain = _plain(stem)
    words = _words(_without_entities(plain), _spellings(modalities))
    said = {word.text for word in words}
    if OWN_RESULT in said:
        return Recognised(why="a result of ours")
    kinds = _without_targets(words)
    if said & words_for.LABELS:
        return _labels(said, bool(kinds))
    own = frozenset(token for modality in modalities for token in modality.tokens)
    if other := _not_ours(words, own):
        return Recognised(why=f"'{other}' says that it is no image of a sequence")
    if not kinds:
        return _numbered(stem, modalities, channels or {})
    found = _decide(words, kinds, plain)
    return _within(found, modalities, _case(plain, stem, words))


def _plain(stem: str) -> str:
    """Return a name in lower case without accents, with what `REWRITTEN` lists spelled as words."""
    plain = unicodedata.normalize("NFKD", stem).lower()
    plain = unicodedata.normalize("NFC", "".join(sign for sign in plain if not unicodedata.combining(sign)))
    for pattern, text in words_for.REWRITTEN:
        plain = re.sub(pattern, text, plain)
    return plain


def _without_entities(plain: str) -> str:
    """Blank out BIDS' entities whose labels are no words of ours."""
    if plain.startswith("sub-"):
        plain = _SILENT.sub(lambda found: "_" * len(found.group()), plain)
    return _AGENT.sub(lambda found: "_" * len(found.group()), plain)


def _spellings(modalities: ModalitySet) -> dict[str, str]:
    """Return all words that stand for a modality, known or of `modalities`; the latter count first."""
    spelled = dict(words_for.SEQUENCES)
    for modality in (*KNOWN, *modalities):
        spelled.update(dict.fromkeys(modality.tokens, modality.name))
    return spelled


def _words(plain: str, spelled: Mapping[str, str]) -> list[_Word]:
    """Split a name into words; of those written as one (``t1km``), each, and two that mean one (``t1 c``) as one."""
    words: list[_Word] = []
    for found in re.finditer(r"[a-z0-9]+", plain):
        parts = _parts(found.group(), frozenset(spelled))
        for part in (_stemmed(part, spelled) for part in parts):
            joined = words[-1].text + part if words else ""
            if joined in spelled and part not in _known() and words[-1].text in spelled:
                words[-1] = _Word(joined, words[-1].start, spelled[joined])
            else:
                text = "to" if part == "2" and len(parts) > 1 else part  # FLAIR2T1
                words.append(_Word(text, found.start(), spelled.get(part, "")))
    return _with_short_flair(words)


def _stemmed(part: str, spelled: Mapping[str, str]) -> str:
    """Return a word, or "contrast" for what starts like a word for that."""
    told = part in spelled or part in _known() | words_for.HARMLESS
    return "contrast" if part.startswith(words_for.CONTRAST_STEMS) and not told else part


def _with_short_flair(words: list[_Word]) -> list[_Word]:
    """Take ``fl``, as CaPTk writes, for FLAIR where nothing else is named; Siemens writes it for FLASH too."""
    if any(word.kind for word in words if word.text not in words_for.T1_TECHNIQUES):
        before = [word.kind for word in words]
        targets = next(
            (at for at, word in enumerate(words) if word.text in words_for.REGISTERED_TO), len(words)
        )
        if any(before[:targets]):
            return words
    return [_Word("fl", word.start, "FLAIR") if word.text == "fl" else word for word in words]


@cache
def _known() -> frozenset[str]:
    """Return all words of the vocabulary but the sequences."""
    sets = (
        value
        for name, value in vars(words_for).items()
        if isinstance(value, frozenset) and name != "HARMLESS"
    )
    return frozenset[str]().union(*sets) | {"post", "2", "sub"}


def _parts(token: str, spelled: frozenset[str]) -> list[str]:
    """Return the words that a token is made of, if it is made of nothing else, and the token itself if not."""
    if token in spelled or token in _known() or len(token) > 40:
        return [token]
    parts = _split(token, spelled | _known())
    telling = any(part in spelled or len(part) > 3 for part in parts or ())
    return list(parts) if parts and telling else [token]


@cache
def _split(token: str, vocabulary: frozenset[str]) -> tuple[str, ...] | None:
    """Return the fewest words of the vocabulary that make up a token, or None."""
    if not token:
        return ()
    best: tuple[str, ...] | None = None
    for end in range(len(token), 0, -1):
        rest = _split(token[end:], vocabulary) if token[:end] in vocabulary else None
        if rest is not None and (best is None or len(rest) + 1 < len(best)):
            best = (token[:end], *rest)
    return best


def _without_targets(words: list[_Word]) -> list[int]:
    """Return the places of the words for sequences, but for those that the image was registered to."""
    kept: list[int] = []
    target = False
    for place, word in enumerate(words):
        if word.text in words_for.REGISTERED_TO and kept:
            target = True
        elif not word.kind:
            target = target and word.text in words_for.CONTRAST
        elif not target:
            kept.append(place)
    return kept


def _labels(said: set[str], sequence: bool) -> Recognised:
    """Tell reference labels from masks of something else."""
    tumour = said & words_for.TUMOUR
    if never := said & words_for.NEVER_LABELS:
        return Recognised(why=f"'{min(never)}' says that it is no label map")
    if not tumour and (other := said & words_for.NOT_TUMOUR):
        return Recognised(why=f"labels of something else than the tumour ('{min(other)}')")
    if not tumour and sequence and said & words_for.LABELS == {"mask"}:
        return Recognised(why="a mask that does not say of what")
    return Recognised(LABELS)


def _not_ours(words: list[_Word], own: frozenset[str]) -> str:
    """Return the word that says that an image is none of a sequence, or nothing."""
    for place, word in enumerate(words):
        if word.text in words_for.NOT_OURS - own:
            return word.text
        before = words[place - 1] if place else word
        after_sequence = before.kind or before.text in words_for.CONTRAST
        ends = place + 1 == len(words) or bool(words[place + 1].kind)
        if word.text == "sub" and after_sequence and ends:
            return "sub"
    kinds = {word.kind for word in words} - {""}
    echo = {word.text for word in words} & (words_for.GRADIENT_ECHO - own)
    return min(echo) if echo and "T1" not in kinds and "T1c" not in kinds else ""


def _numbered(stem: str, modalities: ModalitySet, channels: Mapping[str, str]) -> Recognised:
    """Recognise a name that ends in the number of a channel; without `channels` that is a question."""
    found = _CHANNEL.match(stem)
    if not found:
        return Recognised(why=NO_WORD)
    case, channel = _trimmed(found["case"]), found["channel"]
    if channel in channels:
        kind = channels[channel]
        known = kind in modalities.names
        return (
            Recognised(kind, case)
            if known
            else Recognised(why=f"channel {channel} holds {kind or 'no sequence'}")
        )
    if int(channel) >= len(modalities):
        return Recognised(why=NO_WORD)
    return Recognised(
        case=case, candidates=modalities.names, channel=channel, why="a number says no sequence"
    )


def _decide(words: list[_Word], places: list[int], plain: str) -> Recognised:
    """Choose the sequence that the words at `places` mean, with what all words say about contrast."""
    kinds = {words[place].kind for place in places}
    techniques = {words[place].kind for place in places if words[place].text in words_for.T1_TECHNIQUES}
    if techniques and "T1c" in kinds:
        kinds -= techniques - {words[p].kind for p in places if words[p].text not in words_for.T1_TECHNIQUES}
    if kinds == {"T2", "FLAIR"} and _one_sequence(words, places):
        kinds = {"FLAIR"}
    if kinds == {"T1", "FLAIR"} and words[places[0]].kind != "FLAIR" and _adjacent(places):
        kinds -= {"FLAIR"}
    if len(kinds) > 1:
        return _asked(kinds, f"it names {' and '.join(sorted(kinds))}")
    kind = kinds.pop()
    behind = {word.text for word in words[places[0] : _end(words, places)]}
    if other := behind & (words_for.OPEN_TECHNIQUES.get(kind, frozenset()) | words_for.TUMOUR):
        return _asked({kind}, f"'{min(other)}' may say that it is something else")
    return _with_contrast(kind, words, places, plain)


def _one_sequence(words: list[_Word], places: list[int]) -> bool:
    """Whether nothing stands between the words for T2 and FLAIR but how it was acquired, or FLAIR is certain."""
    if any(words[place].text in words_for.DARK_FLUID for place in places):
        return True
    between = words[places[0] : places[-1] + 1]
    return all(word.kind or word.text in words_for.NEUTRAL for word in between)


def _adjacent(places: list[int]) -> bool:
    return places[-1] - places[0] == len(places) - 1


def _with_contrast(kind: str, words: list[_Word], places: list[int], plain: str) -> Recognised:
    """Settle T1 or T1c, or ask, by what the other words say about a contrast agent."""
    given, native, doubts = _contrast(words, places, plain)
    if kind == "T1c":
        given = [*given, kind.lower()]
    native += [word.text for word in words if word.kind == "T1" and word.text in ("t1n", "t1pre")]
    if kind not in ("T1", "T1c"):
        said = [*given, *doubts] if kind in ("T2", "FLAIR") else []
        return _asked({kind, "T1c"}, f"'{said[0]}' speaks of contrast") if said else Recognised(kind)
    if given and native:
        return _asked({"T1", "T1c"}, f"'{given[0]}' and '{native[0]}' contradict each other")
    if doubts and not (kind == "T1c" and not native):
        return _asked({"T1", "T1c"}, f"'{doubts[0]}' may speak of contrast")
    if not given and not native and (strange := _strange(words, places)):
        return _asked({"T1", "T1c"}, f"'{strange}' is not known, and may speak of contrast")
    return Recognised("T1c" if given else "T1")


def _contrast(words: list[_Word], places: list[int], plain: str) -> tuple[list[str], list[str], list[str]]:
    """Return the words that say that an agent was given, that none was, and that leave that open."""
    given, native = _agents(plain)
    doubts: list[str] = []
    last = _end(words, places)
    for place, word in enumerate(words[:last]):
        before, after = _text(words, place - 1), _text(words, place + 1)
        if word.text in words_for.CONTRAST and not word.kind:
            far = place < places[0] and not _told(words[place + 1 : places[0]])
            (native if before in words_for.WITHOUT else doubts if far else given).append(word.text)
        elif word.text in ("pre", "post") and after in words_for.TREATMENT | words_for.CONTRAST:
            continue
        elif word.text == "c" and (after in ("t1", "t1w") or place > places[0]):
            doubts.append("c")
        elif word.text == "post":
            (doubts if place < places[0] else given).append("post")
        elif word.text in words_for.NATIVE:
            native.append(word.text)
        elif (word.text in words_for.WITHOUT and before in words_for.CONTRAST) or (
            word.text in words_for.OPEN and after not in words_for.CONTRAST
        ):
            doubts.append(word.text)
    if (
        native
        and not given
        and {word.text for word in words[:last]} & words_for.WITH & {"with", "w", "mit", "avec"}
    ):
        doubts.append("with")
    return given, native, doubts


def _strange(words: list[_Word], places: list[int]) -> str:
    """Return an unknown word behind the sequence, if there is one; numbers and what has some are none."""
    end = _end(words, places)
    end = next((place for place in range(places[0], end) if words[place].text in ("to", "onto", "in")), end)
    behind = words[places[0] : end]
    return next(
        (
            word.text
            for word in behind
            if not word.kind and word.text.isalpha() and word.text not in _known() | words_for.HARMLESS
        ),
        "",
    )


def _agents(plain: str) -> tuple[list[str], list[str]]:
    """Read BIDS' ``ce-<label>``: any label is an agent but those that deny one."""
    found = _AGENT.findall(plain)
    given = [f"ce-{label}" for label in found if label not in _NO_AGENT]
    return given, [f"ce-{label}" for label in found if label in _NO_AGENT]


def _end(words: list[_Word], places: list[int]) -> int:
    """Return where the target of a registration starts, or the end."""
    for place in range(places[-1] + 1, len(words)):
        nexts = [word.kind for word in words[place + 1 : place + 3]]
        if words[place].text in words_for.REGISTERED_TO and any(nexts):
            return place
    return len(words)


def _told(between: list[_Word]) -> bool:
    """Whether all words between are known, so that what stands before belongs to what stands behind."""
    return all(word.kind or word.text in _known() for word in between)


def _text(words: list[_Word], place: int) -> str:
    return words[place].text if 0 <= place < len(words) else ""


def _asked(kinds: set[str], why: str) -> Recognised:
    return Recognised(why=why, candidates=tuple(sorted(kinds)))


def _within(found: Recognised, modalities: ModalitySet, case: str) -> Recognised:
    """Keep to the sequences of the set, and add the name of the case."""
    if found.kind and found.kind not in modalities.names:
        return Recognised(why=f"{found.kind} is no sequence of the model")
    candidates = tuple(name for name in modalities.names if name in found.candidates)
    if found.candidates and not candidates:
        return Recognised(why=f"none of the model's sequences: {found.why}")
    return Recognised(found.kind, case, found.why, candidates)


def _case(plain: str, stem: str, words: list[_Word]) -> str:
    """Return the part of a name before its sequence, contrast and BIDS' entities, if that names anything."""
    starts = [
        word.start
        for word in words
        if word.kind or word.text in words_for.CONTRAST | words_for.NATIVE | {"post"}
    ]
    starts += [found.start() for pattern in (_ENTITY, _AGENT) for found in pattern.finditer(plain)]
    start = min(starts)
    case = _trimmed(stem[:start]) if stem[:start].lower() == plain[:start] else ""
    told = re.findall(r"[a-z0-9]+", case.lower())
    return "" if all(word in words_for.NEUTRAL for word in told) and told else case


def _trimmed(text: str) -> str:
    """Return a text without separators at its end."""
    return re.sub(r"[\W_]+\Z", "", text)
