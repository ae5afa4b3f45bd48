"""Functions and variables of the caller that a formula used, kept for coding new rows."""

from __future__ import annotations

import importlib
import pickle
from collections.abc import Mapping
from types import ModuleType

from ..exceptions import FormulaError

__all__ = ["Captured"]


class Captured:
    """Values by name; in a pickle each stands for itself, so that one that cannot be stored loses no other.

    Parameters
    ----------
    values : dict of str to object
    """

    def __init__(self, values: dict[str, object]) -> None:
        self._values = values
        self._stored: dict[str, bytes | str] = {}

    @property
    def names(self) -> frozenset[str]:
        """Names of the values kept."""
        return frozenset(self._values) | frozenset(self._stored)

    def values(self, formula: str, given: Mapping[str, object] | None = None) -> dict[str, object]:
        """All values, those given in place of those kept.

        Parameters
        ----------
        formula : str
            For messages.
        given : mapping, optional

        Raises
        ------
        FormulaError
            A value could not be stored with the model, or not be restored here.
        """
        given = {} if given is None else dict(given)
        for name in sorted(self._stored.keys() - given.keys()):
            self._values[name] = _restored(name, self._stored[name], formula)
            del self._stored[name]
        return self._values | given

    def parts(self) -> tuple[dict[str, object], dict[str, str]]:
        """The values that are there, and of the others why not, by name."""
        for name, stored in list(self._stored.items()):
            if isinstance(stored, bytes):
                try:
                    self._values[name] = _restored(name, stored, "")
                    del self._stored[name]
                except FormulaError as error:
                    self._stored[name] = str(error)
        return dict(self._values), {name: str(reason) for name, reason in self._stored.items()}

    @classmethod
    def of_parts(cls, values: dict[str, object], lost: dict[str, str]) -> Captured:
        """The way back: what is lost is named when it is asked for."""
        out = cls(values)
        out._stored = dict(lost)
        return out

    def __deepcopy__(self, memo: dict) -> Captured:
        return self

    def __getstate__(self) -> dict[str, bytes | str]:
        return self._stored | {name: _stored(value) for name, value in self._values.items()}

    def __setstate__(self, state: dict[str, bytes | str]) -> None:
        self._values = {}
        self._stored = state


def _stored(value: object) -> bytes | str:
    """A pickle; the reason in words where there can be none."""
    try:
        # a module is found again by its name
        return pickle.dumps((value.__name__,) if isinstance(value, ModuleType) else [value])
    except Exception as error:  # whatever the value's own methods raise
        return f"{type(error).__name__}: {error}"


def _restored(name: str, stored: bytes | str, formula: str) -> object:
    if isinstance(stored, bytes):
        try:
            value = pickle.loads(stored)
            return importlib.import_module(value[0]) if isinstance(value, tuple) else value[0]
        except Exception as error:  # the module is not here, or it has no such function any more
            stored = f"{type(error).__name__}: {error}"
    if not name.isidentifier():
        raise FormulaError(
            f"formula {formula!r}: the {name} could not be stored with the model ({stored}); new rows are "
            "coded where it was fitted."
        )
    raise FormulaError(
        f"formula {formula!r}: {name!r} of the caller was not restored with the model ({stored}); new rows "
        f"need it again: context={{{name!r}: ...}}. Functions of a module that can be imported are restored."
    )
