from __future__ import annotations

import random
import subprocess
import sys
import tracemalloc
from base64 import b64encode, urlsafe_b64encode
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from provider_trace_store.packs import zstd
from provider_trace_store.packs.directory import Contents
from provider_trace_store.packs.format import DamagedPackError, Directory, PackBuilder, without
from tests.chaos.packs_damage import damage_packs
from tests.support.examples import examples
from tests.support.made_packs import packed, read, run_of, text_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from provider_trace_store.packs.format import Documents, Pack

SECRET_TEXT = b"unmistakable-text-of-one-trace-only"


def _compressed_size(pack: Pack) -> int:
    return len(pack.directory) + len(pack.data)


IMAGES = [b64encode(random.Random(number).randbytes(size)) for number, size in enumerate((12_288, 20_000, 40_001))]  # noqa: S311
LONG_PIECES = [*IMAGES, b"A" * 20_000, b"=" * 17_000, b"abc" * 9_000 + b"=", *(image[1:] for image in IMAGES)]
# Long pieces are drawn by their index: hypothesis writes the strategy out.
PIECES = st.binary(max_size=200) | st.integers(0, len(LONG_PIECES) - 1).map(lambda index: LONG_PIECES[index])
DOCUMENTS = st.none() | st.lists(PIECES, max_size=5).map(b"".join)
TRACES = st.lists(
    st.tuples(
        st.text(st.characters(exclude_characters="\0")),
        st.tuples(DOCUMENTS, DOCUMENTS, DOCUMENTS, DOCUMENTS),
        st.booleans(),
    ),
    min_size=1,
    max_size=12,
    unique_by=lambda trace: trace[0],
)


@given(traces=TRACES, data=st.data())
@settings(max_examples=examples(75), deadline=None)
def test_whatever_is_packed_is_read_back_and_the_rest_stays_when_some_is_left_out(
    traces: list[tuple[str, Documents, bool]], data: st.DataObject
) -> None:
    builder = PackBuilder()
    for trace_id, documents, ends_run in traces:
        builder.add(trace_id, documents)
        if ends_run:
            builder.end_run()
    pack = builder.finish()
    expected = {trace_id: documents for trace_id, documents, _ in traces}
    assert list(read(pack).items()) == list(expected.items())
    assert pack.raw_bytes == sum(len(document or b"") for documents in expected.values() for document in documents)
    wanted = data.draw(st.lists(st.sampled_from(sorted(expected)), unique=True))
    assert read(pack, [*wanted, "not \0 there"]) == {trace_id: expected[trace_id] for trace_id in wanted}

    rewritten = without(pack, wanted)
    left = {trace_id: documents for trace_id, documents in expected.items() if trace_id not in wanted}
    assert (rewritten is None) == (not left)
    if rewritten:
        assert read(rewritten) == left
        assert rewritten.traces == len(left)
        assert rewritten.raw_bytes == sum(len(text or b"") for documents in left.values() for text in documents)


@given(seed=st.integers(0, 2**32), runs=st.integers(1, 4), calls=st.integers(1, 12), words=st.integers(1, 300))
@settings(max_examples=examples(15), deadline=None)
def test_growing_runs_with_compactions_and_sub_agents_are_read_back(
    seed: int, runs: int, calls: int, words: int
) -> None:
    source = random.Random(seed)  # noqa: S311
    made: list[list[Documents]] = []
    for _ in range(runs):
        threads = [run_of(source.randrange(2**32), calls, words) for _ in range(source.randint(1, 4))]
        # Compactions follow each other; calls of sub-agents are interleaved.
        made.append([documents for calls_of_all in zip(*threads, strict=True) for documents in calls_of_all])
        made.append([documents for thread in threads for documents in thread])
    pack, traces = packed(made)
    assert read(pack) == traces
    left_out = source.sample(sorted(traces), min(3, len(traces) - 1))
    rewritten = without(pack, left_out)
    assert rewritten
    assert read(rewritten) == {
        trace_id: documents for trace_id, documents in traces.items() if trace_id not in left_out
    }


