"""The errors as a host catches them: in groups, across processes, and with the bases that they always had."""

from __future__ import annotations

import copy
import pickle
from typing import Final

import pytest

import provider_trace_store
from provider_trace_store import (
    AdoptedTableError,
    InvalidArgumentError,
    InvalidCursorError,
    InvalidFilterError,
    InvalidIdentifierError,
    InvalidLimitError,
    InvalidWriterOptionError,
    MaintenanceError,
    MigrationError,
    MigrationLockError,
    PackSupportMissingError,
    PartitionMissingError,
    PoolerSettingError,
    PrivilegeMissingError,
    ProviderTraceConflictError,
    ProviderTraceRejectedError,
    ProviderTraceStoreError,
    ProviderTraceUnavailableError,
    TableMismatchError,
    TableMissingError,
    TableNotEmptyError,
    TraceDecodingError,
    TraceEncodingError,
    TraceTooLargeError,
    TransactionEndedError,
    UnstorableTraceError,
    WriterClosedError,
)
from provider_trace_store.errors import shown
from tests.support.constants import SECRET
from tests.support.traces import trace_id

ID: Final = trace_id(1)

WRONG_ARGUMENTS: Final[list[InvalidArgumentError]] = [
    InvalidCursorError(),
    InvalidFilterError("since", "must be a datetime with a time zone"),
    InvalidIdentifierError("organization_id", "must be text that is not empty"),
    InvalidLimitError("limit", 1, 1000),
    InvalidWriterOptionError("on_full", "must be one of block, drop"),
]
BAD_TRACES: Final[list[UnstorableTraceError]] = [
    ProviderTraceConflictError(ID),
    ProviderTraceRejectedError(ID, "23503", "hosts_key"),
    TraceEncodingError("request_json.a", "a set", ID),
    TraceTooLargeError("request_json", 1001, 1000, ID),
]
MIGRATION_ERRORS: Final[list[MigrationError]] = [
    MigrationLockError("could not acquire a lock"),
    TableMismatchError("provider_traces", ["its column id is missing"]),
    TableNotEmptyError("provider_traces"),
    AdoptedTableError("provider_traces"),
]
OTHERS: Final[list[ProviderTraceStoreError]] = [
    MaintenanceError("another command runs"),
    MigrationError("the connection is in autocommit mode"),
    PackSupportMissingError(),
    PartitionMissingError("provider_trace_metadata", "RANGE (created_at)"),
    PrivilegeMissingError("provider_traces", ["INSERT ON provider_traces"], "app"),
    PoolerSettingError("26000"),
    ProviderTraceUnavailableError(ID, "57014"),
    TableMissingError("provider_traces"),
    TraceDecodingError(),
    TransactionEndedError(ID, is_refusal=True),
    WriterClosedError(),
]
ERRORS: Final[list[ProviderTraceStoreError]] = [*WRONG_ARGUMENTS, *BAD_TRACES, *MIGRATION_ERRORS, *OTHERS]
GROUPS: Final[set[type[ProviderTraceStoreError]]] = {InvalidArgumentError, UnstorableTraceError}


def _class_of(error: ProviderTraceStoreError) -> str:
    return type(error).__name__


def test_every_public_error_is_in_these_lists_or_is_a_base() -> None:
    public = {
        found
        for name in provider_trace_store.__all__
        if isinstance(found := getattr(provider_trace_store, name), type) and issubclass(found, Exception)
    }
    assert {type(error) for error in ERRORS} | GROUPS | {ProviderTraceStoreError} == public


@pytest.mark.parametrize("error", WRONG_ARGUMENTS, ids=_class_of)
def test_a_host_catches_any_wrong_argument_by_one_class_that_names_it(error: InvalidArgumentError) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        raise error
    assert str(error) == f"{caught.value.name} {caught.value.reason}"
    assert isinstance(error, ValueError)
    assert not isinstance(error, UnstorableTraceError)


@pytest.mark.parametrize("error", BAD_TRACES, ids=_class_of)
def test_a_host_catches_any_trace_that_cannot_be_stored_by_one_class_that_names_it(error: UnstorableTraceError) -> None:
    with pytest.raises(UnstorableTraceError) as caught:
        raise error
    assert caught.value.trace_id == ID
    assert str(error).startswith(f"{ID} ")
    assert not isinstance(error, InvalidArgumentError)


@pytest.mark.parametrize("error", [*MIGRATION_ERRORS, *OTHERS], ids=_class_of)
def test_no_other_error_is_in_a_group(error: ProviderTraceStoreError) -> None:
    assert not isinstance(error, (InvalidArgumentError, UnstorableTraceError))


