"""Hubs over one memory store, each behind a backend that can misbehave, and clients that apply what they are sent."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from itertools import count
from random import Random
from typing import Any

import anyio

from rtsync import Settings, public
from rtsync._app import hub_options
from rtsync.backends import MemoryBackend, MemoryStore, Retention
from rtsync.core import (
    MSGPACK,
    Channel,
    Document,
    Event,
    FamilyPattern,
    Gap,
    Limits,
    Position,
    Profile,
    ServerSession,
    SourceStatus,
    Value,
    frames,
)
from rtsync.core._client_subscription import ClientSubscription
from rtsync.hub import Families, Family, Hub, HubOptions, LiveChannel, Principal, Session, SourceSpec, validator_for
from rtsync.testing import FaultPlan, FaultyBackend, StoreFaults, settle

__all__ = ["BEGINNING", "DOC", "LOG", "Client", "Cluster", "Node", "Tap", "View", "cluster", "events", "options", "state"]

DOC = Channel("doc:a")
LOG = Channel("log:a")

BEGINNING = Position("", 0, 0)
"""What a client subscribes with that wants every event still kept."""

_LIMITS = Limits(1 << 24, 200, 1 << 22)
_WALL = 1_790_000_000


def state(pattern: str = "doc:{name}", *, window: int = 100, model: type | None = None, **source: Any) -> Family:
    """Return a family of state channels; *source* are the fields of its `SourceSpec`."""
    return _family(pattern, "state", Retention(True, window), model, source)


def events(pattern: str = "log:{name}", *, window: int = 100, model: type | None = None, **source: Any) -> Family:
    """Return a family of event channels; *source* as in `state`."""
    return _family(pattern, "events", Retention(False, window), model, source)


def _family(pattern: str, kind: Any, retention: Retention, model: type | None, source: Mapping[str, Any]) -> Family:
    spec = SourceSpec(**source) if source else None
    return Family(FamilyPattern(pattern), kind, retention, public, validator_for(model), model, spec)


def options(name: str, **changes: Any) -> HubOptions:
    """Return the options of a node called *name*: *changes* are of settings, or of options where no setting has that name."""
    settings = {key: changes.pop(key) for key in list(changes) if key in Settings.__dataclass_fields__}
    random = Random(name)
    changes = {
        "node": name,
        "jitter": random.random,
        "random_bits": random.getrandbits,
        "wall_clock": lambda: _WALL + anyio.current_time(),
        **changes,
    }
    return replace(hub_options(Settings(**settings)), **changes)


# ---- clients


class View:
    """What a client holds of one channel, and everything it was told, in order."""

    def __init__(self, name: str) -> None:
        self.subscription = ClientSubscription(name, position=None, rate=None, doubt=None)
        self.frames: list[frames.ServerFrame] = []
        self.updates: list[tuple[float, Event | Gap]] = []  # with when they came
        self.statuses: list[tuple[float, SourceStatus]] = []
        self.documents: list[tuple[float, Document]] = []

    @property
    def document(self) -> Document | None:
        return self.subscription.document

    @property
    def position(self) -> Position | None:
        return self.subscription.position

    @property
    def freshness(self) -> str:
        return self.subscription.status.freshness

    @property
    def reason(self) -> str:
        return self.subscription.status.reason

    @property
    def events(self) -> list[Value]:
        return [update.value for _, update in self.updates if isinstance(update, Event)]

    @property
    def gaps(self) -> list[Gap]:
        return [update for _, update in self.updates if isinstance(update, Gap)]

    @property
    def keyframes(self) -> int:
        return sum(isinstance(frame, frames.Keyframe) for frame in self.frames)

    def became(self, freshness: str) -> list[float]:
        """Return the times at which the channel was first shown as *freshness*, after being shown otherwise."""
        shown = ["", *(status.freshness for _, status in self.statuses)]
        return [
            at for (at, status), before in zip(self.statuses, shown, strict=False) if before != freshness == status.freshness
        ]


class Client(Session):
    """
    A session that applies what it is sent as the real client does; what it could not apply fails the test.

    While `blocked`, a send does not return.
    """

    def __init__(self, hub: Hub, number: int, profile: Profile) -> None:
        super().__init__(
            id=f"client{number}",
            secret="secret",
            principal=Principal(),
            rules=ServerSession(hub.options.session, hub.now()),
            profile=profile,
            on_end=lambda: hub.detach(self),
            pump=hub.pump,
            flush_bytes=hub.options.flush_bytes,
            wall_ms=lambda: 0,
        )
        self._hub = hub
        self._requests = count(1)
        self._views: dict[str, View] = {}
        self._by_alias: dict[int, View] = {}
        self._arrived = 0
        self._open = anyio.Event()
        self._open.set()
        self.errors: list[frames.Error] = []
        self.problems: list[str] = []
        self._hear(frames.Hello(None, "test"))

    def __getitem__(self, name: str) -> View:
        return self._views[name]

    def subscribe(self, name: str, position: Position | None = None, rate: float | None = None) -> View:
        view = self._views.setdefault(name, View(name))
        if position is not None:
            view.subscription.position = position
        self._hub.subscribe(self, next(self._requests), name, position, rate)
        return view

    def resume(self, other: View, name: str) -> View:
        """Subscribe with what another client holds."""
        self._views[name] = other
        self._hub.subscribe(self, next(self._requests), name, other.subscription.resume_position)
        return other

    def unsubscribe(self, name: str) -> None:
        self._hub.unsubscribe(self, next(self._requests), name)

    def set_rate(self, name: str, rate: float | None) -> None:
        self._hub.set_rate(self, next(self._requests), name, rate)

    def block(self) -> None:
        self._open = anyio.Event()

    def unblock(self) -> None:
        self._open.set()

    async def send(self, message: bytes) -> None:
        await self._open.wait()
        self._arrived += 1
        for frame in self.profile.read_server(self.profile.message(message), _LIMITS):
            try:
                self._take(frame)
            except Exception as problem:
                self.problems.append(f"{frame}: {problem!r}")

    def _take(self, frame: frames.ServerFrame) -> None:
        if isinstance(frame, frames.Ping):
            self._hear(frames.Pong(frame.id, self._arrived))
        elif isinstance(frame, frames.Error):
            self.errors.append(frame)
        elif isinstance(frame, frames.Subscribed):
            view = self._by_alias[frame.alias] = self._views[frame.channel]
            view.frames.append(frame)
            view.subscription.begin(frame)
            self._note_status(view)
        elif not isinstance(frame, frames.Unsubscribed | frames.Welcome | frames.Drain):
            view = self._by_alias[frame.alias]
            view.frames.append(frame)
            self._apply(view, frame)

    def _apply(self, view: View, frame: frames.ServerFrame) -> None:
        subscription, now = view.subscription, anyio.current_time()
        if isinstance(frame, frames.Status):
            subscription.take_status(frame)
            self._note_status(view)
        elif isinstance(frame, frames.Keyframe):
            if (change := subscription.take_keyframe(frame, self.profile)) is not None:
                view.documents.append((now, change.value))
        elif isinstance(frame, frames.Delta):
            view.documents.append((now, subscription.take_delta(frame).value))
        elif isinstance(frame, frames.Event):
            event = subscription.take_event(frame)
            assert event is not None, "an event came twice"
            view.updates.append((now, event))
        elif isinstance(frame, frames.Gap):
            assert frame.start == subscription.position or frame.start.link == 0, f"held is {subscription.position}"
            gap = subscription.take_gap(frame)
            if gap is not None:
                view.updates.append((now, gap))

    @staticmethod
    def _note_status(view: View) -> None:
        view.statuses.append((anyio.current_time(), view.subscription.source))

    def _hear(self, frame: frames.ClientFrame) -> None:
        self.rules.receive(self.profile.message(self.profile.encode(frame)), self.profile, self._hub.now())
        self.acknowledged()


# ---- nodes


class Tap:
    """
    What a node's backend is asked by one of its methods; the test can hold the question up, or the answer, or break it.

    Attributes:
        calls: The channel (or whatever comes first) of each call.
        error: Raised by every call instead of an answer.
    """

    def __init__(self, node: Node, method: str) -> None:
        inner: Any = node.backend.inner
        self.calls: list[object] = []
        self.error: Exception | None = None
        self._question, self._answer = anyio.Event(), anyio.Event()
        self.let_go()
        self._call = getattr(inner, method)
        setattr(inner, method, self)

    def hold_questions(self) -> None:
        self._question = anyio.Event()

    def hold_answers(self) -> None:
        self._answer = anyio.Event()

    def let_go(self) -> None:
        self._question.set()
        self._answer.set()

    async def __call__(self, *args: Any, **keywords: Any) -> Any:
        self.calls.append(args[0] if args else None)
        await self._question.wait()
        if self.error is not None:
            raise self.error
        result = await self._call(*args, **keywords)
        await self._answer.wait()
        return result


class Node:
    """One hub and its backend."""

    def __init__(
        self, name: str, store: MemoryStore, families: Sequence[Family], plan: FaultPlan, changes: Mapping[str, Any]
    ) -> None:
        self.name = name
        memory = MemoryBackend(store, randbits=Random(f"{name} epochs").getrandbits)
        self.backend = FaultyBackend(memory, plan, random=Random(name))
        self.families = Families()
        for family in families:
            self.families.add(family)
        self.hub = Hub(self.backend, self.families, options(name, **changes))
        self.clients: list[Client] = []
        self._stop: Callable[[], None] | None = None
        self._stopped = anyio.Event()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Node]:
        async with self.backend, self.hub.running():
            yield self

    def client(self, profile: Profile = MSGPACK) -> Client:
        client = Client(self.hub, len(self.clients), profile)
        self.clients.append(client)
        self.hub.attach(client)
        return client

    def channel(self, name: str) -> LiveChannel:
        channel = self.hub.channels.get(Channel(name))
        assert channel is not None, f"{self.name} does not hold {name}"
        return channel

    async def set(self, name: str, document: object) -> Position:
        return await self.hub.publisher.set(Channel(name), document)

    async def patch(self, name: str, patch: Any) -> Position:
        return await self.hub.publisher.patch(Channel(name), patch)

    async def append(self, name: str, event: object) -> Position:
        return await self.hub.publisher.append(Channel(name), event)


class Cluster(list[Node]):
    """Several nodes and what they share."""

    def __init__(self, store: MemoryStore, nodes: Sequence[Node]) -> None:
        super().__init__(nodes)
        self.store = store
        self.faults = StoreFaults(store)
        self.stops: dict[str, anyio.CancelScope] = {}

    def problems(self) -> list[str]:
        return [problem for node in self for client in node.clients for problem in client.problems]

    async def stop(self, node: Node) -> None:
        """Stop one node in good order and return when it has stopped."""
        self.stops[node.name].cancel()
        await node._stopped.wait()


@asynccontextmanager
async def cluster(
    nodes: int = 1, *families: Family, store: MemoryStore | None = None, plan: FaultPlan | None = None, **changes: Any
) -> AsyncIterator[Cluster]:
    """
    Run *nodes* hubs for the length of the block; afterwards no client may have been sent anything it could not apply.

    Args:
        families: By default ``doc:{name}`` (state) and ``log:{name}`` (events).
        plan: What every node's backend does wrong; each may be changed by itself.
        changes: Of settings and hub options.
    """
    store = store or MemoryStore()
    members = [
        Node(f"n{number}", store, families or (state(), events()), replace(plan or FaultPlan()), changes)
        for number in range(1, nodes + 1)
    ]
    running = Cluster(store, members)

    async def run(node: Node, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        with anyio.CancelScope() as running.stops[node.name]:
            async with node.running():
                task_status.started()
                await anyio.sleep_forever()
        node._stopped.set()

    async with AsyncExitStack() as stack:
        tasks = await stack.enter_async_context(anyio.create_task_group())
        for node in members:
            await tasks.start(run, node)
        yield running
        await settle()
        tasks.cancel_scope.cancel()
    assert not running.problems()
