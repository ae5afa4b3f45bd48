"""Progress bars: wanted, unwanted, and on a terminal after a while."""

from __future__ import annotations

import io

from support import random_design

from mme.engine.runtime.notices import Progress
from mme.fit.fit import fit_design


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_is_quiet_unless_wanted(capsys):
    fit_design(random_design(0), solver="iterative")
    assert capsys.readouterr().err == ""
    fit_design(random_design(0), solver="iterative", progress=True)
    shown = capsys.readouterr().err
    assert "CG iterations" in shown and "gradient" in shown


def test_progress_waits_on_a_terminal(monkeypatch):
    stream = _Terminal()
    monkeypatch.setattr("sys.stderr", stream)
    bar = Progress(None)
    bar.report(1, CG_iterations=3)
    assert stream.getvalue() == ""  # nothing in the first seconds
    bar._begin -= 10.0
    bar.report(2, CG_iterations=6)
    bar.close()
    assert "CG iterations" in stream.getvalue()
    assert Progress(False).show is False
