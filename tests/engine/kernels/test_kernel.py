"""The decorators of all kernels."""

from __future__ import annotations

from typing import Any, cast

from mme.engine.kernels import Kernel, cache, cells, kernels, part


@part
def _doubled(x: float) -> float:
    return 2.0 * x


def test_a_kernel_is_compiled_with_its_parts_at_its_first_call(monkeypatch):
    monkeypatch.setattr(cache.KernelCache, "_find", lambda *_: None)
    monkeypatch.setattr(cache.KernelCache, "save_overload", lambda self, *_: self._lock.release())
    listed = kernels()

    def quadrupled(x: float) -> float:
        """Four times."""
        return _doubled(_doubled(x))

    made = Kernel(quadrupled, cached=True)
    assert made.__doc__ == "Four times."
    assert made.signatures == []
    assert made(1.5) == 6.0
    assert made(2.5) == 10.0
    assert len(made.signatures) == 1
    assert len(_doubled.signatures) == 1
    assert made.py_func(1.5) == 6.0  # parts that were compiled, called by what is interpreted
    assert kernels() == listed


def test_a_part_is_compiled_into_its_kernels_and_not_by_itself(monkeypatch):
    """A kernel has each of its parts inside, as often as it likes; nothing is made that Python would call."""
    monkeypatch.setattr(cache.KernelCache, "_find", lambda *_: None)
    monkeypatch.setattr(cache.KernelCache, "save_overload", lambda self, *_: self._lock.release())

    def sixfold(x: float) -> float:
        return _doubled(x) + _doubled(2.0 * x)

    assert Kernel(sixfold, cached=True)(1.5) == 9.0
    [made] = cast(Any, _doubled).overloads.values()
    name = made.fndesc.llvm_func_name
    assert made.library.get_pointer_to_function(name) == 0
    assert not made.library._get_module_for_linking().get_function(name).is_declaration


def test_a_part_can_be_called_from_python():
    assert _doubled(3.0) == 6.0


def test_numba_may_be_switched_off(monkeypatch):
    """NUMBA_DISABLE_JIT: kernels are what they were written as."""
    monkeypatch.setattr("numba.core.config.DISABLE_JIT", True)

    def tripled(x: float) -> float:
        return 3.0 * x

    assert Kernel(tripled, cached=True).made() is tripled


def test_what_python_calls_is_listed():
    names = {k.py_func.__name__ for k in kernels() if k.py_func.__module__ == cells.__name__}
    assert "level_blocks" in names and "row_span" not in names
