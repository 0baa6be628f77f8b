"""Prewrite and commit, as transcripts; what a real store answers is in the conformance scenarios."""

from __future__ import annotations

import pytest
from actions_transcript import Transcript

TWO_PHASES = {
    "values, deletes and locks": """
        prewrite 10 a=1 -b lock:c | primary=a ttl=30 size=3   -> ok
        show a                     -> lock PUT@10=1 primary=a ttl=30 size=3
        show b                     -> lock DELETE@10 primary=a ttl=30 size=3
        show c                     -> lock LOCK@10 primary=a ttl=30 size=3
        new                        -> a b c
        commit 10 20 a b c         -> ok
        released                   -> a@10->20, b@10->20, c@10->20
        show a                     -> 20<-10 PUT=1
        show b                     -> 20<-10 DELETE
        show c                     -> 20<-10 LOCK
        get a 19                   -> none
        get a 20                   -> 1
    """,
    "a long value lies apart, and goes with a rollback": """
        prewrite 10 a=long         -> ok
        show a                     -> lock PUT@10 primary=a; value@10=long
        commit 10 20 a             -> ok
        show a                     -> 20<-10 PUT; value@10=long
        prewrite 30 a=long         -> ok
        rollback 30 a              -> ok
        show a                     -> 30 ROLLBACK protected; 20<-10 PUT; value@10=long
    """,
    "an empty value is a value": """
        prewrite 10 a=             -> ok
        commit 10 20 a             -> ok
        show a                     -> 20<-10 PUT=
    """,
    "a repeated prewrite keeps the first lock": """
        prewrite 10 a=1 | ttl=5    -> ok
        prewrite 10 a=2 | ttl=9    -> ok
        show a                     -> lock PUT@10=1 primary=a ttl=5
    """,
    "a prewrite that comes again after its commit succeeds and changes nothing": """
        prewrite 10 a=1            -> ok
        commit 10 20 a             -> ok
        prewrite 10 a=1            -> ok
        prewrite 10 a=1 | retry    -> ok
        show a                     -> 20<-10 PUT=1
        prewrite 30 a=2            -> ok
        prewrite 10 a=1            -> ok
        show a                     -> lock PUT@30=2 primary=a; 20<-10 PUT=1
    """,
    "all foreign locks are answered, and nothing is written": """
        prewrite 10 a=1 b=1 | ttl=9         -> ok
        prewrite 11 c=2 a=2 b=2 | ttl=9     -> locked a@10 and locked b@10
        show c                     -> nothing
    """,
    "a conflict hides the locks, and only the first is answered": """
        prewrite 10 a=1 | ttl=9    -> ok
        prewrite 12 b=1 c=1        -> ok
        commit 12 20 b c           -> ok
        prewrite 11 a=2 b=2 c=2    -> conflict b Optimistic 20<-12
        show a                     -> lock PUT@10=1 primary=a ttl=9
    """,
    "records of type Lock and Rollback are conflicts too": """
        prewrite 12 lock:a         -> ok
        commit 12 20 a             -> ok
        prewrite 11 a=2            -> conflict a Optimistic 20<-12
        rollback 21 b              -> ok
        prewrite 11 b=2            -> conflict b Optimistic 21<-21
    """,
    "a commit at exactly the start is no conflict, a rollback there is fatal": """
        prewrite 10 a=1            -> ok
        commit 10 20 a             -> ok
        prewrite 20 a=2            -> ok
        rollback 20 a              -> ok
        show a                     -> 20<-10 PUT=1 overlapped fence=0
        prewrite 20 a=2            -> conflict a SelfRolledBack 20<-10
    """,
    "skip_constraint_check": """
        prewrite 10 a=1            -> ok
        commit 10 20 a             -> ok
        prewrite 15 a=2 | skip     -> ok
        show a                     -> lock PUT@15=2 primary=a; 20<-10 PUT=1
    """,
    "insert and check-not-exists": """
        prewrite 10 insert:a=1 absent:b -> ok
        show a                     -> lock PUT@10=1 primary=a
        show b                     -> nothing
        commit 10 20 a             -> ok
        prewrite 30 insert:a=2     -> AlreadyExist existing_start_ts=10
        prewrite 30 absent:a       -> AlreadyExist existing_start_ts=10
        prewrite 15 insert:a=2     -> conflict a Optimistic 20<-10
        prewrite 30 lock:a         -> ok
        commit 30 40 a             -> ok
        prewrite 50 insert:a=2     -> AlreadyExist existing_start_ts=10
        prewrite 50 -a             -> ok
        commit 50 60 a             -> ok
        prewrite 70 insert:a=2     -> ok
    """,
    "min_commit_ts holds the commit back": """
        prewrite 10 a=1 | min=15   -> ok
        commit 10 14 a             -> CommitTsExpired start_ts=10 commit_ts=14 min_commit_ts=15
        commit 10 15 a             -> ok
    """,
    "an unknown operation": """
        prewrite 10 rollback:a     -> InvalidCommand
        show a                     -> nothing
    """,
    "a large prewrite into an empty range does not look at each key": """
        prewrite 10 a=1 b=1 c=1 d=1 e=1 f=1 g=1 h=1 i=1 j=1 k=1 l=1 m=1 -> ok
        commit 10 20 a b c d e f g h i j k l m -> ok
        prewrite 15 m=2 l=2 k=2 j=2 i=2 h=2 g=2 f=2 e=2 d=2 c=2 b=2 a=2 -> conflict a Optimistic 20<-10
        get m 20                   -> 1
    """,
}

