"""`provider-trace-store show`, `run` and `diff`: calls as conversations."""

from __future__ import annotations

import difflib
import re
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from provider_trace_store.cli.conversation import (
    MARGIN,
    described,
    show_end,
    show_header,
    show_messages,
    show_settings,
)
from provider_trace_store.cli.looking import Full, Json, Tenant, fields_of, look, say_json, time_of, trace_of
from provider_trace_store.cli.migrate import Schema, Url  # noqa: TC001  (typer reads the annotations)
from provider_trace_store.cli.output import say
from provider_trace_store.cli.run_history import History
from provider_trace_store.cli.terminal import Screen, one_line
from provider_trace_store.conversations import compare_messages, compare_settings, read_exchange
from provider_trace_store.conversations.values import brief
from provider_trace_store.errors import MaintenanceError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sqlalchemy.orm import Session

    from provider_trace_store.conversations import Change, Exchange, Message, Setting
    from provider_trace_store.repository import ProviderTraceRepository
    from provider_trace_store.schemas import ProviderTrace, TracePage

TraceId = Annotated[str, typer.Argument(metavar="TRACE", help="The id of a trace, with or without its prefix.")]
RunId = Annotated[str, typer.Argument(metavar="RUN", help="The id of a run.")]
Raw = Annotated[bool, typer.Option("--raw", help="Print the bodies as JSON, exactly, one object on one line.")]
_LINES: Final = {"show": 40, "run": 12, "diff": 12}
_MOST_COMPARED: Final = 200_000
_CONTEXT: Final = 2
# In JSON, these characters are only in texts, which may have them as escapes.
_NOT_ASCII: Final = re.compile(r"[^\x20-\x7e]")


def show(
    trace: TraceId,
    *,
    organization: Tenant,
    full: Full = False,
    raw: Raw = False,
    as_json: Json = False,
    url: Url = None,
    schema: Schema = None,
) -> None:
    """Show a call as a conversation. Long texts are folded, and counted; --full shows them.

    Example: provider-trace-store show 0193f0a2-8b1e-7c1d-9e52-6f2d1c0a4b77 --organization org-1
    """

    def action(repository: ProviderTraceRepository, _session: Session) -> None:
        found = trace_of(repository, trace)
        if raw or as_json:
            say(_ascii(found.model_dump_json(include={"request_json", "response_json"} if raw else None)))
            return
        exchange = read_exchange(found.request_json, found.response_json)
        screen = Screen(is_full=full, most=_LINES["show"])
        show_header(screen, found, exchange)
        show_settings(screen, exchange.settings, is_full=full)
        for name in ("llm_config", "compaction_settings"):
            if given := getattr(found, name):
                show_settings(screen, given, name, is_full=full)
        screen.rule("request")
        show_messages(screen, exchange.request)
        screen.rule("response")
        show_messages(screen, exchange.response)
        show_end(screen, exchange, is_full=full)
        screen.close()

    look(url, schema, organization, action)


def run(
    run_id: RunId,
    *,
    organization: Tenant,
    full: Full = False,
    as_json: Json = False,
    url: Url = None,
    schema: Schema = None,
) -> None:
    """Show the calls of a run as one conversation: each call by the messages that it added.

    Example: provider-trace-store run run-1 --organization org-1
    """

    def action(repository: ProviderTraceRepository, _session: Session) -> None:
        count = unreadable = 0
        history = History()
        screen = Screen(is_full=full, most=_LINES["run"])
        for page in _pages(repository, run_id):
            unreadable += len(page.unreadable)
            for trace in page.items:
                count += 1
                if as_json:
                    say(_ascii(trace.model_dump_json()))
                else:
                    _show_step(screen, count, trace, history, is_full=full)
            screen.flush()
        bare = [item for item in repository.iter_metadata(run_id=run_id) if item.stored_as == "metadata"]
        if not count and not unreadable and not bare:
            raise MaintenanceError("this organization has no such run: see --organization, and `runs` for the ids")
        if as_json:
            for item in reversed(bare):
                say_json(fields_of(item))
            return
        screen.line()
        screen.line(f"run {one_line(run_id)}, calls: {count:,}", "title")
        if bare:
            screen.line(f"not shown, as they were stored as metadata, without bodies: {len(bare):,}", "error")
        if unreadable:
            screen.line(f"not shown, as their rows cannot be read: {unreadable:,}", "error")
        screen.close()

    look(url, schema, organization, action)


