"""Pages of the documentation, taken apart: sections, fenced blocks and tables, so that tests can hold them against the code."""

from __future__ import annotations

import re
from pathlib import Path

__all__ = ["ROOT", "Page", "bytes_of_hex", "unwrapped"]

ROOT = Path(__file__).parents[2]

_FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_HEADING = re.compile(r"^(#+) (.+)$")
_HEX_LINE = re.compile(r" *((?:[0-9a-f]{2})(?: [0-9a-f]{2})*)(?:  .*)?")


class Page:
    """One Markdown file, by its path below the repository."""

    def __init__(self, path: str) -> None:
        self.text = (ROOT / path).read_text(encoding="utf-8")

    @property
    def headings(self) -> list[str]:
        """The titles of all sections, in order."""
        fenceless = _FENCE.sub("", self.text)
        return [found[2] for line in fenceless.splitlines() if (found := _HEADING.match(line))]

    def section(self, title: str) -> str:
        """Return the text below the heading *title*, its subsections included."""
        depth, lines, fenced = 0, [], False
        for line in self.text.splitlines():
            fenced ^= line.startswith("```")
            found = None if fenced else _HEADING.match(line)
            if found is not None and depth and len(found[1]) <= depth:
                break
            if depth:
                lines.append(line)
            elif found is not None and found[2] == title:
                depth = len(found[1])
        assert depth, f"there is no section {title!r}"
        return "\n".join(lines) + "\n"

    def blocks(self, title: str, language: str) -> list[str]:
        """Return what the blocks of one language enclose below the heading *title*."""
        return [found[2] for found in _FENCE.finditer(self.section(title)) if found[1] == language]

    def tables(self, title: str) -> list[list[list[str]]]:
        """Return the tables below the heading *title*: rows of cells, without the header. Code marks are taken off."""
        tables: list[list[list[str]]] = [[]]
        for line in self.section(title).splitlines():
            if line.startswith("|"):
                tables[-1].append([_plain(cell) for cell in re.split(r"(?<!\\)\|", line)[1:-1]])
            elif tables[-1]:
                tables.append([])
        return [table[2:] for table in tables if table]


def unwrapped(text: str) -> list[str]:
    """Return the lines of a block; indented ones continue the line before."""
    lines: list[str] = []
    for line in text.splitlines():
        if line.startswith(" "):
            lines[-1] += line.strip()
        elif line:
            lines.append(line)
    return lines


def bytes_of_hex(text: str) -> bytes:
    """Return the bytes of an annotated dump: hex pairs at the beginning of each line, then a comment behind two spaces."""
    result = b""
    for line in text.splitlines():
        found = _HEX_LINE.fullmatch(line)
        assert found is not None, f"not a line of a dump: {line!r}"
        result += bytes.fromhex(found[1])
    return result


def _plain(cell: str) -> str:
    text = cell.strip().replace("\\|", "|")
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] == "`" and "`" not in text[1:-1] else text
