"""A backend that records the calls it makes: a writer in the background, and the asynchronous repository to read.

    uvicorn --app-dir examples fastapi_app:app

It needs the extra `sqlite` for the default database, and FastAPI 0.121 or later.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any, TypeVar
from uuid import UUID  # noqa: TC003  (FastAPI reads the annotations)

from fastapi import Depends, FastAPI, Header, HTTPException, Path, Request, status
from pydantic import BaseModel, Field
from sqlalchemy import create_engine, make_url
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine

from provider_trace_store import (
    AsyncProviderTraceRepository,
    ProviderTrace,
    ProviderTraceMetadata,
    StoreSettings,
    TraceWriter,
)
from provider_trace_store.migrations import upgrade

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

Found = TypeVar("Found")

STEP_ID = r"^[\w-]{1,100}$"


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Make the engines, bring the database up to date, and store at the end what was submitted."""
    settings = StoreSettings()
    url = make_url(settings.database_url)
    # The writer's own connection, which no request waits for.
    background = create_engine(url, pool_size=1, max_overflow=0, hide_parameters=True)
    if url.drivername == "sqlite":
        url = url.set(drivername="sqlite+aiosqlite")
    engine = create_async_engine(url, hide_parameters=True)
    async with engine.connect() as connection:
        await connection.run_sync(upgrade)
    app.state.settings = settings
    app.state.sessions = async_sessionmaker(engine)
    async with TraceWriter(
        background, metadata_only=settings.metadata_only, spool_dir=settings.spool_dir
    ) as app.state.writer:
        yield
    background.dispose()
    await engine.dispose()


app = FastAPI(title="An agent backend", lifespan=lifespan)


async def session_of_request(request: Request) -> AsyncIterator[AsyncSession]:
    """Yield the request's session."""
    async with request.app.state.sessions() as session:
        yield session


RequestSession = Annotated[AsyncSession, Depends(session_of_request, scope="function")]


def settings_of_app(request: Request) -> StoreSettings:
    """Return the settings that the app was started with."""
    settings: StoreSettings = request.app.state.settings
    return settings


Settings = Annotated[StoreSettings, Depends(settings_of_app)]


def writer_of_app(request: Request) -> TraceWriter:
    """Return the writer of all tenants."""
    writer: TraceWriter = request.app.state.writer
    return writer


Writer = Annotated[TraceWriter, Depends(writer_of_app)]
# A real backend takes the tenant from the caller's credentials.
Tenant = Annotated[str, Header(alias="X-Organization-Id", min_length=1, max_length=100)]


def traces_of_tenant(session: RequestSession, tenant: Tenant) -> AsyncProviderTraceRepository:
    """Return the repository of the tenant that the request is for."""
    return AsyncProviderTraceRepository(session, organization_id=tenant)


Traces = Annotated[AsyncProviderTraceRepository, Depends(traces_of_tenant)]


class Call(BaseModel):
    """What a client asks for; with an `id` of its own it finds the trace again."""

    step_id: str = Field(pattern=STEP_ID)
    prompt: str
    id: UUID | None = None


class Answer(BaseModel):
    """What the model said, and where it is recorded."""

    trace_id: str
    text: str


async def call_provider(request: dict[str, Any]) -> dict[str, Any]:
    """Stand in for a model provider."""
    prompt = request["messages"][-1]["content"]
    return {"choices": [{"message": {"role": "assistant", "content": f"You said: {prompt}"}}]}


@app.post("/calls", status_code=status.HTTP_201_CREATED)
async def call_model(call: Call, writer: Writer, settings: Settings, tenant: Tenant) -> Answer:
    """Call the model and record the call, which costs the caller microseconds whatever the database does."""
    request = {"model": "local", "messages": [{"role": "user", "content": call.prompt}]}
    response = await call_provider(request)
    chosen = {} if call.id is None else {"id": call.id}
    trace = ProviderTrace.model_validate(
        {
            **chosen,
            "request_json": request,
            "response_json": response,
            "step_id": call.step_id,
            "call_type": "agent_step",
            "source": settings.source,
        }
    )
    writer.submit(trace, organization_id=tenant)
    return Answer(trace_id=trace.id, text=response["choices"][0]["message"]["content"])


@app.get("/writer")
async def show_writer(writer: Writer) -> dict[str, int]:
    """Return how many traces are stored, waiting, rejected and dropped, for a monitor of the app."""
    return asdict(writer.stats)


@app.get("/traces/{trace_id}")
async def read_trace(trace_id: str, traces: Traces) -> ProviderTrace:
    """Return a whole trace; 404 also where only its metadata was kept, or where it is another tenant's."""
    return _found(await traces.get(trace_id))


@app.get("/traces/{trace_id}/metadata")
async def read_metadata(trace_id: str, traces: Traces) -> ProviderTraceMetadata:
    """Return the metadata of a trace, however it was kept."""
    return _found(await traces.get_metadata(trace_id))


@app.get("/steps/{step_id}/traces")
async def list_step(step_id: Annotated[str, Path(pattern=STEP_ID)], traces: Traces) -> list[ProviderTrace]:
    """Return the whole traces of a step, oldest first."""
    return await traces.list_by_step_id(step_id)


def _found(trace: Found | None) -> Found:
    if trace is None:
        raise HTTPException(status.HTTP_404_NOT_FOUND, "no such trace")
    return trace
