"""How long the calls of each service class may take: a table that all views of one client share.

`connect(url, sla={"core": 0.05, "background": 0.2})` makes it; `client.sla["core"] = 0.08` changes it, for calls that
begin from then on, in all views and threads. A client's calls are of the class that `service_class` names, those inside
`with pytikv.context(service_class="core"):` of that one; the class's seconds take the place of `timeout`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, MutableMapping

from pytikv.errors import InvalidArgument, WrongType

__all__ = ["Sla"]


class Sla(MutableMapping[str, float]):
    """Seconds that calls of each class may take, by the class's name. Safe for many threads.

    Setting a class to what is no positive finite number raises InvalidArgument (WrongType where the type is wrong).
    """

    __slots__ = ("_seconds",)

    def __init__(self, classes: Mapping[str, float] | None = None) -> None:
        self._seconds: dict[str, float] = {}
        for name, seconds in (classes or {}).items():
            self[name] = seconds

    def __getitem__(self, name: str) -> float:
        return self._seconds[name]

    def seconds(self, name: str) -> float:
        """Return the seconds of a class. Raises InvalidArgument, which names the known ones, where there is none."""
        found = self._seconds.get(name)
        if found is None:
            known = ", ".join(repr(one) for one in sorted(self._seconds)) or "no classes"
            raise InvalidArgument(f"service class {name!r} is unknown: the client's sla has {known}")
        return found

    def __setitem__(self, name: str, seconds: float) -> None:
        if not isinstance(name, str) or not name:
            raise WrongType(f"the name of a service class is a string that is not empty, not {name!r}")
        if isinstance(seconds, bool) or not isinstance(seconds, int | float):
            raise WrongType(f"service class {name!r}: seconds are a number, not {type(seconds).__name__}")
        if not 0 < seconds < math.inf:
            raise InvalidArgument(f"service class {name!r}: seconds are over 0 and finite, not {seconds}")
        self._seconds[name] = seconds

    def __delitem__(self, name: str) -> None:
        del self._seconds[name]

    def __contains__(self, name: object) -> bool:
        return name in self._seconds

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._seconds))

    def __len__(self) -> int:
        return len(self._seconds)

    def __hash__(self) -> int:
        return hash(Sla)  # equal by contents, which change

    def __repr__(self) -> str:
        return f"Sla({self._seconds!r})"
