"""The Celery application that `tests/writer/test_app_servers.py` runs; its broker is a folder."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from celery import Celery

from tests.support import served_app

_folder: Final = Path(os.environ["TRACES_BROKER"])
app: Final = Celery("traces", broker="filesystem://")
app.conf.update(
    broker_transport_options={"data_folder_in": str(_folder), "data_folder_out": str(_folder)},
    broker_connection_retry_on_startup=False,
    task_ignore_result=True,
    worker_hijack_root_logger=False,
)


@app.task(name="submit")  # type: ignore[misc,untyped-decorator,unused-ignore]  # Celery has no types
def submit(first: int, last: int) -> None:
    """Submit traces, and say so by a file."""
    served_app.submit(range(first, last))
    (_folder / f"done-{first}").touch()
