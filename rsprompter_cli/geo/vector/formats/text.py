"""Text of vector files: which encoding it has, and the one decoder that every reader uses.

Files are read so that each byte of a text becomes one character, see `OPENED_AS`; what the bytes mean is decided here.
"""

from __future__ import annotations

import codecs
import logging
import re
from pathlib import Path

OPENED_AS = "ISO-8859-1"
"""Encoding named to GDAL: every byte becomes the character of its number, so the bytes can be had back."""

_NAME_BYTES = 4096
_SHAPEFILE_MAGIC = b"\x00\x00\x27\x0a"
_WESTERN = "cp1252"
_TEXT_CODECS = ("utf-8", "cp", "iso8859", "koi8", "mac", "big5", "gb", "euc", "shift_jis", "johab", "tis", "hp")
"""Beginnings of the names of Python's codecs in which a table may be written."""

_LANGUAGE_DRIVERS = {
    "cp437": (1, 11, 13, 15, 17, 21, 24, 25, 27),
    "cp850": (2, 10, 14, 16, 18, 20, 22, 26, 29, 37, 55),
    "cp852": (31, 34, 35, 64, 100, 135),
    "cp857": (107, 136),
    "cp860": (36,),
    "cp861": (103,),
    "cp863": (28, 108),
    "cp865": (8, 23, 102),
    "cp866": (38, 101),
    "cp737": (106, 134),
    "cp874": (80, 124),
    "cp932": (19, 123),
    "gbk": (77, 122),
    "cp949": (78, 121),
    "cp950": (79, 120),
    "cp1250": (200,),
    "cp1251": (201,),
    "cp1253": (203,),
    "cp1254": (202,),
    "cp1257": (204,),
    "mac_roman": (4,),
    "mac_cyrillic": (150,),
    "mac_latin2": (151,),
    "mac_greek": (152,),
}
"""Codec by language driver id, byte 29 of a .dbf. The ids of Windows ANSI (3, 87, 88, 89) are left out: programs write
them whatever the text is."""

_log = logging.getLogger(__name__)


class TextDecoder:
    """Turns the bytes of names and values of one file into text, and warns once where they are not what they should be.

    encoding: a Python codec that the file names, None where it names none: then text is UTF-8, or else Windows-1252.
    """

    def __init__(self, path: Path, encoding: str | None = None, *, named_by: str = "", any_text: bool = False) -> None:
        """Decode the text of a file.

        Args:
            named_by: what names the encoding, for messages.
            any_text: the format has no rule for its text, so that Windows-1252 needs no warning.
        """
        self.encoding = encoding
        self._path, self._named_by, self._any_text = path, named_by, any_text
        self._warned = False

    def decode(self, raw: bytes) -> str:
        """The text of some bytes; never fails."""
        if raw.isascii():
            return raw.decode("ascii")
        if self.encoding not in (None, "utf-8"):
            return self._decode_named(raw, str(self.encoding))
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError:
            whole = _without_cut_character(raw)
        if whole is not None and (self.encoding or not whole.isascii()):
            return whole  # a field is too short for the last character
        text = _decode_western(raw)
        if self.encoding:
            self._warn(f"{self._named_by} states UTF-8, but {text!r} is not UTF-8 and was decoded as Windows-1252")
        elif not self._any_text:
            self._warn(f"its text is not UTF-8 and was decoded as Windows-1252: {text!r}")
        return text

    def restore(self, text: str) -> str:
        """The text of what was opened with `OPENED_AS`."""
        return text if text.isascii() else self.decode(text.encode("latin-1"))

    def _decode_named(self, raw: bytes, encoding: str) -> str:
        try:
            text = _decode_western(raw) if encoding == _WESTERN else raw.decode(encoding)
        except UnicodeDecodeError:
            text = codecs.getincrementaldecoder(encoding)("replace").decode(raw)
            if "\ufffd" in text:
                self._warn(f"{self._named_by} states {encoding}, but {text!r} is not valid in it")
            return text
        try:
            meant = raw.decode("utf-8")
        except UnicodeDecodeError:
            return text
        self._warn(
            f"{self._named_by} states {encoding}, which decodes a text to {text!r}; UTF-8 would decode it to {meant!r} "
            "(if that is right, write UTF-8 into the .cpg file)"
        )
        return text

    def _warn(self, reason: str) -> None:
        if not self._warned:
            _log.warning("%s: %s", self._path, reason)
        self._warned = True