COMMIT = {
    "again, with the same and with another timestamp": """
        prewrite 10 a=1            -> ok
        commit 10 20 a             -> ok
        commit 10 20 a             -> ok
        commit 10 25 a             -> ok
        show a                     -> 20<-10 PUT=1
    """,
    "without a lock": """
        commit 10 20 a             -> TxnLockNotFound start_ts=10 commit_ts=20
        prewrite 10 a=1            -> ok
        rollback 10 a              -> ok
        commit 10 20 a             -> TxnLockNotFound start_ts=10 commit_ts=20
        prewrite 11 a=1            -> ok
        commit 10 20 a             -> TxnLockNotFound start_ts=10 commit_ts=20
    """,
    "all or none": """
        prewrite 10 a=1            -> ok
        commit 10 20 a b           -> TxnLockNotFound start_ts=10 commit_ts=20
        show a                     -> lock PUT@10=1 primary=a
        commit 10 20 a a           -> TxnLockNotFound start_ts=10 commit_ts=20
    """,
    "not above the start": """
        prewrite 10 a=1            -> ok
        commit 10 10 a             -> InvalidTxnTso start_ts=10 commit_ts=10
    """,
    "of a pessimistic lock writes nothing": """
        lock 10 a                  -> ok
        commit 10 20 a             -> ok
        released                   -> a@10 pessimistic
        show a                     -> nothing
    """,
    "at the timestamp of a rollback that the lock remembers": """
        prewrite 10 a=1 | async=   -> min 11
        cleanup 10 b               -> ok
        cleanup 15 a               -> ok
        cleanup 17 a               -> ok
        show a   -> lock PUT@10=1 primary=a min=11 async= rollbacks=15,17; 17 ROLLBACK protected; 15 ROLLBACK protected
        commit 10 15 a             -> ok
        show a                     -> 17 ROLLBACK protected; 15<-10 PUT=1 overlapped
        prewrite 15 a=2            -> conflict a Optimistic 17<-17
        status 15 a                -> NoAction
    """,
}

