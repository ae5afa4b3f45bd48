"""Memory that is available: below the machine's, and without a control group that can be read."""

from __future__ import annotations

import numpy as np

from mme.engine.runtime.memory import available_memory


def test_available_memory_is_below_what_the_machine_has():
    import os

    total = float(os.sysconf("SC_PAGE_SIZE")) * os.sysconf("SC_PHYS_PAGES")
    have = available_memory()
    assert 1e6 < have < total
    # what is taken is no longer available; other processes move it by less than a tenth of the machine
    block = np.ones(int(0.02 * have / 8) + 1)
    assert available_memory() < have - 0.5 * block.nbytes + 0.1 * total


def test_a_control_group_that_cannot_be_read_sets_no_limit(monkeypatch):
    import builtins

    real = builtins.open

    def refuse(path, *args, **kwargs):
        if str(path).startswith("/sys/fs/cgroup"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, *args, **kwargs)

    monkeypatch.setattr("mme.engine.runtime.memory.os.path.exists", lambda path: True)
    monkeypatch.setattr(builtins, "open", refuse)
    assert 0 < available_memory() < np.inf