def test_runs_take_a_small_part_of_their_text_also_with_sub_agents_between() -> None:
    runs = [run_of(number, 40) for number in range(4)]
    pack, _ = packed(runs)
    assert pack.raw_bytes > 15 * _compressed_size(pack)
    interleaved = [documents for of_all in zip(*runs, strict=True) for documents in of_all]
    pack, _ = packed([interleaved])
    assert pack.raw_bytes > 15 * _compressed_size(pack)


@pytest.mark.parametrize("encode", [b64encode, urlsafe_b64encode])
def test_base64_is_stored_once_in_its_decoded_form(encode: Callable[[bytes], bytes]) -> None:
    image = encode(random.Random(1).randbytes(90_000))  # noqa: S311
    documents = [(b'{"a":"\\n' + image + b'","step":%d}' % number, None, None, None) for number in range(10)]
    pack, traces = packed([documents])
    assert read(pack) == traces
    assert _compressed_size(pack) < 91_000


def test_calls_of_millions_of_tokens_take_what_they_add() -> None:
    base = text_of(random.Random(1), 700_000).encode()  # noqa: S311  (5 MB)
    run = [(base + b" %d" % number * 1000, None, None, None) for number in range(4)]
    alone, _ = packed([run[-1:]])
    pack, traces = packed([run])
    assert read(pack) == traces
    assert _compressed_size(pack) < 1.01 * _compressed_size(alone)


def test_one_trace_is_read_from_three_frames_and_its_base64() -> None:
    image = b'{"image":"' + b64encode(random.Random(1).randbytes(30_000)) + b'"}'  # noqa: S311
    pack, traces = packed([run_of(number, 30, 400) for number in range(8)] + [[(image, None, None, None)]])
    directory = Directory(pack.directory)
    assert len(directory.parts_of(traces)) > 10
    for trace_id in traces:
        parts = directory.parts_of([trace_id])
        assert len(parts) <= 3 + (trace_id == "run 8 call 0")
        assert parts == sorted(parts)
    assert sum(part.length for part in directory.parts_of(traces)) == len(pack.data)


def test_traces_are_returned_in_the_order_of_the_ids() -> None:
    pack, traces = packed([run_of(1, 9)])
    shuffled = sorted(traces, key=lambda trace_id: trace_id[::-1])
    assert list(read(pack, shuffled)) == shuffled
    assert Directory(pack.directory).trace_ids == tuple(traces)


