"""The rules of a client, one sentence each: what is sent when, what may be applied to what, what silence means."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtsync.core import (
    JSON,
    MSGPACK,
    REMOVED,
    Change,
    ClientSession,
    ClientSubscription,
    Code,
    Document,
    Event,
    Gap,
    KeyTable,
    Limits,
    Patch,
    Position,
    Profile,
    ReconnectPolicy,
    SourceStatus,
    StateLog,
    client_events,
    diff,
    frames,
    patch_to_wire,
)

LIMITS = Limits(1 << 24, 200, 1 << 20)
EXACT = ReconnectPolicy(jitter=0.0)
SERVER_TIME = 1_700_000_000_000  # ms, at second 0 of `now`
PROFILES = pytest.mark.parametrize("profile", [MSGPACK, JSON], ids=["msgpack", "json"])


NOWHERE = Position.start("")


def at(offset: int, epoch: str = "E", link: int | None = None) -> Position:
    return Position(epoch, offset, offset * 11 if link is None else link)


class Talk:
    """A client and the server it talks to, both in the test's hands."""

    def __init__(self, profile: Profile = MSGPACK, policy: ReconnectPolicy = EXACT, chance: float = 0.5) -> None:
        self.profile = profile
        self.now = 0.0
        self.session = ClientSession("test", policy=policy, random=lambda: chance, open_timeout=10.0)
        self.happened: list[client_events.ClientEvent] = []
        self.hello: frames.Hello | None = None

    # ---- the connection

    def connect(self, token: str | None = None) -> list[frames.ClientFrame]:
        """Connect and be welcomed; return what the client sent meanwhile, but the hello."""
        self.note(self.session.connecting(self.now))
        self.session.connected(self.profile, token)
        sent = self.sent()
        assert isinstance(sent[0], frames.Hello)
        self.hello = sent[0]
        self.server(self.welcome())
        return sent[1:]

    def welcome(self, **changes: object) -> frames.Welcome:
        fields: dict[str, object] = {
            "session": "s1",
            "secret": "x1",
            "user": "ann",
            "heartbeat": 20.0,
            "timeout": 10.0,
            "time": SERVER_TIME + round(self.now * 1000),
            "limits": {"max_frame_bytes": 65536},
            "reconnect": {},
        }
        return frames.Welcome(**{**fields, **changes})  # type: ignore[arg-type]

    def cut(self, close: int | None = 1006, reason: str = "") -> Sequence[client_events.ClientEvent]:
        return self.note(self.session.disconnected(close, reason, self.now))

    def reconnect(self) -> list[frames.ClientFrame]:
        self.cut()
        assert self.session.reconnect_at is not None
        self.now = self.session.reconnect_at
        return self.connect()

    def tick(self, now: float) -> Sequence[client_events.ClientEvent]:
        self.now = now
        return self.note(self.session.tick(now))

    # ---- frames

    def server(self, *sent: frames.Frame) -> Sequence[client_events.ClientEvent]:
        return self.bytes(b"".join(self.profile.encode(frame) for frame in sent))

    def bytes(self, encoded: bytes) -> Sequence[client_events.ClientEvent]:
        return self.note(self.session.receive(self.profile.message(encoded), self.now))

    def sent(self) -> list[frames.ClientFrame]:
        result: list[frames.ClientFrame] = []
        while (message := self.session.outgoing()) is not None:
            result += self.profile.read_client(message, LIMITS)
        assert not self.session.has_outgoing
        return result

    def note(self, happened: Sequence[client_events.ClientEvent]) -> Sequence[client_events.ClientEvent]:
        self.happened += happened
        return happened

    # ---- channels

    def subscribe_state(self, channel: str = "book:A", document: Document | None = None, alias: int = 1) -> ClientSubscription:
        """Subscribe to a state channel that stands at offset 10."""
        held = self.session.subscribe(channel, self.now)
        (asked,) = self.sent()
        assert isinstance(asked, frames.Subscribe)
        self.server(
            subscribed(channel, asked.request, alias),
            frames.Keyframe(alias, at(10), 0, 1, {"a": 1} if document is None else document),
        )
        return held

    def subscribe_events(self, channel: str = "trades:A", alias: int = 2) -> ClientSubscription:
        """Subscribe to an event channel that stands at offset 10."""
        held = self.session.subscribe(channel, self.now)
        (asked,) = self.sent()
        assert isinstance(asked, frames.Subscribe)
        self.server(subscribed(channel, asked.request, alias, "events", at(10)))
        return held

    def updates(self) -> list[object]:
        """Return what was applied since the last call."""
        updates: list[object] = [event.update for event in self.happened if isinstance(event, client_events.Changed)]
        self.happened.clear()
        return updates

    def states(self) -> list[str]:
        return [event.state for event in self.happened if isinstance(event, client_events.StateChanged)]


def subscribed(
    channel: str,
    request: int,
    alias: int = 1,
    kind: frames.Kind = "state",
    position: Position = NOWHERE,
    recovered: bool = False,
    keys: tuple[str, ...] = (),
    freshness: frames.Freshness = "live",
) -> frames.Subscribed:
    return frames.Subscribed(request, channel, alias, kind, position, recovered, None, freshness, 0, "", keys)


def delta(offset: int, patch: object, span: int = 1, alias: int = 1, keys: tuple[str, ...] = ()) -> frames.Delta:
    return frames.Delta(alias, offset, span, offset * 11, patch_to_wire(cast(Patch, patch)), keys)


def event(offset: int, value: str, span: int = 1, alias: int = 2) -> frames.Event:
    return frames.Event(alias, offset, span, offset * 11, value)


def only_subscribe(sent: list[frames.ClientFrame]) -> frames.Subscribe:
    (frame,) = sent
    assert isinstance(frame, frames.Subscribe)
    return frame


# ---- hello and resume ----------------------------------------------------------------------------------------------


@PROFILES
def test_hello_and_all_subscriptions_travel_in_the_first_message(profile: Profile) -> None:
    talk = Talk(profile)
    talk.session.subscribe("a", 0.0)
    talk.session.subscribe("b", 0.0, position=at(3), rate=2.0)
    talk.session.connecting(0.0)
    talk.session.connected(profile, "token")
    message = talk.session.outgoing()
    assert message is not None and talk.session.outgoing() is None
    assert profile.read_client(message, LIMITS) == [
        frames.Hello("token", "test", None, None),
        frames.Subscribe(1, (frames.SubscribeItem("a"), frames.SubscribeItem("b", at(3), 2.0))),
    ]


def test_next_hello_takes_over_from_the_session_before() -> None:
    talk = Talk()
    talk.connect()
    talk.reconnect()
    assert talk.hello == frames.Hello(None, "test", "s1", "x1")


def test_secret_shows_in_no_repr() -> None:
    talk = Talk()
    talk.connect("my-token")
    assert "x1" not in repr(talk.happened) + repr(talk.session)
    assert "my-token" not in repr(talk.happened) + repr(talk.session)


