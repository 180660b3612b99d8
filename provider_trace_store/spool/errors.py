"""The errors of the spool, which the writer handles and no host sees."""

from __future__ import annotations


class SegmentDamagedError(Exception):
    """A file's contents are not what was written to it."""


class SpoolUnavailableError(Exception):
    """The spool cannot take a row: the disk is full or fails, or the spool is as large as it may be."""


class SpoolStoppedError(Exception):
    """The spool is being closed: a file was not read to its end, and stays as it is."""