ASSERTIONS = {
    "level Off": """
        prewrite 10 a=1!e          -> ok
    """,
    "level Fast, the version has been read": """
        prewrite 10 a=1!e | level=Fast      -> AssertionFailed start_ts=10
        show a                     -> nothing
        prewrite 10 a=1!n | level=Fast      -> ok
        commit 10 20 a             -> ok
        prewrite 30 a=2!n | level=Fast      -> AssertionFailed start_ts=30 existing_start_ts=10 existing_commit_ts=20
        prewrite 30 a=2!e | level=Fast      -> ok
    """,
    "level Fast, the version has not been read": """
        prewrite 30 a=2!e | level=Fast for_update=30 actions=skip      -> ok
    """,
    "level Strict reads it": """
        prewrite 30 a=2!e | level=Strict for_update=30 actions=skip    -> AssertionFailed start_ts=30
        lock 30 b                  -> ok
        prewrite 30 b=2!e | level=Strict for_update=30 actions=check   -> AssertionFailed start_ts=30
        prewrite 30 b=2!n | level=Strict for_update=30 actions=check   -> ok
    """,
    "a deleted key": """
        prewrite 10 -a             -> ok
        commit 10 20 a             -> ok
        prewrite 30 a=2!e | level=Strict    -> AssertionFailed start_ts=30 existing_start_ts=10 existing_commit_ts=20
        prewrite 30 a=2!n | level=Strict    -> ok
    """,
    "records of type Lock are looked through": """
        prewrite 10 a=1            -> ok
        commit 10 20 a             -> ok
        prewrite 30 lock:a         -> ok
        commit 30 40 a             -> ok
        prewrite 50 a=2!n | level=Fast      -> AssertionFailed start_ts=50 existing_start_ts=10 existing_commit_ts=20
        prewrite 50 a=2!e | level=Fast      -> ok
    """,
    "a conflict or a lock comes before, the first wrong assertion is answered": """
        prewrite 10 a=1 | ttl=9    -> ok
        prewrite 12 b=1            -> ok
        commit 12 20 b             -> ok
        prewrite 15 x=1!e b=2 | level=Fast  -> conflict b Optimistic 20<-12
        prewrite 25 x=1!e b=2!n a=1 | level=Fast -> AssertionFailed start_ts=25
    """,
    "a rollback explains it better": """
        rollback 30 a              -> ok
        prewrite 30 a=1!e | level=Strict for_update=30 actions=skip    -> conflict a SelfRolledBack 30<-30
    """,
}

ASYNC = {
    "the secondaries are in the primary's lock; above every read": """
        read 50                    -> ok
        prewrite 10 a=1 b=2 | async=b       -> min 51
        show a                     -> lock PUT@10=1 primary=a min=51 async=b
        show b                     -> lock PUT@10=2 primary=a min=51 async=
        commit 10 51 a b           -> ok
    """,
    "at least what is asked for, and above for_update_ts": """
        prewrite 10 a=1 | async= min=77     -> min 77
        lock 10 b | for_update=30           -> ok
        prewrite 10 b=1 | async= for_update=30 actions=check -> min 31
    """,
    "the largest of all keys": """
        lock 10 a b | min=40       -> ok
        lock 10 c                  -> ok
        prewrite 10 a=1 b=1 c=1 | async=b,c for_update=10 actions=check -> min 40
        show c                     -> lock PUT@10=1 primary=a for_update=10 min=11 async=
    """,
    "again, after a newer read": """
        prewrite 10 a=1 | async=   -> min 11
        read 50                    -> ok
        prewrite 10 a=1 | async=   -> min 11
        commit 10 11 a             -> ok
        prewrite 10 a=1 | async=   -> min 11
    """,
    "over max_commit_ts: two phases": """
        read 50                    -> ok
        prewrite 10 a=1 b=1 | async=b max=51 -> min 51
        prewrite 12 c=1 d=1 | async=d max=50 min=13 -> ok
        show c                     -> lock PUT@12=1 primary=c min=13
        show d                     -> lock PUT@12=1 primary=c min=13
        prewrite 12 c=1 | async=d  -> ok
    """,
    "a repetition after a fall-back falls back": """
        prewrite 10 a=1            -> ok
        prewrite 10 a=1 b=2 | async=b       -> ok
        show b                     -> lock PUT@10=2 primary=a
    """,
    "locks and min_commit_ts in one answer": """
        prewrite 10 b=1 | ttl=9    -> ok
        prewrite 12 a=1 b=2 | async=b       -> locked b@10
        show a                     -> nothing
    """,
    "too large, but committed long ago": """
        prewrite 10 a=1            -> ok
        commit 10 20 a             -> ok
        read 50                    -> ok
        prewrite 10 a=1 | async= max=30 skip -> min 20
        show a                     -> 20<-10 PUT=1
    """,
}