@PROFILES
def test_resume_names_exact_positions_and_continues_from_them(profile: Profile) -> None:
    talk = Talk(profile)
    talk.connect()
    book, trades = talk.subscribe_state(), talk.subscribe_events()
    talk.server(delta(11, {"b": 2}), event(11, "x"))
    for _ in range(4):  # every further resume is as good as the first
        asked = only_subscribe(talk.reconnect())
        assert asked.items == (
            frames.SubscribeItem("book:A", book.position),
            frames.SubscribeItem("trades:A", trades.position),
        )
        talk.updates()
        assert book.position is not None and trades.position is not None
        offset = book.position.offset
        talk.server(
            subscribed("book:A", asked.request, 5, "state", book.position, True),
            subscribed("trades:A", asked.request, 6, "events", trades.position, True),
            delta(offset + 1, {"n": offset}, alias=5),
            event(offset + 1, "y", alias=6),
        )
        assert book.value == {"a": 1, "b": 2, "n": offset}
        assert talk.updates() == [
            Change("delta", {"a": 1, "b": 2, "n": offset}, {"n": offset}, at(offset + 1), SourceStatus()),
            Event("y", at(offset + 1)),
        ]


def test_resume_before_any_change_arrived_names_the_position_of_the_answer() -> None:
    talk = Talk()
    talk.connect()
    talk.subscribe_events()
    assert only_subscribe(talk.reconnect()).items == (frames.SubscribeItem("trades:A", at(10)),)


def test_resume_before_the_keyframe_arrived_asks_for_it_again() -> None:
    talk = Talk()
    talk.connect()
    talk.session.subscribe("book:A", 0.0)
    talk.server(subscribed("book:A", only_subscribe(talk.sent()).request))
    assert only_subscribe(talk.reconnect()).items == (frames.SubscribeItem("book:A"),)


def test_unprovable_position_brings_a_keyframe_of_another_history() -> None:
    """Nothing of the old state survives, however much higher its offset was."""
    talk = Talk()
    talk.connect()
    book = talk.subscribe_state()
    asked = only_subscribe(talk.reconnect())
    talk.server(subscribed("book:A", asked.request), frames.Keyframe(1, at(2, "F"), 0, 1, {"z": 0}))
    assert (book.value, book.position) == ({"z": 0}, at(2, "F"))
    talk.server(delta(3, {"z": 1}))
    assert (book.value, book.position) == ({"z": 1}, at(3, "F"))


def test_many_subscriptions_are_split_into_messages_the_server_accepts() -> None:
    talk = Talk()
    names = [f"prices:{number:0190}" for number in range(300)]
    for name in names:
        talk.session.subscribe(name, 0.0)
    talk.session.connecting(0.0)
    talk.session.connected(MSGPACK, None)
    sizes, asked = [], []
    while (message := talk.session.outgoing()) is not None:
        sizes.append(len(message))
        for frame in MSGPACK.read_client(message, LIMITS):
            if isinstance(frame, frames.Subscribe):
                asked += [item.channel for item in frame.items]
    assert asked == names
    assert max(sizes) <= 16 << 10


@pytest.mark.parametrize(
    ("limits", "size"), [({}, 16 << 10), ({"max_frame_bytes": "?"}, 16 << 10), ({"max_frame_bytes": 500}, 500)]
)
def test_limit_of_the_welcome_bounds_later_messages(limits: Document, size: int) -> None:
    talk = Talk()
    talk.connect()
    talk.server(talk.welcome(limits=limits))
    for number in range(1000):
        talk.server(frames.Ping(number))
    sizes = []
    while (message := talk.session.outgoing()) is not None:
        sizes.append(len(message))
    assert size - 20 < max(sizes) <= size or len(sizes) == 1


def test_request_ids_grow_and_begin_anew_with_each_connection() -> None:
    talk = Talk()
    talk.connect()
    talk.session.subscribe("a", 0.0)
    talk.session.unsubscribe("a")
    talk.session.subscribe("b", 0.0)
    first = only_subscribe(talk.sent())
    talk.session.unsubscribe("b")
    talk.session.subscribe("b", 0.0)
    second, third = talk.sent()
    assert first.request == 1
    assert second == frames.Unsubscribe(2, ("b",))
    assert isinstance(third, frames.Subscribe) and third.request == 3
    assert only_subscribe(talk.reconnect()).request == 1


# ---- states of the connection --------------------------------------------------------------------------------------


def test_connection_goes_from_connecting_to_live_with_the_welcome() -> None:
    talk = Talk()
    assert talk.session.state == "connecting"
    talk.connect()
    assert (talk.session.state, talk.session.reason) == ("live", "")
    assert talk.happened == [client_events.Welcomed("s1", "ann"), client_events.StateChanged("live", "")]


def test_lost_connection_is_disconnected_then_connecting_then_live() -> None:
    talk = Talk()
    talk.connect()
    talk.happened.clear()
    talk.cut(1006, "broken pipe")
    assert talk.session.reason == "broken pipe"
    assert not talk.session.over
    talk.now = 1.0
    talk.connect()
    assert talk.states() == ["disconnected", "connecting", "live"]


def test_delays_follow_the_table_and_begin_anew_after_a_welcome() -> None:
    talk = Talk()
    for _ in range(2):
        talk.connect()
        delays = []
        for _ in range(7):
            talk.cut()
            assert talk.session.reconnect_at is not None
            delays.append(talk.session.reconnect_at - talk.now)
            talk.now = talk.session.reconnect_at
            talk.session.connecting(talk.now)
        assert delays == [1, 2, 4, 8, 15, 15, 15]


def test_delays_of_a_server_that_was_never_reached_follow_the_table() -> None:
    talk = Talk()
    delays = []
    for _ in range(3):
        talk.session.connecting(talk.now)
        talk.cut(None, "refused")
        assert talk.session.reconnect_at is not None
        delays.append(talk.session.reconnect_at - talk.now)
    assert delays == [1, 2, 4]


def test_advice_in_the_welcome_wins_over_the_clients_own_table() -> None:
    talk = Talk()
    talk.connect()
    talk.server(talk.welcome(reconnect={"delay_min": 3, "delay_max": 4, "spread": 2}))
    talk.cut()
    assert talk.session.reconnect_at == 3 + 2 * 0.5
    talk.cut()
    assert talk.session.reconnect_at == 4


def test_attempts_that_run_out_are_a_failure() -> None:
    talk = Talk(policy=ReconnectPolicy(jitter=0, max_attempts=1))
    talk.connect()
    talk.cut()
    assert not talk.session.over
    talk.session.connecting(1.0)
    talk.cut(None, "refused")
    assert talk.session.over
    assert (talk.session.state, talk.session.reason) == ("failed", "refused")


@pytest.mark.parametrize("code", [code for code in Code if not code.retryable])
def test_end_that_no_reconnect_cures_is_final(code: Code) -> None:
    talk = Talk()
    talk.connect()
    talk.server(frames.Error(None, code.text, "because", retryable=False))
    talk.cut(code.close)
    assert talk.session.over
    assert talk.session.state == ("disconnected" if code is Code.TAKEN_OVER else "failed")
    assert (talk.session.code, talk.session.reason) == (code.text, "because")


def test_close_code_names_the_end_when_no_frame_did() -> None:
    talk = Talk()
    talk.connect()
    talk.cut(4401)
    assert (talk.session.state, talk.session.code, talk.session.reason) == ("failed", "unauthenticated", "unauthenticated")


def test_evicted_client_knows_the_reason_and_comes_back() -> None:
    talk = Talk()
    talk.connect()
    talk.server(frames.Error(None, "slow", "does not read", retryable=True))
    talk.cut(4509)
    assert (talk.session.state, talk.session.code, talk.session.reason) == ("disconnected", "slow", "does not read")
    assert talk.session.reconnect_at == 1


