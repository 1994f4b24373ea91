"""Text as it grows: the pieces are the whole, and nothing is shown that does not stay."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders
from tokenizers.models import BPE

from selfeval_backend.chat import ChatTemplate, StopStrings, TextFlow
from selfeval_backend.model import REFERENCE_FOLDER

TEXTS = st.text(alphabet="ab é你😀\n\N{REPLACEMENT CHARACTER}", max_size=40)


def bytewise(token_ids: Sequence[int]) -> str:
    """One token a byte; a token of no text beside them."""
    return bytes(token for token in token_ids if token < 256).decode("utf-8", errors="replace")


def metaspace(token_ids: Sequence[int]) -> str:
    """A decoder that treats the first token apart, and falls back to bytes."""
    return METASPACE.decode(list(token_ids), skip_special_tokens=False)


def _metaspace() -> Tokenizer:
    pieces = ["▁a", "b", "▁", "é", *(f"<0x{byte:02X}>" for byte in range(256))]
    tokenizer = Tokenizer(BPE(vocab={piece: i for i, piece in enumerate(pieces)}, merges=[]))
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return tokenizer


METASPACE = _metaspace()


def flow_in_pieces(
    decode: Callable[[Sequence[int]], str],
    token_ids: Sequence[int],
    sizes: Sequence[int],
    stops: StopStrings | None = None,
) -> tuple[TextFlow, list[str]]:
    """Give the tokens in chunks of these sizes, around."""
    flow, pieces, place, turn = TextFlow(decode, stops), list[str](), 0, 0
    while place < len(token_ids):
        place += sizes[turn % len(sizes)]
        turn += 1
        pieces.append(flow.grow(tuple(token_ids[:place])))
    return flow, pieces


SIZES = st.lists(st.integers(1, 7), min_size=1, max_size=5)


@given(text=TEXTS, silent=st.sets(st.integers(0, 40)), sizes=SIZES)
def test_the_pieces_are_the_whole_and_no_character_is_split(
    text: str, silent: set[int], sizes: list[int]
) -> None:
    token_ids = list(text.encode())
    for place in sorted(silent):
        token_ids.insert(min(place, len(token_ids)), 256)
    flow, pieces = flow_in_pieces(bytewise, token_ids, sizes)
    whole = text.strip()
    for end in range(len(pieces)):
        assert whole.startswith("".join(pieces[: end + 1]))
    assert "".join(pieces) + flow.end(whole) == whole == flow.shown


@given(
    pieces=st.lists(
        st.sampled_from([*range(4), *(4 + byte for byte in "é你".encode())]), max_size=40
    ),
    sizes=SIZES,
)
def test_a_decoder_that_treats_the_first_token_apart(pieces: list[int], sizes: list[int]) -> None:
    flow, shown = flow_in_pieces(metaspace, pieces, sizes)
    whole = metaspace(pieces).strip()
    # Bytes that make no character may make those in front of them unreadable too, afterwards.
    if "\N{REPLACEMENT CHARACTER}" not in whole:
        assert "".join(shown) + flow.end(whole) == whole


@given(
    text=st.text(alphabet="ab ", max_size=40),
    strings=st.lists(st.text("ab ", min_size=1, max_size=4), min_size=1, max_size=3),
    sizes=SIZES,
)
def test_a_stop_string_is_never_shown_nor_its_beginning(
    text: str, strings: list[str], sizes: list[int]
) -> None:
    stops = StopStrings(strings, decode=bytewise)
    token_ids = list(text.encode())
    # As the controller ends it: with the token that completes one.
    end = next((n for n in range(1, len(token_ids) + 1) if _within(token_ids[:n], strings)), None)
    flow, pieces = flow_in_pieces(bytewise, token_ids[:end], sizes, stops)
    whole = stops.cut(bytewise(token_ids[:end])).strip()
    assert whole.startswith("".join(pieces))
    assert "".join(pieces) + flow.end(whole) == whole


def _within(token_ids: Sequence[int], strings: list[str]) -> bool:
    return any(string in bytewise(token_ids) for string in strings)


def test_what_may_become_a_stop_string_waits_and_then_comes() -> None:
    stops = StopStrings(["END"], decode=bytewise)
    flow = TextFlow(bytewise, stops)
    assert flow.grow(b"one EN") == "one"
    assert flow.grow(b"one ENTER") == " ENTER"
    assert flow.grow(b"one ENTER END") == ""
    assert flow.end("one ENTER") == ""
    assert flow.shown == "one ENTER"


def test_a_character_waits_for_its_last_byte() -> None:
    flow = TextFlow(bytewise)
    smile = "a😀".encode()
    assert [flow.grow(smile[:n]) for n in range(1, 6)] == ["a", "", "", "", "😀"]


def test_only_a_window_is_decoded() -> None:
    most = 0

    def decode(token_ids: Sequence[int]) -> str:
        nonlocal most
        most = max(most, len(token_ids))
        return bytewise(token_ids)

    text = b"some words and more of them, " * 100
    flow, _ = flow_in_pieces(decode, text, [4])
    flow.end(text.decode().strip())
    assert flow.shown == text.decode().strip()
    assert most <= 20


@pytest.fixture(scope="module")
def reference() -> ChatTemplate:
    return ChatTemplate.load(REFERENCE_FOLDER)


@pytest.mark.slow
@given(text=st.text(max_size=60), sizes=SIZES)
def test_the_reference_tokenizer(reference: ChatTemplate, text: str, sizes: list[int]) -> None:
    token_ids = reference.response_ids(text)
    flow, pieces = flow_in_pieces(reference.decode, token_ids, sizes)
    whole = reference.decode(token_ids).strip()
    assert "".join(pieces) + flow.end(whole) == whole
