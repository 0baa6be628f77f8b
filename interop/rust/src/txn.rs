//! Transactions: with `-txn` these checks run instead of the raw ones.
//!
//! A transaction that stops half way is made with client-rust's own failpoint after the prewrite, which the feature
//! `fail/failpoints` compiles in; one whose primary alone is committed by ending before the runtime gets to the
//! secondaries, which client-rust commits in the background.

use std::future::Future;

use tikv_client::transaction::ResolveLocksOptions;
use tikv_client::{
    CheckLevel, Config, Key, KvPair, Result as ClientResult, TimestampExt, Transaction,
    TransactionClient, TransactionOptions,
};

use crate::{ensure, report, Arguments, Outcome, SHARED};

const MANY: usize = 300;
/// Keys in each of two regions that a transaction which stops half way writes.
const LEFT: usize = 10;
const AFTER_PREWRITE: &str = "after-prewrite";

pub async fn run(arguments: &Arguments, config: Config) -> bool {
    let pd = vec![arguments.pd.clone()];
    let client = match TransactionClient::new_with_config(pd, config).await {
        Ok(client) => client,
        Err(error) => return report("connect", &Err(error.into())),
    };
    let checks = Checks {
        client,
        prefix: arguments.prefix.clone(),
    };
    report("connect", &Ok(())) & checks.all().await
}

struct Checks {
    client: TransactionClient,
    prefix: String,
}

/// What the checks of optimistic transactions use: dropped without a word when a check fails.
fn optimistic() -> TransactionOptions {
    TransactionOptions::new_optimistic().drop_check(CheckLevel::None)
}

fn pessimistic() -> TransactionOptions {
    TransactionOptions::new_pessimistic().drop_check(CheckLevel::None)
}

async fn check(name: &str, body: impl Future<Output = Outcome>) -> bool {
    report(name, &body.await)
}

impl Checks {
    async fn all(&self) -> bool {
        let mut passed = check("read what pytikv wrote", self.read_ours()).await;
        passed &= check("optimistic", self.optimistic()).await;
        passed &= check("conflict", self.conflict()).await;
        passed &= check("insert", self.insert()).await;
        passed &= check("async commit and 1PC", self.commit_modes()).await;
        passed &= check("binary keys and large values", self.binary()).await;
        passed &= check("many keys over regions", self.many()).await;
        passed &= check("scans", self.scans()).await;
        passed &= check("snapshots", self.snapshots()).await;
        passed &= check("pessimistic", self.pessimistic()).await;
        let name = "meet a dead client's prewrite";
        passed &= check(name, self.meet("prewrite", "before")).await;
        let name = "meet a dead client's half commit";
        passed &= check(name, self.meet("committed", "after")).await;
        let name = "meet a dead client's async commit";
        passed &= check(name, self.meet_async()).await;
        let name = "meet a dead client's pessimistic locks";
        passed &= check(name, self.meet_pessimistic()).await;
        passed &= check("GC", self.gc()).await;
        passed &= check("write for pytikv", self.write_theirs()).await;
        passed & check("leave locks for pytikv", self.leave_locks()).await
    }

    fn key(&self, tail: impl AsRef<[u8]>) -> Vec<u8> {
        [self.prefix.as_bytes(), tail.as_ref()].concat()
    }

    fn pairs(&self, stem: &str, value: &str, count: usize) -> Vec<(Vec<u8>, Vec<u8>)> {
        (0..count)
            .map(|i| {
                (
                    self.key(format!("{stem}_{i:04}")),
                    format!("{value} {i}").into_bytes(),
                )
            })
            .collect()
    }

    async fn write(
        &self,
        options: TransactionOptions,
        pairs: impl IntoIterator<Item = (Vec<u8>, Vec<u8>)>,
    ) -> ClientResult<Transaction> {
        let mut txn = self.client.begin_with_options(options).await?;
        for (key, value) in pairs {
            txn.put(key, value).await?;
        }
        Ok(txn)
    }