def test_retry_after_wins_over_the_table() -> None:
    talk = Talk()
    talk.connect()
    talk.server(frames.Error(None, "unavailable", retryable=True, retry_after=7.5))
    talk.cut(4503)
    assert talk.session.reconnect_at == 7.5


def test_retry_after_of_zero_makes_no_tight_loop() -> None:
    talk = Talk()
    delays = []
    for _ in range(3):
        talk.session.connecting(talk.now)
        talk.session.connected(MSGPACK, None)
        talk.server(frames.Error(None, "unavailable", retryable=True, retry_after=0))
        talk.cut(4503)
        assert talk.session.reconnect_at is not None
        delays.append(talk.session.reconnect_at - talk.now)
    assert delays == [0, 1, 1]


def test_error_that_did_not_end_the_connection_is_not_blamed_for_its_end() -> None:
    talk = Talk()
    talk.connect()
    talk.server(frames.Error(None, "bad_request", retryable=False))
    talk.server(frames.Ping(1))
    talk.cut(1006)
    assert (talk.session.state, talk.session.code) == ("disconnected", "")


def test_drain_sends_the_client_away_for_the_time_it_names() -> None:
    talk = Talk(chance=0.25)
    talk.connect()
    assert talk.server(frames.Drain("deploy", 5.0, 8.0)) == [client_events.Draining("deploy")]
    talk.server(frames.Ping(1))
    talk.cut(1012)
    assert talk.session.reconnect_at == 5 + 8 * 0.25


def test_refusal_in_json_is_understood_before_a_profile_is_agreed_on() -> None:
    talk = Talk()
    talk.session.connecting(0.0)
    talk.session.connected(MSGPACK, None)
    refusal = JSON.message(JSON.encode(frames.Error(None, "bad_frame", "no known subprotocol")))
    assert talk.session.receive(refusal, 0.0) == []
    talk.cut(4400)
    assert (talk.session.state, talk.session.reason) == ("failed", "no known subprotocol")


@pytest.mark.parametrize(
    ("profile", "message"),
    [
        (MSGPACK, b"\xc1"),
        (MSGPACK, b"\x92\x23"),
        (MSGPACK, b"\x91\x23"),
        (MSGPACK, "nonsense"),
        (JSON, "nonsense"),
        (JSON, "[35]"),
        (JSON, b"\x91\x23"),
    ],
)
def test_message_that_cannot_be_decoded_costs_the_connection_and_nothing_else(profile: Profile, message: bytes | str) -> None:
    talk = Talk(profile)
    talk.connect()
    book = talk.subscribe_state()
    (lost,) = talk.session.receive(message, 0.0)
    assert isinstance(lost, client_events.Lost)
    assert (book.value, book.position) == ({"a": 1}, at(10))
    assert only_subscribe(talk.reconnect()).items == (frames.SubscribeItem("book:A", at(10)),)


def test_unknown_frames_and_trailing_fields_are_ignored() -> None:
    talk = Talk(JSON)
    talk.connect()
    assert talk.bytes(b'[99,"future"]\n[42,1,0,"future"]\n') == []
    assert talk.sent() == [frames.Pong(1, 2)]


def test_reprs_fit_a_log_line() -> None:
    talk = Talk()
    talk.connect()
    book = talk.subscribe_state()
    assert repr(book) == "<ClientSubscription book:A at E:10:00000000006e>"
    talk.cut(1006, "broken pipe")
    assert repr(book) == "<ClientSubscription book:A at E:10:00000000006e, out of step>"
    assert repr(talk.session) == "<ClientSession disconnected (broken pipe), 1 subscriptions>"


def test_leaving_is_final() -> None:
    talk = Talk()
    talk.connect()
    book = talk.subscribe_state()
    bye = talk.session.bye("done")
    assert bye is not None and MSGPACK.read_client(bye, LIMITS) == [frames.Bye("done")]
    talk.note(talk.session.close(5.0))
    assert talk.session.over
    assert (talk.session.state, talk.session.reason) == ("disconnected", "closed")
    assert book.status.freshness == "stale"
    assert talk.session.close(6.0) == []
    assert talk.session.bye("done") is None


# ---- pings and silence ---------------------------------------------------------------------------------------------


def test_pong_counts_the_messages_up_to_and_with_the_ping() -> None:
    talk = Talk()
    talk.connect()  # the welcome is message 1
    talk.server(frames.Ping(7, 0))
    talk.server(frames.Drain("x", 1, 1))
    talk.server(frames.Drain("x", 1, 1), frames.Ping(8, 0), frames.Drain("x", 1, 1))
    assert talk.sent() == [frames.Pong(7, 2), frames.Pong(8, 4)]
    talk.reconnect()
    talk.server(frames.Ping(1))
    assert talk.sent() == [frames.Pong(1, 2)]


def test_attempt_is_given_up_at_its_deadline() -> None:
    talk = Talk()
    talk.session.connecting(3.0)
    assert talk.session.next_deadline() == 13.0
    assert talk.tick(12.999) == []
    assert talk.tick(13.0) == [client_events.Lost("no welcome in time")]
    assert talk.session.next_deadline() == inf


def test_silent_server_is_stalled_after_heartbeat_and_half_the_timeout_and_dead_after_all_of_it() -> None:
    talk = Talk()
    talk.connect()
    talk.now = 100.0
    talk.server(frames.Ping(1))
    assert talk.session.next_deadline() == 125.0
    assert talk.tick(124.999) == []
    assert talk.tick(125.0) == [client_events.StateChanged("stalled", "no sign of life")]
    assert talk.session.next_deadline() == 130.0
    assert talk.tick(129.999) == []
    assert talk.tick(130.0) == [client_events.Lost("no sign of life")]
    assert talk.session.next_deadline() == inf


def test_any_message_revives_a_stalled_connection() -> None:
    talk = Talk()
    talk.connect()
    talk.tick(25.0)
    talk.now = 29.0
    assert talk.server(frames.Drain("x", 1, 1))[0] == client_events.StateChanged("live", "")
    assert talk.session.next_deadline() == 54.0


def test_process_that_slept_gives_the_server_another_chance() -> None:
    """After ten minutes of suspension a timer is late, not the server."""
    talk = Talk()
    talk.connect()
    assert talk.tick(600.0) == [client_events.StateChanged("stalled", "no sign of life")]
    assert talk.session.next_deadline() == 605.0
    talk.server(frames.Ping(1))
    assert talk.session.state == "live"


def test_client_that_does_not_read_stalls_but_does_not_blame_the_server() -> None:
    talk = Talk()
    talk.connect()
    talk.session.hold()
    assert talk.tick(25.0) == [client_events.StateChanged("stalled", "no sign of life")]
    assert talk.session.next_deadline() == inf
    assert talk.tick(500.0) == []
    talk.session.release(500.0)
    assert talk.session.next_deadline() == 505.0
    talk.session.hold()
    talk.session.release(501.0)
    assert talk.session.next_deadline() == 506.0
    talk.now = 501.0
    talk.server(frames.Ping(1))
    talk.session.hold()
    talk.session.release(510.0)
    assert talk.session.next_deadline() == 526.0
    talk.tick(526.0)
    assert talk.session.next_deadline() == 531.0
    assert talk.tick(531.0) == [client_events.Lost("no sign of life")]


def test_server_without_heartbeat_is_never_suspected() -> None:
    talk = Talk()
    talk.connect()
    talk.server(talk.welcome(heartbeat=0.0))
    assert talk.session.next_deadline() == inf


# ---- state channels ------------------------------------------------------------------------------------------------


