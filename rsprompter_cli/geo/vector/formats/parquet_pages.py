"""What the pages of a Parquet file take once they are decompressed, from the headers of the pages themselves.

The footer states sizes too, but nothing keeps it from stating too little: a reader allocates what the page headers say.
Source: the Parquet format (parquet.thrift, PageHeader) in Thrift's compact protocol.
"""

from __future__ import annotations

from typing import BinaryIO

import pyarrow.parquet as pq

_DEEPEST = 16
_HEADER_BYTES = 1 << 16
"""Of a page header, with the statistics that some writers add."""


def largest_page(file: BinaryIO, chunk: pq.ColumnChunkMetaData) -> int:
    """Bytes of the largest page of a column chunk when it is decompressed.

    Raises:
        ValueError: damaged, or the pages are larger together than the footer states.
    """
    starts = [chunk.data_page_offset]
    if chunk.has_dictionary_page and chunk.dictionary_page_offset:
        starts.append(chunk.dictionary_page_offset)
    at, largest, total = min(starts), 0, 0
    end = at + chunk.total_compressed_size
    while at < end:
        file.seek(at)
        header = _Header(file.read(min(_HEADER_BYTES, end - at)))
        size, stored = header.sizes()
        if size < 0 or stored < 0:
            raise ValueError("a page of negative size")
        at += header.at + stored
        largest, total = max(largest, size), total + size
        if total > chunk.total_uncompressed_size:
            raise ValueError("its pages are larger than it states")
    return largest


class _Header:
    """The header of a page, read as far as it goes."""

    def __init__(self, data: bytes) -> None:
        self._data, self.at = data, 0

    def sizes(self) -> tuple[int, int]:
        """(decompressed, stored) bytes of the page; `at` is then the length of the header."""
        found = {2: -1, 3: -1}
        number = 0
        while (head := self._byte()) != 0:
            number = number + (head >> 4) if head >> 4 else self._signed()
            kind = head & 15
            if number in found and kind == 5:
                found[number] = self._signed()
            else:
                self._skip(kind, 0)
        return found[2], found[3]

    def _skip(self, kind: int, depth: int) -> None:
        if depth > _DEEPEST:
            raise ValueError("a damaged page header")
        if kind in (1, 2):  # booleans, which the head of a field holds
            return
        if kind == 3:
            self.at += 1
        elif kind in (4, 5, 6):
            self._number()
        elif kind == 7:
            self.at += 8
        elif kind == 8:
            length = self._number()
            self.at += length
        elif kind in (9, 10):
            head = self._byte()
            count = self._number() if head >> 4 == 15 else head >> 4
            if count > len(self._data):
                raise ValueError("a damaged page header")
            for _ in range(count):
                self._skip(3 if head & 15 in (1, 2) else head & 15, depth + 1)
        elif kind == 12:
            while (head := self._byte()) != 0:
                if not head >> 4:
                    self._number()
                self._skip(head & 15, depth + 1)
        else:
            raise ValueError("a damaged page header")

    def _byte(self) -> int:
        if not 0 <= self.at < len(self._data):
            raise ValueError("a damaged page header")
        self.at += 1
        return self._data[self.at - 1]

    def _number(self) -> int:
        value = shift = 0
        while shift < 70:
            byte = self._byte()
            value |= (byte & 127) << shift
            if byte < 128:
                return value
            shift += 7
        raise ValueError("a damaged page header")

    def _signed(self) -> int:
        value = self._number()
        return (value >> 1) ^ -(value & 1)
