"""The rules of a server's connection, one sentence each. Time is an argument, so nothing here waits."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtsync.core import (
    JSON,
    MSGPACK,
    Code,
    DecodeError,
    Limits,
    Message,
    ProtocolError,
    ServerSession,
    SessionRules,
    frames,
)

RULES = SessionRules(
    hello_timeout=10.0,
    heartbeat_interval=20.0,
    heartbeat_timeout=10.0,
    ack_timeout=30.0,
    message_rate=50.0,
    message_burst=100,
    limits=Limits(64 << 10, 16, 4096),
    first_window=1000,
    min_window=200,
    max_window=4000,
)
HELLO = frames.Hello(None, "test")
UNKNOWN = b"\x92\x63\x01"  # [99, 1]: a frame of a later version


def subscribe(request: int, channel: str = "prices:X") -> frames.Subscribe:
    return frames.Subscribe(request, (frames.SubscribeItem(channel),))


class Talk:
    """A session, and the peer it talks to: both in the test's hands."""

    def __init__(self, rules: SessionRules = RULES, *, hello: bool = True) -> None:
        self.now = 100.0
        self.session = ServerSession(rules, self.now)
        self.received = 0  # messages, by the peer
        if hello:
            assert self.hear(HELLO) == [HELLO]

    def hear(self, *said: frames.ClientFrame) -> list[frames.ClientFrame | frames.Error]:
        return self.hear_raw(b"".join(MSGPACK.encode(frame) for frame in said))

    def hear_raw(self, message: Message) -> list[frames.ClientFrame | frames.Error]:
        return self.session.receive(message, MSGPACK, self.now)

    def send(self, size: int) -> frames.Ping | None:
        """Send a message of *size* bytes, with the ping that it has to carry."""
        session = self.session
        ping = session.ping(size, self.now, 1234) if session.must_carry_ping(size) else None
        session.sent(size)
        self.received += 1
        return ping

    def pong(self, ping: frames.Ping | None) -> None:
        assert ping is not None
        assert self.hear(frames.Pong(ping.id, self.received)) == []

    def wait(self, seconds: float) -> Iterator[bool]:
        """Let time pass in ticks of half a second; yield what each tick said."""
        end = self.now + seconds
        while self.now < end:
            self.now = min(self.now + 0.5, end)
            yield self.session.tick(self.now)

    def idle(self, seconds: float) -> None:
        """Let time pass with nothing to send."""
        assert not any(self.wait(seconds))

    def ends(self, seconds: float) -> tuple[Code, float]:
        """Let time pass until the peer is given up; return why, and after how many seconds."""
        began = self.now
        with pytest.raises(ProtocolError) as raised:
            for _ in self.wait(seconds):
                pass
        return raised.value.code, self.now - began


def refused(talk: Talk, *said: frames.ClientFrame) -> Code:
    with pytest.raises(ProtocolError) as raised:
        talk.hear(*said)
    return raised.value.code


# ---- hello


def test_frames_may_follow_hello_in_the_same_message() -> None:
    """Pipelined requests come out behind the hello, in order."""
    talk = Talk(hello=False)
    assert talk.hear(HELLO, subscribe(1), frames.Rate(2, "prices:X", 0.0)) == [
        HELLO,
        subscribe(1),
        frames.Rate(2, "prices:X", 0.0),
    ]


@pytest.mark.parametrize(
    "frame",
    [
        subscribe(1),
        frames.Unsubscribe(1, ("prices:X",)),
        frames.Rate(1, "prices:X"),
        frames.Pong(1, 1),
        frames.Bye("going"),
    ],
    ids=lambda frame: type(frame).__name__.lower(),
)
def test_anything_before_hello_ends_the_connection(frame: frames.ClientFrame) -> None:
    """Nobody does anything without saying hello."""
    assert refused(Talk(hello=False), frame) is Code.BAD_REQUEST