@PROFILES
def test_keyframe_then_deltas_give_the_document(profile: Profile) -> None:
    talk = Talk(profile)
    talk.connect()
    book = talk.subscribe_state(document={"a": {"b": 1, "c": 2}, "d": None})
    first = book.value
    talk.server(delta(12, {"a": {"b": REMOVED}}, span=2))
    talk.server(delta(13, {"d": REMOVED, "e": [1]}))
    assert (book.value, book.position) == ({"a": {"c": 2}, "e": [1]}, at(13))
    assert first == {"a": {"b": 1, "c": 2}, "d": None}  # what was handed out never changes
    assert talk.updates() == [
        Change("keyframe", {"a": {"b": 1, "c": 2}, "d": None}, None, at(10), SourceStatus()),
        Change("delta", {"a": {"c": 2}, "d": None}, cast(Patch, {"a": {"b": REMOVED}}), at(12), SourceStatus()),
        Change("delta", {"a": {"c": 2}, "e": [1]}, {"d": REMOVED, "e": [1]}, at(13), SourceStatus()),
    ]


def test_one_message_may_hold_frames_of_several_channels() -> None:
    talk = Talk()
    talk.connect()
    one, two = talk.subscribe_state("a", alias=1), talk.subscribe_state("b", alias=2)
    talk.server(delta(11, {"x": 1}, alias=2), delta(11, {"y": 1}, alias=1), delta(12, {"x": 2}, alias=2))
    assert (one.value, two.value) == ({"a": 1, "y": 1}, {"a": 1, "x": 2})


def test_key_table_comes_with_keyframe_resume_and_delta() -> None:
    talk = Talk()
    talk.connect()
    book = talk.session.subscribe("book:A", 0.0)
    keys, log = KeyTable(), StateLog(100, at(10), {"bid": {"px": 1}})
    keys.learn_document(log.document, 10)
    asked = only_subscribe(talk.sent())
    talk.server(subscribed("book:A", asked.request))
    (keyframe,) = MSGPACK.encode_keyframe(1, log.head, log.document, keys, 1 << 16)
    assert b"px" in keyframe
    talk.bytes(keyframe)

    def publish(change: object) -> bytes:
        patch = cast(Patch, change)
        base, offset = log.head.offset, log.head.offset + 1
        log.put(offset, offset, patch)
        keys.learn_patch(patch, offset)
        return MSGPACK.encode_delta(1, log.head, base, patch, keys)

    encoded = publish({"bid": {"px": 2}})
    assert b"px" not in encoded
    talk.bytes(encoded)
    talk.bytes(publish({"ask": {"px": 3, "size": 1}}))
    assert book.value == log.document

    resumed_from = log.head
    asked = only_subscribe(talk.reconnect())
    known = tuple(keys.defined_by(resumed_from.offset))
    talk.server(subscribed("book:A", asked.request, 1, "state", resumed_from, True, known))
    talk.bytes(publish({"ask": {"size": 5, "new": 1}}))
    assert book.value == log.document == {"bid": {"px": 2}, "ask": {"px": 3, "size": 5, "new": 1}}


@PROFILES
def test_keyframe_in_parts_is_applied_when_the_last_has_come(profile: Profile) -> None:
    talk = Talk(profile)
    talk.connect()
    big: Document = {f"key{number}": {"text": "ä" * 20, "n": number} for number in range(50)}
    keys = KeyTable()
    keys.learn_document(big, 20)
    other = talk.subscribe_events()
    book = talk.session.subscribe("book:A", 0.0)
    talk.server(subscribed("book:A", only_subscribe(talk.sent()).request))
    talk.updates()
    parts = profile.encode_keyframe(1, at(20), big, keys, 300)
    assert len(parts) > 3
    for number, part in enumerate(parts):
        assert book.value is None
        talk.bytes(part + profile.encode(event(11 + number, "between")))
        talk.server(frames.Status(1, "live", 0))
    assert (book.value, book.position) == (big, at(20))
    assert other.position == at(10 + len(parts))
    assert talk.updates()[-2:] == [Change("keyframe", big, None, at(20), SourceStatus()), Event("between", other.position)]
    patch = cast(Patch, {"key3": {"n": -1}})
    keys.learn_patch(patch, 21)
    talk.bytes(profile.encode_delta(1, at(21), 20, patch, keys))
    assert book.document is not None and book.document["key3"] == {"text": "ä" * 20, "n": -1}


def test_connection_lost_between_parts_leaves_what_was_held() -> None:
    talk = Talk()
    talk.connect()
    book = talk.subscribe_state()
    talk.server(frames.Keyframe(1, at(20), 0, 2, b"half"))
    assert (book.value, book.position) == ({"a": 1}, at(10))
    asked = only_subscribe(talk.reconnect())
    assert asked.items[0].position == at(10)
    talk.server(subscribed("book:A", asked.request, 1, "state", at(10), True), delta(11, {"a": 2}))
    assert book.value == {"a": 2}


def test_new_keyframe_replaces_one_that_was_only_begun() -> None:
    talk = Talk()
    talk.connect()
    book = talk.subscribe_state()
    talk.server(frames.Keyframe(1, at(20), 0, 2, b"half"), frames.Keyframe(1, at(21), 0, 1, {"z": 1}), delta(22, {"z": 2}))
    assert book.value == {"z": 2}


OUT_OF_STEP: dict[str, list[frames.Frame]] = {
    "a delta on a later base": [delta(13, {"a": 2})],
    "a delta on an earlier base": [delta(10, {"a": 2})],
    "a delta whose span is off": [delta(11, {"a": 2}, span=2)],
    "a delta that goes nowhere": [delta(10, {"a": 2}, span=0)],
    "a patch of another shape": [frames.Delta(1, 11, 1, 0, {"a": 1})],
    "a patch that names a key twice": [frames.Delta(1, 11, 1, 0, [{"a": 1}, {"a": []}])],
    "a delta between the parts of a keyframe": [frames.Keyframe(1, at(20), 0, 2, b"x"), delta(11, {"a": 2})],
    "a part without the first": [frames.Keyframe(1, at(20), 1, 2, b"x")],
    "a part twice": [frames.Keyframe(1, at(20), 0, 3, b"x"), frames.Keyframe(1, at(20), 2, 3, b"x")],
    "a part of another position": [frames.Keyframe(1, at(20), 0, 2, b"x"), frames.Keyframe(1, at(21), 1, 2, b"x")],
    "a part of another number of parts": [frames.Keyframe(1, at(20), 0, 2, b"x"), frames.Keyframe(1, at(20), 1, 3, b"x")],
    "no parts at all": [frames.Keyframe(1, at(20), 0, 0, {})],
    "parts that hold nothing": [frames.Keyframe(1, at(20), 0, 2, b""), frames.Keyframe(1, at(20), 1, 2, b"")],
    "parts that are no bytes": [frames.Keyframe(1, at(20), 0, 2, 1), frames.Keyframe(1, at(20), 1, 2, 2)],
    "parts that hold no document": [frames.Keyframe(1, at(20), 0, 2, b"\x92\x01"), frames.Keyframe(1, at(20), 1, 2, b"\x90")],
    "parts whose keys are no texts": [
        frames.Keyframe(1, at(20), 0, 2, b"\x92\x80"),
        frames.Keyframe(1, at(20), 1, 2, b"\x91\x01"),
    ],
    "a keyframe that is no document": [frames.Keyframe(1, at(20), 0, 1, [1])],
    "a keyframe whose keys are in no table": [frames.Keyframe(1, at(20), 0, 1, {3: 1})],
    "an event": [event(11, "x", alias=1)],
    "a gap": [frames.Gap(1, at(10), at(12))],
}