    async fn commit(
        &self,
        options: TransactionOptions,
        pairs: &[(Vec<u8>, Vec<u8>)],
    ) -> ClientResult<()> {
        let mut txn = self.write(options, pairs.to_vec()).await?;
        txn.commit().await.map(|_| ())
    }

    async fn expect(&self, pairs: &[(Vec<u8>, Vec<u8>)]) -> Outcome {
        let mut txn = self.client.begin_with_options(optimistic()).await?;
        for (key, value) in pairs {
            let got = txn.get(key.clone()).await?;
            ensure(got.as_ref() == Some(value), || {
                format!("get {key:?}: {got:?} instead of {value:?}")
            })?;
        }
        Ok(txn.rollback().await?)
    }

    async fn read_ours(&self) -> Outcome {
        let pairs = self.pairs("pytikv", "value", SHARED);
        self.expect(&pairs).await?;
        let mut txn = self.client.begin_with_options(optimistic()).await?;
        let keys: Vec<_> = pairs.iter().map(|(key, _)| key.clone()).collect();
        let got = txn.batch_get(keys).await?.count();
        ensure(got == SHARED, || format!("batch get: {got} pairs"))?;
        let mut txn = self.client.begin_with_options(optimistic()).await?;
        let range = self.key("pytikv_")..self.key("pytikv_~");
        let got: Vec<KvPair> = txn.scan(range, 2 * SHARED as u32).await?.collect();
        let wanted: Vec<KvPair> = pairs.into_iter().map(KvPair::from).collect();
        ensure(got == wanted, || format!("scan: {} pairs", got.len()))
    }

    async fn optimistic(&self) -> Outcome {
        let pairs = [(self.key("point"), b"one".to_vec())];
        let mut txn = self.write(optimistic(), pairs.clone()).await?;
        let own = txn.get(self.key("point")).await?;
        ensure(own.as_deref() == Some(b"one"), || {
            format!("own write: {own:?}")
        })?;
        txn.commit().await?;
        self.expect(&pairs).await?;
        let mut txn = self.client.begin_with_options(optimistic()).await?;
        txn.put(self.key("point"), "rolled back".to_owned()).await?;
        txn.rollback().await?;
        self.expect(&pairs).await?;
        let mut txn = self.client.begin_with_options(optimistic()).await?;
        txn.delete(self.key("point")).await?;
        txn.commit().await?;
        let mut txn = self.client.begin_with_options(optimistic()).await?;
        let got = txn.get(self.key("point")).await?;
        ensure(got.is_none(), || format!("after the delete: {got:?}"))
    }

    async fn conflict(&self) -> Outcome {
        let first = [(self.key("conflict"), b"first".to_vec())];
        let second = [(self.key("conflict"), b"second".to_vec())];
        let mut txn = self.write(optimistic(), first).await?;
        self.commit(optimistic(), &second).await?;
        ensure(txn.commit().await.is_err(), || {
            "no conflict was seen".into()
        })?;
        self.expect(&second).await
    }

    async fn insert(&self) -> Outcome {
        for is_first in [true, false] {
            let mut txn = self.client.begin_with_options(optimistic()).await?;
            txn.insert(self.key("insert"), "i".to_owned()).await?;
            ensure(txn.commit().await.is_ok() == is_first, || {
                format!("first insert: {is_first}")
            })?;
        }
        Ok(())
    }

    async fn commit_modes(&self) -> Outcome {
        let one = vec![(self.key("mode_1pc"), b"1pc".to_vec())];
        let two = vec![
            (self.key("mode_async"), b"async".to_vec()),
            (self.key("theirs_0040"), b"async".to_vec()),
        ];
        let both = vec![(self.key("mode_both"), b"both".to_vec())];
        for (options, pairs) in [
            (optimistic().try_one_pc(), one),
            (optimistic().use_async_commit(), two.clone()),
            (pessimistic().use_async_commit(), two),
            (optimistic().use_async_commit().try_one_pc(), both),
        ] {
            self.commit(options, &pairs).await?;
            self.expect(&pairs).await?;
        }
        Ok(())
    }

