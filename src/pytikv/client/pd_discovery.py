"""Asking PD's members who leads: several at once, the first good answer counts.

The addresses are asked one after the other, each as soon as the one before has failed or has kept silent for 100 ms,
so that a healthy PD gets one request and a dead member costs a tenth of a second. When an answer names a leader, those
still under way get a grace to speak too (0 but at connect, where every endpoint's cluster id is to be compared), then
they are cancelled.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Sequence
from typing import Final

from google.protobuf.message import DecodeError

from pytikv.client.lanes import AnyPool
from pytikv.client.pd_members import Answer, read_answer
from pytikv.client.resilience.guard import Refused
from pytikv.errors import ConnectionFailed, Overloaded
from pytikv.proto import pdpb_pb2 as pdpb
from pytikv.rt.interface import Future, Runtime
from pytikv.wire.errors import ConnectFailed, RpcError, Status

__all__ = ["Round", "ask_members"]

GET_MEMBERS: Final = b"/pdpb.PD/GetMembers"
_STAGGER_S: Final = 0.1
_HOPELESS: Final = ("tls", "protocol")


@dataclasses.dataclass(slots=True)
class Round:
    """What one round of asking brought: answers in the order of their coming, and why the others gave none."""

    answers: list[Answer] = dataclasses.field(default_factory=list)
    failures: dict[str, str] = dataclasses.field(default_factory=dict)
    refused: Overloaded | None = None
    """Why a member was not asked at all, of the last one of which that is true: its breaker is open."""
    refusals: int = 0
    """How many members were not asked."""
    timeouts: int = 0
    """How many failures were no more than silence until time was up."""
    hopeless: int = 0
    """How many failures waiting cannot mend: certificates, a peer that speaks something else."""

    @property
    def leader(self) -> Answer | None:
        """The first answer that names a leader."""
        return next((answer for answer in self.answers if answer.leader is not None), None)

    def reasons(self) -> str:
        """Say for each address why it was of no use."""
        notes = {answer.asked: answer.note for answer in self.answers if answer.leader is None}
        return "; ".join(
            reason if address in reason else f"{address}: {reason}"
            for address, reason in {**self.failures, **notes}.items()
        )


class _Enough(Exception):
    """Raised by one part of a round to end the others."""


async def ask_members(
    rt: Runtime, pool: AnyPool, addresses: Sequence[str], deadline: float, *, timeout_s: float, grace_s: float
) -> Round:
    """Ask `addresses` for the members. Never raises for what they answer or fail with; at `deadline` it returns."""
    outcome = Round()
    left = len(addresses)
    settled: Future[None] = rt.create_future()
    finished: Future[None] = rt.create_future()
    gates: list[Future[None]] = [rt.create_future() for _ in addresses]
    stagger_s = 0.0 if grace_s else _STAGGER_S

    async def ask(index: int, address: str) -> None:
        nonlocal left
        if index and stagger_s:
            await _until(rt, gates[index - 1], min(deadline, rt.now() + stagger_s * index))
        answer = await _ask(rt, pool, address, min(deadline, rt.now() + timeout_s), outcome)
        left -= 1
        if answer is not None:
            outcome.answers.append(answer)
        if outcome.leader is not None or not left:
            _settle(settled)
        if outcome.leader is None:
            _settle(gates[index])
        if not left:
            _settle(finished)

    async def close() -> None:
        await _until(rt, settled, deadline)
        if grace_s:
            await _until(rt, finished, min(deadline, rt.now() + grace_s))
        raise _Enough

    with contextlib.suppress(_Enough):
        await rt.gather(close(), *(ask(index, address) for index, address in enumerate(addresses)))
    for address in addresses:
        if address not in outcome.failures and all(answer.asked != address for answer in outcome.answers):
            outcome.failures[address] = "no answer in time"
            outcome.timeouts += 1
    return outcome


def _settle(future: Future[None]) -> None:
    if not future.done():
        future.set_result(None)


async def _until(rt: Runtime, future: Future[None], deadline: float) -> None:
    with contextlib.suppress(TimeoutError):
        await rt.wait(future, deadline)


async def _ask(rt: Runtime, pool: AnyPool, address: str, until: float, outcome: Round) -> Answer | None:
    try:
        channel = await pool.channel(address, until)
        data = await channel.unary(GET_MEMBERS, b"", deadline=until)
        answer = read_answer(address, pdpb.GetMembersResponse.FromString(data), uses_tls=pool.uses_tls)
    except ConnectFailed as error:
        outcome.hopeless += error.reason in _HOPELESS
        outcome.timeouts += error.reason == "timeout"
        outcome.failures[address] = error.details
    except ConnectionFailed as error:
        cause = error.__cause__
        reason = cause.reason if isinstance(cause, ConnectFailed) else ""
        outcome.hopeless += reason in _HOPELESS
        outcome.timeouts += reason == "timeout"
        outcome.failures[address] = str(error)
    except Refused as error:
        outcome.refused = error.error
        outcome.refusals += 1
        outcome.failures[address] = error.details
    except (RpcError, Overloaded, TimeoutError) as error:
        outcome.timeouts += not isinstance(error, RpcError) or error.status == Status.DEADLINE_EXCEEDED
        outcome.failures[address] = str(error) or type(error).__name__
    except DecodeError:
        outcome.failures[address] = "its answer is no GetMembersResponse: this is not PD"
    else:
        if answer.cluster_id:
            return answer
        outcome.failures[address] = answer.note or "it does not know its cluster id yet"
    return None
