"""The command line: in this process for what ends at once, as a process of its own for what runs."""

from __future__ import annotations

import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from typing import Any

import pytest

from rtsync._cli import main

COMMAND = [sys.executable, "-m", "rtsync._cli"]
PATIENCE = 30.0
"""Seconds for a process to get somewhere; a loaded machine starts Python slowly."""

PRICE_AND_PORTFOLIO = ("prices:ETH-USD", "portfolio:demo")


def run(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *args], capture_output=True, text=True, timeout=PATIENCE, check=False)


@contextmanager
def running(*args: str, **options: Any) -> Iterator[subprocess.Popen[str]]:
    """Run a command for the length of the block."""
    with subprocess.Popen([*COMMAND, *args], stdout=subprocess.PIPE, text=True, **options) as process:
        try:
            yield process
        finally:
            process.kill()


def url_of(process: subprocess.Popen[str]) -> str:
    """Return the URL that `rtsync demo` announces in its first line."""
    assert process.stdout is not None
    found = re.search(r"http://\S+", process.stdout.readline())
    assert found is not None
    return found[0]


@pytest.fixture(scope="module")
def demo_url() -> Iterator[str]:
    with running("demo", "--port", "0") as process:
        yield url_of(process)
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE) == 0


# ---- arguments


def test_help_names_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit:
        main(["--help"])
    assert exit.value.code == 0
    shown = capsys.readouterr().out
    assert "demo" in shown
    assert "tail" in shown


@pytest.mark.parametrize("command", ["demo", "tail"])
def test_every_option_is_explained(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit:
        main([command, "--help"])
    assert exit.value.code == 0
    assert "--seconds" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ([], "COMMAND"),
        (["dance"], "dance"),
        (["tail"], "URL"),
        (["tail", "http://x/rt"], "CHANNEL"),
        (["tail", "http://x/rt", "a:b", "--rate", "0"], "invalid number value: '0'"),
        (["tail", "http://x/rt", "a:b", "--seconds", "inf"], "invalid number value: 'inf'"),
        (["demo", "--port", "65536"], "invalid port value: '65536'"),
        (["demo", "--speed", "fast"], "invalid number value: 'fast'"),
        (["demo", "--speed", "nan"], "invalid number value: 'nan'"),
    ],
)
def test_arguments_that_make_no_sense_are_named(
    arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit:
        main(arguments)
    assert exit.value.code == 2
    assert complaint in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["tail", "x/rt", "a:b"], "rtsync: url: must look like http://127.0.0.1:8000/rt, is 'x/rt'\n"),
        (["tail", "http://x/rt", "a:b", "a:"], "rtsync: channel: has an empty segment\n"),
    ],
)
def test_names_and_urls_that_make_no_sense_take_one_line(
    arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    assert capsys.readouterr().err == complaint


def test_a_port_that_is_taken_takes_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["demo", "--port", str(port)]) == 1
    complaint = capsys.readouterr().err
    assert complaint.startswith(f"rtsync: cannot listen at 127.0.0.1 port {port}: Address already in use")
    assert complaint.count("\n") == 1


@pytest.mark.parametrize(
    ("missing", "arguments", "remedy"),
    [
        ("uvicorn", ["demo", "--port", "0"], 'pip install "rtsync[demo]"'),
        ("httpx2", ["demo", "--port", "0", "--tail"], 'pip install "rtsync[client]"'),
        ("httpx2", ["tail", "http://127.0.0.1:1/rt", "a:b"], 'pip install "rtsync[client]"'),
    ],
)
def test_what_is_not_installed_is_named_with_the_remedy(
    missing: str, arguments: list[str], remedy: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    assert main(arguments) == 1
    complaint = capsys.readouterr().err
    assert complaint.startswith("rtsync: ")
    assert remedy in complaint
    assert complaint.count("\n") == 1


def test_a_server_that_is_not_there_takes_an_exit_status() -> None:
    done = run("tail", "http://127.0.0.1:1/rt", "a:b", "--seconds", "0.3")
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.splitlines()[-1].startswith("rtsync: no answer from http://127.0.0.1:1/rt within 0.3 s")


# ---- round trips


def test_tail_writes_a_line_of_json_for_each_change(demo_url: str) -> None:
    """The lines are what a client would hold: applying them gives a price and the portfolio valued with it."""
    done = run("tail", demo_url, *PRICE_AND_PORTFOLIO, "tape:ETH-USD", "--json", "--seconds", "3")
    assert done.returncode == 0, done.stderr
    documents: dict[str, dict[str, Any]] = {}
    for line in map(json.loads, done.stdout.splitlines()):
        assert set(line) >= {"channel", "kind", "position", "status"}
        if line["kind"] == "keyframe":
            documents[line["channel"]] = line["value"]
        elif line["kind"] == "delta":
            _merge(documents[line["channel"]], line["patch"])
    assert set(documents) == set(PRICE_AND_PORTFOLIO)
    price, portfolio = (documents[channel] for channel in PRICE_AND_PORTFOLIO)
    assert Decimal(price["bid"]) < Decimal(price["ask"])
    assert len(portfolio["positions"]) == 8
    values = [Decimal(position["value"]) for position in portfolio["positions"].values()]
    assert Decimal(portfolio["totals"]["value"]) == sum(values)


def _merge(document: dict[str, Any], patch: list[Any]) -> None:
    whole, inner, removed = patch + [{}, {}, []][len(patch) :]
    document |= whole
    for key, below in inner.items():
        _merge(document[key], below)
    for key in removed:
        del document[key]


def test_tail_writes_plain_lines_where_there_is_no_terminal(demo_url: str) -> None:
    done = run("tail", demo_url + "/", *PRICE_AND_PORTFOLIO, "--rate", "2", "--seconds", "2")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert any(re.fullmatch(r"\d\d:\d\d:\d\d prices:ETH-USD .*bid=4\d{3}.*", line) for line in lines)
    assert any("portfolio:demo totals.value=" in line for line in lines)
    assert "\x1b" not in done.stdout
    assert done.stderr.splitlines()[:2] == ["rtsync: connecting", "rtsync: live"]


def test_tail_of_a_refused_channel_fails(demo_url: str) -> None:
    done = run("tail", demo_url, "secrets:mine")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-2:] == [
        "rtsync: secrets:mine: forbidden: not allowed",
        "rtsync: there is nothing left to follow",
    ]


