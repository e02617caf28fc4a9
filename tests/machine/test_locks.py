"""What is done once a key is done once, and keys do not wait for each other."""

import gc
import threading
from concurrent.futures import ThreadPoolExecutor

from xspinn.machine.locks import KeyedLocks


def test_one_key_is_held_by_one_thread_and_others_do_not_wait():
    locks = KeyedLocks()
    inside, let_go, order = threading.Event(), threading.Event(), []

    def first():
        with locks.of("a"):
            inside.set()
            assert let_go.wait(60)
            order.append("first")

    def second():
        with locks.of("a"):
            order.append("second")

    with ThreadPoolExecutor(2) as pool:
        one = pool.submit(first)
        assert inside.wait(60)
        two = pool.submit(second)
        with locks.of("b"):  # at once, though the other key is held
            assert not locks.of("a").acquire(blocking=False)
        let_go.set()
        one.result(60)
        two.result(60)
    assert order == ["first", "second"]


def test_locks_that_nobody_holds_are_forgotten():
    locks = KeyedLocks()
    with locks.of("a"):
        assert len(locks._locks) == 1
    gc.collect()
    assert not locks._locks
