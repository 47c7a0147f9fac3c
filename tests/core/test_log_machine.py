"""
Histories of a log with everything that can happen to it, against a plain model.

A broker holds the log; a node holds its copy and serves cursors; clients read frames off a link, as bytes of their profile, and
come back with positions. The model is a dict: position to what stood there. Between two frames that begin anew (subscribed,
keyframe, gap), frames may be swapped, repeated or lost; across them a link keeps order, which the protocol relies on.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable
from decimal import Decimal
from itertools import count
from typing import Literal, cast
from unittest import mock

from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from rtsync.core import (
    JSON,
    LIVE,
    MSGPACK,
    Document,
    EventEntry,
    EventLog,
    KeyTable,
    Limits,
    Message,
    Patch,
    PatchEntry,
    Position,
    Profile,
    StateLog,
    StoredEvent,
    Value,
    _keys,
    apply,
    decode_entry,
    decode_keyframe,
    diff,
    document_from_wire,
    encode_event_entry,
    encode_keyframe,
    encode_patch_entry,
    frames,
    narrow,
    patch_from_wire,
)
from tests.strategies import documents, fingerprint, patches, values

LIMITS = Limits(1 << 20, 128, 1 << 20)
CHANNEL, ALIAS = "book:x", 7
NOTHING = Position.start("")

some = st.sampled_from([[0, 1, 2], [0], [1], [2]])
"""Of three clients, of which two read msgpack and one JSON."""

Fate = Literal["arrive", "swap", "repeat", "lose"]
some_fates: st.SearchStrategy[list[Fate]] = st.lists(st.sampled_from(["arrive", "swap", "repeat", "lose"]), max_size=5)
"""What becomes of the messages that are on their way."""

Rounds = list[tuple[list[int], list[Fate]]]
some_rounds: st.SearchStrategy[Rounds] = st.lists(st.tuples(some, some_fates), max_size=2)
"""After an entry, who is served and what of that arrives."""

steps = st.integers(1, 3)

# So few that patches meet what stands, and come back to what stood.
few_keys = st.sampled_from(["a", "b", "$d"])
few_leaves: st.SearchStrategy[Value] = st.sampled_from([None, 1, 1.0, True, Decimal("1"), Decimal("1.0"), []])
some_documents = documents(few_keys, few_leaves)
some_patches = patches(few_keys, few_leaves)


class Link:
    """What is on its way to a client, oldest first: messages, and whether they begin anew."""

    def __init__(self) -> None:
        self.messages: list[tuple[bool, Message]] = []
        self.lossy = False

    def disturb(self, fate: Fate) -> None:
        """Let something happen to the oldest message, if it begins nothing."""
        messages = self.messages
        if messages[0][0]:
            return
        if fate == "repeat":
            messages.insert(0, messages[0])
        elif fate == "lose" and len(messages) > 1:
            self.lossy = True
            del messages[0]
        elif fate == "swap" and len(messages) > 1 and not messages[1][0]:
            messages[:2] = reversed(messages[:2])


class Client:
    """What state and event clients share: a link, a position, and coming back when something does not fit."""

    def __init__(self, profile: Profile) -> None:
        self.profile = profile
        self.link = Link()
        self.connected = False
        self.outbox: list[Message] = []
        self.requests = 0
        self.position: Position | None = None
        self.waits = False  # for the subscribed that begins a new instance

    def connect(self) -> None:
        """Begin a connection: whatever was on its way on the one before is gone."""
        self.link = Link()
        self.outbox.clear()
        self.connected = True
        self.resynchronise()

    def resynchronise(self) -> None:
        self.requests += 1
        self.waits = True
        item = frames.SubscribeItem(CHANNEL, self.position)
        self.outbox.append(self.profile.message(self.profile.encode(frames.Subscribe(self.requests, (item,)))))

    def deliver(self) -> None:
        """Take the oldest message off the link."""
        _, message = self.link.messages.pop(0)
        for frame in self.profile.read_server(message, LIMITS):
            if isinstance(frame, frames.Subscribed):
                assert frame.channel == CHANNEL
                if frame.request == self.requests:
                    self.waits = False
                    self.begin(frame)
            elif not self.waits:
                self.take(frame)

    def begin(self, frame: frames.Subscribed) -> None:
        raise NotImplementedError

    def take(self, frame: frames.ServerFrame) -> None:
        raise NotImplementedError


class Machine(RuleBasedStateMachine):
    """The rules that state and event logs share: connections, links, the broker's misfortunes."""

    clients: list[Client]

    def __init__(self) -> None:
        super().__init__()
        self.epochs = 0
        self.subscriptions: dict[Client, Position | None] = {}  # {client: where its cursor stands; None: anew}
        self.history: list[tuple[Position, bytes]] = []  # what the broker holds, in order: entries after the keyframe

    def new_epoch(self) -> str:
        self.epochs += 1
        return f"epoch{self.epochs}"

    def place(self, epoch: str, offset: int, taken: Collection[Position]) -> Position:
        """Return a place for an entry: links are only as different as they have to be, so that epoch and offset matter too."""
        return next(place for link in count(1) if (place := Position(epoch, offset, link)) not in taken)

    def send(self, client: Client, data: bytes, *, anew: bool) -> None:
        client.link.messages.append((anew, client.profile.message(data)))

    # ---- what the machines of both kinds fill in ----

    def head(self) -> Position:
        raise NotImplementedError

    def rebuild(self) -> None:
        """Read the whole log from the broker into a new copy."""
        raise NotImplementedError

    def subscribe(self, client: Client, request: int, position: Position | None) -> None:
        """Answer a subscribe, and place the cursor."""
        raise NotImplementedError

    def serve(self, client: Client) -> None:
        """Bring the cursor to the head."""
        raise NotImplementedError

    def check(self, client: Client) -> None:
        """Prove what the client holds against the model."""
        raise NotImplementedError

    # ---- connections and links ----

    def begin_with_clients(self, clients: Collection[Client]) -> None:
        """Let *clients* begin where everything is well."""
        self.clients = list(clients)
        self.settle()

    def connect(self, who: list[int]) -> None:
        for index in who:
            self.subscriptions.pop(self.clients[index], None)
            self.clients[index].connect()

    def cut(self, who: list[int]) -> None:
        for index in who:
            self.subscriptions.pop(self.clients[index], None)
            self.clients[index].connected = False

    @rule(who=some, reconnect=st.booleans())
    def lose_links(self, who: list[int], reconnect: bool) -> None:
        """What was on its way is gone."""
        self.cut(who)
        if reconnect:
            self.connect(who)

    @rule(who=some)
    def flush(self, who: list[int]) -> None:
        """The node reads what clients sent, then sends what their cursors lack."""
        for client in [self.clients[index] for index in who if self.clients[index].connected]:
            for message in client.outbox:
                for frame in client.profile.read_client(message, LIMITS):
                    assert isinstance(frame, frames.Subscribe)
                    self.subscribe(client, frame.request, frame.items[0].position)
            client.outbox.clear()
            if client in self.subscriptions:
                self.serve(client)

    @rule(who=some, fates=some_fates)
    def deliver(self, who: list[int], fates: list[Fate]) -> None:
        for client in [self.clients[index] for index in who if self.clients[index].connected]:
            for fate in fates:
                if not client.link.messages:
                    break
                client.link.disturb(fate)
                client.deliver()
                self.check(client)

    def service(self, rounds: Rounds) -> None:
        """Flush and deliver, for some clients each."""
        for who, fates in rounds:
            self.flush(who)
            self.deliver(who, fates)

    # ---- the broker's misfortunes ----

    @rule(reconnect=st.booleans())
    def crash(self, reconnect: bool) -> None:
        """The node dies with its connections; another reads the log, and clients come to that."""
        self.cut([0, 1, 2])
        self.rebuild()
        if reconnect:
            self.connect([0, 1, 2])

    @precondition(lambda self: self.history)
    @rule(data=st.data())
    def roll_back(self, data: st.DataObject) -> None:
        """The broker loses its newest entries and goes on in the same epoch; the node notices and reads anew."""
        del self.history[data.draw(st.integers(0, len(self.history) - 1)) :]
        self.rebuild()
        for client in self.subscriptions:
            self.subscriptions[client] = None

    # ---- when faults stop ----

    @rule()
    def settle(self) -> None:
        """Two rounds of reading bring every client to the head, and it stays there. (A link that lost something ends.)"""
        for index, client in enumerate(self.clients):
            if not client.connected or client.link.lossy:
                self.connect([index])
            for _ in range(2):
                self.flush([index])
                while client.link.messages:
                    self.deliver([index], ["arrive"])
            assert client.position == self.head()
            self.flush([index])
            assert not client.link.messages
            assert not client.outbox

    def teardown(self) -> None:
        if hasattr(self, "clients"):
            self.settle()


