"""Reads by a tag of the agent: any characters, and lists of tags that other programs wrote."""

from __future__ import annotations

import json
from typing import Any, Final

import pytest

from tests.support.spaces import Space, shared_database, space

__all__ = ["shared_database", "space"]


TAGS: Final[list[list[str] | None]] = [
    None,
    [],
    [""],
    ["a"],
    ["aa", "b"],
    ["b", "a"],
    ["a,b"],
    ['a","b'],
    ['"a"'],
    ['"'],
    ['\\"a\\"'],
    ["\\"],
    ["\\\\"],
    ["a\\", "b"],
    ["ü"],
    ["u\u0308"],
    ["Ü", "ß", "日本"],
    ["\U0001f600"],
    ["\ud83d\ude00"],
    ["\ud83d", "\ude00"],
    ["\ud83d"],
    ["x\ud800y", "plain"],
    ["\0"],
    ["a\0b", "a"],
    ["\\u0000"],
    ["\\ud83d"],
    ["\x7f", "\x1f", "\n", "\t", "\u2028"],
    ["/", "</script>"],
    ["[", "]", "{", "}", ","],
    ["null"],
    ["$pts:float"],
    ["%", "_", "a%"],
    ["A"],
    [" a", "a "],
    ["x" * 10_000],
    ["1"],
]


@pytest.mark.every_server
async def test_a_tag_is_found_exactly_whatever_its_characters(space: Space) -> None:
    traces = [space.trace(number, agent_tags=tags, run_id="run-1") for number, tags in enumerate(TAGS)]
    await space.add(*traces[::2])
    await space.add(*traces[1::2], place="metadata")
    for tag in {tag for tags in TAGS for tag in tags or ()} | {"unknown", "b,a", "u", "x", "y", ", ", "\ude00x"}:
        expected = [number for number, tags in enumerate(TAGS) if tag in (tags or ())][::-1]
        page = await space.repository.list_metadata(agent_tag=tag)
        assert space.numbers(page.items) == expected, repr(tag)
        assert [trace.agent_tags for trace in page.items] == [TAGS[number] for number in expected], repr(tag)
        assert space.numbers(await space.walk(1, agent_tag=tag, run_id="run-1")) == expected, repr(tag)
        counted = await space.repository.count_by("call_type", agent_tag=tag)
        assert counted == ({None: len(expected)} if expected else {}), repr(tag)


@pytest.mark.every_server
async def test_tags_of_other_writers_are_found_and_what_is_no_list_of_tags_is_not(space: Space) -> None:
    tags = ["a", "ü", "\U0001f600", 'quo"te', "back\\slash", "a,b", "nul\0"]
    texts = [
        json.dumps(tags),
        json.dumps(tags, indent=2),
        json.dumps(tags, ensure_ascii=False),
        json.dumps(tags, separators=(",", ":")),
        "null",
        '"a"',
        '{"a": 1}',
        '{"x": "a"}',
        '[["a"]]',
        "5",
        "true",
        '["b\\"a\\"", "x"]',
    ]
    if space.client.database.backend == "postgresql":
        # PostgreSQL's `json` keeps the text as it was written: white space and escapes.
        texts.append('[\n"a"\t,"\\u00fc","\\ud83d\\ude00","quo\\"te","back\\\\slash","a,b","nul\\u0000"\n]')
    has_tags = {0, 1, 2, 3, 12} & {*range(len(texts))}
    places: list[Any] = ["full", "metadata", "both"]
    for number, stored in enumerate(texts):
        await space.add(space.trace(number), place=places[number % 3])
        await space.set_column(space.trace(number), "agent_tags", stored)
    assert len((await space.repository.list_metadata()).items) == len(texts)
    for tag in tags:
        await space.assert_listed(sorted(has_tags, reverse=True), agent_tag=tag)
    for tag in ("x", 'b"a"'):
        await space.assert_listed([11], agent_tag=tag)
    for tag in ("A", "u", "quo", "5", "true", "null", '"a"'):
        await space.assert_listed([], agent_tag=tag)


async def test_a_page_by_tag_is_full_where_many_rows_only_look_alike(space: Space) -> None:
    look_alikes = [space.trace(number, agent_tags=['x"a"', "b"]) for number in range(50)]
    await space.add(*look_alikes, place="both")
    for number in (100, 20_000, 7_000):
        await space.add(space.trace(number, agent_tags=["a"]), place="both")
    for tag, expected in (("a", [20_000, 7_000, 100]), ('x"a"', [*range(49, -1, -1)]), ("b", [*range(49, -1, -1)])):
        for limit in (1, 3, 7, 1000):
            assert space.numbers(await space.walk(limit, agent_tag=tag)) == expected
