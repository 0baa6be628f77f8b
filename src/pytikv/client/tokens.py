"""The user token of a client: who asks its provider, when, and how it reaches the servers.

`connect(url, token_provider=callable)`: the callable returns the present token, a string, or the pair of it and the
Unix seconds at which it ends. In asyncio clients it may be a coroutine function; a plain one is called in a thread
there, and in the calling thread in blocking clients, so it should be quick.

    no token, or it has ended     calls wait for the provider (as long as their own time lasts)
    it ends soon                  the provider is asked by the way, calls go on with the token there is
    otherwise                     one comparison of times

"Soon" is a quarter of the token's life before its end, at most `_MARGIN_S`. A token without an end is asked for again
every `_RECHECK_S`, so that a rotated file is noticed. The provider is asked once at a time, whoever waits. One that
fails is asked again after `_RETRY_S`: while the token there is has not ended that is only logged, afterwards calls fail
at once with ConfigError, which names the failure's type and has it as `__cause__`. Lives are counted by the runtime's
clock from the moment of asking: a wall clock that is set later on changes nothing.

`AuthorizedPool` takes the place of the connection pool. It gives out channels that send `authorization: Bearer ...`
with every stream they begin: unary calls, BatchCommands, timestamps. A stream is authorized when it begins; when the
token has changed, long-lived ones are renewed at their next use, and what they were asked before is answered on the old
ones. `pytikv.context(user_token=...)` around a call comes before the client's token.

The token is a `Secret`: it appears in no log, repr or message. Over a connection without TLS it travels in the clear,
as everything does there. A server that refuses it (UNAUTHENTICATED) fails the call; nothing is asked anew for that.
"""

from __future__ import annotations

import inspect
import logging
import math
from collections.abc import Awaitable, Callable
from typing import Any, Final

from pytikv.ambient import forget_ambient
from pytikv.call_context import Secret, bearer, check_token
from pytikv.client.pool import ConnectionPool, PoolSettings
from pytikv.errors import ConfigError, DeadlineExceeded, InvalidArgument
from pytikv.rt.interface import Runtime
from pytikv.rt.locks import mutex
from pytikv.rt.shared import SharedFuture
from pytikv.rt.tls import TlsContext
from pytikv.wire.channel import ClientChannel, Metadata

__all__ = ["AuthorizedPool", "Provider", "TokenSource"]

_MARGIN_S: Final = 60.0
_RECHECK_S: Final = 60.0
_RETRY_S: Final = 1.0
_PATIENCE_S: Final = 30.0

logger: Final = logging.getLogger("pytikv")

Provider = Callable[[], "str | tuple[str, float] | Awaitable[str | tuple[str, float]]"]