# ---- state ---------------------------------------------------------------------------------------------------------


class StateClient(Client):
    """A client of a state channel: it applies a delta to the document that stands at the delta's base, and to no other."""

    def __init__(self, profile: Profile) -> None:
        super().__init__(profile)
        self.document: Document = {}
        self.keys: list[str] = []
        self.established = False
        self.parts: list[frames.Keyframe] = []

    def begin(self, frame: frames.Subscribed) -> None:
        self.parts.clear()
        self.established = frame.recovered
        if frame.recovered:
            assert frame.position == self.position
            self.keys = list(frame.keys)

    def take(self, frame: frames.ServerFrame) -> None:
        assert isinstance(frame, frames.Delta | frames.Keyframe)
        assert frame.alias == ALIAS
        if isinstance(frame, frames.Keyframe):
            self.take_part(frame)
        elif self.established and self.position is not None and frame.offset - frame.span == self.position.offset:
            assert frame.offset > self.position.offset
            self.keys += frame.keys
            self.document = apply(patch_from_wire(frame.patch, self.keys), self.document)
            self.position = self.position.at(frame.offset, frame.link)
        else:  # not for what stands here
            self.established = False
            self.resynchronise()

    def take_part(self, frame: frames.Keyframe) -> None:
        assert frame.part == len(self.parts)
        self.parts.append(frame)
        if frame.part + 1 < frame.parts:
            return
        body, keys = frame.body, list(frame.keys)
        if frame.parts > 1:
            whole = self.profile.read_keyframe([part.body for part in self.parts])
            body, keys = cast("tuple[object, list[str]]", whole)
        assert {part.position for part in self.parts} == {frame.position}
        self.parts.clear()
        self.document, self.keys = cast(Document, document_from_wire(body, keys)), keys
        self.position, self.established = frame.position, True


