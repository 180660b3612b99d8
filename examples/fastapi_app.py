"""A backend that records the calls it makes: the asynchronous repository in a FastAPI app.

    uvicorn --app-dir examples fastapi_app:app

It needs the extra `sqlite` for the default database, and FastAPI 0.121 or later.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Annotated, Any, TypeVar
from uuid import UUID  # noqa: TC003  (FastAPI reads the annotations)

from fastapi import Depends, FastAPI, Header, HTTPException, Path, Request, status
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from sqlalchemy import make_url
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine

from provider_trace_store import (
    AsyncProviderTraceRepository,
    ProviderTrace,
    ProviderTraceConflictError,
    ProviderTraceMetadata,
    StoreSettings,
)
from provider_trace_store.migrations import upgrade

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

Found = TypeVar("Found")

STEP_ID = r"^[\w-]{1,100}$"


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Make the engine, bring its database up to date, and close it at the end."""
    settings = StoreSettings()
    url = make_url(settings.database_url)
    if url.drivername == "sqlite":
        url = url.set(drivername="sqlite+aiosqlite")
    engine = create_async_engine(url, hide_parameters=True)
    async with engine.connect() as connection:
        await connection.run_sync(upgrade)
    app.state.settings = settings
    app.state.sessions = async_sessionmaker(engine)
    yield
    await engine.dispose()


app = FastAPI(title="An agent backend", lifespan=lifespan)


async def session_of_request(request: Request) -> AsyncIterator[AsyncSession]:
    """Yield the request's session, which commits at its end, or rolls back where the request failed."""
    async with request.app.state.sessions.begin() as session:
        yield session


# With the default scope the session would commit after the response: a failed commit would go unnoticed.
RequestSession = Annotated[AsyncSession, Depends(session_of_request, scope="function")]


def settings_of_app(request: Request) -> StoreSettings:
    """Return the settings that the app was started with."""
    settings: StoreSettings = request.app.state.settings
    return settings


Settings = Annotated[StoreSettings, Depends(settings_of_app)]


def traces_of_tenant(
    session: RequestSession,
    settings: Settings,
    # A real backend takes the tenant from the caller's credentials.
    x_organization_id: Annotated[str, Header(min_length=1, max_length=100)],
) -> AsyncProviderTraceRepository:
    """Return the repository of the tenant that the request is for."""
    return AsyncProviderTraceRepository(
        session, organization_id=x_organization_id, metadata_only=settings.metadata_only
    )


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


@app.exception_handler(ProviderTraceConflictError)
async def conflict(_: Request, error: Exception) -> JSONResponse:
    """Answer 409 where an id is taken; the message names the id and nothing else."""
    return JSONResponse({"detail": str(error)}, status.HTTP_409_CONFLICT)


@app.post("/calls", status_code=status.HTTP_201_CREATED)
async def call_model(call: Call, traces: Traces, settings: Settings) -> Answer:
    """Call the model and record the call."""
    request = {"model": "local", "messages": [{"role": "user", "content": call.prompt}]}
    # The session takes a connection with its first statement: none is held while the provider works.
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
    await traces.create(trace)
    return Answer(trace_id=trace.id, text=response["choices"][0]["message"]["content"])


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
