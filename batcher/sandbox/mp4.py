"""The MP4 around a clip (ISO 14496-12 and 14496-15): one H.264 track, its headers before its frames."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence

TICKS_PER_S = 600
_UNITY = struct.pack(">9I", 1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
"""The identity matrix."""
_LANGUAGE = 0x55C4
"""``und``: none."""
_DPI = 72 << 16


def movie(
    size: tuple[int, int],
    parameters: tuple[bytes, bytes],
    samples: Sequence[bytes],
    frame_ticks: int,
    duration_ticks: int,
) -> bytes:
    """An MP4 of frames (see :func:`sample`), the first a key frame.

    ``size`` is width and height. Each frame is shown for ``frame_ticks``, the last until
    ``duration_ticks``.
    """
    sizes = [len(sample) for sample in samples]
    last_ticks = duration_ticks - frame_ticks * (len(samples) - 1)
    times = _counted([(len(samples) - 1, frame_ticks), (1, last_ticks)])
    head = box(b"ftyp", b"isom\0\0\2\0isomiso2avc1mp41")

    def headers(data_at: int) -> bytes:
        tables = (_description(size, parameters), _full(b"stts", times), *_places(sizes, data_at))
        return _headers(size, box(b"stbl", *tables), duration_ticks)

    data_at = len(head) + len(headers(0)) + len(box(b"mdat"))
    return head + headers(data_at) + box(b"mdat", *samples)


def sample(units: Iterable[bytes]) -> bytes:
    """One frame in the form of a movie: its NAL units, each preceded by its length."""
    return b"".join(struct.pack(">I", len(unit)) + unit for unit in units)


def box(kind: bytes, *content: bytes) -> bytes:
    """A box: its size, its kind, its content."""
    body = b"".join(content)
    return struct.pack(">I4s", 8 + len(body), kind) + body


def _full(kind: bytes, *content: bytes, flags: int = 0) -> bytes:
    return box(kind, struct.pack(">I", flags), *content)


def _counted(rows: Sequence[tuple[int, ...]]) -> bytes:
    return struct.pack(">I", len(rows)) + b"".join(struct.pack(f">{len(row)}I", *row) for row in rows)


def _places(sizes: Sequence[int], data_at: int) -> list[bytes]:
    """The sync frames (only the first), the size of each frame, and its place: all in one chunk."""
    return [
        _full(b"stss", _counted([(1,)])),
        _full(b"stsc", _counted([(1, len(sizes), 1)])),
        _full(b"stsz", struct.pack(f">II{len(sizes)}I", 0, len(sizes), *sizes)),
        _full(b"stco", _counted([(data_at,)])),
    ]


def _description(size: tuple[int, int], parameters: tuple[bytes, bytes]) -> bytes:
    """The decoder's configuration: ``avc1`` with the parameter sets."""
    sequence, picture = parameters
    sets = struct.pack(">BH", 0xE1, len(sequence)) + sequence
    sets += struct.pack(">BH", 1, len(picture)) + picture
    config = box(b"avcC", b"\1", sequence[1:4], b"\xff", sets)
    entry = struct.pack(">6xH16xHHIIIH32xHh", 1, *size, _DPI, _DPI, 0, 1, 24, -1)
    return _full(b"stsd", struct.pack(">I", 1), box(b"avc1", entry, config))


def _headers(size: tuple[int, int], tables: bytes, duration_ticks: int) -> bytes:
    clock = struct.pack(">IIII", 0, 0, TICKS_PER_S, duration_ticks)
    movie_header = clock + struct.pack(">IH10x", 1 << 16, 1 << 8) + _UNITY + struct.pack(">24xI", 2)
    track = struct.pack(">IIIII16x", 0, 0, 1, 0, duration_ticks) + _UNITY
    track += struct.pack(">II", size[0] << 16, size[1] << 16)
    handler = struct.pack(">I4s12x", 0, b"vide") + b"sandbox\0"
    source = box(b"dinf", _full(b"dref", struct.pack(">I", 1), _full(b"url ", flags=1)))
    media = box(b"minf", _full(b"vmhd", bytes(8), flags=1), source, tables)
    inside = box(
        b"mdia",
        _full(b"mdhd", clock, struct.pack(">HH", _LANGUAGE, 0)),
        _full(b"hdlr", handler),
        media,
    )
    return box(
        b"moov",
        _full(b"mvhd", movie_header),
        box(b"trak", _full(b"tkhd", track, flags=3), inside),
    )
