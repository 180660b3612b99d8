"""What reads of packs keep: the values that were used last, within a limit."""

import os
import subprocess
import sys
import threading

import pytest

from provider_trace_store.packs.recent import Recent


def test_what_was_used_longest_ago_is_dropped() -> None:
    recent: Recent[object, str] = Recent(100)
    recent.keep(b"first", "one", 40)
    recent.keep(b"second", "two", 40)
    assert recent.find(b"first") == "one"
    recent.keep(b"third", "three", 40)
    assert [recent.find(source) for source in (b"first", b"second", b"third")] == ["one", None, "three"]
    recent.keep(b"first", "larger", 60)
    assert [recent.find(source) for source in (b"first", b"third")] == ["larger", "three"]
    recent.keep(b"fourth", "four", 101)
    assert recent.find(b"fourth") is None
    assert recent.find(b"first") == "larger"


def test_a_thread_that_meets_another_one_does_not_wait() -> None:
    recent: Recent[object, str] = Recent(100)
    recent.keep(b"kept", "value", 10)
    found: list[str | None] = []

    class Holding:
        """Is compared while the other thread's look-up goes on."""

        def __hash__(self) -> int:
            thread = threading.Thread(target=lambda: found.append(recent.find(b"kept")))
            thread.start()
            thread.join(60)
            return hash(b"other")

    assert recent.find(Holding()) is None
    assert found == [None]
    assert recent.find(b"kept") == "value"


FORK_IN_A_LOOK_UP = """
import os
from provider_trace_store.packs.recent import Recent

recent = Recent(100)
recent.keep(b"other", "value", 10)

class Forking:
    def __hash__(self):
        child = os.fork()
        if child == 0:
            recent.keep(b"kept", "value", 10)
            os._exit(0 if recent.find(b"kept") is None else 1)
        print(os.waitpid(child, 0)[1])
        return hash(b"other")

recent.find(Forking())
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system cannot fork")
def test_a_child_that_was_forked_in_the_middle_of_a_look_up_goes_on() -> None:
    # A process of its own: this one has other threads, whose locks a child would inherit.
    done = subprocess.run(
        [sys.executable, "-c", FORK_IN_A_LOOK_UP], capture_output=True, text=True, check=True, timeout=600
    )
    assert done.stdout == "0\n"