@pytest.mark.parametrize("wrong", OUT_OF_STEP.values(), ids=OUT_OF_STEP.keys())
def test_what_does_not_continue_a_document_resynchronises_that_channel_alone(wrong: list[frames.Frame]) -> None:
    talk = Talk()
    talk.connect()
    book, other = talk.subscribe_state(), talk.subscribe_state("other", alias=9)
    talk.updates()
    talk.server(*wrong, delta(11, {"bad": 1}), frames.Status(1, "closed", 5), delta(11, {"good": 1}, alias=9))
    assert (book.value, book.position) == ({"a": 1}, at(10))
    assert book.status == SourceStatus()
    assert other.value == {"a": 1, "good": 1}
    asked = only_subscribe(talk.sent())
    assert asked.items == (frames.SubscribeItem("book:A", at(10)),)

    # What was in transit is ignored until the answer; then the new instance goes on.
    talk.server(delta(11, {"bad": 1}))
    talk.server(subscribed("book:A", asked.request, 1, "state", at(10), True), delta(12, {"a": 5}, span=2))
    assert (book.value, book.position) == ({"a": 5}, at(12))
    assert talk.sent() == []


def test_number_that_is_not_in_the_key_table_resynchronises() -> None:
    talk = Talk()
    talk.connect()
    book = talk.subscribe_state()
    talk.bytes(b"\x96\x23\x01\x0b\x01\x00\x91\x81\x05\x01")  # [35, alias 1, offset 11, span 1, link 0, [{5: 1}]]
    assert book.value == {"a": 1}
    assert only_subscribe(talk.sent()).items == (frames.SubscribeItem("book:A", at(10)),)


def test_document_that_cannot_be_continued_twice_is_fetched_anew_after_a_while() -> None:
    talk = Talk()
    talk.connect()
    book = talk.subscribe_state()
    waits = []
    talk.server(delta(99, {}))
    for stumble in range(5):
        asked = only_subscribe(talk.sent())
        assert asked.items == (frames.SubscribeItem("book:A", at(10) if stumble == 0 else None),)
        talk.server(subscribed("book:A", asked.request), frames.Keyframe(1, at(10), 0, 1, {"a": 1}), delta(99, {}))
        assert talk.sent() == []
        assert book.status == SourceStatus("stale", SERVER_TIME + round(talk.now * 1000), "out of step")
        due = talk.session.next_deadline()
        waits.append(due - talk.now)
        talk.server(frames.Ping(0))
        talk.sent()
        talk.tick(due)
    assert waits == [1, 2, 4, 8, 15]
    asked = only_subscribe(talk.sent())
    talk.server(subscribed("book:A", asked.request), frames.Keyframe(1, at(10), 0, 1, {"a": 1}), delta(11, {"a": 2}))
    assert (book.value, book.status) == ({"a": 2}, SourceStatus())
    talk.server(delta(99, {}))  # a change was applied in between: the next mishap is a first one again
    assert only_subscribe(talk.sent()).items == (frames.SubscribeItem("book:A", at(11)),)


def test_keyframe_without_end_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rtsync.core._client_subscription._MAX_KEYFRAME", 100)
    talk = Talk()
    talk.connect()
    talk.subscribe_state()
    talk.server(*[frames.Keyframe(1, at(20), part, 1000, b"x" * 20) for part in range(5)])
    assert talk.sent() == []
    talk.server(frames.Keyframe(1, at(20), 5, 1000, b"x"))
    assert only_subscribe(talk.sent()).items == (frames.SubscribeItem("book:A", at(10)),)


def test_mishaps_are_told() -> None:
    talk = Talk()
    talk.connect()
    talk.subscribe_state()
    assert talk.server(delta(13, {})) == [client_events.Resynchronising("book:A", "a delta from 12 to 13; held is 10")]


@pytest.mark.parametrize("position", [at(10), at(11)])
def test_continuation_of_what_is_not_held_asks_for_the_document(position: Position) -> None:
    """A position alone, without its document, is no base."""
    talk = Talk()
    talk.connect()
    book = talk.session.subscribe("book:A", 0.0, position=at(10))
    asked = only_subscribe(talk.sent())
    talk.server(subscribed("book:A", asked.request, 1, "state", position, True), delta(12, {"x": 1}))
    asked = only_subscribe(talk.sent())
    assert asked.items == (frames.SubscribeItem("book:A"),)
    talk.server(subscribed("book:A", asked.request), frames.Keyframe(1, at(12), 0, 1, {"x": 1}))
    assert book.value == {"x": 1}


def test_server_may_begin_a_new_instance_unasked() -> None:
    """So does a node whose empty log got its first epoch."""
    talk = Talk()
    talk.connect()
    book = talk.session.subscribe("book:A", 0.0)
    asked = only_subscribe(talk.sent())
    nowhere = Position.start("")
    talk.server(subscribed("book:A", asked.request), frames.Keyframe(1, nowhere, 0, 1, {}))
    assert (book.value, book.position) == ({}, nowhere)
    talk.server(subscribed("book:A", 0, 1, "state", Position.start("F"), True), delta(1, {"a": 1}))
    assert (book.value, book.position) == ({"a": 1}, at(1, "F"))
    talk.server(subscribed("book:A", 0, 2), frames.Keyframe(2, at(1, "G"), 0, 1, {"b": 1}), delta(2, {"a": 2}, alias=1))
    assert (book.value, book.position) == ({"b": 1}, at(1, "G"))


# ---- event channels ------------------------------------------------------------------------------------------------


@PROFILES
def test_events_come_in_order_and_once(profile: Profile) -> None:
    talk = Talk(profile)
    talk.connect()
    trades = talk.subscribe_events()
    talk.server(event(11, "a"), event(14, "b", span=3), event(11, "a"), event(14, "b", span=3), event(15, "c"))
    assert talk.updates() == [Event("a", at(11)), Event("b", at(14)), Event("c", at(15))]
    assert (trades.value, trades.position) == ("c", at(15))
    assert talk.sent() == []


@pytest.mark.parametrize(
    "wrong",
    [event(13, "x"), event(12, "x", span=3), delta(11, {}, alias=2), frames.Keyframe(2, at(11), 0, 1, {})],
    ids=["a hole", "a wrong base", "a delta", "a keyframe"],
)
def test_what_does_not_continue_events_resynchronises_from_the_position_held(wrong: frames.Frame) -> None:
    talk = Talk()
    talk.connect()
    trades = talk.subscribe_events()
    for _ in range(3):  # a position of events is never given up: some would be lost unannounced
        talk.server(wrong, event(11, "in transit"))
        if not talk.session.has_outgoing:
            talk.tick(talk.session.next_deadline())
        asked = only_subscribe(talk.sent())
        assert asked.items == (frames.SubscribeItem("trades:A", at(10)),)
        talk.server(subscribed("trades:A", asked.request, 2, "events", at(10), True))
    talk.updates()
    talk.server(event(11, "a"))
    assert talk.updates() == [Event("a", at(11))]
    assert trades.position == at(11)