def test_second_hello_ends_the_connection() -> None:
    """Hello is said once."""
    assert refused(Talk(), HELLO) is Code.BAD_REQUEST
    assert refused(Talk(hello=False), HELLO, HELLO) is Code.BAD_REQUEST


def test_frames_of_a_later_version_may_come_before_hello() -> None:
    """What this version does not know breaks no rule."""
    talk = Talk(hello=False)
    assert talk.hear_raw(UNKNOWN) == []
    assert talk.hear_raw(UNKNOWN + MSGPACK.encode(HELLO)) == [HELLO]


def test_silent_stranger_is_ended_at_the_hello_deadline() -> None:
    """A connection without hello holds its slot no longer than the deadline, whatever else it sends."""
    talk = Talk(hello=False)
    talk.idle(9.5)
    talk.hear_raw(UNKNOWN)
    assert talk.ends(20) == (Code.HELLO_TIMEOUT, 0.5)


def test_hello_in_time_lifts_the_deadline() -> None:
    """Who said hello is judged by the heartbeat from then on."""
    talk = Talk(hello=False)
    talk.idle(9.5)
    talk.hear(HELLO)
    talk.idle(5)


def test_bye_is_handed_on() -> None:
    """The client is about to close; there is nothing to answer."""
    assert Talk().hear(frames.Bye("going")) == [frames.Bye("going")]


# ---- messages that are not protocol v1


@pytest.mark.parametrize(
    ("message", "code"),
    [
        (b"\xc1", Code.BAD_FRAME),
        (b"\x92\x02", Code.BAD_FRAME),  # cut off
        (b"\x90", Code.BAD_FRAME),  # no type
        ("[1]\n", Code.BAD_FRAME),  # text where bytes were agreed on
        (b"\x91\x05", Code.BAD_FRAME),  # a pong without its fields
        (bytes(RULES.limits.max_bytes + 1), Code.TOO_LARGE),
        (b"\xdd\x00\x00\xff\xff" * 100, Code.BAD_FRAME),  # nested claims of 65,535 elements each
    ],
    ids=["illegal", "cut", "empty array", "text", "pong", "too large", "claims"],
)
def test_what_cannot_be_decoded_is_refused_with_its_code(message: Message, code: Code) -> None:
    """Bytes that are not protocol v1 end the connection at the earliest point."""
    talk = Talk()
    with pytest.raises(DecodeError) as raised:
        talk.hear_raw(message)
    assert raised.value.code is code


def test_other_profile_has_the_same_rules() -> None:
    """The rules know frames, not bytes."""
    session = ServerSession(RULES, 0.0)
    assert session.receive('[1,null,"test"]\n[2,1,[["prices:X"]]]\n', JSON, 0.0) == [HELLO, subscribe(1)]
    with pytest.raises(DecodeError):
        session.receive(b"[1]\n", JSON, 0.0)


# ---- request ids


def test_request_ids_only_grow() -> None:
    """A reused or smaller id is answered by an error that names it and not acted upon; the connection stays."""
    talk = Talk()
    assert talk.hear(subscribe(5)) == [subscribe(5)]
    for request in (5, 4, 0):
        (error,) = talk.hear(subscribe(request))
        assert isinstance(error, frames.Error)
        assert (error.request, error.code, error.field, error.retryable) == (request, "bad_request", "request", False)
    assert talk.hear(subscribe(6)) == [subscribe(6)]


def test_kinds_of_requests_share_one_sequence() -> None:
    """An id is used once, whatever for; ids may be left out."""
    talk = Talk()
    unsubscribe, rate = frames.Unsubscribe(9, ("prices:X",)), frames.Rate(9, "prices:X", None)
    assert talk.hear(subscribe(2), unsubscribe) == [subscribe(2), unsubscribe]
    (error,) = talk.hear(rate)
    assert isinstance(error, frames.Error)
    assert (error.request, error.code) == (9, "bad_request")


def test_one_bad_request_does_not_touch_the_others_of_its_message() -> None:
    """What comes before and after it is done."""
    talk = Talk()
    first, second, third = talk.hear(subscribe(1), subscribe(1), subscribe(2))
    assert (first, third) == (subscribe(1), subscribe(2))
    assert isinstance(second, frames.Error)


