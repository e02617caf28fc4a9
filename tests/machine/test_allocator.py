"""glibc keeps memory while blocks run, and gives it back after them."""

import os
import threading

import pytest
from helpers.elsewhere import python

from xspinn.machine import allocator

CODE = """
import psutil, torch
from xspinn.machine import allocator
assert allocator.can_keep() is {can}
rss = lambda: psutil.Process().memory_info().rss / 2**20

def batch():  # as activations come and go
    for _ in range(3):
        torch.ones(12 * 2**20)  # 48 MiB, more than glibc ever takes from a heap by itself
    return rss()

batch()  # starts what is started once
before = rss()
usual = batch() - before
with allocator.kept(), allocator.kept():
    inside = batch() - before
allocator.give_back()
after = rss() - before
batch()  # which may find room in what was kept
allocator.give_back()
again = rss() - before
print(round(usual), round(inside), round(after), round(again))
"""


def growth(can, **env):
    return [int(word) for word in python(CODE.format(can=can), **env).split()]


pytestmark = pytest.mark.skipif(
    not hasattr(allocator._libc(), "gnu_get_libc_version"), reason="the C library is not glibc"
)


@pytest.fixture
def clean(monkeypatch):
    for name in list(os.environ):
        if name.startswith(allocator.USER_VARIABLES) or name == "LD_PRELOAD":
            monkeypatch.delenv(name)


def test_memory_is_kept_inside_and_given_back_after(clean):
    usual, inside, after, again = growth(True)
    assert inside > 40
    assert usual < 20
    assert after < 20
    assert again < 20


@pytest.mark.parametrize("env", [{"MALLOC_ARENA_MAX": "4"}, {"LD_PRELOAD": "none.so"}], ids=str)
def test_what_the_user_has_set_stays(clean, env):
    usual, inside, _, _ = growth(False, **env)
    assert max(usual, inside) < 20


def test_the_last_thread_that_leaves_sets_it_back(monkeypatch):
    seen: list[dict[int, int]] = []
    monkeypatch.setattr(allocator, "can_keep", lambda: True)
    monkeypatch.setattr(allocator, "_set", seen.append)
    monkeypatch.setattr(allocator, "_environ", dict)
    inside, leave = threading.Barrier(5), threading.Barrier(5)

    def block():
        with allocator.kept():
            inside.wait()
            leave.wait()

    threads = [threading.Thread(target=block) for _ in range(4)]
    for thread in threads:
        thread.start()
    inside.wait()
    assert seen == [allocator.KEEP_ALL]
    leave.wait()
    for thread in threads:
        thread.join()
    assert seen == [allocator.KEEP_ALL, allocator.GLIBC_DEFAULTS]
    with allocator.kept(False):
        pass
    assert len(seen) == 2


def test_workers_of_distributed_keep_memory_too(clean, monkeypatch):
    usual, inside, after, again = growth(True, MALLOC_TRIM_THRESHOLD_="65536")
    assert inside > 40
    assert max(usual, after, again) < 20
    monkeypatch.setattr(allocator, "_environ", lambda: {allocator.NANNY_VARIABLE: "65536"})
    assert allocator._defaults()[allocator.M_TRIM_THRESHOLD] == 65536