def test_missing_events_are_a_gap_and_the_next_follows_it() -> None:
    talk = Talk()
    talk.connect()
    talk.subscribe_events()
    asked = only_subscribe(talk.reconnect())
    talk.updates()
    talk.server(
        subscribed("trades:A", asked.request, 2, "events", at(50)),
        frames.Gap(2, at(10), at(40, "F"), "too old"),
        event(41, "x"),
        frames.Gap(2, at(41, "F"), at(50, "F"), "window"),
    )
    assert talk.updates() == [
        Gap(at(10), at(40, "F"), "too old"),
        Event("x", at(41, "F")),
        Gap(at(41, "F"), at(50, "F"), "window"),
    ]


def test_everything_still_kept_is_asked_for_with_the_empty_position() -> None:
    talk = Talk()
    talk.connect()
    talk.session.subscribe("trades:A", 0.0, position=Position.start(""))
    asked = only_subscribe(talk.sent())
    assert asked.items == (frames.SubscribeItem("trades:A", Position("", 0, 0)),)
    talk.server(subscribed("trades:A", asked.request, 2, "events", Position.start("E"), True), event(3, "x", span=3))
    assert talk.updates() == [Event("x", at(3))]


def test_empty_log_that_gets_an_epoch_misses_nothing() -> None:
    talk = Talk()
    talk.connect()
    trades = talk.session.subscribe("trades:A", 0.0)
    asked = only_subscribe(talk.sent())
    talk.server(subscribed("trades:A", asked.request, 2, "events", Position.start("")))
    talk.server(frames.Gap(2, Position.start(""), Position.start("E")), event(1, "x"))
    assert talk.updates() == [Event("x", at(1))]
    assert trades.position == at(1)


def test_log_lost_before_its_first_event_came_is_a_gap() -> None:
    """Both offsets are 0, but the history that had an epoch may have held events."""
    talk = Talk()
    talk.connect()
    trades = talk.session.subscribe("trades:A", 0.0)
    asked = only_subscribe(talk.sent())
    talk.server(subscribed("trades:A", asked.request, 2, "events", Position.start("E")))
    talk.server(frames.Gap(2, Position.start("E"), Position.start(""), "epoch"))
    assert talk.updates() == [Gap(Position.start("E"), Position.start(""), "epoch")]
    assert trades.position == Position.start("")


def test_beginning_earlier_asks_again_and_gets_the_events_again() -> None:
    talk = Talk()
    talk.connect()
    talk.subscribe_events()
    talk.server(event(11, "a"))
    talk.session.subscribe("trades:A", 0.0, position=at(11))
    assert talk.sent() == []  # it stands there already
    talk.session.subscribe("trades:A", 0.0, position=at(10))
    asked = only_subscribe(talk.sent())
    assert asked.items == (frames.SubscribeItem("trades:A", at(10)),)
    talk.updates()
    talk.server(event(12, "in transit"), subscribed("trades:A", asked.request, 2, "events", at(10), True), event(11, "a"))
    assert talk.updates() == [Event("a", at(11))]


def test_later_wish_does_not_take_the_earlier_back() -> None:
    talk = Talk()
    talk.connect()
    talk.subscribe_events()
    talk.server(event(11, "a"), event(12, "b"))
    talk.session.subscribe("trades:A", 0.0, position=at(10))
    asked = only_subscribe(talk.sent())
    talk.session.subscribe("trades:A", 0.0, position=at(11))
    assert talk.sent() == []
    talk.updates()
    talk.server(subscribed("trades:A", asked.request, 2, "events", at(10), True), event(11, "a"), event(12, "b"))
    assert talk.updates() == [Event("a", at(11)), Event("b", at(12))]


def test_two_wishes_before_the_answer_begin_at_the_earlier() -> None:
    talk = Talk()
    talk.session.subscribe("trades:A", 0.0, position=at(5))
    talk.session.subscribe("trades:A", 0.0, position=at(9))
    talk.session.subscribe("trades:A", 0.0)
    talk.session.subscribe("trades:B", 0.0)
    talk.session.subscribe("trades:B", 0.0, position=at(9))
    talk.session.subscribe("trades:B", 0.0, position=at(5))
    items = only_subscribe(talk.connect()).items
    assert items == (frames.SubscribeItem("trades:A", at(5)), frames.SubscribeItem("trades:B", at(5)))


# ---- began ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "held", "position", "recovered", "told"),
    [
        ("state", None, Position.start(""), False, None),
        ("events", None, at(7), False, at(7)),
        ("events", at(5), at(5), True, at(5)),
        ("events", at(5), at(7), False, None),
        ("events", Position.start(""), Position.start("E"), True, Position.start("E")),
    ],
)
def test_beginning_says_where_it_continues_if_it_does(
    kind: frames.Kind, held: Position | None, position: Position, recovered: bool, told: Position | None
) -> None:
    talk = Talk()
    talk.connect()
    talk.session.subscribe("c", 0.0, position=held)
    asked = only_subscribe(talk.sent())
    began = talk.server(subscribed("c", asked.request, 1, kind, position, recovered))[0]
    assert began == client_events.Began("c", kind, told)


# ---- freshness -----------------------------------------------------------------------------------------------------


def test_freshness_is_what_the_server_says() -> None:
    talk = Talk()
    talk.connect()
    book = talk.subscribe_state()
    assert book.status == SourceStatus()
    assert talk.server(frames.Status(1, "stale", 123, "source died")) == [
        client_events.StatusChanged("book:A", SourceStatus("stale", 123, "source died"))
    ]
    talk.server(frames.Status(1, "closed", 124), delta(11, {"a": 2}))
    assert book.status == SourceStatus("closed", 124)
    assert talk.updates()[-1] == Change("delta", {"a": 2}, {"a": 2}, at(11), SourceStatus("closed", 124))


def test_subscription_is_stale_until_its_document_is_there() -> None:
    talk = Talk()
    book = talk.session.subscribe("book:A", 0.0)
    assert book.status == SourceStatus("stale", 0, "connecting")
    asked = only_subscribe(talk.connect())
    talk.server(subscribed("book:A", asked.request))
    assert book.status.freshness == "stale"
    talk.server(frames.Keyframe(1, at(10), 0, 1, {}))
    assert book.status == SourceStatus()


def test_subscription_made_while_live_is_stale_since_then() -> None:
    talk = Talk()
    talk.connect()
    talk.now = 2.5
    assert talk.session.subscribe("x", 2.5).status == SourceStatus("stale", SERVER_TIME + 2500, "subscribing")


def test_lost_connection_makes_stale_since_the_loss_until_the_channel_is_continued() -> None:
    """Times are the server's: no clock of the client's machine is asked."""
    talk = Talk()
    talk.connect()
    book = talk.subscribe_state()
    talk.now = 7.0
    lost = SourceStatus("stale", SERVER_TIME + 7000, "disconnected")
    assert client_events.StatusChanged("book:A", lost) in talk.cut()
    talk.now = 20.0
    talk.cut()
    assert book.status == lost
    asked = only_subscribe(talk.connect())
    assert book.status == lost
    talk.server(subscribed("book:A", asked.request, 1, "state", at(10), True))
    assert book.status == SourceStatus()


def test_silence_makes_stale_since_the_server_was_last_heard() -> None:
    talk = Talk()
    talk.connect()
    book, waiting = talk.subscribe_state(), talk.session.subscribe("w", 0.0)
    talk.sent()
    talk.tick(25.0)
    assert book.status == SourceStatus("stale", SERVER_TIME, "stalled")
    talk.now = 26.0
    talk.server(frames.Ping(1))
    assert book.status == SourceStatus()
    assert waiting.status.freshness == "stale"