def test_a_damaged_frame_affects_only_the_traces_that_need_it() -> None:
    pack, traces = packed([run_of(number, 30, 400) for number in range(4)])
    directory = Directory(pack.directory)
    last = directory.parts_of(traces)[-1]
    data = bytearray(pack.data)
    data[last.start + last.length // 2] ^= 1
    found = read(pack._replace(data=bytes(data)))
    damaged = {trace_id for trace_id in traces if last in directory.parts_of([trace_id])}
    assert 0 < len(damaged) < len(traces)
    for trace_id, documents in found.items():
        if trace_id in damaged:
            assert isinstance(documents, DamagedPackError)
        else:
            assert documents == traces[trace_id]


def test_no_flip_and_no_truncation_returns_a_wrong_trace() -> None:
    results = damage_packs(400)
    assert results["wrong"] == 0
    assert results["error of the directory"] > 100
    assert results["error of some traces"] > 100


def test_a_directory_of_another_version_says_so() -> None:
    pack, _ = packed([run_of(1, 2)])
    with pytest.raises(DamagedPackError, match="has version 9, and this version of provider_trace_store reads 1"):
        Directory(pack.directory[:4] + b"\x09" + pack.directory[5:])


@pytest.mark.parametrize("stored", [b"", b"PTS", b"\0" * 60, b'[["id", [1, -1, -1, -1]]]' * 3])
def test_what_is_not_a_directory_is_refused(stored: bytes) -> None:
    with pytest.raises(DamagedPackError):
        Directory(stored)


def test_no_error_has_text_of_a_document() -> None:
    pack, _ = packed([[(SECRET_TEXT * 400, None, None, None)]])
    data = bytearray(pack.data)
    data[len(data) // 2] ^= 255
    (error,) = read(pack._replace(data=bytes(data))).values()
    assert isinstance(error, DamagedPackError)
    chain: BaseException | None = error
    while chain:
        assert SECRET_TEXT not in repr(chain).encode()
        chain = chain.__cause__ or chain.__context__


def test_traces_that_need_a_missing_part_are_left_out() -> None:
    pack, traces = packed([run_of(1, 3)])
    assert list(Directory(pack.directory).documents_of(list(traces), {})) == []


def _raw_contents(pack: Pack) -> bytes:
    directory = Directory(pack.directory)

    parts = {part: pack.data[part.start : part.start + part.length] for part in directory.parts_of(directory.trace_ids)}
    contents = Contents(directory, parts)
    assert sum(part.length for part in parts) == len(pack.data)
    return b"".join(contents.content(frame) for frame in range(directory.frame_count))


@pytest.mark.parametrize("call", [0, 3, 7])
def test_no_byte_of_a_left_out_trace_stays(call: int) -> None:
    image = b64encode(random.Random(5).randbytes(15_000))  # noqa: S311
    run = run_of(1, 8)
    run[call] = (run[call][0], SECRET_TEXT + b'{"image":"' + image + b'"}', None, None)
    pack, traces = packed([run_of(2, 8), run, run_of(3, 8)])
    trace_id = f"run 1 call {call}"
    assert SECRET_TEXT in _raw_contents(pack)
    assert image in _raw_contents(pack)
    rewritten = without(pack, [trace_id])
    assert rewritten
    contents = _raw_contents(rewritten)
    assert SECRET_TEXT not in contents
    assert image not in contents
    del traces[trace_id]
    assert read(rewritten) == traces
    assert trace_id not in Directory(rewritten.directory).trace_ids
    assert _compressed_size(rewritten) < 1.5 * _compressed_size(pack)


def test_leaving_out_a_delta_copies_the_other_frames() -> None:
    pack, _ = packed([run_of(number, 8) for number in range(4)])
    rewritten = without(pack, ["run 1 call 2"])
    assert rewritten
    old, new = Directory(pack.directory), Directory(rewritten.directory)
    assert new.trace_ids == tuple(trace_id for trace_id in old.trace_ids if trace_id != "run 1 call 2")
    for trace_id in ("run 0 call 1", "run 2 call 7", "run 3 call 0"):
        for before, after in zip(old.parts_of([trace_id]), new.parts_of([trace_id]), strict=True):
            assert (
                pack.data[before.start : before.start + before.length]
                == rewritten.data[after.start : after.start + after.length]
            )


def test_leaving_out_all_or_nothing() -> None:
    pack, traces = packed([run_of(1, 3)])
    assert without(pack, list(traces)) is None
    assert without(pack, ["another"]) == pack


def test_a_document_that_is_not_read_back_as_it_was_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    compress = zstd.compress

    def altered(content: bytes | bytearray, level: int, prefix: bytes = b"") -> bytes:
        return compress(bytes(content).replace(b"word7", b"word8"), level, prefix)

    monkeypatch.setattr(zstd, "compress", altered)
    with pytest.raises(DamagedPackError, match="not the same when it is read back"):
        packed([run_of(1, 3)])


def test_memory_stays_bounded_for_a_run_of_large_calls() -> None:
    base = run_of(1, 1, 20_000)[0][0] or b""
    calls = 200_000_000 // len(base)
    packs: list[tuple[int, int]] = []
    builder = PackBuilder()
    tracemalloc.start()
    try:
        for number in range(calls):
            builder.add(str(number), (base + b"%d" % number * 1000, None, None, None))
            if builder.is_full or number == calls - 1:
                pack = builder.finish()
                packs.append((pack.traces, pack.raw_bytes // _compressed_size(pack)))
                builder = PackBuilder()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert sum(traces for traces, _ in packs) == calls
    # Large calls share a key, too.
    assert all(ratio > 20 for _, ratio in packs[:-1])
    assert 3 <= len(packs) <= 6
    assert peak < 60_000_000


def test_a_missing_library_says_what_to_install() -> None:
    script = (
        "import sys\n"
        "sys.modules['compression.zstd'] = sys.modules['backports.zstd'] = None\n"
        "from provider_trace_store import PackSupportMissingError\n"
        "from provider_trace_store.packs.format import PackBuilder\n"
        "builder = PackBuilder()\n"
        "try:\n"
        "    builder.add('1', (b'{}', None, None, None))\n"
        "    builder.finish()\n"
        "except PackSupportMissingError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "pip install 'provider_trace_store[packs]'" in done.stdout
