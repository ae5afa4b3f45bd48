"""The decorator of all kernels."""

from __future__ import annotations


def test_without_a_writable_cache(monkeypatch):
    """No place for compiled kernels: they are compiled in every process, not refused."""
    from mme.engine import kernels

    calls = []

    def njit(**options):
        calls.append(options["cache"])
        if options["cache"]:
            raise RuntimeError("cannot cache function: no locator available")
        return lambda function: function

    monkeypatch.setattr(kernels, "njit", njit)
    assert kernels.kernel(len) is len
    assert calls == [True, False]
