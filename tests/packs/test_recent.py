"""What reads of packs keep: the values of the same bytes, within a limit."""

import os
import threading

from provider_trace_store.packs.recent import Recent


def test_what_was_used_longest_ago_is_dropped() -> None:
    recent: Recent[str] = Recent(100)
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
    recent: Recent[str] = Recent(100)
    recent.keep(b"kept", "value", 10)
    found: list[str | None] = []

    class Holding:
        """Is compared while the other thread's look-up goes on."""

        def __hash__(self) -> int:
            thread = threading.Thread(target=lambda: found.append(recent.find(b"kept")))
            thread.start()
            thread.join(60)
            return hash(b"other")

    assert recent.find(Holding()) is None  # type: ignore[arg-type]
    assert found == [None]
    assert recent.find(b"kept") == "value"


def test_a_child_that_was_forked_in_the_middle_of_a_look_up_goes_on() -> None:
    recent: Recent[str] = Recent(100)
    recent.keep(b"other", "value", 10)
    statuses: list[int] = []

    class Forking:
        """Forks while the look-up holds the lock."""

        def __hash__(self) -> int:
            child = os.fork()
            if child == 0:
                recent.keep(b"kept", "value", 10)
                os._exit(0 if recent.find(b"kept") is None else 1)
            statuses.append(os.waitpid(child, 0)[1])
            return hash(b"other")

    assert recent.find(Forking()) is None  # type: ignore[arg-type]
    assert statuses == [0]