# ---- the rate of frames


def test_burst_passes_and_what_exceeds_it_is_told_when_to_come_back() -> None:
    """A request over the rate is answered by a retryable error with the exact wait, and then passes."""
    talk = Talk()
    assert len(talk.hear(*[subscribe(number) for number in range(1, 101)])) == 100
    (error,) = talk.hear(subscribe(101))
    assert isinstance(error, frames.Error)
    assert (error.request, error.code, error.retryable, error.channel) == (101, "too_many", True, "")
    assert error.retry_after is not None
    assert error.retry_after == pytest.approx(1 / 50)
    talk.now += error.retry_after
    assert talk.hear(subscribe(101)) == [subscribe(101)], "its id was not used up"


def test_sustained_legal_rate_is_never_refused() -> None:
    """Fifty frames a second for a minute are fifty frames a second."""
    talk = Talk()
    for number in range(1, 3001):
        talk.now += 1 / 50
        assert talk.hear(subscribe(number)) == [subscribe(number)]


def test_flood_is_given_up_within_a_second() -> None:
    """10,000 messages a second meet errors first and soon the end of the connection."""
    talk = Talk()
    began = talk.now
    answers: list[object] = []
    with pytest.raises(ProtocolError) as raised:
        for number in range(1, 50_000):
            talk.now += 1 / 10_000
            answers += talk.hear(subscribe(number))
    assert raised.value.code is Code.TOO_MANY
    assert talk.now - began < 0.1
    assert len([answer for answer in answers if isinstance(answer, frames.Error)]) == pytest.approx(100, abs=2)


def test_patience_with_a_peer_over_its_rate_comes_back_with_time() -> None:
    """Being refused now and then, as by a screen that asks for much at once, never ends a connection."""
    talk = Talk()
    number = 0
    for _ in range(20):
        for _ in range(150):
            number += 1
            talk.hear(subscribe(number))
        talk.now += 3.0


def test_frames_that_are_no_requests_are_charged_and_dropped_without_an_answer() -> None:
    """There is no request to answer, and an error without one would mean the connection's end."""
    talk = Talk()
    talk.hear(*[subscribe(number) for number in range(1, 101)])
    assert talk.hear(frames.Bye("going")) == []


@pytest.mark.parametrize("message", [b"", UNKNOWN], ids=["empty", "unknown"])
def test_messages_without_a_known_frame_are_not_free(message: bytes) -> None:
    """A flood of nothing is a flood."""
    talk = Talk()
    for _ in range(100):
        talk.hear_raw(message)
    (error,) = talk.hear(subscribe(1))
    assert isinstance(error, frames.Error)
    with pytest.raises(ProtocolError) as raised:
        for _ in range(101):
            talk.hear_raw(message)
    assert raised.value.code is Code.TOO_MANY


def test_strangers_are_charged_too() -> None:
    """The budget begins before hello, but hello itself always passes."""
    talk = Talk(hello=False)
    for _ in range(150):
        talk.hear_raw(UNKNOWN)
    assert talk.hear(HELLO) == [HELLO]


def test_rate_does_not_stand_between_a_ping_and_its_pong() -> None:
    """A client that used up its budget can still acknowledge, or its window would never open again."""
    talk = Talk()
    ping = talk.send(600)
    talk.hear(*[subscribe(number) for number in range(1, 101)])
    talk.pong(ping)
    assert talk.session.unacked == 0


# ---- pongs


def test_pong_nobody_asked_for_ends_the_connection() -> None:
    """Acknowledgements that were not asked for could open the window for what never arrived."""
    assert refused(Talk(), frames.Pong(1, 0)) is Code.BAD_REQUEST


def test_pong_with_another_id_ends_the_connection() -> None:
    """A pong answers the ping that is outstanding."""
    talk = Talk()
    ping = talk.send(600)
    assert ping is not None
    assert refused(talk, frames.Pong(ping.id + 1, 1)) is Code.BAD_REQUEST