    async fn binary(&self) -> Outcome {
        let mut pairs: Vec<_> = [
            &b"\0"[..],
            b"\xff",
            b"\0\xff\0",
            b"\xff\xff\xff\xff\xff\xff\xff\xff\xff",
        ]
        .iter()
        .map(|tail| {
            let key = self.key([b"binary", *tail].concat());
            (key, [*tail, b"\0\xff"].concat())
        })
        .collect();
        pairs.push((self.key("large"), vec![0xa5; 2 << 20]));
        self.commit(optimistic(), &pairs).await?;
        self.expect(&pairs).await
    }

    async fn many(&self) -> Outcome {
        let pairs = self.pairs("batch", "b", MANY);
        self.commit(optimistic(), &pairs).await?;
        self.expect(&pairs).await?;
        let mut txn = self.client.begin_with_options(optimistic()).await?;
        for (key, _) in pairs.iter().step_by(2) {
            txn.delete(key.clone()).await?;
        }
        txn.commit().await?;
        let mut txn = self.client.begin_with_options(optimistic()).await?;
        let range = self.key("batch_")..self.key("batch_~");
        let left = txn.scan_keys(range, 2 * MANY as u32).await?.count();
        ensure(left == MANY / 2, || format!("{left} keys left"))
    }

    async fn scans(&self) -> Outcome {
        let pairs: Vec<_> = (0..20)
            .map(|i| (self.key(format!("scan_{i:02}")), vec![b's', i]))
            .collect();
        self.commit(optimistic(), &pairs).await?;
        let mut txn = self.client.begin_with_options(optimistic()).await?;
        txn.put(self.key("scan_055"), "own".to_owned()).await?;
        txn.delete(self.key("scan_07")).await?;
        let range = self.key("scan_05")..self.key("scan_10");
        let got: Vec<Vec<u8>> = txn.scan_keys(range, 100).await?.map(Key::into).collect();
        let wanted: Vec<_> = ["05", "055", "06", "08", "09"]
            .iter()
            .map(|tail| self.key(format!("scan_{tail}")))
            .collect();
        ensure(got == wanted, || format!("scan: {} keys", got.len()))?;
        // Within one region: over a border client-rust walks its reverse scans upwards.
        let within = self.key("scan_12")..self.key("scan_16");
        let got: Vec<Vec<u8>> = txn
            .scan_keys_reverse(within, 100)
            .await?
            .map(Key::into)
            .collect();
        let wanted: Vec<_> = (12..16)
            .rev()
            .map(|i| self.key(format!("scan_{i}")))
            .collect();
        ensure(got == wanted, || {
            format!("reverse scan: {} keys", got.len())
        })
    }

    async fn snapshots(&self) -> Outcome {
        let mut stamps = Vec::new();
        for i in 0..3 {
            let pair = (self.key("snapshot"), vec![b'v', i]);
            self.commit(optimistic(), &[pair]).await?;
            stamps.push(self.client.current_timestamp().await?);
        }
        for (i, ts) in stamps.into_iter().enumerate() {
            let mut snapshot = self.client.snapshot(ts, optimistic().read_only());
            let got = snapshot.get(self.key("snapshot")).await?;
            ensure(got == Some(vec![b'v', i as u8]), || {
                format!("snapshot {i}: {got:?}")
            })?;
        }
        Ok(())
    }

    async fn pessimistic(&self) -> Outcome {
        let old = [(self.key("locked"), b"old".to_vec())];
        let new = [(self.key("locked"), b"new".to_vec())];
        self.commit(optimistic(), &old).await?;
        let mut txn = self.client.begin_with_options(pessimistic()).await?;
        let got = txn.get_for_update(self.key("locked")).await?;
        ensure(got.as_deref() == Some(b"old"), || {
            format!("get for update: {got:?}")
        })?;
        self.expect(&old).await?; // readers pass the lock
        txn.lock_keys(vec![self.key("scan_locked")]).await?;
        txn.put(self.key("locked"), "new".to_owned()).await?;
        txn.commit().await?;
        self.expect(&new).await?;
        let mut txn = self.client.begin_with_options(pessimistic()).await?;
        let keys = vec![self.key("locked"), self.key("locked_absent")];
        let got = txn.batch_get_for_update(keys).await?.len();
        ensure(got == 1, || format!("batch get for update: {got} pairs"))?;
        Ok(txn.rollback().await?)
    }

