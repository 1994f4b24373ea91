"""Words, names, numbers and strings to make examples of: drawn anew, so that copying is learned.

Nothing here is a name that a person, a place or a tool is known by: names are syllables, and what a
model is to copy it has never read before.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

__all__ = [
    "COLOURS",
    "JOBS",
    "NOUNS",
    "THINGS",
    "VERBS",
    "characters",
    "draw_apart",
    "identifier",
    "name",
    "number",
    "phrase",
    "script_string",
    "string",
    "text_value",
    "word",
]

_ONSETS = (
    *("b", "c", "d", "f", "g", "h", "j", "k", "l", "m", "n", "p", "r", "s", "t", "v", "w", "z"),
    *("br", "cl", "dr", "fl", "gr", "kr", "pl", "sh", "sk", "st", "th", "tr"),
)
_VOWELS = ("a", "e", "i", "o", "u") * 2 + ("ai", "ea", "io", "ou")
_CODAS = ("",) * 4 + ("l", "m", "n", "r", "s", "t", "x", "ck", "ld", "nd", "rn", "sk", "th")

VERBS = (
    *("add", "apply", "archive", "assign", "book", "build", "cancel", "check", "close", "compare"),
    *("convert", "copy", "count", "delete", "draw", "fetch", "find", "get", "list", "load", "lock"),
    *("measure", "move", "open", "order", "plan", "print", "read", "record", "register", "remove"),
    *("rename", "reserve", "run", "save", "scan", "search", "sell", "send", "set", "show", "sort"),
    *("start", "stop", "store", "tag", "test", "track", "update", "write"),
)
"""Of tools and requests."""

NOUNS = (
    *("account", "address", "alarm", "amount", "area", "balance", "boat", "book", "box", "bridge"),
    *("budget", "camera", "car", "chair", "city", "clock", "code", "colour", "company", "contact"),
    *(
        "course",
        "depth",
        "device",
        "distance",
        "door",
        "event",
        "file",
        "flight",
        "folder",
        "garden",
    ),
    *("group", "guest", "height", "hotel", "invoice", "item", "key", "lamp", "length", "letter"),
    *("level", "map", "market", "meeting", "member", "menu", "message", "mood", "note", "office"),
    *("option", "page", "parcel", "partner", "party", "pipe", "plant", "player", "pond", "price"),
    *("project", "query", "rate", "recipe", "report", "river", "road", "room", "route", "sample"),
    *("score", "sensor", "ship", "shop", "signal", "size", "song", "speed", "station", "status"),
    *("stock", "street", "supplier", "table", "task", "team", "theme", "ticket", "tide", "timer"),
    *("title", "topic", "tower", "town", "train", "tree", "unit", "valve", "village", "visitor"),
    *("volume", "wall", "weight", "wheel", "window", "worker", "zone"),
)
"""Of tools, parameters, keys and requests."""

COLOURS = (
    *("black", "blue", "brown", "golden", "green", "grey", "orange", "pink", "purple", "red"),
    *("silver", "white", "yellow"),
)

JOBS = (
    *("baker", "builder", "carpenter", "cook", "dancer", "doctor", "driver", "farmer", "fisher"),
    *("gardener", "guard", "hunter", "lawyer", "mason", "miller", "nurse", "painter", "pilot"),
    *("potter", "sailor", "singer", "smith", "tailor", "teacher", "weaver", "writer"),
)

THINGS = (
    *("basket", "bell", "bicycle", "boat", "cart", "clock", "coat", "drum", "flute", "hat", "kite"),
    *("ladder", "lamp", "mirror", "piano", "plough", "sledge", "table", "tent", "violin", "wagon"),
)

_ADJECTIVES = (
    *("big", "bright", "broken", "calm", "cheap", "clean", "cold", "dark", "deep", "dry", "early"),
    *("empty", "fast", "fine", "flat", "heavy", "high", "large", "late", "light", "local", "long"),
    *("loud", "narrow", "new", "old", "open", "plain", "quick", "quiet", "round", "sharp", "short"),
    *("slow", "small", "soft", "strong", "tall", "thin", "warm", "wide", "young"),
)


def word(rng: random.Random, syllables: int | None = None) -> str:
    """Return a made-up word in lower case, of one to four syllables."""
    count = syllables or rng.choices((1, 2, 3, 4), (1, 4, 3, 1))[0]
    return "".join(
        rng.choice(_ONSETS) + rng.choice(_VOWELS) + (rng.choice(_CODAS) if last else "")
        for last in [place == count - 1 or rng.random() < 0.2 for place in range(count)]
    )


def name(rng: random.Random, syllables: int | None = None) -> str:
    """Return a made-up name of one word."""
    return word(rng, syllables or rng.choice((2, 2, 3))).capitalize()


def draw_apart(rng: random.Random, count: int, draw: Callable[[random.Random], str]) -> list[str]:
    """Return so many drawn texts, no two of them the same."""
    found: dict[str, None] = {}
    while len(found) < count:
        found[draw(rng)] = None
    return list(found)


def number(rng: random.Random) -> int:
    """Return a number of one to four digits, each as often; some are negative."""
    digits = rng.choice((1, 2, 3, 4))
    size = rng.randrange(10 ** (digits - 1) if digits > 1 else 0, 10**digits)
    return -size if rng.random() < 0.08 else size


def identifier(rng: random.Random, parts: Sequence[str]) -> str:
    """Write words as one name: snake_case mostly, or camelCase."""
    if rng.random() < 0.15:
        return parts[0] + "".join(part.capitalize() for part in parts[1:])
    return "_".join(parts)


def phrase(rng: random.Random) -> str:
    """Return one to four words with a sense: a text that needs no copying letter by letter."""
    count = rng.choice((1, 2, 2, 3))
    return " ".join([*rng.sample(_ADJECTIVES, count - 1), rng.choice(NOUNS)])


def _letters(rng: random.Random) -> str:
    alphabet = rng.choice(("abcdefghijklmnopqrstuvwxyz", "ABCDEFGHJKLMNPQRSTUVWXYZ0123456789"))
    return "".join(rng.choices(alphabet, k=rng.randint(2, 9)))


def _code(rng: random.Random) -> str:
    return f"{_letters(rng)[:4]}{rng.choice('-_/.:')}{rng.randrange(1, 1000)}"


def _day(rng: random.Random) -> str:
    return f"{rng.randrange(1990, 2060)}-{rng.randrange(1, 13):02}-{rng.randrange(1, 29):02}"


def _mail(rng: random.Random) -> str:
    return f"{word(rng)}@{word(rng)}.{rng.choice(('example', 'test'))}"


def _place(rng: random.Random) -> str:
    parts = [name(rng) for _ in range(rng.choice((1, 1, 2)))]
    region = "".join(rng.choices("ABCDEFGHIJKLMNOPQRSTUVWXYZ", k=2))
    return " ".join(parts) + (f", {region}" if rng.random() < 0.4 else "")


_HAN = (0x4E00, 0x9FA6)
_KANA = (("ぁ", "ん"), ("ァ", "ン"))
_COMMON_HAN = "一七三上下中九二五人代休先入八公六具力十千南原口右名四国土地場夕大天女子字学小山工左市年店庭建心手文新方日早明春時曜書月木本村東林校森業楽橋機正歩母水江決洋海港湖火父王生田男町画番白百目石社秋空立竹米糸紙線耳背良花茶草西見言谷貝赤足車通道里野金長開門間雨青音風食高魚鳥黄"  # noqa: E501


def characters() -> tuple[str, str]:
    """Return every Chinese character that is copied, and every Japanese syllable."""
    kana = "".join(chr(n) for one, last in _KANA for n in range(ord(one), ord(last) + 1))
    return "".join(map(chr, range(*_HAN))), kana


def script_string(rng: random.Random) -> str:
    """Return characters of another script: Chinese or Japanese mostly, of two to nine letters."""
    kind = rng.choices(("han", "mixed", "kana", "cyrillic", "greek", "latin"), (8, 4, 5, 1, 1, 1))[
        0
    ]
    length = rng.randint(2, 9 if kind != "han" else 6)
    return "".join(_letter_of(rng, kind) for _ in range(length))


def _letter_of(rng: random.Random, kind: str) -> str:
    if kind == "mixed":
        kind = rng.choice(("han", "kana"))
    match kind:
        case "han":
            return rng.choice(_COMMON_HAN) if rng.random() < 0.4 else chr(rng.randrange(*_HAN))
        case "kana":
            first, last = rng.choice((_KANA[0], _KANA[0], _KANA[1]))
            return chr(rng.randint(ord(first), ord(last)))
        case "cyrillic":
            return chr(rng.randrange(0x430, 0x450))
        case "greek":
            return chr(rng.randrange(0x3B1, 0x3C9))
        case _:
            return rng.choice("aäáàâbcçdeéèêfgiíîklmnñoöóôprsštuüúûvzž")


_KINDS: Sequence[tuple[int, Callable[[random.Random], str]]] = (
    (5, name),
    (4, word),
    (4, phrase),
    (3, lambda rng: f"{name(rng)} {name(rng)}"),
    (2, _place),
    (2, _letters),
    (2, _code),
    (1, _day),
    (1, _mail),
    (8, script_string),
)


def string(rng: random.Random) -> str:
    """Return a string to copy: a name, a word, letters, a code, a date, or another script."""
    weights, draws = zip(*_KINDS, strict=True)
    return str(rng.choices(draws, weights)[0](rng))


def text_value(rng: random.Random, topic: str) -> str:
    """Return a short text about a topic: what a free string of an answer may hold."""
    one, other = rng.sample(_ADJECTIVES, 2)
    verb, noun = rng.choice(VERBS), rng.choice(NOUNS)
    return rng.choice(
        (
            topic,
            f"{one} {topic}",
            f"The {topic} is {one}.",
            f"A {one} {topic} and a {other} {noun}",
            f"How {one} is the {topic}?",
            f"Why does the {topic} {verb} the {noun}?",
            f"It is {one}, not {other}.",
            f"Because the {noun} was {one}!",
            f"{verb.capitalize()} the {topic}, then the {noun}.",
            f"{one.capitalize()} as a {noun}.",
            f"Nobody knows the {topic}.",
        )
    )