ONE_PC = {
    "no locks remain": """
        read 50                    -> ok
        prewrite 10 a=1 -b lock:c absent:d | 1pc -> committed 51
        show a                     -> 51<-10 PUT=1
        show b                     -> 51<-10 DELETE
        show c                     -> 51<-10 LOCK
        show d                     -> nothing
        new                        -> none
        released                   -> none
    """,
    "a pessimistic lock goes": """
        lock 10 a | for_update=20  -> ok
        prewrite 10 a=1 b=2 | 1pc for_update=20 actions=check,skip -> committed 21
        show a                     -> 21<-10 PUT=1
        show b                     -> 21<-10 PUT=2
        released                   -> a@10->21 pessimistic
    """,
    "over max_commit_ts: two phases, the keys before as well": """
        lock 10 a                  -> ok
        read 50                    -> ok
        prewrite 10 a=long b=2 | 1pc for_update=10 actions=check,skip max=50 -> ok
        show a                     -> lock PUT@10 primary=a for_update=10; value@10=long
        show b                     -> lock PUT@10=2 primary=a for_update=10
        new                        -> b
    """,
    "again": """
        prewrite 10 a=1 | 1pc      -> committed 11
        prewrite 10 a=1 | 1pc      -> committed 11
        show a                     -> 11<-10 PUT=1
    """,
    "a locked key: nothing": """
        prewrite 10 b=1 | ttl=9    -> ok
        prewrite 12 a=1 b=2 | 1pc  -> locked b@10
        show a                     -> nothing
    """,
}

PESSIMISTIC = {
    "the larger TTL and min_commit_ts stay": """
        lock 10 a | for_update=12 ttl=90 min=17 -> ok
        prewrite 10 a=1 | for_update=11 actions=check ttl=30 min=12 -> ok
        show a                     -> lock PUT@10=1 primary=a ttl=90 for_update=12 min=17
        new                        -> none
    """,
    "a lost lock is amended when nothing happened since": """
        prewrite 5 a=0             -> ok
        commit 5 6 a               -> ok
        prewrite 10 a=1 b=1 | for_update=12 actions=check -> ok
        new                        -> a b
    """,
    "a lost lock that is not amended": """
        prewrite 5 a=0             -> ok
        commit 5 10 a              -> ok
        prewrite 10 a=1 | for_update=12 actions=check -> lost@10 LockMissingAmendFail
        rollback 20 b              -> ok
        prewrite 20 b=1 | for_update=22 actions=check -> lost@20 LockMissingAmendFail
    """,
    "the amended lock is asserted": """
        prewrite 10 a=1!e | for_update=12 actions=check level=Fast -> AssertionFailed start_ts=10
    """,
    "another's lock in the place of the own one": """
        lock 9 a                   -> ok
        prewrite 10 a=1 | for_update=12 actions=check -> lost@10 LockTsMismatch
        prewrite 10 a=1 | for_update=12 actions=skip  -> locked a@9 ttl=0
    """,
    "the lock's for_update_ts is not the expected one": """
        prewrite 5 a=0             -> ok
        commit 5 30 a              -> ok
        lock 10 a | for_update=12 force     -> forced 30: 0
        prewrite 10 a=1 | for_update=30 actions=check expect=12 -> lost@10 LockForUpdateTsMismatch
        prewrite 10 a=1 | for_update=30 actions=check expect=30 -> ok
    """,
    "keys that were never locked": """
        prewrite 5 a=0             -> ok
        commit 5 30 a              -> ok
        prewrite 10 a=1 | for_update=20 actions=constraint -> conflict a LazyUniquenessCheck 30<-5
        prewrite 10 a=1 | for_update=20 actions=skip retry -> lost@10 NonLockKeyConflict
        rollback 40 b              -> ok
        prewrite 10 b=1 | for_update=20 actions=skip retry -> ok
        prewrite 10 a=1 | for_update=20 actions=skip -> ok
    """,
    "insert with a constraint check": """
        prewrite 5 a=0             -> ok
        commit 5 6 a               -> ok
        prewrite 10 insert:a=1 | for_update=20 actions=constraint -> AlreadyExist existing_start_ts=5
        prewrite 10 insert:b=1 | for_update=20 actions=constraint -> ok
    """,
    "check-not-exists does not go": """
        prewrite 10 absent:b | for_update=20 actions=skip -> Mvcc
    """,
    "optimistic over pessimistic": """
        lock 10 a                  -> ok
        prewrite 10 a=1            -> LockTypeNotMatch start_ts=10
    """,
    "again, before and after the commit": """
        lock 10 a                  -> ok
        prewrite 10 a=1 | for_update=10 actions=check -> ok
        prewrite 10 a=1 | for_update=10 actions=check -> ok
        commit 10 20 a             -> ok
        prewrite 10 a=1 | for_update=10 actions=check retry -> ok
        lock 30 a | for_update=30  -> ok
        prewrite 10 a=1 | for_update=10 actions=check retry -> ok
        show a                     -> lock PESSIMISTIC@30 primary=a for_update=30; 20<-10 PUT=1
    """,
}