class StateMachine(Machine):
    """A state channel: every document that a client ever holds is the one that stood at its position."""

    @initialize(
        window=st.integers(1, 5),
        document=some_documents,
        max_keys=st.sampled_from([0, 2, 5, 512]),
        piece=st.sampled_from([20, 4096]),
    )
    def start(self, window: int, document: Document, max_keys: int, piece: int) -> None:
        self.cap = mock.patch.object(_keys, "MAX_KEYS", max_keys)
        self.cap.start()
        self.window, self.piece = window, piece
        self.stood: dict[Position, Hashable] = {}  # {position: fingerprint of the document there}, of all histories
        self.begin(Position.start(self.new_epoch()), document)
        self.begin_with_clients([StateClient(MSGPACK), StateClient(JSON), StateClient(MSGPACK)])

    def teardown(self) -> None:
        try:
            super().teardown()
        finally:
            if hasattr(self, "cap"):
                self.cap.stop()

    def head(self) -> Position:
        return self.log.head

    def record(self, position: Position, document: Document) -> None:
        """Note what stands at a position. No position ever names two documents."""
        assert self.stood.setdefault(position, fingerprint(document)) == fingerprint(document)

    def begin(self, position: Position, document: Document) -> None:
        """Give the broker a keyframe and nothing after it, and read that."""
        self.keyframe = (position, encode_keyframe(document, LIVE))
        self.history = []
        self.record(position, document)
        self.rebuild()

    def rebuild(self) -> None:
        position, payload = self.keyframe
        document, _ = decode_keyframe(payload)
        self.log, self.keys = StateLog(self.window, position, document), KeyTable()
        self.keys.learn_document(document, position.offset)
        self.documents = {position: document}  # {position: document} of what this copy has read, in order
        for position, payload in self.history:
            self.read(position, payload)

    def read(self, position: Position, payload: bytes) -> None:
        """Take an entry of the log into the node's copy."""
        entry = decode_entry(payload)
        assert isinstance(entry, PatchEntry)
        assert entry.base == self.log.head.link
        self.log.put(position.offset, position.link, entry.patch)
        self.keys.learn_patch(entry.patch, position.offset)
        self.documents[position] = self.log.document
        assert fingerprint(self.log.document) == self.stood[position]  # from whichever keyframe this copy began

    def append(self, patch: Patch, step: int) -> None:
        """Write an entry to the log of the broker and read it back."""
        head = self.log.head
        position = self.place(head.epoch, head.offset + step, self.stood)
        payload = encode_patch_entry("n1", head.link, patch)
        self.history.append((position, payload))
        self.record(position, apply(patch, self.log.document))
        self.read(position, payload)

    # ---- publishers ----

    @rule(batch=st.lists(st.tuples(some_patches, st.booleans(), steps, some_rounds), min_size=1, max_size=8))
    def publish_patches(self, batch: list[tuple[Patch, bool, int, Rounds]]) -> None:
        """As users wrote them, or only what of them changes something; some clients are served in between."""
        for patch, narrowed, step, rounds in batch:
            expected = fingerprint(apply(patch, self.log.document))
            if narrowed:
                patch = narrow(patch, self.log.document)
            if patch or not narrowed:
                self.append(patch, step)
            assert fingerprint(self.log.document) == expected
            self.service(rounds)

    @rule(document=some_documents, data=st.data())
    def publish_document_after_a_conflict(self, document: Document, data: st.DataObject) -> None:
        """A publisher that saw an older head is refused, looks again, and the document stands."""
        seen = data.draw(st.sampled_from(list(self.documents)))
        patch = diff(self.documents[seen], document)
        if seen != self.log.head:
            patch = diff(self.log.document, document)
        if patch:
            self.append(patch, 1)
        assert fingerprint(self.log.document) == fingerprint(document)

    # ---- keyframes and new beginnings ----

    @rule()
    def save_keyframe(self) -> None:
        """The broker trims what is older; the node's copy goes on."""
        self.keyframe = (self.log.head, encode_keyframe(self.log.document, LIVE))
        self.history = []

    @rule()
    def reset_at_the_head(self) -> None:
        """The node begins its copy again at the head, in the same history and with the same key table."""
        self.log.reset(self.log.head, self.log.document)
        self.documents = {self.log.head: self.log.document}

    @rule(offset=st.integers(0, 8), document=some_documents)
    def change_epoch(self, offset: int, document: Document) -> None:
        """Continuity could not be proven: another epoch, whose offsets may be lower."""
        self.begin(Position(self.new_epoch(), offset, int(offset > 0)), document)
        for client in self.subscriptions:
            self.subscriptions[client] = None

    # ---- cursors ----

    def subscribe(self, client: Client, request: int, position: Position | None) -> None:
        recovered = position is not None and self.log.verify(position)
        assert recovered is (position in list(self.documents)[-self.window :])
        self.subscriptions[client] = position if recovered else None
        answer: Position = self.log.head
        known: tuple[str, ...] = ()
        if position is not None and recovered:
            answer, known = position, tuple(self.keys.defined_by(position.offset) if client.profile is MSGPACK else ())
        subscribed = frames.Subscribed(request, CHANNEL, ALIAS, "state", answer, recovered, None, "live", 0, keys=known)
        self.send(client, client.profile.encode(subscribed), anew=True)

    def serve(self, client: Client) -> None:
        cursor, head = self.subscriptions[client], self.log.head
        if cursor == head:
            return
        if cursor is not None and self.log.covers(cursor.offset):
            patch = self.log.since(cursor.offset)
            self.send(client, client.profile.encode_delta(ALIAS, head, cursor.offset, patch, self.keys), anew=False)
        else:
            for part in client.profile.encode_keyframe(ALIAS, head, self.log.document, self.keys, self.piece):
                self.send(client, part, anew=True)
        self.subscriptions[client] = head

    def check(self, client: Client) -> None:
        """The document is the one that stood at the position, in every detail."""
        assert isinstance(client, StateClient)
        if client.position is not None:
            assert self.stood[client.position] == fingerprint(client.document)

    @invariant()
    def only_positions_of_the_window_verify(self) -> None:
        """Of all positions of all histories, the log knows the last ones of its own, and leads each of them to the head."""
        if not hasattr(self, "clients"):
            return
        window = list(self.documents)[-self.window :]
        for position in self.stood:
            assert self.log.verify(position) is (position in window)
        assert not self.log.covers(window[0].offset - 1)
        assert not self.log.covers(self.log.head.offset + 1)
        for position in window:
            assert self.log.covers(position.offset)
            led = apply(self.log.since(position.offset), self.documents[position])
            assert fingerprint(led) == self.stood[self.log.head]


