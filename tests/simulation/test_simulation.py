"""
Three hubs over one faulty store, twenty clients, a fault every thirty seconds, for an hour: no rule is broken, and a seed tells
the whole story on both loops.

What a failing seed did is seen again by ``python -m rtsync.testing.simulate SEED --journal FILE --verbose``.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pytest

from rtsync.core import Patch
from rtsync.core._document import VersionedDocument
from rtsync.hub._channel import LiveChannel
from rtsync.hub._event_channel import EventChannel
from rtsync.hub._lease import Lease
from rtsync.testing._simulation import BrokenRules, run_simulation
from rtsync.testing._simulation_plan import DECK, Fault, FaultKind, Scenario, faults
from rtsync.testing.simulate import main

HOUR = Scenario()
PART = Scenario(seconds=420.0)
"""How much of the hour trio has to repeat: it takes nearly twice as long. The soak has it repeat everything."""

SHORT = Scenario(seconds=200.0)


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Nodes in trouble have a lot to say."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize("seed", range(1, 11))
def test_an_hour_of_faults_breaks_no_rule_and_leaves_the_same_trace_on_both_loops(seed: int) -> None:
    hour = run_simulation(seed, backend="asyncio", scenario=HOUR)
    hour.check()
    part = run_simulation(seed, backend="trio", scenario=PART)
    part.check()
    assert part.trace_until(PART.faults_end) == hour.trace_until(PART.faults_end)


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(11, 61))
def test_many_hours_of_faults_break_no_rule_and_leave_the_same_trace_on_both_loops(seed: int) -> None:
    on_asyncio = run_simulation(seed, backend="asyncio", scenario=HOUR)
    on_asyncio.check()
    on_trio = run_simulation(seed, backend="trio", scenario=HOUR)
    on_trio.check()
    assert on_trio.trace == on_asyncio.trace


def test_the_same_seed_is_the_same_run_again_and_another_seed_another_run() -> None:
    first = run_simulation(1, scenario=SHORT)
    assert run_simulation(1, scenario=SHORT).lines() == first.lines()
    assert run_simulation(2, scenario=SHORT).trace != first.trace
    assert first.counts["event"] > 100
    assert first.counts["delta"] > 100


def test_every_kind_of_fault_comes_within_twelve_minutes() -> None:
    for seed in range(20):
        assert {fault.kind for fault in faults(seed, Scenario(seconds=760.0))} == set(DECK)


def test_a_shorter_simulation_has_the_same_faults_as_far_as_it_goes() -> None:
    hour = list(faults(7, HOUR))
    assert 110 <= len(hour) <= 120
    assert list(faults(7, PART)) == [fault for fault in hour if fault.at < PART.faults_end]


# ---- what it would notice ------------------------------------------------------------------------------------------


def seed_with(kind: FaultKind, that: Callable[[Fault], bool] = lambda fault: True) -> int:
    """Return a seed whose short simulation has such a fault."""
    return next(seed for seed in count() if any(fault.kind == kind and that(fault) for fault in faults(seed, SHORT)))


def broken_rules(seed: int) -> set[str]:
    return {violation.rule for violation in run_simulation(seed, scenario=SHORT).violations}


def test_it_notices_a_change_that_is_left_out_of_a_conflated_delta(monkeypatch: pytest.MonkeyPatch) -> None:
    since = VersionedDocument.since

    def forgetful(self: VersionedDocument, offset: int) -> Patch:
        patch = since(self, offset)
        if len(patch) > 1:
            patch.popitem()
        return patch

    monkeypatch.setattr(VersionedDocument, "since", forgetful)
    assert "I2" in broken_rules(1)


def test_it_notices_that_no_gap_is_announced(monkeypatch: pytest.MonkeyPatch) -> None:
    pay = EventChannel._pay_gap

    def silent(self: EventChannel, *args: object) -> bytes:
        pay(self, *args)  # type: ignore[arg-type]
        return b""

    monkeypatch.setattr(EventChannel, "_pay_gap", silent)
    assert broken_rules(seed_with("store lost"))


def test_it_notices_that_a_node_without_a_backend_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LiveChannel, "set_doubt", lambda self, doubt: None)
    assert "I9" in broken_rules(seed_with("partition", lambda fault: fault.lasts > 14.0))


def test_it_notices_two_writers_under_one_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    async def take(self: Lease) -> bool:
        self.token, self.expires_at = 1, self._now() + self._ttl
        return True

    async def renew(self: Lease) -> bool:
        return await take(self)

    monkeypatch.setattr(Lease, "take", take)
    monkeypatch.setattr(Lease, "renew", renew)
    assert "I11" in broken_rules(1)


# ---- the command ---------------------------------------------------------------------------------------------------


def test_the_command_runs_a_seed_and_writes_its_journal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    journal = tmp_path / "journal"
    assert main(["1", "--backend", "trio", "--seconds", "100", "--journal", str(journal)]) == 0
    assert "seed 1 on trio: trace " in capsys.readouterr().out
    assert len(journal.read_text().splitlines()) > 100


def test_the_command_lists_the_faults_of_a_seed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["1", "--plan"]) == 0
    assert capsys.readouterr().out.splitlines() == [str(fault) for fault in faults(1, HOUR)]


def test_a_report_names_the_command_that_shows_it_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LiveChannel, "set_doubt", lambda self, doubt: None)
    seed = seed_with("partition", lambda fault: fault.lasts > 14.0)
    with pytest.raises(BrokenRules, match=rf"python -m rtsync.testing.simulate {seed} --backend asyncio --seconds 200\n.*I9"):
        run_simulation(seed, scenario=SHORT).check()
