"""A file's type: by its first bytes, its Content-Type, and its name.

The first bytes decide if they have a known signature. But several formats share a container (``mp4``,
``mov`` and ``m4a`` are one), and within a container the URL's own extension is more precise. A file of
unknown type keeps its URL's extension, if that is harmless.
"""

from __future__ import annotations

import re
from posixpath import splitext
from typing import TYPE_CHECKING, Final

import msgspec

from batcher.media.documents import DOCUMENT_TYPES, declared_document, is_text, safe_extension

if TYPE_CHECKING:
    from collections.abc import Sequence

HEAD_BYTES: Final = 512
"""How many of the first bytes :func:`identify` needs."""

MEDIA_TYPES: Final = DOCUMENT_TYPES | {
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".gif": "image/gif",
    ".webp": "image/webp",
    ".bmp": "image/bmp",
    ".tif": "image/tiff",
    ".tiff": "image/tiff",
    ".avif": "image/avif",
    ".heic": "image/heic",
    ".heif": "image/heif",
    ".jxl": "image/jxl",
    ".exr": "image/x-exr",
    ".psd": "image/vnd.adobe.photoshop",
    ".svg": "image/svg+xml",
    ".mp4": "video/mp4",
    ".m4v": "video/x-m4v",
    ".mov": "video/quicktime",
    ".webm": "video/webm",
    ".mkv": "video/x-matroska",
    ".avi": "video/x-msvideo",
    ".ogv": "video/ogg",
    ".mp3": "audio/mpeg",
    ".wav": "audio/wav",
    ".ogg": "audio/ogg",
    ".oga": "audio/ogg",
    ".opus": "audio/opus",
    ".flac": "audio/flac",
    ".m4a": "audio/mp4",
    ".aac": "audio/aac",
    ".aiff": "audio/aiff",
    ".glb": "model/gltf-binary",
    ".fbx": "model/vnd.fbx",
    ".ply": "model/ply",
    ".usdz": "model/vnd.usdz+zip",
    ".zip": "application/zip",
    ".3gp": "video/3gpp",
    ".flv": "video/x-flv",
    ".mpg": "video/mpeg",
    ".wmv": "video/x-ms-wmv",
    ".wma": "audio/x-ms-wma",
    ".asf": "video/x-ms-asf",
    ".mid": "audio/midi",
    ".amr": "audio/amr",
    ".caf": "audio/x-caf",
    ".jp2": "image/jp2",
    ".ico": "image/x-icon",
    ".hdr": "image/vnd.radiance",
    ".qoi": "image/qoi",
    ".ktx2": "image/ktx2",
    ".dds": "image/vnd.ms-dds",
    ".usd": "model/vnd.usd",
    ".usdc": "model/vnd.usdc",
    ".3mf": "model/3mf",
    ".blend": "application/x-blender",
    ".npz": "application/x-npz",
    ".pt": "application/x-pytorch",
    ".pth": "application/x-pytorch",
    ".ckpt": "application/x-pytorch",
    ".docx": "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
    ".xlsx": "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
    ".pptx": "application/vnd.openxmlformats-officedocument.presentationml.presentation",
    ".epub": "application/epub+zip",
    ".pdf": "application/pdf",
    ".gz": "application/gzip",
    ".tgz": "application/gzip",
    ".spz": "model/x-spz",
    ".7z": "application/x-7z-compressed",
    ".zst": "application/zstd",
    ".npy": "application/x-npy",
    ".parquet": "application/vnd.apache.parquet",
    ".onnx": "application/onnx",
}
UNKNOWN_EXTENSION: Final = ".bin"
UNKNOWN_TYPE: Final = "application/octet-stream"

_TYPE_ALIASES: Final = {
    "image/jpg": ".jpg",
    "image/pjpeg": ".jpg",
    "image/x-png": ".png",
    "image/x-ms-bmp": ".bmp",
    "video/x-mp4": ".mp4",
    "audio/mp3": ".mp3",
    "audio/x-wav": ".wav",
    "audio/wave": ".wav",
    "audio/vnd.wave": ".wav",
    "audio/x-m4a": ".m4a",
    "audio/x-flac": ".flac",
    "audio/x-aiff": ".aiff",
    "audio/aacp": ".aac",
    "application/ogg": ".ogg",
    "application/x-zip-compressed": ".zip",
}
# The first extension of each type is its usual one: reversed, so that it overwrites the others.
_EXTENSIONS: Final = {kind: ext for ext, kind in reversed(MEDIA_TYPES.items())} | _TYPE_ALIASES

