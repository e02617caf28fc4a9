"""The folders and their arrows, as ``make arrows`` shows them."""

from __future__ import annotations

from collections import Counter

import pytest

from dev import arrows


def test_circles_are_found() -> None:
    assert arrows.circle({"a": {"b"}, "b": {"c"}, "c": set()}) == []
    assert set(arrows.circle({"a": {"b"}, "b": {"c"}, "c": {"b"}})) == {"b", "c"}


def test_folders_have_purposes_and_sizes(capsys: pytest.CaptureFixture[str]) -> None:
    arrows.print_folders(["api", "geometry"])
    _, api, geometry = capsys.readouterr().out.splitlines()
    assert api.split()[:2] == ["api", "1"]
    assert geometry.split()[0] == "geometry/"
    assert geometry.endswith("Where patches lie and what they weigh, one dim at a time.")


def test_arrows_are_counted(capsys: pytest.CaptureFixture[str]) -> None:
    arrows.print_arrows(Counter({("api", "plans"): 3, ("api", "graph"): 1}), ["api", "graph"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines[:2]] == [
        ["api", "->", "graph", "1"],
        ["graph", "->", "(nothing)"],
    ]
