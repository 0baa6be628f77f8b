"""Rollback, cleanup, status checks and resolving, as transcripts."""

from __future__ import annotations

import pytest
from actions_transcript import Transcript

ROLLBACK = {
    "of a primary is protected, of a secondary not": """
        prewrite 10 a=1 b=1 | primary=a     -> ok
        rollback 10 a b            -> ok
        released                   -> a@10, b@10
        show a                     -> 10 ROLLBACK protected
        show b                     -> 10 ROLLBACK
        prewrite 10 a=1            -> conflict a SelfRolledBack 10<-10
    """,
    "where nothing is": """
        rollback 10 a              -> ok
        show a                     -> 10 ROLLBACK
        rollback 10 a              -> ok
        show a                     -> 10 ROLLBACK
        cleanup 10 a               -> ok
        show a                     -> 10 ROLLBACK
        cleanup 10 b               -> ok
        show b                     -> 10 ROLLBACK protected
    """,
    "unprotected records collapse, protected ones stay": """
        rollback 10 a              -> ok
        rollback 12 a              -> ok
        show a                     -> 12 ROLLBACK
        cleanup 14 a               -> ok
        show a                     -> 14 ROLLBACK protected; 12 ROLLBACK
        rollback 16 a              -> ok
        show a                     -> 16 ROLLBACK; 14 ROLLBACK protected; 12 ROLLBACK
        rollback 11 a              -> ok
        show a                     -> 16 ROLLBACK; 14 ROLLBACK protected; 12 ROLLBACK; 11 ROLLBACK
        prewrite 18 a=1 | primary=p -> ok
        rollback 18 a              -> ok
        show a                     -> 18 ROLLBACK; 14 ROLLBACK protected; 12 ROLLBACK; 11 ROLLBACK
    """,
    "of what is committed": """
        prewrite 10 a=1 b=1 | primary=a     -> ok
        commit 10 20 a             -> ok
        rollback 10 b a            -> Committed start_ts=10 commit_ts=20
        show b                     -> lock PUT@10=1 primary=a
        cleanup 10 a               -> Committed start_ts=10 commit_ts=20
    """,
    "overlapped: at the commit of another transaction": """
        prewrite 10 a=1            -> ok
        commit 10 20 a             -> ok
        rollback 20 a              -> ok
        show a                     -> 20<-10 PUT=1
        prewrite 30 lock:a         -> ok
        commit 30 31 a             -> ok
        cleanup 20 a               -> ok
        show a                     -> 31<-30 LOCK; 20<-10 PUT=1 overlapped fence=0
        prewrite 40 a=2            -> ok
        commit 40 50 a             -> ok
        prewrite 60 -a             -> ok
        commit 60 70 a             -> ok
        cleanup 50 a               -> ok
        show a     -> 70<-60 DELETE; 50<-40 PUT=2 overlapped fence=70; 31<-30 LOCK; 20<-10 PUT=1 overlapped fence=0
        get a 60                   -> 2
        get a 70                   -> none
        rollback 20 a              -> ok
        cleanup 20 a               -> ok
    """,
    "under an ordinary lock the rollback record can be overwritten": """
        prewrite 10 a=1            -> ok
        cleanup 20 a               -> ok
        show a                     -> lock PUT@10=1 primary=a; 20 ROLLBACK protected
        commit 10 20 a             -> ok
        show a                     -> 20<-10 PUT=1
    """,
    "under an async commit's lock it is remembered where it matters": """
        prewrite 10 a=1 | async= min=15     -> min 15
        cleanup 9 a                -> ok
        cleanup 14 a               -> ok
        rollback 16 a              -> ok
        cleanup 15 a               -> ok
        lock_of a                  -> lock PUT@10=1 primary=a min=15 async= rollbacks=15
        records_of a     -> 16 ROLLBACK; 15 ROLLBACK protected; 14 ROLLBACK protected; 9 ROLLBACK protected
    """,
    "of the transaction that another one's lock hides": """
        prewrite 10 a=1            -> ok
        rollback 12 a              -> ok
        show a                     -> lock PUT@10=1 primary=a; 12 ROLLBACK
        prewrite 12 a=2            -> locked a@10 ttl=0
    """,
    "a pessimistic lock that came after the commit is dropped": """
        prewrite 10 a=1            -> ok
        commit 10 20 a             -> ok
        lock 10 a | for_update=25  -> ok
        rollback 10 a              -> ok
        show a                     -> 20<-10 PUT=1
    """,
    "a pessimistic lock": """
        lock 10 a b | primary=a    -> ok
        rollback 10 a b            -> ok
        released                   -> a@10 pessimistic, b@10 pessimistic
        show a                     -> 10 ROLLBACK protected
        show b                     -> 10 ROLLBACK
    """,
    "cleanup with a look at the time": """
        prewrite 5ms a=1 | ttl=10  -> ok
        cleanup 5ms a | current=15ms        -> locked a@5ms
        cleanup 5ms a | current=16ms        -> ok
        show a                     -> 5ms ROLLBACK protected
    """,
    "pessimistic rollback leaves nothing": """
        lock 10 a b c | primary=a for_update=12 -> ok
        prewrite 10 c=1 | for_update=12 actions=check primary=a -> ok
        unlock 10 11 a             -> ok
        show a                     -> lock PESSIMISTIC@10 primary=a for_update=12
        unlock 10 12 a             -> ok
        released                   -> a@10 pessimistic
        unlock 11 12 b             -> ok
        released                   -> none
        unlock 10 12               -> ok
        released                   -> b@10 pessimistic
        show c                     -> lock PUT@10=1 primary=a for_update=12
    """,
}

