"""The database that the command and `alembic` in a checkout migrate: its URL, a connection to it, and its errors."""

from __future__ import annotations

import logging
import re
import socket
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pydantic import ValidationError
from sqlalchemy import NullPool, create_engine, make_url

from provider_trace_store.errors import MigrationError
from provider_trace_store.settings import StoreSettings, psycopg_url

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from sqlalchemy import URL, Connection

_PREFIX: Final = "PROVIDER_TRACE_STORE_"
VARIABLE: Final = f"{_PREFIX}DATABASE_URL"

# A migration needs one synchronous connection, so each URL of these gets the driver that the package depends on.
_POSTGRES: Final = re.compile(r"postgres(ql)?(\+(asyncpg|psycopg|psycopg_async|psycopg2|psycopg2cffi|pg8000))?")
_SQLITE: Final = re.compile(r"sqlite(\+(pysqlite|aiosqlite))?")
_ACCEPTED: Final = "postgresql://user:password@host:5432/database or sqlite:///file.db"
# Options of other drivers in a URL: what libpq calls them, or None for what a migration does not need.
_OPTIONS: Final = {
    "ssl": "sslmode",
    "timeout": "connect_timeout",
    "database": "dbname",
    "command_timeout": None,
    "direct_tls": None,
    "async_fallback": None,
    "prepared_statement_cache_size": None,
    "prepared_statement_name_func": None,
    "statement_cache_size": None,
    "max_cached_statement_lifetime": None,
    "max_cacheable_statement_size": None,
}
_SSL_MODES: Final = {"true": "require", "1": "require", "on": "require", "false": "disable", "0": "disable"}
_PORT: Final = 5432
_PROBE: Final = 5.0  # seconds

logger: Final = logging.getLogger("provider_trace_store.migrations")


def database_url(given: str | None) -> URL:
    """Return the URL of the database, with a synchronous driver, and log which database it names.

    Args:
        given: the URL that the operator gave; None for that of the environment.

    Raises:
        MigrationError: the URL is not one of the accepted form. The message repeats nothing of it.
    """
    source = "`url`"
    is_default = False
    if given is None:
        settings = _settings()
        given = settings.database_url
        source = VARIABLE
        is_default = "database_url" not in settings.model_fields_set
    url = _parsed(given, source)
    where = ""
    if is_default:
        where = f" ({Path(url.database or '').resolve()}), because neither {VARIABLE} nor `url` names a database"
    logger.info("database: %s%s", shown(url), where)
    return url


def shown(url: URL) -> str:
    """Return where a database is, for a message: without user name, password and options."""
    if url.get_backend_name() == "sqlite":
        return url.set(query={}).render_as_string()
    host = url.host or url.query.get("host") or ""
    hosts = host if isinstance(host, str) else ",".join(host)
    port = f":{url.port}" if url.port else ""
    credentials = "***@" if url.username or url.password or "password" in url.query else ""
    return f"{url.drivername}://{credentials}{hosts}{port}/{url.database or ''}"


@contextmanager
def connected(url: URL) -> Iterator[Connection]:
    """Connect to a database for the time of a block.

    Args:
        url: as `database_url` returns it.

    Raises:
        MigrationError: the connection could not be made: which server, why, and what to do.
    """
    if url.get_backend_name() == "sqlite" and url.database in {None, "", ":memory:"}:
        raise MigrationError("`url` names a SQLite database in memory, which ends with the command: name a file")
    connection = None
    try:
        engine = create_engine(url, poolclass=NullPool)
        connection = engine.connect()
    except Exception as error:  # noqa: BLE001  # a driver raises errors of its own for options; the text may repeat them
        kind = type(getattr(error, "orig", None) or error).__name__
    if connection is None:
        raise MigrationError(f"cannot connect to {shown(url)} ({kind}): {_reason(url)}")
    try:
        yield connection
    finally:
        connection.close()
        engine.dispose()


def _settings() -> StoreSettings:
    try:
        return StoreSettings()
    except ValidationError as error:
        # Without the values: the URL may hold a password.
        problems = [f"{_variable(str(problem['loc'][0]))} ({problem['msg']})" for problem in error.errors()]
    raise MigrationError(f"correct in the environment: {', '.join(problems)}")


def _variable(setting: str) -> str:
    return setting if setting.isupper() else f"{_PREFIX}{setting.upper()}"


def _parsed(text: str, source: str) -> URL:
    try:
        url = make_url(psycopg_url(text.strip()))
    except ValueError as error:
        problem = str(error)
    else:
        return _with_driver(url, source)
    raise MigrationError(f"{source} {problem}")


def _with_driver(url: URL, source: str) -> URL:
    if _SQLITE.fullmatch(url.drivername):
        if url.host or url.username or url.password:
            raise MigrationError(
                f"{source} names a host for SQLite: write sqlite:///relative.db or sqlite:////full/path.db"
            )
        return url.set(drivername="sqlite")
    if not _POSTGRES.fullmatch(url.drivername):
        raise MigrationError(f"{source} names a database or a driver that is not supported: use {_ACCEPTED}")
    query = {_OPTIONS.get(name, name): value for name, value in url.query.items()}
    query.pop(None, None)
    mode = query.get("sslmode")
    if isinstance(mode, str):
        query["sslmode"] = _SSL_MODES.get(mode.lower(), mode)
    _check_options(query, source)
    return url.set(drivername="postgresql+psycopg", query=query)  # type: ignore[arg-type]  # no None is left


def _check_options(query: dict[Any, Any], source: str) -> None:
    from psycopg.pq import Conninfo  # noqa: PLC0415  # a host that only uses SQLite need not have libpq

    known = {option.keyword.decode() for option in Conninfo.get_defaults()} | {"prepare_threshold"}
    if unknown := sorted(name for name in query if name not in known):
        names = ", ".join(name if name.isidentifier() else "one that is not a name" for name in unknown)
        raise MigrationError(f"{source} has options that PostgreSQL's client does not know ({names}): leave them out")


def _reason(url: URL) -> str:
    """Return why a connection probably failed, found out without the driver's text, which may repeat the URL."""
    if url.get_backend_name() == "sqlite":
        path = Path(url.database or "")
        if not path.absolute().parent.is_dir():
            return f"the directory {path.absolute().parent} does not exist: create it, or correct the URL"
        return "see that the file is a SQLite database, and that it and its directory are readable and writable"
    return _reason_of_server(url.host or url.query.get("host"), url.port or _PORT)


def _reason_of_server(host: object, port: int) -> str:
    if isinstance(host, str) and host.startswith("/") and not Path(host, f".s.PGSQL.{port}").exists():
        return f"there is no socket .s.PGSQL.{port} of a server in that directory: correct host and port"
    if isinstance(host, str) and not host.startswith("/") and "," not in host:
        try:
            with socket.create_connection((host, port), timeout=_PROBE):
                pass  # the server answers
        except TimeoutError:
            return f"no answer within {_PROBE:g} s: see the host, the port and the firewall"
        except socket.gaierror:
            return "the host name is not known: correct the host"
        except (OSError, UnicodeError):
            return "no server listens there: see that the server runs, and correct host and port"
    return (
        "the server refused the connection: see that it runs, correct user name, password, database and TLS options; "
        "the server's log has the reason"
    )


def spelled(message: str, options: Mapping[str, str]) -> str:
    """Return a message with the options as the operator writes them.

    Args:
        message: it names each option in backquotes, as Python's argument: `drop_data=True`.
        options: the spelling of each.
    """
    for argument, option in options.items():
        message = message.replace(f"`{argument}`", option)
    return message