@pytest.mark.parametrize("messages", [0, 2])
def test_pong_with_another_count_of_messages_ends_the_connection(messages: int) -> None:
    """A client that counts otherwise has lost or invented something."""
    talk = Talk()
    ping = talk.send(600)
    assert ping is not None
    assert refused(talk, frames.Pong(ping.id, messages)) is Code.BAD_REQUEST


def test_same_pong_twice_ends_the_connection() -> None:
    """The second one answers nothing."""
    talk = Talk()
    ping = talk.send(600)
    assert ping is not None
    talk.pong(ping)
    assert refused(talk, frames.Pong(ping.id, 1)) is Code.BAD_REQUEST


def test_pings_are_numbered_and_carry_the_servers_time() -> None:
    """Ids grow, so that no pong can be taken for another's; time lets clients follow the server's clock."""
    talk = Talk()
    first = talk.send(600)
    talk.pong(first)
    second = talk.send(1000)
    assert (first, second) == (frames.Ping(1, 1234), frames.Ping(2, 1234))


# ---- the window


def test_message_that_fills_half_the_window_carries_a_ping() -> None:
    """Acks are asked for early enough that a quick link never waits, and not more often."""
    talk = Talk()
    assert talk.send(499) is None
    assert talk.send(1) is not None
    assert talk.send(400) is None, "one is outstanding"
    assert talk.session.may_send
    talk.send(100)
    assert not talk.session.may_send


def test_window_is_full_until_the_pong_comes() -> None:
    """What was sent up to the ping is acknowledged by it, and no byte behind it."""
    talk = Talk()
    ping = talk.send(600)
    talk.session.sent(500)
    assert (talk.session.unacked, talk.session.may_send, talk.session.must_ask) == (1100, False, False)
    talk.now += 0.5
    talk.pong(ping)  # counts the first message only: the second is behind the ping
    assert (talk.session.unacked, talk.session.may_send, talk.session.must_ask) == (500, True, True)


def test_credit_is_what_may_be_sent_without_asking() -> None:
    """Half a window less what is on the way."""
    talk = Talk()
    assert talk.session.credit == 500
    talk.send(300)
    assert talk.session.credit == 200
    talk.session.sent(300, messages=3)
    assert talk.session.credit == -100
    assert talk.session.messages == 4
    ping = talk.session.ping(0, talk.now, 0)
    talk.session.sent(0)
    assert talk.hear(frames.Pong(ping.id, 5)) == []
    assert talk.session.unacked == 0


@pytest.mark.parametrize(
    ("seconds", "window"),
    [(0.1, 2000), (0.24, 2000), (0.26, 1000), (1.0, 1000), (2.0, 300), (100.0, 200)],
)
def test_window_follows_the_link(seconds: float, window: int) -> None:
    """It grows while acks are quick, and shrinks to what the link carried in a second when they are not."""
    talk = Talk()
    ping = talk.send(600)
    talk.now += seconds
    talk.pong(ping)
    assert talk.session.window == window


def test_window_grows_to_its_ceiling_and_no_further() -> None:
    """However quick a client is, this much may be on the way."""
    talk = Talk()
    windows = []
    for _ in range(5):
        talk.pong(talk.send(talk.session.window))
        windows.append(talk.session.window)
    assert windows == [2000, 4000, 4000, 4000, 4000]


def test_little_on_the_way_says_nothing_about_the_link() -> None:
    """A heartbeat that takes long over a distance does not shrink the window, nor does a quick one widen it."""
    for seconds in (0.01, 5.0):
        talk = Talk()
        ping = talk.session.ping(10, talk.now, 0)
        talk.session.sent(10)
        talk.received += 1
        talk.now += seconds
        talk.pong(ping)
        assert talk.session.window == 1000