def diff(
    one: TraceId,
    other: TraceId,
    *,
    organization: Tenant,
    full: Full = False,
    as_json: Json = False,
    url: Url = None,
    schema: Schema = None,
) -> None:
    """Show in what two calls differ: settings, and messages that were added (+), removed (-) or changed (~).

    Example: provider-trace-store diff TRACE OTHER --organization org-1
    """

    def action(repository: ProviderTraceRepository, _session: Session) -> None:
        before, after = (trace_of(repository, trace) for trace in (one, other))
        read = [read_exchange(found.request_json, found.response_json) for found in (before, after)]
        if as_json:
            say_json(_difference(*read))
            return
        screen = Screen(is_full=full, most=_LINES["diff"])
        for sign, style, found, exchange in zip("-+", ("removed", "added"), (before, after), read, strict=True):
            screen.line(f"{sign} {found.id}", style)
            screen.line(f"{time_of(found.created_at)} UTC · {described(exchange)}", "quiet", MARGIN)
        _show_changed_settings(screen, compare_settings(_settings_of(read[0]), _settings_of(read[1])))
        screen.rule("request")
        _show_changes(screen, compare_messages(read[0].request, read[1].request))
        screen.rule("response")
        _show_changes(screen, compare_messages(read[0].response, read[1].response))
        screen.close()

    look(url, schema, organization, action)


def _pages(repository: ProviderTraceRepository, run_id: str) -> Iterator[TracePage]:
    cursor = None
    while True:
        page = repository.list_by_run_id(run_id, limit=20, cursor=cursor)
        yield page
        cursor = page.next_cursor
        if cursor is None:
            return


def _show_step(screen: Screen, number: int, trace: ProviderTrace, history: History, *, is_full: bool) -> None:
    exchange = read_exchange(trace.request_json, trace.response_json)
    step = history.add(exchange)
    screen.line()
    kind = one_line(trace.call_type or "")
    agent = one_line(trace.agent_id or "")
    screen.rule(" · ".join(piece for piece in (f"{number}", time_of(trace.created_at), kind, agent) if piece))
    screen.line(f"{trace.id} · {described(exchange)} · {step.summary}", "quiet")
    if step.is_first:
        show_settings(screen, exchange.settings, is_full=is_full)
    else:
        _show_changed_settings(screen, step.settings)
    show_messages(screen, step.added)
    show_messages(screen, exchange.response)
    show_end(screen, exchange)


def _settings_of(exchange: Exchange) -> dict[str, Any]:
    return {"model": exchange.model, **exchange.settings}


def _show_changed_settings(screen: Screen, settings: Sequence[Setting]) -> None:
    for setting in settings:
        name = one_line(setting.name)
        for sign, style, value in (("-", "removed", setting.before), ("+", "added", setting.after)):
            if value is not None:
                screen.block(f"{sign} {name}: {brief(value)}", style)


def _show_changes(screen: Screen, changes: Sequence[Change]) -> None:
    for kind, before, after in changes:
        if kind == "same":
            screen.line(f"= {len(before):,} message{'s' if len(before) > 1 else ''} the same", "quiet")
        elif kind == "removed":
            show_messages(screen, before, sign="- ", style="removed")
        elif kind == "added":
            show_messages(screen, after, sign="+ ", style="added")
        else:
            for one, other in zip(before, after, strict=True):
                _show_changed(screen, one, other)


def _show_changed(screen: Screen, before: Message, after: Message) -> None:
    one, other = _text_of(before), _text_of(after)
    if one == other or len(one) + len(other) > _MOST_COMPARED:
        show_messages(screen, [before], sign="- ", style="removed")
        show_messages(screen, [after], sign="+ ", style="added")
        return
    screen.line(f"~ {one_line(after.role)}", "title")
    for line in list(difflib.unified_diff(one.split("\n"), other.split("\n"), lineterm="", n=_CONTEXT))[2:]:
        style = {"+": "added", "-": "removed"}.get(line[:1], "quiet")
        screen.block("…" if line.startswith("@@") else line, style, MARGIN)


def _text_of(message: Message) -> str:
    return "\n".join(
        f"[{part.text}]" if part.kind == "media" else "\n".join(filter(None, (part.name, part.text)))
        for part in message.parts
    )


def _difference(before: Exchange, after: Exchange) -> dict[str, Any]:
    """Return the differences for `--json`."""
    return {
        "settings": [
            {"name": setting.name, "before": brief(setting.before), "after": brief(setting.after)}
            for setting in compare_settings(_settings_of(before), _settings_of(after))
        ],
        **{
            name: [
                {"kind": kind, "count": len(one) or len(other)}
                | ({} if kind == "same" else {"before": _plain(one), "after": _plain(other)})
                for kind, one, other in compare_messages(getattr(before, name), getattr(after, name))
            ]
            for name in ("request", "response")
        },
    }


def _plain(messages: Sequence[Message]) -> list[dict[str, Any]]:
    return [
        {
            "role": message.role,
            "parts": [
                {name: value for name in ("kind", "name", "call_id", "text") if (value := getattr(part, name))}
                for part in message.parts
            ],
        }
        for message in messages
    ]


def _ascii(document: str) -> str:
    """Return JSON with escapes instead of other characters than ASCII: the same document, safe for each terminal."""
    return _NOT_ASCII.sub(_escape, document)


def _escape(found: re.Match[str]) -> str:
    units = found[0].encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[index]:02x}{units[index + 1]:02x}" for index in range(0, len(units), 2))
