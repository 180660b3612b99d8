"""zstd with a raw prefix, by Python's own library or its backport: imported when a pack is first read or written."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from typing import Any, Final

from provider_trace_store.errors import PackSupportMissingError
from provider_trace_store.packs.model import DamagedPackError

# zstd reads frames with windows of up to 128 MB without being told to.
_MAX_WINDOW_LOG: Final = 27
_MIN_WINDOW_LOG: Final = 10


@cache
def _library() -> Any:  # noqa: ANN401  (two modules of the same interface)
    for name in ("compression.zstd", "backports.zstd"):
        try:
            return import_module(name)
        except ModuleNotFoundError:
            continue
    raise PackSupportMissingError


def compress(content: bytes | bytearray, level: int, prefix: bytes = b"") -> bytes:
    """Return one zstd frame, with a checksum of the content.

    Args:
        content: what to compress.
        level: zstd's compression level.
        prefix: text that precedes the content for the compressor, and is not part of the frame.

    Raises:
        PackSupportMissingError: Python has no zstd.
    """
    zstd = _library()
    options = {
        zstd.CompressionParameter.compression_level: level,
        zstd.CompressionParameter.checksum_flag: 1,
        # The window must reach from the content's end to the prefix's start.
        zstd.CompressionParameter.window_log: min(
            max((len(prefix) + len(content)).bit_length(), _MIN_WINDOW_LOG), _MAX_WINDOW_LOG
        ),
    }
    dictionary = raw_dictionary(prefix)
    return bytes(zstd.compress(content, options=options, zstd_dict=dictionary and dictionary.as_prefix))


def raw_dictionary(text: bytes) -> Any:  # noqa: ANN401
    """Return a dictionary of raw text; None for text too short to be one.

    Args:
        text: the text.
    """
    # The library refuses dictionaries below 8 bytes.
    return _library().ZstdDict(text, is_raw=True) if len(text) >= 8 else None  # noqa: PLR2004


def size_with(content: bytes, dictionary: Any = None) -> int:  # noqa: ANN401
    """Return the number of bytes that content takes when it is compressed quickly.

    Args:
        content: what to compress.
        dictionary: as `raw_dictionary` returned it; the library keeps its digest for the next call.
    """
    return len(_library().compress(content, level=1, zstd_dict=dictionary and dictionary.as_digested_dict))


def decompress(frame: bytes, length: int, prefix: bytes = b"") -> bytes:
    """Return a frame's content.

    Args:
        frame: as `compress` returned it.
        length: the number of bytes of the content; no more are ever made.
        prefix: as it was given to `compress`.

    Raises:
        DamagedPackError: the frame is damaged, or has content of another length.
        PackSupportMissingError: Python has no zstd.
    """
    zstd = _library()
    dictionary = raw_dictionary(prefix)
    decompressor = zstd.ZstdDecompressor(zstd_dict=dictionary and dictionary.as_prefix)
    try:
        content = bytes(decompressor.decompress(frame, length))
        if not decompressor.eof and len(content) == length:
            # The checksum can remain to be read when all content is there.
            content += decompressor.decompress(b"", 1)
    except (zstd.ZstdError, EOFError):
        raise DamagedPackError("a frame of the pack is damaged") from None
    if len(content) != length or not decompressor.eof or decompressor.unused_data:
        raise DamagedPackError("a frame of the pack is damaged")
    return content
