"""Who the members of PD are, and which of them leads: addresses and answers in, decisions out, no I/O.

Endpoints are given as `host:port`, `http://host:port` or `https://host:port`; a missing port is 2379. The scheme must
fit the connection: `https` without TLS configured, or `http` with it, is a ConfigError, and a member that announces
itself so is not used (there is no falling back to plaintext).

`Members` starts from the endpoints and grows by what `GetMembers` answers. Endpoints are never forgotten, since they
may be the only names that are reachable from here; members are those of the last answer. The cluster id is fixed by
the first answer: another one later means that some address now belongs to another cluster, and ends in ConfigError.

Where PD has one member, the address that answered is the leader's, whatever name it announces: behind a port forward
or in a container the announced one often cannot be reached.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Final

from pytikv.client.pool import split_address
from pytikv.errors import ConfigError
from pytikv.proto import pdpb_pb2 as pdpb

__all__ = ["Answer", "Members", "parse_endpoint", "read_answer"]

_DEFAULT_PORT: Final = 2379


def parse_endpoint(endpoint: str, *, uses_tls: bool) -> str:
    """Return `host:port` of an endpoint. Raises ConfigError for what is none, or of the wrong scheme."""
    scheme, separator, rest = endpoint.strip().rpartition("://")
    rest = rest.rstrip("/")
    if separator and scheme not in ("http", "https"):
        raise ConfigError(f"the PD endpoint {endpoint!r} has the unknown scheme {scheme!r}")
    if scheme == "https" and not uses_tls:
        raise ConfigError(f"the PD endpoint {endpoint!r} speaks TLS: configure tls (ca, cert, key)")
    if scheme == "http" and uses_tls:
        raise ConfigError(f"the PD endpoint {endpoint!r} is plaintext, but TLS is configured: use https")
    if not rest or "/" in rest or "@" in rest:
        raise ConfigError("a PD endpoint has the form host:port, without path or credentials")
    if ":" not in rest or rest.endswith("]"):
        rest = f"{rest}:{_DEFAULT_PORT}"
    split_address(rest)
    return rest


@dataclasses.dataclass(frozen=True, slots=True)
class Answer:
    """What `asked` answered to GetMembers. `leader` is None while there is none that could be used."""

    asked: str
    cluster_id: int
    members: tuple[str, ...]
    leader: str | None
    note: str = ""
    """Why the leader cannot be used, where one was named."""


def read_answer(asked: str, response: pdpb.GetMembersResponse, *, uses_tls: bool) -> Answer:
    """Turn a response into an `Answer`. Never raises: what cannot be used is left out and noted."""
    cluster_id = response.header.cluster_id
    if response.header.HasField("error") and response.header.error.type:
        return Answer(asked, cluster_id, (), None, f"error: {response.header.error.message}")
    if len(response.members) == 1 and response.leader.member_id == response.members[0].member_id:
        return Answer(asked, cluster_id, (asked,), asked)
    members: list[str] = []
    for member in response.members:
        members.extend(_usable(member.client_urls, uses_tls)[0][:1])
    leader, refused = _usable(response.leader.client_urls, uses_tls)
    note = "" if leader else refused or "no leader is elected"
    return Answer(asked, cluster_id, tuple(members), leader[0] if leader else None, note)


def _usable(urls: Iterable[str], uses_tls: bool) -> tuple[list[str], str]:
    addresses: list[str] = []
    refused = ""
    for url in urls:
        try:
            addresses.append(parse_endpoint(url, uses_tls=uses_tls))
        except ConfigError as error:
            refused = str(error)
    return addresses, refused


class Members:
    """The members as known. Threads may share it: each attribute is replaced as a whole."""

    def __init__(self, endpoints: Sequence[str], *, uses_tls: bool, cluster_id: int = 0) -> None:
        if isinstance(endpoints, str) or not endpoints:
            raise ConfigError("PD endpoints are a list of at least one host:port")
        self.endpoints = tuple(dict.fromkeys(parse_endpoint(one, uses_tls=uses_tls) for one in endpoints))
        self.uses_tls = uses_tls
        self.known: tuple[str, ...] = ()
        self.leader: str | None = None
        self.cluster_id = cluster_id
        """0 until the first answer."""
        self._last_leader: str | None = None

    def candidates(self) -> list[str]:
        """Return the addresses to ask for the leader: the last known leader first, then members, then endpoints."""
        leader = self.leader or self._last_leader
        first = (leader,) if leader is not None else ()
        return list(dict.fromkeys((*first, *self.known, *self.endpoints)))

    def take(self, answer: Answer) -> None:
        """Take over an answer. Raises ConfigError when it comes from another cluster."""
        self.check_cluster(answer.asked, answer.cluster_id)
        self.cluster_id = answer.cluster_id
        if answer.members:
            self.known = answer.members
        if answer.leader is not None:
            self.leader = self._last_leader = answer.leader

    def check_cluster(self, asked: str, cluster_id: int) -> None:
        """Raise ConfigError when `asked` belongs to another cluster than the one this client is bound to."""
        if self.cluster_id and cluster_id != self.cluster_id:
            text = f"PD at {asked} belongs to cluster {cluster_id}, this client to cluster {self.cluster_id}"
            raise ConfigError(f"{text}: check the PD endpoints")

    def leader_failed(self, address: str) -> None:
        """Forget the leader, if it is still the one that failed."""
        if self.leader == address:
            self.leader = None

    @staticmethod
    def check_same(answers: Sequence[Answer]) -> None:
        """Raise ConfigError when the endpoints belong to different clusters."""
        if len({answer.cluster_id for answer in answers}) > 1:
            shown = ", ".join(f"{answer.asked}: cluster {answer.cluster_id}" for answer in answers)
            raise ConfigError(f"the PD endpoints belong to different clusters ({shown})")
