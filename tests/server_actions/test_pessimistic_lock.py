"""Pessimistic and shared locks, as transcripts."""

from __future__ import annotations

import pytest
from actions_transcript import Transcript

LOCK = {
    "and what is answered": """
        prewrite 5 a=1 b=long -c | primary=a -> ok
        commit 5 6 a b c           -> ok
        lock 10 a b c d | values   -> 1, long, none, none
        show a                     -> lock PESSIMISTIC@10 primary=a for_update=10; 6<-5 PUT=1
        new                        -> a b c d
        lock 10 a b c d | exists   -> there, there, none, none
        lock 10 a b c d            -> ok
        new                        -> none
    """,
    "records of type Lock and Rollback are looked through": """
        prewrite 5 a=1 b=2         -> ok
        commit 5 6 a b             -> ok
        prewrite 7 lock:a          -> ok
        commit 7 8 a               -> ok
        rollback 9 b               -> ok
        lock 10 a b | values       -> 1, 2
        lock 10 a b | exists       -> there, there
    """,
    "again": """
        lock 10 a | ttl=30         -> ok
        lock 10 a | ttl=90 for_update=12    -> ok
        show a                     -> lock PESSIMISTIC@10 primary=a ttl=90 for_update=12
        lock 10 a | ttl=5 for_update=11     -> ok
        show a                     -> lock PESSIMISTIC@10 primary=a ttl=90 for_update=12
    """,
    "a newer record": """
        prewrite 5 a=1             -> ok
        commit 5 20 a              -> ok
        lock 10 b a | for_update=15 -> conflict a PessimisticRetry 20<-5
        show b                     -> nothing
        lock 10 b a | for_update=20 -> ok
        rollback 30 c              -> ok
        lock 10 c | for_update=20  -> conflict c PessimisticRetry 30<-30
        lock 10 c | for_update=30  -> ok
    """,
    "another's lock": """
        prewrite 5 a=1 | ttl=9     -> ok
        lock 10 b a                -> wait for locked a@5
        show b                     -> nothing
        lock 10 c                  -> ok
        lock 11 c                  -> wait for locked c@10 ttl=0
    """,
    "after the own rollback": """
        rollback 10 a              -> ok
        lock 10 a                  -> PessimisticLockRolledBack start_ts=10
        rollback 20 a              -> ok
        lock 10 a | for_update=30  -> ok
        cleanup 10 b               -> ok
        rollback 20 b              -> ok
        lock 10 b | for_update=30  -> PessimisticLockRolledBack start_ts=10
        prewrite 5 c=1             -> ok
        commit 5 10 c              -> ok
        lock 10 c                  -> ok
        unlock 10 10 c             -> ok
        cleanup 10 c               -> ok
        lock 10 c                  -> PessimisticLockRolledBack start_ts=10
    """,
    "over the own prewrite": """
        prewrite 10 a=1            -> ok
        lock 10 a                  -> LockTypeNotMatch start_ts=10
    """,
    "that must not exist": """
        prewrite 5 a=1 -b          -> ok
        commit 5 6 a b             -> ok
        lock 10 ~a                 -> AlreadyExist existing_start_ts=5
        lock 10 ~b ~c              -> ok
        lock 10 ~b ~c              -> ok
        lock 10 a                  -> ok
        lock 10 ~a                 -> AlreadyExist existing_start_ts=5
    """,
    "only if it exists": """
        prewrite 5 a=1             -> ok
        commit 5 6 a               -> ok
        lock 10 a b | if_exists values      -> 1, none
        show a                     -> lock PESSIMISTIC@10 primary=a for_update=10; 6<-5 PUT=1
        show b                     -> nothing
        lock 10 a | if_exists      -> LockIfExistsFailed start_ts=10
    """,
}