def test_shrunken_window_asks_for_what_is_still_on_the_way() -> None:
    """More than the new window may be unacknowledged with no ping out: one has to go alone, or nothing would flow again."""
    talk = Talk()
    ping = talk.send(600)
    talk.session.sent(900)
    talk.now += 5.0
    talk.pong(ping)
    assert (talk.session.window, talk.session.unacked) == (200, 900)
    assert not talk.session.may_send
    assert talk.session.must_ask
    second = talk.session.ping(0, talk.now, 0)
    talk.session.sent(10)
    assert not talk.session.must_ask
    assert talk.hear(frames.Pong(second.id, 3)) == []
    assert talk.session.may_send


@given(
    st.lists(
        st.tuples(st.sampled_from(["send", "arrive", "answer", "wait"]), st.integers(0, 1500)),
        max_size=60,
    )
)
def test_honest_client_is_never_refused_and_the_window_holds(steps: list[tuple[str, int]]) -> None:
    """Whatever the interleaving of sends, arrivals and answers: one ping is out at most, and every pong is taken."""
    talk = Talk()
    session = talk.session
    under_way: list[frames.Ping | None] = []
    asked: list[tuple[frames.Ping, int]] = []
    arrived = 0
    for step, number in steps:
        if step == "send" and session.may_send:
            before = session.unacked
            under_way.append(talk.send(number))
            assert session.unacked == before + number
        elif step == "arrive" and under_way:
            arrived += 1
            if (ping := under_way.pop(0)) is not None:
                asked.append((ping, arrived))
        elif step == "answer" and asked:
            ping, count = asked.pop(0)
            assert talk.hear(frames.Pong(ping.id, count)) == []
        elif step == "wait":
            talk.now += number / 1000
        assert sum(ping is not None for ping in under_way) + len(asked) <= 1
        assert session.unacked >= 0
        assert RULES.min_window <= session.window <= RULES.max_window
        out = any(under_way) or asked
        assert session.may_send or session.must_ask or out, "somebody can always move"


# ---- heartbeats


def test_quiet_connection_is_pinged_after_the_interval() -> None:
    """Data flows both ways before the strictest proxy forgets the connection."""
    talk = Talk()
    talk.idle(19.5)
    assert list(talk.wait(0.5)) == [True]
    talk.pong(talk.send(0))
    talk.idle(19.5)
    assert list(talk.wait(0.5)) == [True]


def test_peer_that_only_listens_is_pinged() -> None:
    """Sending all the time proves nothing: a half-open peer would take it for minutes."""
    talk = Talk(replace(RULES, first_window=10**6, max_window=10**6))
    for _ in range(19):
        talk.idle(1.0)
        talk.send(10)
    assert list(talk.wait(1.0)) == [False, True]


def test_peer_that_only_talks_is_pinged() -> None:
    """It needs a sign of life of ours as well."""
    talk = Talk()
    for number in range(1, 20):
        talk.idle(1.0)
        talk.hear(subscribe(number))
    assert any(talk.wait(2.0))


def test_busy_connection_needs_no_heartbeat() -> None:
    """Traffic both ways is as good, and pings that carry acks count."""
    talk = Talk(replace(RULES, first_window=10**6, max_window=10**6))
    for number in range(1, 100):
        talk.idle(1.0)
        talk.send(10)
        talk.hear(subscribe(number))


def test_due_heartbeat_stays_due_until_it_travels() -> None:
    """It waits for a message under way, takes the credit for everything behind it, and then goes with the next message."""
    talk = Talk()
    talk.idle(19.5)
    assert list(talk.wait(3.0)) == [True] * 6
    assert (talk.session.credit, talk.session.must_ask) == (0, True)
    ping = talk.send(10)
    assert ping is not None
    assert list(talk.wait(1.0)) == [False, False]
    assert not talk.session.must_ask
    talk.pong(ping)
    assert talk.session.credit == 500


def test_silent_peer_is_given_up_after_interval_and_timeout() -> None:
    """A half-open connection costs us no more than this, with or without anything to send."""
    talk = Talk()
    talk.idle(19.5)
    talk.now += 0.5
    assert talk.session.tick(talk.now)
    talk.send(0)
    assert talk.ends(60) == (Code.NO_PONG, 10.0)