def test_ctrl_c_ends_tail_without_a_word(demo_url: str) -> None:
    with running("tail", demo_url, "portfolio:demo", stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE) == 0
        assert process.stderr.read().splitlines() == ["rtsync: connecting", "rtsync: live"]


def test_a_reader_that_has_seen_enough_ends_tail_without_a_word(demo_url: str) -> None:
    """As in ``rtsync tail … | head -1``."""
    with running("tail", demo_url, "portfolio:demo", "prices:ETH-USD", stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.wait(PATIENCE) == 0
        assert process.stderr.read().splitlines() == ["rtsync: connecting", "rtsync: live"]


def test_demo_with_tail_ends_by_itself_and_shows_the_market() -> None:
    done = run("demo", "--port", "0", "--tail", "--speed", "4", "--seconds", "2")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith("serving a recorded market at http://127.0.0.1:")
    assert re.search(r"tail http://127\.0\.0\.1:\d+/rt prices:ETH-USD portfolio:demo$", lines[1])
    shown = {line.split()[1] for line in lines[2:]}
    assert len(shown) == 11
    assert done.stderr.splitlines() == ["rtsync: connecting", "rtsync: live"]


def test_demo_alone_ends_after_its_seconds() -> None:
    done = run("demo", "--port", "0", "--seconds", "0.2")
    assert done.returncode == 0
    assert done.stderr == ""


# ---- on a terminal


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="needs a pseudo-terminal")
@pytest.mark.parametrize("colours", [True, False])
def test_demo_on_a_terminal_draws_in_place_and_leaves_it_as_it_was(colours: bool) -> None:
    """Ctrl-C in that terminal ends server and client, and the last picture stays."""
    shown, code = _on_terminal(
        ["demo", "--port", "0", "--tail"], until="equity", environment={} if colours else {"NO_COLOR": "1"}
    )
    assert code == 0
    _, entered, rest = shown.partition("\x1b[?1049h")
    drawn, left, last = rest.partition("\x1b[?1049l")
    assert entered
    assert left
    assert "\x1b[H" in drawn
    assert ("\x1b[32m" in drawn) == colours
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", last)
    assert all(text in plain for text in ("SYMBOL", "ETH-USD", "portfolio:demo", "POSITION", "equity", "live"))
    assert "Traceback" not in shown


def _on_terminal(arguments: list[str], *, until: str, environment: dict[str, str]) -> tuple[str, int]:
    """Run a command on a terminal of 100 × 40 until it shows a text, press Ctrl-C, and return all it showed and its status."""
    import fcntl
    import struct
    import termios

    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))
    inherited = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "COLUMNS", "LINES")}
    process = subprocess.Popen(
        [*COMMAND, *arguments],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**inherited, "TERM": "xterm", **environment},
        start_new_session=True,
    )
    os.close(theirs)
    shown, deadline, pressed = "", time.monotonic() + PATIENCE, False
    try:
        while time.monotonic() < deadline:
            if select.select([ours], [], [], 0.1)[0]:
                try:
                    shown += os.read(ours, 65_536).decode(errors="replace")
                except OSError:  # how a terminal says that nobody is left
                    break
            if until in shown and not pressed:
                process.send_signal(signal.SIGINT)
                pressed = True
        return shown, process.wait(max(deadline - time.monotonic(), 1))
    finally:
        process.kill()
        process.wait()
        os.close(ours)
