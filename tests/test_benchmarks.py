"""The benchmarks run on a real server and print the expected lines; no time is asserted."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson
import pytest
from sqlalchemy import text

from benchmarks.core import server
from benchmarks.core.bench import Bench, Effort
from benchmarks.core.command import figures
from benchmarks.core.results import Figure, Result, Sample
from benchmarks.data import conversations
from benchmarks.scale import tables
from benchmarks.scale.questions import questions
from provider_trace_store.schemas import ID_PATTERN

if TYPE_CHECKING:
    from tests.support.servers import Database


ROOT = Path(__file__).parent.parent
# What is added to a time; where the machine is busy, few calls may measure nothing, or less.
DIFFERENCES = ("writer-loop", "packs-get")


def run(database: Database, *arguments: str, module: str = "benchmarks") -> subprocess.CompletedProcess[str]:
    url = database.url.render_as_string(hide_password=False)
    return subprocess.run(
        [sys.executable, "-W", "error", "-m", module, *arguments],
        cwd=ROOT,
        env=os.environ | {server.VARIABLE: url},
        capture_output=True,
        check=False,
        text=True,
    )


def databases_of(database: Database) -> set[str]:
    with database.engine().connect() as connection:
        return set(connection.execute(text("SELECT datname FROM pg_database")).scalars())


def test_a_quick_run_measures_every_figure_and_drops_its_database(empty_postgres: Database, tmp_path: Path) -> None:
    before = databases_of(empty_postgres)
    ran = run(empty_postgres, "--quick", "--json", str(tmp_path / "run.json"))
    assert (ran.returncode, ran.stderr) == (0, "")
    document: dict[str, Any] = json.loads((tmp_path / "run.json").read_text(encoding="utf-8"))
    assert [figure["name"] for figure in document["figures"]] == [figure.name for figure in figures()]
    for figure in document["figures"]:
        assert f"{figure['name']}: {figure['title']}" in ran.stdout
        last = [list(sample.values())[-1] for samples in figure["series"].values() for sample in samples]
        assert all(math.isfinite(value) for value in last), figure["name"]
        assert figure["name"] in DIFFERENCES or min(last) > 0, figure["name"]
    assert document["effort"]["rounds"] == 1
    assert ("WITHOUT lz4" in ran.stdout) == (document["environment"]["compression"] != "lz4")
    left = {name for name in databases_of(empty_postgres) - before if "bench" in name}
    # On a server that a URL names, one may be of another process of tests, which drops it in its turn.
    end = time.monotonic() + 60
    while left & databases_of(empty_postgres) and time.monotonic() < end:
        time.sleep(0.5)
    assert not left & databases_of(empty_postgres)


def test_the_fastest_of_the_raw_ways_is_the_limit(empty_postgres: Database, tmp_path: Path) -> None:
    ran = run(empty_postgres, "--quick", "--only", "get-42kb*", "--json", str(tmp_path / "run.json"))
    assert ran.returncode == 0
    found = json.loads((tmp_path / "run.json").read_text(encoding="utf-8"))["figures"]
    assert [figure["name"] for figure in found] == ["get-42kb", "get-42kb-async"]
    for figure in found:
        ours, *others = ((samples[0]["traces/s"], name) for name, samples in figure["series"].items())
        assert len(others) == 2
        assert figure["limit"] == max(others)[1]
        assert figure["ratio"] == ours[0] / max(others)[0]


def calls(p50: float, p99: float) -> Sample:
    return {"p50 µs": p50, "p99 µs": p99}


@pytest.mark.parametrize(
    ("samples", "verdict"),
    [
        ([calls(5, 50)], "aim"),
        ([calls(4, 51)], "ok"),
        ([calls(21, 50)], "SHORT"),
        # The median of the rounds, of each percentile for itself.
        ([calls(4, 900), calls(90, 40), calls(5, 50)], "aim"),
        (None, "FAILED"),
    ],
)
def test_a_latency_keeps_to_both_of_its_limits(samples: list[Sample] | None, verdict: str) -> None:
    figure = Figure(
        "calls", "how long calls take", lambda _: pytest.fail("measured"), (20, 200), (5, 50), ("p50 µs", "p99 µs")
    )
    result = Result(figure, {"submit": samples}) if samples else Result(figure, {}, "it failed")
    assert result.verdict == verdict
    assert f"20/200      5/50  {verdict}" in result.table()
    assert (result.entry()["at_least"], result.entry()["verdict"]) == ((20, 200), verdict)


def test_of_a_latency_p99_alone_may_be_limited() -> None:
    figure = Figure("loop", "what is added", lambda _: pytest.fail("measured"), 5_000, 1_000, ("p99 µs",))
    result = Result(figure, {"added": [calls(9_000, 1_000)]})
    assert result.verdict == "aim"
    assert "9,000 / 1,000 µs" in result.table()
    assert list(result.entry()["series"]) == ["added"]


def test_a_commit_beside_itself_runs_both_packages_in_turn(empty_postgres: Database, tmp_path: Path) -> None:
    arguments = ("--quick", "--rounds", "2", "--only", "sqlite-get-42kb", "--only", "memory-metadata")
    if not (ROOT / ".git").exists():
        pytest.skip("not a checkout of git")
    ran = run(empty_postgres, "compare", "HEAD", *arguments, "--json", str(tmp_path / "run.json"))
    assert (ran.returncode, ran.stderr) == (0, "")
    rates, memory = json.loads((tmp_path / "run.json").read_text(encoding="utf-8"))["figures"]
    for figure, rounds, key in ((rates, 2, "traces/s"), (memory, 1, "MB")):
        assert len(figure["base"]) == len(figure["new"]) == len(figure["ratios"][key]) == rounds
    pairs = zip(rates["new"], rates["base"], rates["ratios"]["traces/s"], strict=True)
    assert all(ratio == new["traces/s"] / base["traces/s"] for new, base, ratio in pairs)
    assert memory["ratios"]["MB"] == [memory["base"][0]["MB"] / memory["new"][0]["MB"]]


def test_a_base_that_git_does_not_know_is_named(empty_postgres: Database) -> None:
    ran = run(empty_postgres, "compare", "no-such-commit", "--quick")
    assert ran.returncode == 1
    assert "no-such-commit" in ran.stderr


def test_a_name_that_no_figure_has_lists_those_there_are(empty_postgres: Database) -> None:
    ran = run(empty_postgres, "--only", "nonsense")
    assert ran.returncode == 2
    assert ran.stdout.split() == [figure.name for figure in figures()]


def test_an_address_that_no_server_answers_at_is_named_by_its_variable(empty_postgres: Database) -> None:
    ran = run(empty_postgres, "--url", "postgresql://nobody:secret@127.0.0.1:1/nothing")
    assert ran.returncode == 2
    assert server.VARIABLE in ran.stderr
    assert "secret" not in ran.stderr


def test_a_quick_run_at_scale_asks_every_question_at_each_size(empty_postgres: Database, tmp_path: Path) -> None:
    ran = run(empty_postgres, "--quick", "--json", str(tmp_path / "run.json"), module="benchmarks.scale")
    assert (ran.returncode, ran.stderr) == (0, "")
    document: dict[str, Any] = json.loads((tmp_path / "run.json").read_text(encoding="utf-8"))
    assert [size["rows"] for size in document["sizes"]] == [1_000, 5_000]
    for size in document["sizes"]:
        assert [found["name"] for found in size["questions"]] == [question.name for question in questions()]
        assert all(found[side]["p50"] > 0 for found in size["questions"] for side in ("ours", "raw", "first"))
        space = size["bytes_a_row"]
        assert space["total"] == pytest.approx(space["heap"] + sum(space["indexes"].values()))
        assert space["heap"] > sum(space["columns"].values()) > 300
    assert document["iteration"]["traces"] == 1_000
    assert {cost["index"] for cost in document["writes"]} < set(space["indexes"])
    assert all(question.title in ran.stdout for question in questions())


def test_a_quick_run_of_days_packs_all_but_the_last_three(empty_postgres: Database, tmp_path: Path) -> None:
    before = databases_of(empty_postgres)
    ran = run(empty_postgres, "--quick", "--json", str(tmp_path / "run.json"), module="benchmarks.scale.days")
    assert (ran.returncode, ran.stderr) == (0, "")
    document: dict[str, Any] = json.loads((tmp_path / "run.json").read_text(encoding="utf-8"))
    assert [(found["day"], found["packed"]) for found in document["days"]] == [(1, 0), (2, 0), (3, 0), (4, 20), (5, 20)]
    last = document["days"][-1]
    assert last["with"]["provider_traces"] < last["without"]["provider_traces"]
    assert "Full table, day 5 of day 3: " in ran.stdout
    assert databases_of(empty_postgres) == before


def test_the_tables_of_scale_are_shared_as_their_page_says(empty_postgres: Database) -> None:
    with Bench(empty_postgres.url, Effort()) as bench:
        tables.fill(bench, 5_000, lambda _: None)
        of_organizations = dict(
            bench.postgres.execute("SELECT organization_id, count(*) FROM provider_trace_metadata GROUP BY 1")
        )
        [[of_busy]] = bench.postgres.execute(
            f"SELECT count(*) FROM provider_trace_metadata WHERE agent_id = '{tables.BUSY_AGENT}'"  # noqa: S608  (an id of our own)
        )
        [[first, last, ids, well_formed]] = bench.postgres.execute(
            f"SELECT min(created_at), max(created_at), count(DISTINCT id), bool_and(id ~ '{ID_PATTERN}')"  # noqa: S608  (as above)
            " FROM provider_trace_metadata"
        )
        shared = "SELECT 1 FROM provider_trace_metadata GROUP BY {} HAVING count(DISTINCT organization_id) > 1"
        assert not [key for key in ("run_id", "step_id", "agent_id") if bench.postgres.execute(shared.format(key))]
    assert of_organizations[tables.organization(tables.LARGEST)] == 2_000
    assert of_organizations[tables.organization(tables.SECOND)] == 1_000
    assert of_busy == 100
    assert (ids, well_formed) == (5_000, True)
    assert first == tables.BEGIN
    assert tables.END - last < tables.PERIOD / 1_000


@pytest.mark.parametrize("size", [5_000, 42_000, 400_000])
def test_calls_are_of_the_size_asked_for_on_average(size: int) -> None:
    calls = conversations.exchanges(size, 100)
    assert sum(len(call.request) + len(call.response) for call in calls) / len(calls) == pytest.approx(size, rel=0.1)


def test_the_same_seed_gives_the_same_calls_and_another_one_others() -> None:
    calls = conversations.exchanges(5_000, 20, seed=3)
    assert calls == conversations.exchanges(5_000, 20, seed=3)
    assert calls != conversations.exchanges(5_000, 20, seed=4)


def test_each_request_repeats_the_one_before_and_what_was_answered() -> None:
    first = [call for call in conversations.exchanges(42_000, 40) if call.conversation == 2]
    assert [call.turn for call in first] == list(range(conversations.TURNS))
    for one, following in pairwise(first):
        messages = orjson.loads(one.request)["messages"]
        answered = orjson.loads(one.response)["choices"][0]["message"]
        assert orjson.loads(following.request)["messages"][: len(messages) + 1] == [*messages, answered]


def test_text_has_what_makes_json_hard() -> None:
    text_of_all = b"".join(call.request for call in conversations.exchanges(42_000, 20)).decode()
    assert not text_of_all.isascii()
    assert all(mark in text_of_all for mark in ("\\n", '\\"', "```"))


def test_traces_have_new_ids_each_time() -> None:
    exchanges = conversations.exchanges(5_000, 10)
    calls = conversations.parsed(exchanges)
    traces = [*conversations.repeated(calls, 25), *conversations.repeated(calls, 25)]
    assert len({trace.id for trace in traces}) == 50
    assert traces[0].request_json == traces[25].request_json == orjson.loads(exchanges[0].request)


def test_a_document_compresses_about_three_to_one(empty_postgres: Database) -> None:
    bodies = [call.request.decode() for call in conversations.exchanges(42_000, 20)]
    with empty_postgres.engine().connect() as connection:
        connection.execute(text("CREATE TEMPORARY TABLE bodies (body json)"))
        connection.execute(text("INSERT INTO bodies VALUES (:body)"), [{"body": body} for body in bodies])
        query = "SELECT sum(octet_length(body::text)) / sum(pg_column_size(body))::float FROM bodies"
        ratio = connection.execute(text(query)).scalar_one()
    assert 2.5 < ratio < 4.5