@pytest.mark.parametrize(("said", "shown"), [("live", "stale"), ("closed", "stale"), ("stale", "stale")])
def test_worse_of_server_and_client_is_shown(said: frames.Freshness, shown: str) -> None:
    talk = Talk()
    talk.connect()
    book = talk.subscribe_state()
    talk.server(frames.Status(1, said, 5, "source"))
    talk.cut()
    assert book.status.freshness == shown
    assert book.status.reason == ("source" if said == "stale" else "disconnected")


def test_ping_keeps_the_servers_time_right() -> None:
    talk = Talk()
    assert talk.session.server_time(3.0) == 0
    talk.connect()
    assert talk.session.server_time(3.0) == SERVER_TIME + 3000
    talk.server(frames.Ping(1, SERVER_TIME + 60_000))
    talk.server(frames.Ping(2, 0))
    assert talk.session.server_time(3.0) == SERVER_TIME + 63_000


# ---- refusals and ends ---------------------------------------------------------------------------------------------


def test_refusal_of_one_channel_leaves_the_others_of_the_batch() -> None:
    talk = Talk()
    for channel in "abc":
        talk.session.subscribe(channel, 0.0)
    asked = only_subscribe(talk.connect())
    talk.happened.clear()
    talk.server(
        subscribed("a", asked.request, 1),
        frames.Error(asked.request, "forbidden", "not yours", "channel", "b"),
        subscribed("c", asked.request, 3),
    )
    assert client_events.Refused("b", "forbidden", "not yours", "channel") in talk.happened
    assert set(talk.session.subscriptions) == {"a", "c"}
    assert [item.channel for item in only_subscribe(talk.reconnect()).items] == ["a", "c"]


def test_refusal_of_a_whole_request_refuses_all_it_asked_for() -> None:
    talk = Talk()
    talk.session.subscribe("a", 0.0)
    talk.session.subscribe("b", 0.0)
    asked = only_subscribe(talk.connect())
    talk.server(frames.Error(asked.request, "bad_request"))
    assert not talk.session.subscriptions


def test_refusal_for_the_time_being_is_tried_again_ever_later() -> None:
    talk = Talk()
    talk.connect()
    book = talk.session.subscribe("a", 0.0)
    waits = []
    for _ in range(5):
        asked = only_subscribe(talk.sent())
        talk.server(frames.Error(asked.request, "unavailable", channel="a", retryable=True))
        assert book.status.freshness == "stale"
        waits.append(talk.session.next_deadline() - talk.now)
        talk.tick(talk.session.next_deadline())
    assert waits == [1, 2, 4, 8, 15]
    asked = only_subscribe(talk.sent())
    talk.server(subscribed("a", asked.request), frames.Keyframe(1, at(1), 0, 1, {}))
    assert book.status == SourceStatus()


def test_refusal_may_say_when_to_try_again() -> None:
    talk = Talk()
    talk.connect()
    talk.session.subscribe("a", 0.0)
    asked = only_subscribe(talk.sent())
    talk.server(frames.Error(asked.request, "too_many", channel="a", retryable=True, retry_after=3.5))
    assert talk.session.next_deadline() == 3.5
    assert talk.tick(3.4) == [] and talk.sent() == []
    talk.tick(3.5)
    assert only_subscribe(talk.sent()).items == (frames.SubscribeItem("a"),)


def test_refused_wait_ends_with_the_connection() -> None:
    talk = Talk()
    talk.connect()
    talk.session.subscribe("a", 0.0)
    asked = only_subscribe(talk.sent())
    talk.server(frames.Error(asked.request, "unavailable", channel="a", retryable=True, retry_after=5))
    assert only_subscribe(talk.reconnect()).items == (frames.SubscribeItem("a"),)
    assert talk.session.next_deadline() == talk.now + 25


def test_server_ends_a_subscription_for_good() -> None:
    talk = Talk()
    talk.connect()
    talk.subscribe_state()
    assert talk.server(frames.Unsubscribed(0, "book:A", "forbidden", "revoked"), delta(11, {"a": 2})) == [
        client_events.Ended("book:A", "forbidden", "revoked")
    ]
    assert not talk.session.subscriptions
    assert talk.sent() == []


def test_subscription_ended_for_the_time_being_is_asked_for_again_from_where_it_stands() -> None:
    talk = Talk()
    talk.connect()
    talk.subscribe_events()
    talk.server(frames.Unsubscribed(0, "trades:A", "unavailable"))
    assert talk.sent() == []
    talk.tick(1.0)
    assert only_subscribe(talk.sent()).items == (frames.SubscribeItem("trades:A", at(10)),)


def test_channel_that_became_another_kind_ends() -> None:
    talk = Talk()
    talk.connect()
    talk.subscribe_state()
    asked = only_subscribe(talk.reconnect())
    (ended,) = talk.server(subscribed("book:A", asked.request, 1, "events", at(1)))
    assert isinstance(ended, client_events.Ended)


# ---- unsubscribe ---------------------------------------------------------------------------------------------------


def test_what_is_in_transit_after_unsubscribe_is_ignored_and_a_new_subscription_gets_only_newer() -> None:
    talk = Talk()
    talk.connect()
    talk.subscribe_state()
    talk.updates()
    talk.session.unsubscribe("book:A")
    again = talk.session.subscribe("book:A", 0.0)
    unsubscribe, asked = talk.sent()
    assert isinstance(unsubscribe, frames.Unsubscribe) and isinstance(asked, frames.Subscribe)
    assert asked.items == (frames.SubscribeItem("book:A"),)
    talk.server(delta(11, {"in": "transit"}))
    talk.server(frames.Unsubscribed(unsubscribe.request, "book:A"), delta(12, {"in": "transit"}))
    assert talk.updates() == []
    talk.server(subscribed("book:A", asked.request), frames.Keyframe(1, at(30), 0, 1, {"new": 1}))
    assert (again.value, again.position) == ({"new": 1}, at(30))


def test_answer_to_an_overtaken_subscribe_is_ignored() -> None:
    talk = Talk()
    talk.connect()
    talk.session.subscribe("a", 0.0)
    first = only_subscribe(talk.sent())
    talk.session.unsubscribe("a")
    talk.session.subscribe("a", 0.0)
    talk.sent()
    talk.server(subscribed("a", first.request), frames.Keyframe(1, at(1), 0, 1, {"old": 1}))
    talk.server(frames.Error(first.request, "forbidden", channel="a"))
    talk.server(frames.Unsubscribed(0, "a", "forbidden"))
    assert talk.updates() == []
    assert set(talk.session.subscriptions) == {"a"}


def test_channel_never_asked_for_needs_no_unsubscribe() -> None:
    talk = Talk()
    talk.session.subscribe("a", 0.0)
    talk.session.unsubscribe("a")
    talk.session.unsubscribe("a")
    assert talk.connect() == []
    talk.session.subscribe("a", 0.0)
    talk.session.unsubscribe("a")
    assert talk.sent() == []


def test_channel_refused_for_the_time_being_needs_no_unsubscribe() -> None:
    talk = Talk()
    talk.connect()
    talk.session.subscribe("a", 0.0)
    asked = only_subscribe(talk.sent())
    talk.server(frames.Error(asked.request, "unavailable", channel="a", retryable=True))
    talk.session.unsubscribe("a")
    assert talk.sent() == []
    assert talk.session.next_deadline() == 25.0