class TokenSource:
    """The present token of one client. Safe for many threads and tasks."""

    def __init__(self, rt: Runtime, provider: Provider) -> None:
        self._rt = rt
        self._provider = provider
        self._lock = mutex()
        self._asking: SharedFuture[None] | None = None
        self._ask_at = -math.inf
        self._ends_at = -math.inf
        self._failure: Exception | None = None
        self.metadata: Metadata = ()
        """What streams carry: the token that was obtained last."""

    async def ready(self, deadline: float) -> None:
        """Return when `metadata` holds a token that has not ended.

        Raises ConfigError when the provider gives none, DeadlineExceeded when it does not answer by `deadline`.
        """
        now = self._rt.now()
        if now < self._ask_at and now < self._ends_at:
            return
        asking, leads = self._enter(now)
        if asking is not None and leads:
            if self._rt.exclusive_connections:
                await self._ask(asking)
            else:
                self._spawn(asking)
        if now < self._ends_at:
            return
        if asking is not None:
            try:
                await self._rt.wait(asking, deadline)
            except TimeoutError:
                raise DeadlineExceeded("token_provider did not return a token in the time for the call") from None
        if self._failure is not None:
            raise ConfigError(_text(self._failure)) from self._failure

    def _enter(self, now: float) -> tuple[SharedFuture[None] | None, bool]:
        """Return the asking under way, and whether it is ours to do; None when it is not yet time for another."""
        with self._lock:
            if self._asking is not None:
                return self._asking, False
            if now < self._ask_at:
                return None, False
            self._asking = SharedFuture()
            return self._asking, True

    def _spawn(self, asking: SharedFuture[None]) -> None:
        work = self._ask(asking)
        try:
            self._rt.spawn(work, name="ask for the user token")
        except BaseException:
            work.close()
            with self._lock:
                self._asking = None
            asking.set_result(None)
            raise

    async def _ask(self, asking: SharedFuture[None]) -> None:
        """Ask the provider and take note of what came of it; every way ends with `asking` set."""
        failure: Exception | None = ConfigError("token_provider was cut off")
        try:
            if self._rt.exclusive_connections:
                answer = await self._call()
            else:
                forget_ambient()  # it is asked for all, not for the call that happened to come first
                answer = await self._rt.with_deadline(self._call(), self._rt.now() + _PATIENCE_S)
            self._take(answer)
            failure = None
        except Exception as error:
            failure = error
            left_s = self._ends_at - self._rt.now()
            if left_s > 0:
                logger.warning("%s; the token there is lasts for %.0f s more", _text(error), left_s)
        finally:
            with self._lock:
                self._failure = failure
                if failure is not None:
                    self._ask_at = self._rt.now() + _RETRY_S
                self._asking = None
            asking.set_result(None)

    async def _call(self) -> Any:
        provider: Callable[[], Any] = self._provider
        if inspect.iscoroutinefunction(provider):
            answer = provider()
        else:
            answer = await self._rt.run_blocking(provider)
        if not inspect.isawaitable(answer):
            return answer
        if self._rt.exclusive_connections:
            if inspect.iscoroutine(answer):
                answer.close()
            raise InvalidArgument("a coroutine function serves asyncio clients only")
        return await answer

    def _take(self, answer: Any) -> None:
        now = self._rt.now()
        token, life_s = _read(answer, self._rt.time())
        self.metadata = (bearer(token),)
        self._ends_at = now + life_s
        self._ask_at = now + _RECHECK_S if life_s == math.inf else self._ends_at - min(_MARGIN_S, life_s / 4)


def _read(answer: Any, wall_s: float) -> tuple[Secret[str], float]:
    """Return a provider's token and how long it lasts. Raises InvalidArgument, without the token."""
    if not isinstance(answer, tuple):
        return check_token(answer), math.inf
    if len(answer) != 2 or isinstance(answer[1], bool) or not isinstance(answer[1], int | float):
        raise InvalidArgument("it must return a token, or the pair of a token and the Unix seconds of its end")
    life_s = answer[1] - wall_s
    if not life_s > 0:
        raise InvalidArgument("the token that it returned has ended already")
    return check_token(answer[0]), life_s


def _text(error: Exception) -> str:
    # What a foreign error says may be secret; what our own say of its answer is not.
    said = f": {error}" if isinstance(error, InvalidArgument | ConfigError) else ""
    return f"token_provider gave no token ({type(error).__name__}){said}"


class AuthorizedPool(ConnectionPool):
    """The pool of a client that has a token; see the module's docstring."""

    def __init__(
        self, rt: Runtime, settings: PoolSettings | None = None, tls: TlsContext | None = None, *, tokens: TokenSource
    ) -> None:
        super().__init__(rt, settings, tls)
        self.tokens = self._tokens = tokens

    async def channel(self, address: str, deadline: float) -> ClientChannel:
        """See `ConnectionPool.channel`; the channel has the present token."""
        await self._tokens.ready(deadline)
        channel = await super().channel(address, deadline)
        channel.authorize(self._tokens.metadata)
        return channel

    async def open_apart(self, address: str, deadline: float) -> ClientChannel:
        """See `ConnectionPool.open_apart`; the channel has the present token."""
        await self._tokens.ready(deadline)
        channel = await super().open_apart(address, deadline)
        channel.authorize(self._tokens.metadata)
        return channel
