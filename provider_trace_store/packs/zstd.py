"""zstd with a raw prefix, by Python's own library or its backport: imported when a pack is first read or written."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from io import BufferedReader, RawIOBase
from typing import TYPE_CHECKING, Any, Final

from provider_trace_store.errors import PackSupportMissingError
from provider_trace_store.packs.model import DamagedPackError

if TYPE_CHECKING:
    from io import BufferedIOBase
    from pathlib import Path

# zstd reads frames with windows of up to 128 MB without being told to.
_MAX_WINDOW_LOG: Final = 27
_MIN_WINDOW_LOG: Final = 10
# Of a longer prefix, zstd's tables have only the end (its `ZSTD_loadDictionaryContent`), and content that repeats the
# start is found by long-distance matching alone: a call of 4 MB takes 1.6 KB with it, and 1.3 MB without.
_LONG_PREFIX_BYTES: Final = 2_000_000


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
        zstd.CompressionParameter.enable_long_distance_matching: len(prefix) > _LONG_PREFIX_BYTES,
    }
    dictionary = raw_dictionary(prefix)
    return bytes(zstd.compress(content, options=options, zstd_dict=dictionary and dictionary.as_prefix))


def stream_compressor(level: int, window_log: int) -> StreamCompressor:
    """Return a compressor of long streams, which also finds repetitions that are far apart.

    Args:
        level: zstd's compression level.
        window_log: the window is 2 to the power of this many bytes, at most 27: every reader can read these.

    Raises:
        PackSupportMissingError: Python has no zstd.
    """
    return StreamCompressor(_library(), level, window_log)


class StreamCompressor:
    """Compresses a stream into frames, one after the other, each with a checksum; see `stream_compressor`."""

    def __init__(self, library: Any, level: int, window_log: int) -> None:  # noqa: ANN401  (as `_library`)
        parameter = library.CompressionParameter
        options = {
            parameter.compression_level: level,
            parameter.checksum_flag: 1,
            parameter.window_log: window_log,
            parameter.enable_long_distance_matching: 1,
        }
        self._end = library.ZstdCompressor.FLUSH_FRAME
        self._compressor = library.ZstdCompressor(options=options)
        self._is_open = False

    def compress(self, content: bytes) -> bytes:
        """Add content to the frame; return what can be written of it."""
        self._is_open = True
        return bytes(self._compressor.compress(content))

    def flush(self) -> bytes:
        """End the frame, if it has content, and return the rest of it; `compress` begins the next one."""
        if not self._is_open:
            return b""
        self._is_open = False
        return bytes(self._compressor.flush(self._end))


def open_stream(path: Path) -> BufferedIOBase:
    """Return a file of frames, opened to read their content; ValueError or EOFError while it is read if it is damaged.

    Args:
        path: the file.

    Raises:
        PackSupportMissingError: Python has no zstd.
    """
    zstd = _library()
    file = zstd.ZstdFile(path, "rb")
    zstd_error: type[Exception] = zstd.ZstdError
    return BufferedReader(_Frames(file, zstd_error), 2**20)


class _Frames(RawIOBase):
    """Frames whose errors are of a class that a caller can name."""

    def __init__(self, file: Any, error: type[Exception]) -> None:  # noqa: ANN401  (of two libraries)
        super().__init__()
        self._file = file
        self._error = error

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:  # noqa: ANN401  (as the base's)
        try:
            return int(self._file.readinto(buffer))
        except self._error:
            pass  # raised below
        raise ValueError("a frame is damaged")

    def close(self) -> None:
        self._file.close()
        super().close()


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


def decompress(frame: bytes, length: int, prefix: bytes = b"", needed: int | None = None) -> bytes:
    """Return a frame's content, or the start of it.

    Args:
        frame: as `compress` returned it.
        length: the number of bytes of the content; no more are ever made.
        prefix: as it was given to `compress`.
        needed: the number of bytes that are needed; below `length`, only these are made, without a look at zstd's
            checksum.

    Raises:
        DamagedPackError: the frame is damaged, or has content of another length.
        PackSupportMissingError: Python has no zstd.
    """
    zstd = _library()
    dictionary = raw_dictionary(prefix)
    decompressor = zstd.ZstdDecompressor(zstd_dict=dictionary and dictionary.as_prefix)
    is_part = needed is not None and needed < length
    wanted = needed if needed is not None and is_part else length
    try:
        content = bytes(decompressor.decompress(frame, wanted))
        if not is_part and not decompressor.eof and len(content) == length:
            # The checksum can remain to be read when all content is there.
            content += decompressor.decompress(b"", 1)
    except (zstd.ZstdError, EOFError):
        raise DamagedPackError("a frame of the pack is damaged") from None
    if len(content) != wanted or not (is_part or decompressor.eof) or decompressor.unused_data:
        raise DamagedPackError("a frame of the pack is damaged")
    return content