@pytest.mark.parametrize("error", ERRORS, ids=_class_of)
def test_each_error_has_the_bases_that_it_always_had(error: ProviderTraceStoreError) -> None:
    was_a_value_error = {*map(type, WRONG_ARGUMENTS), TraceDecodingError, TraceEncodingError, TraceTooLargeError}
    assert isinstance(error, ProviderTraceStoreError)
    assert isinstance(error, ValueError) == (type(error) in was_a_value_error)
    assert isinstance(error, MigrationError) == (type(error) in {MigrationError, *map(type, MIGRATION_ERRORS)})


@pytest.mark.parametrize("error", ERRORS, ids=_class_of)
def test_each_error_survives_pickling_and_copying(error: ProviderTraceStoreError) -> None:
    for other in (pickle.loads(pickle.dumps(error)), copy.copy(error), copy.deepcopy(error)):  # noqa: S301  (what was just dumped)
        assert type(other) is type(error)
        assert (str(other), other.args, vars(other)) == (str(error), error.args, vars(error))


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        (InvalidCursorError(), "pass `next_cursor` of the previous page"),
        (ProviderTraceConflictError(ID), "give this call an id of its own"),
        (ProviderTraceRejectedError(ID), "correct the trace or the database's rule, a retry does not help"),
        (ProviderTraceUnavailableError(ID), "send the same trace again"),
        (PackSupportMissingError(), "run `pip install 'provider_trace_store[packs]'`"),
        (PartitionMissingError("provider_trace_metadata", "RANGE (created_at)"), "create one"),
        (PrivilegeMissingError("provider_traces", ["INSERT ON provider_traces"], "app"), "run GRANT INSERT ON"),
        (TableMissingError("provider_traces"), "run `provider-trace-store migrate upgrade`"),
        (TableNotEmptyError("provider_traces"), "pass `drop_data=True`"),
        (AdoptedTableError("provider_traces"), "pass `drop_adopted=[TABLE]`"),
        (TraceDecodingError(), "correct its row"),
        (TraceEncodingError("request_json.a", "a set", ID), "correct the value"),
        (TraceTooLargeError("request_json", 1001, 1000, ID), "raise max_body_bytes"),
        (PoolerSettingError("26000"), 'connect_args={"prepare_threshold": None}'),
        (TransactionEndedError(ID, is_refusal=True), "roll the session back"),
        (WriterClosedError(), "close the writer after the last submit"),
    ],
    ids=lambda value: "" if isinstance(value, str) else type(value).__name__,
)
def test_a_message_says_what_to_do_next(error: ProviderTraceStoreError, advice: str) -> None:
    assert advice in str(error)


HOSTILE: Final = {
    "newline": "provider_trace-0123abcd\nERROR forged",
    "return": "provider_trace-0123abcd\rERROR forged",
    "terminal": "provider_trace-0123abcd\x1b[2J",
    "8-bit control": "provider_trace-0123abcd\x85\x9b",
    "direction": "provider_trace-0123abcd\u202e\u2066",
    "line separator": "provider_trace-0123abcd\u2028\u2029",
    "invisible": "provider_trace-0123abcd\u200b\ufeff\U000e0041",
    "surrogate": "provider_trace-0123abcd\ud800",
    "long": "provider_trace-0123abcd" + "x" * 100_000,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_an_id_or_a_name_is_on_one_line_and_bounded_in_every_message(name: str) -> None:
    hostile = HOSTILE[name]
    errors = [
        ProviderTraceConflictError(hostile),
        ProviderTraceRejectedError(ID, "23503", hostile),
        ProviderTraceRejectedError(hostile),
        ProviderTraceUnavailableError(hostile),
        TableMissingError(hostile),
        TraceEncodingError("request_json", "a set", hostile),
        TraceTooLargeError("request_json", 2, 1, hostile),
    ]
    for error in errors:
        assert str(error).isprintable()
        assert "0123abcd" in str(error)
        assert len(str(error)) < 1000
        assert hostile in vars(error).values()


@pytest.mark.parametrize("not_an_id", [None, 7, {"key": SECRET}, [SECRET], b"x"])
def test_an_id_that_is_not_text_is_not_shown(not_an_id: object) -> None:
    error = TraceEncodingError("id", "is not text", not_an_id)

    assert str(error).startswith("trace cannot be stored exactly: id: is not text;")
    assert error.trace_id is None
    assert SECRET not in repr(error)


def test_an_id_that_prints_stands_in_a_message_as_it_is_and_escapes_are_unambiguous() -> None:
    assert shown("provider_trace-0123abcd/x y é 日本") == "provider_trace-0123abcd/x y é 日本"
    assert shown("a\n") == r"a\n"
    assert shown(r"a\n") == r"a\\n"
    assert shown("x" * 129) == "x" * 128 + "… (129 characters)"