STATUS = {
    "alive": """
        prewrite 5ms a=1 | ttl=10 min=5ms+1 -> ok
        status 5ms a | current=15ms         -> NoAction lock PUT@5ms=1 primary=a ttl=10 min=5ms+1
        status 5ms a | caller=6ms current=6ms   -> MinCommitTSPushed lock PUT@5ms=1 primary=a ttl=10 min=6ms+1
        status 5ms a | caller=7ms current=8ms   -> MinCommitTSPushed lock PUT@5ms=1 primary=a ttl=10 min=8ms
        status 5ms a | caller=7ms+9 current=9ms -> MinCommitTSPushed lock PUT@5ms=1 primary=a ttl=10 min=8ms
        status 5ms a | caller=max current=9ms   -> MinCommitTSPushed lock PUT@5ms=1 primary=a ttl=10 min=8ms
        show a                     -> lock PUT@5ms=1 primary=a ttl=10 min=8ms
    """,
    "a lock without min_commit_ts is not pushed": """
        prewrite 5ms a=1 | ttl=10  -> ok
        status 5ms a | caller=6ms current=6ms   -> NoAction lock PUT@5ms=1 primary=a ttl=10
    """,
    "expired": """
        prewrite 5ms a=long | ttl=10        -> ok
        status 5ms a | current=15ms+7       -> NoAction lock PUT@5ms primary=a ttl=10
        status 5ms a | current=16ms         -> TTLExpireRollback
        released                   -> a@5ms
        show a                     -> 5ms ROLLBACK protected
        status 5ms a | current=16ms         -> NoAction
    """,
    "committed": """
        prewrite 10 a=1            -> ok
        commit 10 20 a             -> ok
        status 10 a                -> NoAction committed 20
        status 20 a                -> TxnNotFound start_ts=20
    """,
    "no trace": """
        status 10 a                -> TxnNotFound start_ts=10
        status 10 a | rollback pessimistic  -> LockNotExistDoNothing
        show a                     -> nothing
        status 10 a | rollback     -> LockNotExistRollback
        show a                     -> 10 ROLLBACK protected
        prewrite 10 a=1            -> conflict a SelfRolledBack 10<-10
    """,
    "no trace under another lock": """
        prewrite 10 a=1 | async=   -> min 11
        status 15 a | rollback     -> LockNotExistRollback
        show a                     -> lock PUT@10=1 primary=a min=11 async= rollbacks=15; 15 ROLLBACK protected
    """,
    "an async commit is only answered, unless it fell back": """
        prewrite 5ms a=1 b=1 | async=b ttl=10 -> min 5ms+1
        status 5ms a | caller=90ms current=99ms -> NoAction lock PUT@5ms=1 primary=a ttl=10 min=5ms+1 async=b
        status 5ms a | caller=90ms current=99ms force -> TTLExpireRollback
    """,
    "a pessimistic primary, expired": """
        lock 5ms a b | ttl=10      -> ok
        status 5ms a | current=16ms pessimistic -> TTLExpirePessimisticRollback
        show a                     -> nothing
        status 5ms b | current=16ms -> TTLExpireRollback
        show b                     -> 5ms ROLLBACK
    """,
    "another primary": """
        lock 5ms b | primary=a ttl=10       -> ok
        status 5ms b | verify pessimistic   -> PrimaryMismatch
        status 5ms b | verify      -> TxnNotFound start_ts=5ms
        show b                     -> lock PESSIMISTIC@5ms primary=a ttl=10 for_update=5ms
        status 5ms b | verify rollback      -> LockNotExistRollback
        released                   -> b@5ms pessimistic
        show b                     -> 5ms ROLLBACK protected
        prewrite 6ms c=1 | primary=a        -> ok
        status 6ms c | verify      -> PrimaryMismatch
    """,
    "a forced lock that came after the end": """
        prewrite 10 a=1            -> ok
        commit 10 20 a             -> ok
        lock 10 a | for_update=12 force     -> forced 20: 1
        status 10 a                -> NoAction committed 20
        show a                     -> 20<-10 PUT=1
        lock 9 a | for_update=12 force      -> forced 20: 1
        status 9 a | caller=max    -> MinCommitTSPushed lock PESSIMISTIC@9 primary=a for_update=20 forced
    """,
    "shared locks are no primary": """
        lock 10 /a | primary=p     -> ok
        status 10 a                -> PrimaryMismatch
        heartbeat 10 a | ttl=5     -> PrimaryMismatch
        heartbeat 11 a | ttl=5     -> TxnNotFound start_ts=11
    """,
    "heartbeats": """
        prewrite 10 a=1 | ttl=10   -> ok
        heartbeat 10 a | ttl=20    -> ttl 20
        heartbeat 10 a | ttl=15 min=30      -> ttl 20
        show a                     -> lock PUT@10=1 primary=a ttl=20
        heartbeat 11 a | ttl=20    -> TxnNotFound start_ts=11
        flush 12 b=1 | generation=1         -> ok
        heartbeat 12 b | ttl=20 min=30      -> ttl 20
        show b     -> lock PUT@12=1 primary=b ttl=20 size=70368744177663ms+262143 generation=1 min=30
    """,
}

