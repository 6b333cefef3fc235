"""JSON files of many rows, read one row at a time: JSON lines, or one list.

A row that is not JSON is handed on as what is wrong with it: the reader decides what that means.
"""

import codecs
import json
from collections.abc import Iterator
from typing import IO, Any, Final

from spa3r.errors import FormatError
from spa3r.storage import open_read

MAX_ROW: Final = 16 << 20
"""Bytes; a longer row is none."""
_PIECE: Final = 1 << 20

Row = dict[str, Any] | ValueError
"""A row, or what is wrong with it, without its place."""


def numbered_rows(url: str) -> Iterator[tuple[int, Row]]:
    """(line, row) of a file of JSON lines, or (place from 1, row) of a file that holds one list.

    Which of both it is, its first character says. Blank lines are passed over.

    Raises:
        FormatError: neither of both, cut short, or with a row longer than MAX_ROW.
        OSError: it cannot be read.
    """
    with open_read(url) as f:
        is_list = f.read(_PIECE).removeprefix(codecs.BOM_UTF8).lstrip().startswith(b"[")
        f.seek(0)
        yield from _listed(f, url) if is_list else _lines(f, url)


def _lines(f: IO[bytes], url: str) -> Iterator[tuple[int, Row]]:
    number = 0
    while line := f.readline(MAX_ROW + 1):
        number += 1
        if len(line) > MAX_ROW:
            raise FormatError(
                f"{url}, line {number}: longer than {MAX_ROW >> 20} MB; needed is one JSON object"
                " a line, or a list of them"
            )
        if line.strip():
            yield number, _parsed(line.removeprefix(codecs.BOM_UTF8))


def _parsed(line: bytes) -> Row:
    try:
        return _object(json.loads(line.decode()))
    except (ValueError, RecursionError) as error:
        return ValueError(f"not JSON ({error})")


def _object(value: Any) -> Row:
    return value if isinstance(value, dict) else ValueError("not a JSON object")


def _listed(f: IO[bytes], url: str) -> Iterator[tuple[int, Row]]:
    """Rows of one list; text is held from the row at hand to a piece behind it."""
    decoder, text = json.JSONDecoder(), _Text(f, url)
    text.skip("[")
    number = 0
    while not text.ends("]"):
        number += 1
        yield number, _object(text.value(decoder, number))
        if not text.ends("]"):
            text.skip(",")
    text.finish()


class _Text:
    """What is read of a file and not yet used up."""

    def __init__(self, f: IO[bytes], url: str) -> None:
        self._f, self._url = f, url
        self._decode = codecs.getincrementaldecoder("utf-8-sig")().decode
        self._held, self._at, self._over = "", 0, False

    def ends(self, bracket: str) -> bool:
        """Whether the next character is this one."""
        return self._next() == bracket

    def skip(self, character: str) -> None:
        """Goes past it. Raises FormatError if something else stands there."""
        if self._next() != character:
            found = repr(self._next()) if self._next() else "its end"
            raise self._broken(f"{character!r} is missing before {found}")
        self._at += 1

    def finish(self) -> None:
        """Goes past the list's end. Raises FormatError if more than blanks follow."""
        self.skip("]")
        if self._next():
            raise self._broken(f"{self._next()!r} follows its end")

    def value(self, decoder: json.JSONDecoder, number: int) -> Any:
        """The JSON value that begins here. Raises FormatError: cut, damaged or too long."""
        self._next()
        while True:
            try:
                value, end = decoder.raw_decode(self._held, self._at)
            except (ValueError, RecursionError) as error:
                if self._over or len(self._held) - self._at > MAX_ROW:
                    raise self._broken(f"row {number} is not JSON ({error})") from error
                self._more()
            else:
                if end - self._at > MAX_ROW:
                    raise self._broken(f"row {number} is longer than {MAX_ROW >> 20} MB")
                self._at = end
                return value

    def _next(self) -> str:
        """The next character that is not blank; "" at the end."""
        while True:
            while self._at < len(self._held) and self._held[self._at].isspace():
                self._at += 1
            if self._at < len(self._held) or self._over:
                return self._held[self._at : self._at + 1]
            self._more()

    def _more(self) -> None:
        piece = self._f.read(max(_PIECE, len(self._held) - self._at))
        self._over = not piece
        try:
            self._held = self._held[self._at :] + self._decode(piece, final=not piece)
        except UnicodeDecodeError as error:
            raise self._broken(f"not UTF-8 ({error.reason})") from error
        self._at = 0

    def _broken(self, why: str) -> FormatError:
        return FormatError(f"{self._url}: not a whole JSON list ({why}); download it again")