FORCE = {
    "locks in spite of a newer record": """
        prewrite 5 a=1             -> ok
        commit 5 20 a              -> ok
        lock 10 a | for_update=15 force     -> forced 20: 1
        show a                     -> lock PESSIMISTIC@10 primary=a for_update=20 forced; 20<-5 PUT=1
        lock 10 a | for_update=15 force     -> forced 20: 1
        lock 10 a | for_update=20 force     -> ok
        lock 10 a | for_update=15 force values -> forced 20: 1
        lock 10 a | for_update=25 force     -> ok
        show a                     -> lock PESSIMISTIC@10 primary=a for_update=25 forced; 20<-5 PUT=1
    """,
    "without a newer record": """
        prewrite 5 a=1             -> ok
        commit 5 6 a               -> ok
        lock 10 a | force values   -> 1
        lock 10 b | force exists   -> none
        show a                     -> lock PESSIMISTIC@10 primary=a for_update=10; 6<-5 PUT=1
    """,
    "a deleted key": """
        prewrite 5 -a              -> ok
        commit 5 20 a              -> ok
        lock 10 a | for_update=15 force     -> forced 20: none
    """,
    "a newer rollback": """
        prewrite 5 a=1             -> ok
        commit 5 6 a               -> ok
        rollback 20 a              -> ok
        lock 10 a | for_update=15 force     -> forced 20: 1
    """,
    "that must not exist, or only if it exists": """
        prewrite 5 a=1 -b          -> ok
        commit 5 20 a b            -> ok
        lock 10 ~a | for_update=15 force    -> conflict a PessimisticRetry 20<-5
        lock 10 ~b | for_update=15 force    -> forced 20: none
        prewrite 7 -c              -> ok
        commit 7 20 c              -> ok
        lock 10 c | for_update=15 force if_exists values -> conflict c PessimisticRetry 20<-7
    """,
    "of a lock that is asked for as new": """
        prewrite 5 a=1             -> ok
        commit 5 20 a              -> ok
        lock 10 a | for_update=15 force     -> forced 20: 1
        lock 10 ~a | for_update=15 force    -> conflict a PessimisticRetry 20<-5
        lock 10 ~a | for_update=25 force    -> AlreadyExist existing_start_ts=5
    """,
    "one key at a time": """
        lock 10 a b | force        -> InvalidCommand
    """,
    "another's lock": """
        lock 5 a                   -> ok
        lock 10 a | force          -> wait for locked a@5 ttl=0
    """,
}

SHARED = {
    "many hold, one that wants the key for itself stops newcomers": """
        lock 10 /a | primary=p     -> ok
        new                        -> a
        lock 11 /a | primary=q     -> ok
        new                        -> none
        show a   -> shared [PESSIMISTIC@10 primary=p for_update=10, PESSIMISTIC@11 primary=q for_update=11]
        lock 12 b a                -> shrinking, locked a shared by 10,11
        show b                     -> nothing
        lock 12 a                  -> wait for locked a shared by 10,11
        lock 13 /a | primary=r     -> wait for locked a shared by 10,11
        lock 11 /a | primary=q for_update=15 -> ok
        unlock 10 10 a             -> ok
        released                   -> none
        show a                     -> shared shrink [PESSIMISTIC@11 primary=q for_update=15]
        unlock 11 15               -> ok
        released                   -> a@11 pessimistic
        lock 12 a                  -> ok
        lock 13 /a | primary=r     -> wait for locked a@12 ttl=0
    """,
    "prewrite and commit, one after the other": """
        lock 10 /a | primary=p     -> ok
        lock 11 /a | primary=q     -> ok
        prewrite 10 shared:a | primary=p for_update=10 actions=check -> ok
        show a   -> shared [LOCK@10 primary=p for_update=10, PESSIMISTIC@11 primary=q for_update=11]
        prewrite 10 shared:a | primary=p for_update=10 actions=check -> ok
        commit 10 20 a             -> ok
        show a                     -> shared [PESSIMISTIC@11 primary=q for_update=11]; 20<-10 LOCK
        commit 10 20 a             -> ok
        commit 12 20 a             -> TxnLockNotFound start_ts=12 commit_ts=20
        commit 11 21 a             -> ok
        released                   -> a@11 pessimistic
        show a                     -> 20<-10 LOCK
    """,
    "rollback": """
        lock 10 /a | primary=p     -> ok
        lock 11 /a | primary=q     -> ok
        rollback 10 a              -> ok
        show a                     -> shared [PESSIMISTIC@11 primary=q for_update=11]; 10 ROLLBACK
        rollback 12 a              -> ok
        cleanup 11 a | current=5   -> locked a shared by 11
        rollback 11 a              -> ok
        show a                     -> 12 ROLLBACK; 11 ROLLBACK
    """,
    "what a prewrite refuses": """
        lock 10 /a | primary=p     -> ok
        prewrite 10 a=1 | primary=p for_update=10 actions=check -> Mvcc
        prewrite 11 a=1            -> locked a shared by 10
        prewrite 11 shared:a | primary=p for_update=11 actions=check -> lost@11 LockMissingAmendFail
        prewrite 10 shared:b | primary=p for_update=10 actions=check -> lost@10 LockMissingAmendFail
        prewrite 10 shared:a | primary=p for_update=10 actions=check 1pc -> Mvcc
        prewrite 10 shared:a | primary=p for_update=10 actions=check async= -> Mvcc
        lock 12 c                  -> ok
        prewrite 10 shared:c | primary=p for_update=12 actions=check -> locked c@12 ttl=0
    """,
    "values are answered at the first request only": """
        prewrite 5 a=1             -> ok
        commit 5 6 a               -> ok
        lock 10 /a | primary=p values       -> 1
        lock 10 /a | primary=p values       -> none
    """,
}

ALL = {
    f"{area}: {name}": text
    for area, texts in {"lock": LOCK, "force": FORCE, "shared": SHARED}.items()
    for name, text in texts.items()
}


@pytest.mark.parametrize("text", ALL.values(), ids=ALL.keys())
def test_locks(transcript: Transcript, text: str) -> None:
    transcript.check(text)