_JPEG = frozenset({".jpg", ".jpeg"})
_TIFF = frozenset({".tif", ".tiff"})
_MP4 = frozenset({".mp4", ".m4v", ".mov", ".m4a", ".3gp"})
_HEIF = frozenset({".heic", ".heif", ".avif"})
_EBML = frozenset({".webm", ".mkv"})
_OGG = frozenset({".ogg", ".oga", ".ogv", ".opus"})
_ZIP = frozenset(
    [".zip", ".usdz", ".3mf", ".npz", ".pt", ".pth", ".ckpt", ".docx", ".xlsx", ".pptx", ".epub"]
)
_ASF = frozenset({".asf", ".wmv", ".wma"})
GZIP: Final = frozenset({".gz", ".tgz", ".spz"})

_BRANDS: Final = {
    b"avif": ".avif",
    b"avis": ".avif",
    b"heic": ".heic",
    b"heix": ".heic",
    b"hevc": ".heic",
    b"mif1": ".heif",
    b"msf1": ".heif",
    b"qt  ": ".mov",
    b"M4A ": ".m4a",
    b"M4B ": ".m4a",
    b"M4V ": ".m4v",
    b"3gp4": ".3gp",
    b"3gp5": ".3gp",
    b"3gp6": ".3gp",
}
_QUICKTIME_ATOMS: Final = frozenset({b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot"})
_BMP_HEADER_BYTES: Final = frozenset({12, 40, 52, 56, 64, 108, 124})

_DOCUMENT = re.compile(rb'<(?:!|\?|[a-z])|\{\s*["}]|\[\s*[\[\]{"\d-]', re.IGNORECASE)
_DOCUMENT_TYPE = re.compile(r"text/.*|application/(?:.*\+)?(?:json|xml)|application/xhtml.*")


class FileType(msgspec.Struct, frozen=True):
    """A file's ``extension`` (".mp4": lower case, with its dot) and ``media_type``."""

    extension: str
    media_type: str


class Signature(msgspec.Struct, frozen=True):
    """What the first bytes tell: the most likely ``extension``, and all that share the container."""

    extension: str
    family: frozenset[str]

    @classmethod
    def of(cls, extension: str, family: frozenset[str] | None = None) -> Signature:
        return cls(extension, family or frozenset({extension}))


def identify(head: bytes, paths: Sequence[str], content_type: str) -> FileType | None:
    """The format of a file; None for a page or a message (HTML, JSON, XML, text) instead of an output.

    ``head`` holds its first :data:`HEAD_BYTES` bytes (all of a shorter file, not empty), ``paths`` are
    decoded URL paths, the API's own first, ``content_type`` is the header's value. The extension is
    the path's, else the content type's, else the bytes'; if the bytes contradict, theirs.
    """
    signature = sniff(head)
    media_type = content_type.partition(";")[0].strip().lower()
    claimed = [*map(path_extension, paths), _EXTENSIONS.get(media_type, "")]
    if signature is not None:
        extension = next((ext for ext in claimed if ext in signature.family), signature.extension)
        return FileType(extension, MEDIA_TYPES[extension])
    if document := declared_document(claimed[0], media_type, head):
        return FileType(document, MEDIA_TYPES[document])
    if is_message(head, media_type, claimed):
        return None
    extension = next((ext for ext in claimed if ext in MEDIA_TYPES), "") or _named(paths)
    return FileType(extension, MEDIA_TYPES.get(extension, UNKNOWN_TYPE))


def is_message(head: bytes, media_type: str, claimed: Sequence[str]) -> bool:
    """Whether a file without a signature is an error page or a message rather than an output.

    Text is one even if its type is image, video or audio, because these have signatures.
    """
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if _DOCUMENT.match(start) or _DOCUMENT_TYPE.fullmatch(media_type):
        return True
    promised = media_type.startswith(("image/", "video/", "audio/")) or any(
        ext in MEDIA_TYPES and ext not in DOCUMENT_TYPES for ext in claimed
    )
    return promised and is_text(head)


def _named(paths: Sequence[str]) -> str:
    """The extension of a file of unknown type: its URL's, if harmless."""
    return safe_extension(path_extension(paths[0]) if paths else "") or UNKNOWN_EXTENSION


def sniff(head: bytes) -> Signature | None:
    """The format whose signature is in the first bytes; None if there is no known one."""
    for magic, signature in _MAGIC:
        if head.startswith(magic):
            return signature
    for look in (_iso_media, _riff, _ebml, _bitmap, _mpeg_audio, _svg):
        found = look(head)
        if found is not None:
            return found
    return None


_MAGIC: Final = (
    (b"\x89PNG\r\n\x1a\n", Signature.of(".png")),
    (b"\xff\xd8\xff", Signature.of(".jpg", _JPEG)),
    (b"GIF87a", Signature.of(".gif")),
    (b"GIF89a", Signature.of(".gif")),
    (b"II*\x00", Signature.of(".tif", _TIFF)),
    (b"MM\x00*", Signature.of(".tif", _TIFF)),
    (b"\x00\x00\x00\x0cJXL \r\n\x87\n", Signature.of(".jxl")),
    (b"\xff\x0a", Signature.of(".jxl")),
    (b"v/1\x01", Signature.of(".exr")),
    (b"8BPS\x00", Signature.of(".psd")),
    (b"ID3", Signature.of(".mp3", frozenset({".mp3", ".aac", ".flac", ".wav", ".aiff"}))),
    (b"OggS", Signature.of(".ogg", _OGG)),
    (b"fLaC", Signature.of(".flac")),
    (b"glTF", Signature.of(".glb")),
    (b"Kaydara FBX Binary", Signature.of(".fbx")),
    (b"ply\n", Signature.of(".ply")),
    (b"ply\r\n", Signature.of(".ply")),
    (b"PK\x03\x04", Signature.of(".zip", _ZIP)),
    (b"%PDF-", Signature.of(".pdf")),
    (b"\x1f\x8b\x08", Signature.of(".gz", GZIP)),
    (b"7z\xbc\xaf\x27\x1c", Signature.of(".7z")),
    (b"\x28\xb5\x2f\xfd", Signature.of(".zst")),
    (b"\x93NUMPY", Signature.of(".npy")),
    (b"PAR1", Signature.of(".parquet")),
    (b"FLV\x01", Signature.of(".flv")),
    (b"\x00\x00\x01\xba", Signature.of(".mpg")),
    (b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", Signature.of(".asf", _ASF)),
    (b"MThd\x00\x00\x00\x06", Signature.of(".mid")),
    (b"#!AMR", Signature.of(".amr")),
    (b"caff\x00\x01", Signature.of(".caf")),
    (b"\x00\x00\x00\x0cjP  \r\n\x87\n", Signature.of(".jp2")),
    (b"\x00\x00\x01\x00", Signature.of(".ico")),
    (b"#?RADIANCE", Signature.of(".hdr")),
    (b"#?RGBE", Signature.of(".hdr")),
    (b"qoif", Signature.of(".qoi")),
    (b"\xabKTX 20\xbb", Signature.of(".ktx2")),
    (b"DDS \x7c\x00\x00\x00", Signature.of(".dds")),
    (b"PXR-USDC", Signature.of(".usdc", frozenset({".usdc", ".usd"}))),
    (b"#usda 1.", Signature.of(".usda", frozenset({".usda", ".usd"}))),
    (b"BLENDER", Signature.of(".blend")),
)


def _iso_media(head: bytes) -> Signature | None:
    """ISO base media files (ISO/IEC 14496-12): a box ``ftyp`` with a brand; QuickTime may lack it."""
    if head[4:8] == b"ftyp":
        extension = _BRANDS.get(head[8:12], ".mp4")
        return Signature.of(extension, _HEIF if extension in _HEIF else _MP4)
    if head[4:8] in _QUICKTIME_ATOMS:
        return Signature.of(".mov", _MP4)
    return None


def _riff(head: bytes) -> Signature | None:
    container, form = head[:4], head[8:12]
    if container == b"FORM" and form in (b"AIFF", b"AIFC"):
        return Signature.of(".aiff")
    extension = {b"WEBP": ".webp", b"WAVE": ".wav", b"AVI ": ".avi"}.get(form)
    return Signature.of(extension) if container == b"RIFF" and extension else None


def _ebml(head: bytes) -> Signature | None:
    """Matroska (RFC 9559): the document type is near the beginning of the EBML header."""
    if not head.startswith(b"\x1aE\xdf\xa3"):
        return None
    return Signature.of(".webm" if b"webm" in head[:64] else ".mkv", _EBML)


def _bitmap(head: bytes) -> Signature | None:
    """The two letters are not enough: the size of the second header must be valid too."""
    size = int.from_bytes(head[14:18], "little")
    return Signature.of(".bmp") if head[:2] == b"BM" and size in _BMP_HEADER_BYTES else None


def _mpeg_audio(head: bytes) -> Signature | None:
    """A frame's sync word (ISO/IEC 11172-3): layer III is MP3; layer 0 is AAC in ADTS."""
    if len(head) < 3 or head[0] != 0xFF or head[1] & 0xE0 != 0xE0:
        return None
    layer = head[1] & 0x06
    if layer == 0x02 and head[1] & 0x18 != 0x08 and head[2] & 0xF0 != 0xF0:
        return Signature.of(".mp3")
    return Signature.of(".aac") if layer == 0 and head[1] & 0xF0 == 0xF0 else None


# Atomic and possessive, so that a head full of comments costs no backtracking.
_SVG: Final = re.compile(
    rb"(?:<\?xml[^>]*+>|(?><!--.*?-->)|<!doctype svg[^>]*+>|\s++)*+<svg[\s>]", re.IGNORECASE | re.DOTALL
)


def _svg(head: bytes) -> Signature | None:
    return Signature.of(".svg") if _SVG.match(head.removeprefix(b"\xef\xbb\xbf")) else None


def path_extension(path: str) -> str:
    """A path's own extension, in lower case, known or not; "" for none."""
    return splitext(path.rstrip("/"))[1].lower()
