"""Whose traces are in the table: the shares of tenants, and their names.

What stays the same at every size and what grows decides what a figure's growth means:

- The period is always 90 days. A larger table is a busier one, not an older one, so that a week is a week.
- Two tenants make 40 % and 20 % of the traffic, 1,000 others the rest, the first of them 3 % of it and the last 0.05 %.
  Their number is constant, so that every tenant grows with the table: ten times the customers would only be ten times
  as many tenants of the same size, whose pages have nothing to grow by.
- A large tenant's agents have about 1,000 traces each, and their number grows: a deployment adds agents. One agent
  of the largest tenant makes 5 % of its traffic and grows.
- A run has 10, 20 or 40 traces, a step 1 to 3. 50 runs are under way at a time, so that what belongs together is not
  stored together.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from hashlib import md5
from typing import Final
from uuid import UUID

BEGIN: Final = datetime(2026, 1, 1, tzinfo=UTC)
PERIOD: Final = timedelta(days=90)
END: Final = BEGIN + PERIOD

SMALL_TENANTS: Final = 1_000
LARGEST: Final = 0
SECOND: Final = 1
# These of the small tenants have more than a page at 100,000 rows, too: otherwise pages would grow.
SMALL_WITH_A_PAGE: Final = range(2, 12)

SHARES: Final = {LARGEST: 0.4, SECOND: 0.2}
TRACES_OF_AN_AGENT: Final = 1_000
BUSY_SHARE: Final = 0.05

# Of the slots of runs that are under way at a time; see `load`.
SLOTS: Final = 50
SLOTS_OF_LARGEST: Final = 20
SLOTS_OF_SECOND: Final = 10
TRACES_OF_A_SLOT: Final = 20

TAGS: Final = 10
BODY_BYTES: Final = 20_000


def identifier(prefix: str, key: str) -> str:
    """Return an id: `load` makes the same in SQL.

    Args:
        prefix: its kind: `org`, `agent`, …
        key: what tells it from others of its kind.
    """
    return f"{prefix}-{UUID(md5(f'{prefix}{key}'.encode(), usedforsecurity=False).hexdigest())}"


def organization(tenant: int) -> str:
    """Return the organization of a tenant, by its number."""
    return identifier("org", str(tenant))


def busy_agent() -> str:
    """Return the agent that makes 5 % of the largest tenant's traffic."""
    return identifier("agent", f"{LARGEST}-busy")


def tags(number: int) -> list[str]:
    """Return the tags of an agent that has some."""
    return ["production", f"team-{number}"]


def full_traces(rows: int) -> int:
    """Return how many whole traces stand beside so many rows of metadata: a constant number, of all but tiny tables."""
    return min(10_000, rows // 10)


def traces_of(tenant: int, rows: int) -> float:
    """Return how many metadata rows a large tenant has, about.

    Args:
        tenant: `LARGEST` or `SECOND`.
        rows: of the table.
    """
    return SHARES[tenant] * rows