def test_channel_out_of_step_is_unsubscribed_properly() -> None:
    talk = Talk()
    talk.connect()
    talk.subscribe_state()
    talk.server(delta(99, {}))
    talk.session.unsubscribe("book:A")
    assert talk.sent() == [frames.Unsubscribe(2, ("book:A",))]


def test_refused_unsubscribe_changes_nothing() -> None:
    talk = Talk()
    talk.connect()
    assert talk.server(frames.Error(1, "not_subscribed", channel="a")) == []


# ---- subscriptions the server makes --------------------------------------------------------------------------------


def given_channel(talk: Talk) -> ClientSubscription:
    talk.connect()
    talk.server(subscribed("portfolio:ann", 0, 4), frames.Keyframe(4, at(1), 0, 1, {"cash": 1}))
    return talk.session.subscriptions["portfolio:ann"]


def test_subscription_of_the_server_is_kept_and_a_later_wish_attaches_to_it() -> None:
    talk = Talk()
    held = given_channel(talk)
    assert held.value == {"cash": 1}
    assert talk.session.subscribe("portfolio:ann", 0.0) is held
    assert talk.sent() == []
    talk.server(delta(2, {"cash": 2}, alias=4))
    assert held.value == {"cash": 2}
    assert only_subscribe(talk.reconnect()).items == (frames.SubscribeItem("portfolio:ann", at(2)),)


def test_wish_with_a_rate_attaches_and_sets_it() -> None:
    talk = Talk()
    given_channel(talk)
    talk.session.subscribe("portfolio:ann", 0.0, rate=1.0)
    assert talk.sent() == [frames.Rate(1, "portfolio:ann", 1.0)]


def test_subscription_of_the_server_outlives_the_wish_and_ends_with_the_connection() -> None:
    talk = Talk()
    given_channel(talk)
    talk.session.subscribe("portfolio:ann", 0.0)
    talk.session.unsubscribe("portfolio:ann")
    assert talk.sent() == []
    assert "portfolio:ann" in talk.session.subscriptions
    assert talk.reconnect() == []
    assert not talk.session.subscriptions


def test_own_subscribe_on_its_way_wins_over_the_servers() -> None:
    talk = Talk()
    given_channel(talk)
    held = talk.session.subscribe("portfolio:ann", 0.0)
    asked = only_subscribe(talk.reconnect())
    talk.updates()
    talk.server(subscribed("portfolio:ann", 0, 4), frames.Keyframe(4, at(9), 0, 1, {"cash": 9}))
    assert talk.updates() == []
    talk.server(subscribed("portfolio:ann", asked.request, 4, "state", at(1), True), delta(9, {"cash": 9}, span=8, alias=4))
    assert held.value == {"cash": 9}


# ---- rates ---------------------------------------------------------------------------------------------------------


def test_rate_travels_with_the_subscribe_or_on_its_own() -> None:
    talk = Talk()
    talk.session.subscribe("book:A", 0.0, rate=5.0)
    talk.session.set_rate("book:A", 2.0)
    asked = only_subscribe(talk.connect())
    assert asked.items == (frames.SubscribeItem("book:A", None, 2.0),)
    talk.session.set_rate("book:A", 2.0)
    talk.session.set_rate("book:A", 0.0)
    talk.session.set_rate("book:A", None)
    talk.session.set_rate("unknown", None)
    assert talk.sent() == [frames.Rate(2, "book:A", 0.0), frames.Rate(3, "book:A", None)]


def test_rate_is_restored_on_resume() -> None:
    talk = Talk()
    talk.connect()
    talk.subscribe_state()
    talk.session.set_rate("book:A", 1.0)
    assert only_subscribe(talk.reconnect()).items == (frames.SubscribeItem("book:A", at(10), 1.0),)


def test_refused_rate_is_told_and_the_subscription_goes_on() -> None:
    talk = Talk()
    talk.connect()
    book = talk.subscribe_state()
    talk.session.set_rate("book:A", 3.0)
    (rate,) = talk.sent()
    assert isinstance(rate, frames.Rate)
    refusal = frames.Error(rate.request, "bad_request", "no", channel="book:A")
    assert talk.server(refusal) == [client_events.RequestRefused("book:A", "bad_request", "no")]
    talk.server(delta(11, {"a": 2}))
    assert book.value == {"a": 2}


def test_rate_refused_for_the_time_being_is_asked_for_again() -> None:
    talk = Talk()
    talk.connect()
    talk.subscribe_state()
    talk.session.set_rate("book:A", 3.0)
    (rate,) = talk.sent()
    assert isinstance(rate, frames.Rate)
    talk.server(frames.Error(rate.request, "too_many", channel="book:A", retryable=True, retry_after=2.0))
    talk.tick(2.0)
    assert only_subscribe(talk.sent()).items == (frames.SubscribeItem("book:A", at(10), 3.0),)


# ---- the law -------------------------------------------------------------------------------------------------------

keys = st.sampled_from(["a", "b", "c", "$d", "long key"])
documents = st.recursive(
    st.dictionaries(keys, st.integers(0, 3), max_size=4), lambda inner: st.dictionaries(keys, inner, max_size=3), max_leaves=12
)
steps = st.lists(st.one_of(documents, st.sampled_from(["flush", "cut", "garble"])), max_size=25)


@given(profile=st.sampled_from([MSGPACK, JSON]), window=st.integers(2, 5), steps=steps)
def test_document_is_always_the_publishers_at_some_position(profile: Profile, window: int, steps: list[Document | str]) -> None:
    """However changes are merged, links are cut and frames are garbled, what is held was published, and the end is the head."""
    log, keys, published = StateLog(window, at(0, link=0), {}), KeyTable(), {0: cast(Document, {})}
    talk = Talk(profile)
    held = talk.session.subscribe("c", 0.0)
    cursor: int | None = None  # None: a keyframe is owed

    def serve() -> None:
        nonlocal cursor
        for frame in talk.sent():
            if isinstance(frame, frames.Subscribe):
                position = frame.items[0].position
                if position is not None and log.verify(position):
                    cursor, known = position.offset, tuple(keys.defined_by(position.offset))
                    talk.server(subscribed("c", frame.request, 1, "state", position, True, known))
                else:
                    cursor = None
                    talk.server(subscribed("c", frame.request))

    def flush() -> None:
        nonlocal cursor
        if cursor is None or not log.covers(cursor):
            for part in profile.encode_keyframe(1, log.head, log.document, keys, 40):
                talk.bytes(part)
        elif cursor != log.head.offset:
            talk.bytes(profile.encode_delta(1, log.head, cursor, log.since(cursor), keys))
        cursor = log.head.offset

    def connect() -> None:
        talk.session.connecting(talk.now)
        talk.session.connected(profile, None)
        talk.server(talk.welcome())
        serve()

    connect()
    for step in [*steps, "settle"]:
        if isinstance(step, dict):
            offset = log.head.offset + 2
            patch = diff(log.document, step)
            log.put(offset, offset * 7, patch)
            keys.learn_patch(patch, offset)
            published[offset] = log.document
        elif step == "flush":
            flush()
        elif step == "cut":
            talk.cut()
            talk.now = talk.session.reconnect_at or 0.0
            connect()
        elif step == "garble" and held.position is not None:
            talk.server(delta(held.position.offset + 3, {"a": 9}, span=2))
            talk.tick(talk.now + 20)
            serve()
        if held.position is not None:
            assert held.document == published[held.position.offset]
    flush()
    assert held.document == log.document
    assert held.position == log.head
    assert held.status == SourceStatus()
