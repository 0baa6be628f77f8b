"""When a transaction is tried again, and after what wait: the rules that `run` and `attempts` share, with no I/O.

Tried again is what failed with an error that is `retryable`, whose outcome is NOT_APPLIED, while the transaction itself
did not commit; a commit whose answer was lost never is. Between two tries lies a random part of a wait that doubles
(`BASE_S` up to `CAP_S`), so that transactions that fought once do not meet again. Where the ambient deadline would pass
during the wait, or no try is left, the last error is the caller's.

`attempts` is a loop, and its block commits at its end. A `with` statement cannot tell its loop to go on; all it can do
is to swallow the error, after which Python goes on behind the block. That is right if what lies behind the block is the
loop's next turn, and would be wrong if it is a `return` or a `break`: the program would go on as if the commit had
succeeded. So when a commit fails, `falls_through` looks at the caller's code, and unless the next thing there is the
next turn the error is raised, with a note that says why it was not tried again. What cannot be read (another Python, a
block entered through an ExitStack) counts as not the next turn. Errors raised in the block itself need no such look:
an exception leaves the block in one way only.
"""

from __future__ import annotations

import dis
from types import CodeType, FrameType
from typing import Final

from pytikv.ambient import current_deadline
from pytikv.client.arguments import check_count
from pytikv.errors import InvalidArgument, Outcome, TikvError
from pytikv.rt.interface import Runtime

__all__ = ["BASE_S", "CAP_S", "Attempts", "falls_through", "may_retry"]

BASE_S: Final = 0.004
CAP_S: Final = 0.5
_MAX_ATTEMPTS: Final = 1_000_000

_LEFT: Final = (
    "the transaction was not tried again: the loop over `attempts` is left, or does more, behind the `with` block; "
    "end the block at the end of the loop's body, or use `run`"
)
_UNUSED: Final = "a transaction of `attempts` was not used: the body of the loop must be `with txn:` and nothing else"


def may_retry(error: BaseException, outcome: Outcome | None) -> bool:
    """Tell whether a transaction that ended with `outcome` may be run again after `error`."""
    if not isinstance(error, TikvError) or not error.retryable or error.outcome is not Outcome.NOT_APPLIED:
        return False
    return outcome in (None, Outcome.NOT_APPLIED)


class Attempts:
    """The tries of one piece of work. Belongs to one task or thread."""

    __slots__ = ("_is_open", "_left", "_made", "_rt", "_wants_more", "wait_s")

    def __init__(self, rt: Runtime, attempts: int) -> None:
        self._left = check_count("attempts", attempts, high=_MAX_ATTEMPTS)
        self._rt = rt
        self._made = 0
        self._wants_more = True
        self._is_open = False
        self.wait_s = 0.0
        """Seconds to wait before the try that `begin` allowed."""

    def begin(self) -> bool:
        """Tell whether there is another try, and count it. Raises InvalidArgument where the last one was never used."""
        if self._is_open:
            raise InvalidArgument(_UNUSED)
        if not self._wants_more:
            return False
        self._is_open = True
        self._wants_more = False
        self._left -= 1
        self._made += 1
        return True

    def end(self) -> None:
        """Say that the try was made and succeeded."""
        self._is_open = False

    def failed(self, error: BaseException, outcome: Outcome | None) -> bool:
        """Say that the try failed; returns whether there is another one, after `wait_s`. If not, raise the error."""
        self._is_open = False
        if not self._left or not may_retry(error, outcome):
            return False
        longest = min(CAP_S, BASE_S * (1 << min(self._made - 1, 20)))
        wait_s = self._rt.rng.uniform(0, longest)
        deadline = current_deadline()
        if deadline is not None and self._rt.now() + wait_s >= deadline:
            return False
        self.wait_s = wait_s
        self._wants_more = True
        return True

    def commit_failed(self, error: BaseException, outcome: Outcome | None, caller: FrameType | None) -> bool:
        """As `failed`, for an error at the end of a `with` block of the frame `caller`, which has ended well."""
        if not self.failed(error, outcome):
            return False
        if caller is not None and falls_through(caller.f_code, caller.f_lasti):
            return True
        self._wants_more = False
        error.add_note(_LEFT)
        return False


# What does nothing, between the end of a `with` block and the next turn of the loop around it.
_PASSED: Final = frozenset({"CACHE", "EXTENDED_ARG", "NOP", "NOT_TAKEN", "END_SEND"})
_JUMPS: Final = frozenset({"JUMP_FORWARD", "JUMP_BACKWARD"})
_TURNS: Final = frozenset({"FOR_ITER", "GET_ANEXT"})
_STEPS_MAX: Final = 64


def falls_through(code: CodeType, at: int) -> bool:
    """Tell whether, behind the instruction at offset `at` of `code`, nothing comes before the next turn of a loop.

    `at` is where a frame stands that is leaving a `with` or `async with` block. Reads CPython's byte code of 3.11 and
    later; False where it does not know what it sees.
    """
    steps = list(dis.get_instructions(code))
    index_of = {step.offset: index for index, step in enumerate(steps)}
    if at not in index_of:
        return False
    here = index_of[at]
    # An `async with` stands at the SEND of its awaiting, and goes on where that leads.
    here = index_of[steps[here].argval] if steps[here].opname == "SEND" else here + 1
    has_popped = False  # the block's own result, once; a second one is a `break` that pops its loop
    for _ in range(_STEPS_MAX):
        step = steps[here]
        if step.opname in _TURNS:
            return has_popped
        if step.opname == "POP_TOP" and not has_popped:
            has_popped = True
        elif step.opname in _JUMPS:
            here = index_of[step.argval]
            continue
        elif step.opname not in _PASSED:
            return False
        here += 1
    return False