def test_any_message_is_a_sign_of_life() -> None:
    """Not only pongs: a frame of a later version will do."""
    talk = Talk(replace(RULES, ack_timeout=1000.0))
    talk.send(600)  # asks, and is never answered
    for _ in range(10):
        talk.idle(29.0)
        talk.hear_raw(UNKNOWN)
    assert talk.ends(60) == (Code.NO_PONG, 30.0)


def test_peer_that_talks_but_does_not_acknowledge_is_slow() -> None:
    """An ack that does not come in time ends the session, however lively it seems."""
    talk = Talk()
    talk.send(600)
    for number in range(1, 30):
        talk.idle(1.0)
        talk.hear(subscribe(number))
    assert talk.ends(60) == (Code.SLOW, 1.0)


def test_peer_whose_link_takes_nothing_is_slow() -> None:
    """A heartbeat that waits behind a blocked send for as long as an ack may take ends the session, too."""
    talk = Talk()
    talk.send(10)
    due = False
    with pytest.raises(ProtocolError) as raised:
        for number in range(1, 100):
            for answer in talk.wait(1.0):
                due = due or answer
            talk.hear(subscribe(number))
    assert due
    assert raised.value.code is Code.SLOW
    assert talk.now == 100.0 + 20.5 + 30.0, "the first tick takes note of the message"


# ---- our own event loop stands still


@pytest.mark.parametrize("seconds", [5.0, 600.0], ids=["stall", "suspended"])
def test_peers_do_not_pay_for_a_stall_of_ours(seconds: float) -> None:
    """While we did not run, they may have spoken unheard; afterwards they have their time as before."""
    talk = Talk()
    ping = talk.send(600)
    for _ in range(25):
        list(talk.wait(1.0))
    talk.now += seconds
    assert not talk.session.tick(talk.now)
    talk.pong(ping)

    silent = Talk()
    list(silent.wait(25.0))
    silent.send(0)
    silent.now += seconds
    silent.session.tick(silent.now)
    assert silent.ends(60) == (Code.NO_PONG, 5.0), "25 s of silence were its own"


def test_stall_moves_nothing_into_the_future() -> None:
    """Who was heard right after a long stall and then vanishes is found out in the usual time."""
    talk = Talk()
    talk.idle(5.0)
    talk.now += 600.0
    talk.hear(subscribe(1))
    talk.session.tick(talk.now)
    code, after = talk.ends(100)
    assert (code, after) == (Code.NO_PONG, 30.0)


def test_stall_extends_the_hello_deadline() -> None:
    """A hello may wait in our own socket."""
    talk = Talk(hello=False)
    talk.idle(9.0)
    talk.now += 60.0
    assert not talk.session.tick(talk.now)
    assert talk.hear(HELLO) == [HELLO]


def test_stall_extends_the_patience_with_acks_and_waiting_heartbeats() -> None:
    """Neither an outstanding ping nor one that could not leave counts the time in which we did not run."""
    talk = Talk(replace(RULES, heartbeat_timeout=1000.0))
    talk.send(600)
    list(talk.wait(29.0))
    talk.now += 600.0
    assert not talk.session.tick(talk.now)
    assert talk.ends(60)[0] is Code.SLOW

    talk = Talk(replace(RULES, heartbeat_timeout=1000.0))
    list(talk.wait(45.0))
    talk.now += 600.0
    assert talk.session.tick(talk.now)
    assert talk.ends(60)[0] is Code.SLOW


def test_late_tick_within_the_grace_is_no_stall() -> None:
    """A loop that is merely busy forgives nobody's silence for ever."""
    talk = Talk()
    with pytest.raises(ProtocolError) as raised:
        for _ in range(100):
            talk.now += 1.9
            talk.session.tick(talk.now)
    assert raised.value.code is Code.NO_PONG
    assert talk.now - 100.0 < 32.0
