"""The one table of codes and errors: complete, unambiguous, and each error says whose move it is."""

from __future__ import annotations

import pytest

from rtsync.core import (
    Code,
    Conflict,
    DecodeError,
    Fenced,
    InvalidName,
    InvalidValue,
    KeyframeNeeded,
    ModelError,
    OutsideError,
    PeerError,
    Position,
    ProtocolError,
    Rejected,
    RTSyncError,
    SettingsError,
    Unavailable,
    Unknown,
    UsageError,
)

every_code = pytest.mark.parametrize("code", list(Code), ids=lambda code: code.text)


@every_code
def test_code_is_found_by_its_text_and_its_close_code(code: Code) -> None:
    """No two codes share either, so what a peer is told names exactly one."""
    assert Code.from_text(code.text) is code
    assert Code.from_close(code.close) is code


@every_code
def test_range_of_the_close_code_says_whose_doing_it_is(code: Code) -> None:
    """44xx is the client's doing, 45xx the server's, and whatever the server did can be tried again."""
    assert 4400 <= code.close <= 4499 or (4500 <= code.close <= 4599 and code.retryable)


def test_codes_that_mirror_http_are_in_place() -> None:
    """The numbers are part of the protocol."""
    assert {code.text: (code.close, code.retryable) for code in Code} == {
        "bad_frame": (4400, False),
        "unauthenticated": (4401, False),
        "forbidden": (4403, False),
        "not_subscribed": (4404, False),
        "hello_timeout": (4408, True),
        "taken_over": (4409, False),
        "too_large": (4413, False),
        "bad_request": (4422, False),
        "too_many": (4429, True),
        "internal": (4500, True),
        "unavailable": (4503, True),
        "no_pong": (4508, True),
        "slow": (4509, True),
        "drain": (4512, True),
    }


def test_unknown_text_and_foreign_close_code_have_no_code() -> None:
    """A newer peer may name a code this version does not know; 1006 is nobody's."""
    assert Code.from_text("teapot") is None
    assert Code.from_close(1006) is None


@pytest.mark.parametrize(
    ("error", "families", "text"),
    [
        (SettingsError("settings.port", "must be positive"), [UsageError], "settings.port: must be positive"),
        (InvalidName("channel", "is empty"), [UsageError], "channel: is empty"),
        (InvalidValue("document.a", "set is not carried"), [UsageError], "document.a: set is not carried"),
        (ModelError("document.a", "missing"), [UsageError], "document.a: missing"),
        (DecodeError(Code.BAD_FRAME, "truncated"), [PeerError], "truncated"),
        (DecodeError(Code.BAD_FRAME, "expected text", field="token"), [PeerError], "token: expected text"),
        (ProtocolError(Code.BAD_REQUEST, "id used before", field="request"), [PeerError], "request: id used before"),
        (Conflict(None), [Rejected, OutsideError], "the log moved on to None"),
        (
            Conflict(Position("abcdefgh", 5, 0xFF)),
            [Rejected, OutsideError],
            "the log moved on to abcdef:5:0000000000ff",
        ),
        (KeyframeNeeded(100), [Rejected, OutsideError], "the window of 100 entries is full: save a keyframe first"),
        (Fenced(7), [Rejected, OutsideError], "a writer with the newer token 7 has taken over"),
        (Unavailable("no connection"), [Rejected, OutsideError], "no connection"),
        (Unknown(0xAB, "timeout"), [OutsideError], "the append of link 0000000000ab may or may not have happened: timeout"),
    ],
)
def test_error_belongs_to_its_family_and_speaks_for_itself(
    error: RTSyncError, families: list[type[Exception]], text: str
) -> None:
    """You, the peer, or the outside; the text needs no help from whoever logs it."""
    assert str(error) == text
    assert isinstance(error, RTSyncError)
    assert all(isinstance(error, family) for family in families)
    assert sum(isinstance(error, family) for family in (UsageError, PeerError, OutsideError)) == 1


def test_errors_carry_what_a_handler_needs() -> None:
    """Fields, not texts to be parsed."""
    usage = UsageError("document.a", "nope")
    assert (usage.field, usage.problem) == ("document.a", "nope")
    assert isinstance(usage, ValueError)
    peer = PeerError(Code.TOO_MANY, "slow down", field="request")
    assert (peer.code, peer.message, peer.field) == (Code.TOO_MANY, "slow down", "request")
    assert Conflict(Position("e", 1, 2)).head == Position("e", 1, 2)
    assert KeyframeNeeded(5).window == 5
    assert Fenced(6).token == 6
    assert Unknown(7, "x").link == 7


def test_unknown_outcome_is_no_rejection() -> None:
    """Whoever handles Rejected as *nothing happened* must not catch what may have happened."""
    assert not isinstance(Unknown(1, "x"), Rejected)