# ---- events --------------------------------------------------------------------------------------------------------


class EventClient(Client):
    """A client of an event channel: it notes what it is told, which must be a chain."""

    def __init__(self, profile: Profile) -> None:
        super().__init__(profile)
        self.position = NOTHING
        self.events: list[tuple[Position, Position, Hashable]] = []  # (where the client stood, the event's place, its value)
        self.gap_open = False  # recovered was false, so that a gap must come before any event

    def begin(self, frame: frames.Subscribed) -> None:
        if frame.recovered:
            assert frame.position == self.position
        self.gap_open = not frame.recovered

    def take(self, frame: frames.ServerFrame) -> None:
        assert isinstance(frame, frames.Event | frames.Gap)
        assert self.position is not None
        if isinstance(frame, frames.Gap):
            assert frame.position != frame.start
            if frame.start != self.position:  # something before it was lost
                self.resynchronise()
            else:
                self.position, self.gap_open = frame.position, False
            return
        assert not self.gap_open
        if frame.offset <= self.position.offset:
            return  # known
        if frame.offset - frame.span != self.position.offset:
            self.resynchronise()
            return
        before, self.position = self.position, self.position.at(frame.offset, frame.link)
        self.events.append((before, self.position, fingerprint(frame.value)))


class EventMachine(Machine):
    """An event channel: in order, nothing twice, and whatever is missing lies in a gap that was named."""

    @initialize(window=st.integers(1, 5))
    def start(self, window: int) -> None:
        self.window = window
        self.happened: dict[Position, tuple[Position, Hashable]] = {}  # {position: (the one before, value)}, of all histories
        self.beginning = NOTHING
        self.rebuild()
        self.begin_with_clients([EventClient(MSGPACK), EventClient(JSON), EventClient(MSGPACK)])

    def head(self) -> Position:
        return self.log.head

    def rebuild(self) -> None:
        self.log = EventLog(self.window, self.beginning)
        self.positions = [self.beginning]  # of what this copy has read, in order
        for position, payload in self.history:
            self.read(position, payload)

    def read(self, position: Position, payload: bytes) -> None:
        """Take an entry of the log into the node's copy."""
        entry = decode_entry(payload)
        assert isinstance(entry, EventEntry)
        self.log.put(StoredEvent(position.offset, self.log.head.offset, position.link, entry.value))
        self.positions.append(position)

    @rule(batch=st.lists(st.tuples(values(few_keys, few_leaves), steps, some_rounds), min_size=1, max_size=8))
    def publish(self, batch: list[tuple[Value, int, Rounds]]) -> None:
        """Events count each, the same twice too; some clients are served in between."""
        if not self.log.head.epoch:
            self.change_epoch(0)
        for value, step, rounds in batch:
            head = self.log.head
            position = self.place(head.epoch, head.offset + step, self.happened)
            payload = encode_event_entry("n1", value)
            self.happened[position] = (head, fingerprint(value))
            self.history.append((position, payload))
            self.read(position, payload)
            self.service(rounds)

    @rule(keep=st.integers(0, 3))
    def trim(self, keep: int) -> None:
        """The broker forgets the oldest events; the node's copy still has its own window."""
        if keep < len(self.history):
            self.beginning = self.history[len(self.history) - keep - 1][0]
            self.history = self.history[len(self.history) - keep :]

    @rule(offset=st.integers(0, 8))
    def change_epoch(self, offset: int) -> None:
        """The log was lost: another epoch, whose offsets may be lower."""
        self.beginning = Position(self.new_epoch(), offset, int(offset > 0))
        self.history = []
        self.rebuild()
        for client, cursor in self.subscriptions.items():
            if cursor != NOTHING:
                self.leave_a_gap(client, cursor, self.log.head)

    @precondition(lambda self: self.history)
    @rule(data=st.data())
    def roll_back(self, data: st.DataObject) -> None:
        """As for every log; live cursors that are no longer of this history go on at the head, after a gap."""
        del self.history[data.draw(st.integers(0, len(self.history) - 1)) :]
        self.rebuild()
        for client, cursor in self.subscriptions.items():
            if cursor is not None and not self.log.verify(cursor):
                self.leave_a_gap(client, cursor, self.log.head)

    @rule()
    def reset_at_the_head(self) -> None:
        """The node begins its copy again at the head with an empty window."""
        self.log.reset(self.log.head)
        self.positions = [self.log.head]

    # ---- cursors ----

    def leave_a_gap(self, client: Client, start: Position | None, position: Position) -> None:
        """Tell the client what it will not get, and place the cursor behind that."""
        assert start is not None
        if start != position:
            self.send(client, client.profile.encode(frames.Gap(ALIAS, start, position, "")), anew=True)
        self.subscriptions[client] = position

    def subscribe(self, client: Client, request: int, position: Position | None) -> None:
        assert position is not None
        everything = position == NOTHING
        recovered = self.log.verify(position)
        assert recovered is (position in self.positions[-self.window - 1 :])
        answer = position if recovered else self.log.head
        subscribed = frames.Subscribed(request, CHANNEL, ALIAS, "events", answer, recovered, None, "live", 0)
        self.send(client, client.profile.encode(subscribed), anew=True)
        if recovered:
            self.subscriptions[client] = position
        else:
            self.leave_a_gap(client, position, self.log.tail if everything else self.log.head)

    def serve(self, client: Client) -> None:
        cursor = self.subscriptions[client]
        assert cursor is not None
        if not self.log.covers(cursor.offset) or cursor.epoch != self.log.head.epoch:
            self.leave_a_gap(client, cursor, self.log.tail)
            cursor = self.log.tail
        for event in self.log.after(cursor.offset):
            self.send(client, client.profile.encode_event(ALIAS, event), anew=False)
        self.subscriptions[client] = self.log.head

    def check(self, client: Client) -> None:
        """The last event is the one that was published after the place where the client stood, and was not delivered before."""
        assert isinstance(client, EventClient)
        if client.events:
            before, position, value = client.events[-1]
            assert self.happened[position] == (before, value)
            assert [place for _, place, _ in client.events].count(position) == 1

    @invariant()
    def only_positions_of_the_window_verify(self) -> None:
        """Of all positions of all histories, the log knows the last ones of its own, and has every event after each of them."""
        if not hasattr(self, "clients"):
            return
        window = self.positions[-self.window - 1 :]
        for position in self.happened:
            assert self.log.verify(position) is (position in window)
        assert not self.log.covers(window[0].offset - 1)
        assert not self.log.covers(self.log.head.offset + 1)
        for place, position in enumerate(window):
            assert self.log.covers(position.offset)
            after = [self.log.head.at(event.offset, event.link) for event in self.log.after(position.offset)]
            assert after == window[place + 1 :]


# Explaining a failure tries variants of it for minutes; the shortest history that fails says enough.
RUN = settings(
    max_examples=150,
    stateful_step_count=25,
    deadline=None,
    report_multiple_bugs=False,
    phases=[phase for phase in Phase if phase is not Phase.explain],
)

TestStateLog = StateMachine.TestCase
TestStateLog.settings = RUN
TestEventLog = EventMachine.TestCase
TestEventLog.settings = RUN
