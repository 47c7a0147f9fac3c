"""The command ``rtsync``."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from math import isfinite
from typing import TYPE_CHECKING

import anyio

if TYPE_CHECKING:
    from ._tail import Reporter

from ._interrupt import until_interrupted
from .core import RTSyncError, UsageError

__all__ = ["main"]

_FAILED, _MISUSED, _INTERRUPTED = 1, 2, 130


def main(argv: Sequence[str] | None = None) -> int:
    """
    Run the command line and return the exit status.

    0 after the work is done or Ctrl-C ended it, 1 if it failed, 2 for arguments that make no sense.
    """
    args = _parser().parse_args(argv)
    run: Callable[[argparse.Namespace], str | None] = args.run
    try:
        problem = run(args)
    except UsageError as error:
        return _complain(str(error), _MISUSED)
    except (RTSyncError, OSError, ImportError) as error:
        if isinstance(error, BrokenPipeError):  # such as `rtsync tail … | head`
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        return _complain(str(error), _FAILED)
    except KeyboardInterrupt:  # before or after what handles it in good order
        return _INTERRUPTED
    return _complain(problem, _FAILED) if problem else 0


def _complain(problem: str, status: int) -> int:
    print(f"rtsync: {problem}", file=sys.stderr)
    return status


# ---- commands ------------------------------------------------------------------------------------------------------


def _demo(args: argparse.Namespace) -> str | None:
    try:
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise ImportError('the demo needs uvicorn: pip install "rtsync[demo]"') from error
    from .demo._command import run_demo
    from .demo._server import listen

    try:
        listener = listen(args.host, args.port)
    except OSError as error:
        raise OSError(f"cannot listen at {args.host} port {args.port}: {error.strerror or error}") from error
    reporter = _reporter if args.tail else None
    work = partial(run_demo, listener, speed=args.speed, reporter=reporter, seconds=args.seconds)
    return anyio.run(until_interrupted, work)


def _tail(args: argparse.Namespace) -> str | None:
    from ._tail import TailOptions, tail

    channels = tuple(dict.fromkeys(args.channels))
    options = TailOptions(args.url, channels, args.rate, args.token, args.seconds)
    return anyio.run(until_interrupted, partial(tail, options, _reporter(args.url, as_json=args.json)))


def _reporter(url: str, *, as_json: bool = False) -> Reporter:
    from ._tail import LineReporter
    from ._tail_screen import ScreenReporter, is_screen

    if as_json or not is_screen(sys.stdout):
        return LineReporter(as_json=as_json)
    return ScreenReporter(url)


# ---- arguments -----------------------------------------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="rtsync", description="Realtime channels for ASGI apps.")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    demo = commands.add_parser("demo", help="serve a recorded market", description="Serve a recorded market, over and over.")
    demo.add_argument("--host", default="127.0.0.1", help="address to listen at (default: %(default)s)")
    demo.add_argument("--port", type=_port, default=8000, help="port to listen at, 0 for a free one (default: %(default)s)")
    demo.add_argument("--speed", type=_positive, default=1.0, help="seconds of the market in one second (default: 1)")
    demo.add_argument("--tail", action="store_true", help="watch it in this terminal, too")
    demo.set_defaults(run=_demo)

    tail = commands.add_parser(
        "tail",
        help="show live channels in the terminal",
        description="Show live channels: on a terminal in place, else by line.",
    )
    tail.add_argument("url", metavar="URL", help="where rtsync is mounted, such as http://127.0.0.1:8000/rt")
    tail.add_argument("channels", metavar="CHANNEL", nargs="+", help="such as prices:ETH-USD")
    tail.add_argument("--json", action="store_true", help="one line of JSON for each change")
    tail.add_argument("--rate", type=_positive, metavar="R", help="at most R updates a second of each channel")
    tail.add_argument("--token", help="access token")
    tail.set_defaults(run=_tail)

    for command in (demo, tail):
        command.add_argument("--seconds", type=_positive, metavar="N", help="end after N seconds (default: at Ctrl-C)")
    return parser


def _positive(text: str) -> float:
    value = float(text)
    if not value > 0 or not isfinite(value):
        raise ValueError
    return value


def _port(text: str) -> int:
    value = int(text)
    if not 0 <= value <= 65_535:
        raise ValueError
    return value


# argparse names a type by its function when it complains.
_positive.__name__, _port.__name__ = "number", "port"


if __name__ == "__main__":
    sys.exit(main())