def text_decoder(path: Path) -> TextDecoder:
    """The decoder for a vector file: a Shapefile says in its .cpg or .dbf how its text is encoded, others are UTF-8."""
    if not is_shapefile(path):
        return TextDecoder(path)
    said = _companion(path, ".cpg")
    encoding = None if said is None else _named_codec(_head(said))
    if encoding is not None and said is not None:
        return TextDecoder(path, encoding, named_by=said.name)
    table = _companion(path, ".dbf")
    encoding = None if table is None else _codec_of_driver(table)
    return TextDecoder(path, encoding, named_by="" if table is None else table.name, any_text=True)


def is_shapefile(path: Path) -> bool:
    """Whether a file begins as a .shp does."""
    with path.open("rb") as file:
        return file.read(4) == _SHAPEFILE_MAGIC


def is_utf8(text: str) -> bool:
    """Whether text that was opened with `OPENED_AS` is UTF-8, as that of all but damaged files is."""
    try:
        text.encode("latin-1").decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _head(path: Path) -> bytes:
    """The bytes of a .cpg file, which holds one name."""
    with path.open("rb") as file:
        return file.read(_NAME_BYTES)


def _companion(path: Path, suffix: str) -> Path | None:
    """The file of the same name with another extension, in lower or upper case; that of a link lies by its target."""
    spellings = (suffix, suffix.upper(), suffix.title())
    return next((one for one in map(path.resolve().with_suffix, spellings) if one.is_file()), None)


def _codec_of_driver(table: Path) -> str | None:
    with table.open("rb") as file:
        head = file.read(32)
    driver = head[29] if len(head) == 32 else 0
    return next((codec for codec, drivers in _LANGUAGE_DRIVERS.items() if driver in drivers), None)


def _named_codec(content: bytes) -> str | None:
    """The codec that the content of a .cpg file names, None where it names none that is known."""
    wide = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    text = content.decode("utf-16" if wide else "utf-8-sig", errors="ignore").strip("\x00 \t\r\n")
    name = text.splitlines()[0].strip().lower() if text else ""
    if driver := re.fullmatch(r"ldid/(\d+)", name):
        number = int(driver[1])
        return next((codec for codec, drivers in _LANGUAGE_DRIVERS.items() if number in drivers), None)
    tries = [name]
    if latin := re.search(r"8859[-_ ]?(\d{1,2})$", name):
        tries.append(f"iso8859-{latin[1]}")
    elif page := re.search(r"(\d{3,5})$", name):
        number = int(page[1])
        latin_part = f"iso8859-{number - 28590}" if 28590 < number < 28606 else ""
        tries += ["utf-8" if number == 65001 else latin_part or f"cp{number}", str(number)]
    for one in tries:
        try:
            codec = codecs.lookup(one).name if one else ""
        except (LookupError, ValueError):
            continue
        if codec.startswith(_TEXT_CODECS):
            return _WESTERN if codec == "iso8859-1" else codec.removesuffix("-sig")
    return None


def _decode_western(raw: bytes) -> str:
    """Windows-1252, in which five bytes have no character: those are Latin-1's."""
    try:
        return raw.decode(_WESTERN)
    except UnicodeDecodeError:
        return raw.decode("latin-1")


def _without_cut_character(raw: bytes) -> str | None:
    """UTF-8 whose last character is incomplete, without that character; None for other bytes."""
    try:
        return codecs.utf_8_decode(raw, "strict", False)[0]
    except UnicodeDecodeError:
        return None