FLUSH = {
    "a key again, by a later generation": """
        flush 10 a=1 -b | primary=p generation=1 ttl=30 -> ok
        show a   -> lock PUT@10=1 primary=p ttl=30 size=70368744177663ms+262143 generation=1 min=11
        flush 10 a=2 -b | primary=p generation=1 -> ok
        flush 10 a=long | primary=p generation=2 -> ok
        show a   -> lock PUT@10 primary=p size=70368744177663ms+262143 generation=2 min=11; value@10=long
        flush 10 a=3 | primary=p generation=1 -> ok
        show a   -> lock PUT@10 primary=p size=70368744177663ms+262143 generation=2 min=11; value@10=long
        commit 10 20 a b           -> ok
        show a                     -> 20<-10 PUT; value@10=long
    """,
    "generation 0": """
        flush 10 a=1 | primary=p   -> InvalidCommand
    """,
    "insert after the own flush": """
        flush 10 a=1 | generation=1         -> ok
        flush 10 insert:a=2 | generation=2  -> AlreadyExist existing_start_ts=10
        flush 10 -a | generation=2          -> ok
        flush 10 insert:a=2 | generation=3  -> ok
    """,
    "a key is asserted once": """
        flush 10 a=1!e | generation=1 level=Strict  -> AssertionFailed start_ts=10
        flush 10 a=1!n | generation=1 level=Strict  -> ok
        flush 10 a=2!e | generation=2 level=Strict  -> ok
    """,
    "conflicts, locks, rollbacks": """
        prewrite 5 a=1 | ttl=9     -> ok
        flush 10 a=1 | primary=p generation=1 -> locked a@5
        commit 5 20 a              -> ok
        flush 10 a=1 | primary=p generation=1 -> conflict a Optimistic 20<-5
        flush 10 b=1 | primary=p generation=1 -> ok
        rollback 10 b              -> ok
        show b                     -> 10 ROLLBACK protected
        flush 10 b=1 | primary=p generation=2 -> conflict b SelfRolledBack 10<-10
    """,
    "committed by somebody already": """
        flush 10 a=1 | generation=1         -> ok
        commit 10 20 a             -> ok
        flush 10 a=1 | generation=1         -> ok
        show a                     -> 20<-10 PUT=1
    """,
}

ALL = {
    f"{area}: {name}": text
    for area, texts in {
        "two phases": TWO_PHASES,
        "commit": COMMIT,
        "assertions": ASSERTIONS,
        "async commit": ASYNC,
        "1PC": ONE_PC,
        "pessimistic": PESSIMISTIC,
        "flush": FLUSH,
    }.items()
    for name, text in texts.items()
}


@pytest.mark.parametrize("text", ALL.values(), ids=ALL.keys())
def test_prewrite_and_commit(transcript: Transcript, text: str) -> None:
    transcript.check(text)