SECONDARIES = {
    "all locked": """
        prewrite 10 a=1 b=1 c=1 | async=b,c -> min 11
        secondaries 10 b c         -> locks b,c
    """,
    "one committed": """
        prewrite 10 a=1 b=1 c=1 | async=b,c -> min 11
        commit 10 11 c             -> ok
        secondaries 10 b c         -> committed 11
    """,
    "one missing: it is forbidden, and those behind it are not looked at": """
        prewrite 10 a=1 c=1 | async=b,c     -> min 11
        secondaries 10 b c         -> rolled back
        show b                     -> 10 ROLLBACK protected
        show c                     -> lock PUT@10=1 primary=a min=11 async=
        secondaries 10 b           -> rolled back
        prewrite 10 b=1 | primary=a async=  -> conflict b SelfRolledBack 10<-10
    """,
    "a pessimistic lock is replaced": """
        lock 10 a b | primary=a    -> ok
        rollback 9 b               -> ok
        secondaries 10 b           -> rolled back
        released                   -> b@10 pessimistic
        show b                     -> 10 ROLLBACK protected
    """,
    "a forced lock that came after the end": """
        prewrite 10 b=1 | primary=a         -> ok
        commit 10 20 b             -> ok
        lock 10 b | for_update=12 force     -> forced 20: 1
        secondaries 10 b           -> committed 20
        show b                     -> 20<-10 PUT=1
    """,
    "under another lock": """
        prewrite 10 b=1 | async=   -> min 11
        secondaries 15 b           -> rolled back
        show b                     -> lock PUT@10=1 primary=b min=11 async= rollbacks=15; 15 ROLLBACK protected
        commit 10 15 b             -> ok
        show b                     -> 15<-10 PUT=1 overlapped
    """,
    "shared locks are not asked": """
        lock 10 /b | primary=a     -> ok
        secondaries 10 b           -> rolled back
        show b                     -> shared [PESSIMISTIC@10 primary=a for_update=10]; 10 ROLLBACK protected
    """,
}