    /// The keys of a transaction that stopped half way, in two regions, with one value.
    fn half(&self, stem: &str, value: &str) -> Vec<(Vec<u8>, Vec<u8>)> {
        (0..LEFT)
            .flat_map(|i| [format!("{stem}_{i}"), format!("~{stem}_{i}")])
            .map(|tail| (self.key(tail), value.as_bytes().to_vec()))
            .collect()
    }

    async fn meet(&self, kind: &str, value: &str) -> Outcome {
        let stem = format!("dead_{kind}");
        let pairs = self.half(&stem, value);
        let mut txn = self.client.begin_with_options(optimistic()).await?;
        let range = self.key(format!("{stem}_"))..self.key(format!("{stem}_~"));
        let got = txn.scan(range, 100).await?.count();
        ensure(got == LEFT, || format!("scan: {got} pairs"))?;
        self.expect(&pairs).await?;
        let over = self.half(&stem, "over");
        self.commit(optimistic(), &over).await?;
        self.expect(&over).await
    }

    /// Of async commits client-rust 0.4.0 knows in its clean-up, not when it reads.
    async fn meet_async(&self) -> Outcome {
        let now = self.client.current_timestamp().await?;
        for start in ["", "~"] {
            let stem = self.key(format!("{start}dead_async_"));
            let end = self.key(format!("{start}dead_async_~"));
            let options = ResolveLocksOptions::default();
            self.client.cleanup_locks(stem..end, &now, options).await?;
        }
        self.meet("async", "after").await
    }

    /// The primary alone: once that is rolled back, client-rust 0.4.0 fails on the others' TxnNotFound.
    async fn meet_pessimistic(&self) -> Outcome {
        let over = &self.half("dead_pessimistic", "over")[..1];
        self.commit(pessimistic(), over).await?;
        self.expect(over).await
    }

    async fn gc(&self) -> Outcome {
        let pair = [(self.key("gc"), b"kept".to_vec())];
        self.commit(optimistic(), &pair).await?;
        let now = self.client.current_timestamp().await?.version();
        let six_minutes_ago = now - ((6 * 60 * 1000) << 18);
        let safe_point = tikv_client::Timestamp::from_version(six_minutes_ago);
        self.client.gc(safe_point).await?;
        self.expect(&pair).await
    }

    async fn write_theirs(&self) -> Outcome {
        let pairs = self.pairs("theirs", "value", SHARED);
        Ok(self.commit(optimistic().use_async_commit(), &pairs).await?)
    }

    /// The last check: nothing may run after the last commit, or its secondaries are committed after all.
    async fn leave_locks(&self) -> Outcome {
        for kind in ["prewrite", "committed", "async"] {
            let before = self.half(&format!("left_{kind}"), "before");
            self.commit(optimistic(), &before).await?;
        }
        let mut txn = self.client.begin_with_options(pessimistic()).await?;
        let keys = self.half("left_held", "");
        txn.lock_keys(keys.into_iter().map(|(key, _)| key)).await?;
        fail::cfg(AFTER_PREWRITE, "return")?;
        for (kind, options) in [
            ("prewrite", optimistic()),
            ("async", optimistic().use_async_commit()),
        ] {
            let after = self.half(&format!("left_{kind}"), "after");
            ensure(self.commit(options, &after).await.is_err(), || {
                "the failpoint did nothing".into()
            })?;
        }
        fail::cfg(AFTER_PREWRITE, "off")?;
        let after = self.half("left_committed", "after");
        Ok(self.commit(optimistic(), &after).await?)
    }
}