RESOLVE = {
    "by keys": """
        prewrite 10 a=1 b=1 c=1 | primary=a -> ok
        resolve 10 20 b            -> ok
        resolve 10 0 c             -> ok
        show b                     -> 20<-10 PUT=1
        show c                     -> 10 ROLLBACK
        resolve 10 0 d             -> ok
        show d                     -> 10 ROLLBACK
        resolve 11 0 a             -> ok
        show a                     -> lock PUT@10=1 primary=a; 11 ROLLBACK
        resolve 10 20 d            -> TxnLockNotFound start_ts=10 commit_ts=20
    """,
    "by scan, many transactions": """
        prewrite 10 a=1 b=1 | primary=a     -> ok
        prewrite 11 c=1 d=1 | primary=c     -> ok
        prewrite 12 e=1            -> ok
        lock 10 f                  -> ok
        resolve 10=20 11=0         -> ok
        show a                     -> 20<-10 PUT=1
        show b                     -> 20<-10 PUT=1
        show c                     -> 11 ROLLBACK protected
        show d                     -> 11 ROLLBACK
        show e                     -> lock PUT@12=1 primary=e
        show f                     -> nothing
    """,
    "by scan, in steps": """
        prewrite 10 a=1 b=1 c=1 d=1 e=1 | primary=a -> ok
        resolve 10=20 | limit=2    -> ok 3 steps
        show e                     -> 20<-10 PUT=1
    """,
    "by scan, in the wrong order": """
        prewrite 10 a=1            -> ok
        resolve 10=9               -> InvalidTxnTso start_ts=10 commit_ts=9
    """,
    "below min_commit_ts": """
        prewrite 10 a=1 | min=30   -> ok
        resolve 10 20 a            -> CommitTsExpired start_ts=10 commit_ts=20 min_commit_ts=30
    """,
    "members of shared locks": """
        lock 10 /a | primary=p     -> ok
        lock 11 /a | primary=q     -> ok
        lock 12 /a | primary=r     -> ok
        prewrite 10 shared:a | primary=p for_update=10 actions=check -> ok
        prewrite 11 shared:a | primary=q for_update=11 actions=check -> ok
        resolve 10=20 11=0         -> ok
        show a                     -> shared [PESSIMISTIC@12 primary=r for_update=12]; 20<-10 LOCK; 11 ROLLBACK
        resolve 12=0               -> ok
        released                   -> a@12 pessimistic
        show a                     -> 20<-10 LOCK; 12 ROLLBACK
    """,
}

ALL = {
    f"{area}: {name}": text
    for area, texts in {
        "rollback": ROLLBACK,
        "status": STATUS,
        "secondaries": SECONDARIES,
        "resolve": RESOLVE,
    }.items()
    for name, text in texts.items()
}


@pytest.mark.parametrize("text", ALL.values(), ids=ALL.keys())
def test_rollback_and_status(transcript: Transcript, text: str) -> None:
    transcript.check(text)
