//! Runs client-rust's raw client, or with `-txn` its transactions, against a server, as a check of the server and of data written by other clients.
//!
//! It prints one JSON line a check, {"check", "ok", "detail"}, and exits with 1 when one failed. interop/README.md has
//! the contract that all these programs share. Every scan ends below a region border that the caller has made
//! (`PREFIX~`): client-rust 0.4.0 repeats a scan for ever when its range ends inside the last, open-ended region. Its
//! reverse scans stay within one region: over a border it asks the lower region for keys up to the range's end, which a
//! store refuses.

mod txn;

use std::error::Error;
use std::future::Future;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use serde_json::json;
use tikv_client::{Config, KvPair, RawClient};

type Outcome = Result<(), Box<dyn Error + Send + Sync>>;

const SHARED: usize = 50;
const BATCH: usize = 300;

struct Arguments {
    pd: String,
    prefix: String,
    ttl: bool,
    txn: bool,
    keyspace: Option<String>,
    timeout: Duration,
}

fn arguments() -> Result<Arguments, String> {
    let mut parsed = Arguments {
        pd: "127.0.0.1:2379".into(),
        prefix: "interop_".into(),
        ttl: false,
        txn: false,
        keyspace: None,
        timeout: Duration::from_secs(60),
    };
    let mut given = std::env::args().skip(1);
    while let Some(flag) = given.next() {
        let mut value = || given.next().ok_or(format!("{flag} needs a value"));
        match flag.as_str() {
            "-pd" => parsed.pd = value()?,
            "-prefix" => parsed.prefix = value()?,
            "-keyspace" => parsed.keyspace = Some(value()?),
            "-timeout" => {
                parsed.timeout =
                    Duration::from_secs(value()?.parse().map_err(|e| format!("-timeout: {e}"))?)
            }
            "-ttl" => parsed.ttl = true,
            "-txn" => parsed.txn = true,
            _ => return Err(format!("unknown flag {flag}")),
        }
    }
    Ok(parsed)
}

struct Run {
    client: RawClient,
    prefix: String,
    passed: bool,
}

fn report(name: &str, outcome: &Outcome) -> bool {
    let detail = outcome
        .as_ref()
        .err()
        .map(ToString::to_string)
        .unwrap_or_default();
    println!(
        "{}",
        json!({"check": name, "ok": outcome.is_ok(), "detail": detail})
    );
    outcome.is_ok()
}

fn ensure(holds: bool, what: impl FnOnce() -> String) -> Outcome {
    if holds {
        Ok(())
    } else {
        Err(what().into())
    }
}

impl Run {
    fn key(&self, tail: impl AsRef<[u8]>) -> Vec<u8> {
        [self.prefix.as_bytes(), tail.as_ref()].concat()
    }

    async fn check(&mut self, name: &str, body: impl Future<Output = Outcome>) {
        self.passed &= report(name, &body.await);
    }

    async fn expect(&self, key: Vec<u8>, wanted: Option<&[u8]>) -> Outcome {
        let got = self.client.get(key).await?;
        ensure(got.as_deref() == wanted, || {
            format!("get: {got:?} instead of {wanted:?}")
        })
    }

    async fn read_ours(&self) -> Outcome {
        let keys: Vec<_> = (0..SHARED)
            .map(|i| self.key(format!("pytikv_{i:04}")))
            .collect();
        for (i, key) in keys.iter().enumerate() {
            self.expect(key.clone(), Some(format!("value {i}").as_bytes()))
                .await?;
        }
        let wanted: Vec<_> = keys
            .iter()
            .enumerate()
            .map(|(i, key)| KvPair::new(key.clone(), format!("value {i}")))
            .collect();
        let mut got = self.client.batch_get(keys).await?;
        got.sort_by(|a, b| a.key().cmp(b.key()));
        ensure(got == wanted, || format!("batch get: {} pairs", got.len()))?;
        let got = self
            .client
            .scan(self.key("pytikv_")..self.key("pytikv_~"), 2 * SHARED as u32)
            .await?;
        ensure(got == wanted, || format!("scan: {} pairs", got.len()))
    }

    async fn put_get(&self) -> Outcome {
        for value in ["one", "two"] {
            self.client.put(self.key("point"), value.to_owned()).await?;
            self.expect(self.key("point"), Some(value.as_bytes()))
                .await?;
        }
        self.client.delete(self.key("point")).await?;
        self.expect(self.key("point"), None).await
    }

    async fn binary(&self) -> Outcome {
        for tail in [
            &b"\0"[..],
            b"\xff",
            b"\0\xff\0",
            b"\xff\xff\xff\xff\xff\xff\xff\xff\xff",
        ] {
            let key = self.key([b"binary", tail].concat());
            let value = [tail, b"\0\xff"].concat();
            self.client.put(key.clone(), value.clone()).await?;
            self.expect(key, Some(&value)).await?;
        }
        let large = vec![0xa5; 2 << 20];
        self.client.put(self.key("large"), large.clone()).await?;
        self.expect(self.key("large"), Some(&large)).await?;
        Ok(self.client.delete(self.key("large")).await?)
    }

    async fn batches(&self) -> Outcome {
        let keys: Vec<_> = (0..BATCH)
            .map(|i| self.key(format!("batch_{i:04}")))
            .collect();
        let pairs: Vec<_> = keys
            .iter()
            .enumerate()
            .map(|(i, k)| KvPair::new(k.clone(), format!("b{i}")))
            .collect();
        self.client.batch_put(pairs.clone()).await?;
        let mut got = self
            .client
            .batch_get([keys.clone(), vec![self.key("absent")]].concat())
            .await?;
        got.sort_by(|a, b| a.key().cmp(b.key()));
        ensure(got == pairs, || format!("batch get: {} pairs", got.len()))?;
        self.client.batch_delete(keys[..BATCH / 2].to_vec()).await?;
        let left = self
            .client
            .scan_keys(self.key("batch_")..self.key("batch_~"), 2 * BATCH as u32)
            .await?;
        ensure(left.len() == BATCH - BATCH / 2, || {
            format!("{} keys left", left.len())
        })
    }

    async fn scans(&self) -> Outcome {
        for i in 0..20 {
            self.client
                .put(self.key(format!("scan_{i:02}")), format!("s{i}"))
                .await?;
        }
        let range = || self.key("scan_05")..self.key("scan_10");
        let wanted: Vec<_> = (5..10)
            .map(|i| KvPair::new(self.key(format!("scan_{i:02}")), format!("s{i}")))
            .collect();
        let got = self.client.scan(range(), 100).await?;
        ensure(got == wanted, || format!("scan: {} pairs", got.len()))?;
        let got = self.client.scan(range(), 3).await?;
        ensure(got == wanted[..3], || {
            format!("limited scan: {} pairs", got.len())
        })?;
        // Within one region: over a border client-rust walks its reverse scans upwards, and batch_scan takes
        // its limit for each region.
        let within = self.key("scan_12")..self.key("scan_16");
        let got = self.client.scan_reverse(within, 100).await?;
        let keys: Vec<Vec<u8>> = got.into_iter().map(|pair| pair.into_key().into()).collect();
        let wanted: Vec<_> = (12..16)
            .rev()
            .map(|i| self.key(format!("scan_{i}")))
            .collect();
        ensure(keys == wanted, || {
            format!("reverse scan: {} pairs", keys.len())
        })?;
        let got = self
            .client
            .batch_scan(
                [
                    self.key("scan_10")..self.key("scan_14"),
                    self.key("scan_15")..self.key("scan_17"),
                ],
                3,
            )
            .await?;
        ensure(got.len() == 5, || {
            format!("batch scan: {} pairs", got.len())
        })
    }

    async fn delete_range(&self) -> Outcome {
        for i in 0..10 {
            self.client
                .put(self.key(format!("range_{i}")), b"r".to_vec())
                .await?;
        }
        self.client
            .delete_range(self.key("range_3")..self.key("range_7"))
            .await?;
        let left = self
            .client
            .scan_keys(self.key("range_")..self.key("range_~"), 100)
            .await?;
        ensure(left.len() == 6, || format!("{} keys left", left.len()))
    }

    async fn compare_and_swap(&self) -> Outcome {
        let client = self.client.with_atomic_for_cas();
        let key = self.key("cas");
        client.delete(key.clone()).await?;
        for (step, (expected, value, previous, swapped)) in [
            (None, "1", None, true),
            (None, "x", Some("1"), false),
            (Some("0"), "x", Some("1"), false),
            (Some("1"), "2", Some("1"), true),
        ]
        .into_iter()
        .enumerate()
        {
            let bytes = |text: Option<&str>| text.map(|t| t.as_bytes().to_vec());
            let got = client
                .compare_and_swap(key.clone(), bytes(expected), value.to_owned())
                .await?;
            ensure(got == (bytes(previous), swapped), || {
                format!("step {step}: {got:?}")
            })?;
        }
        self.expect(key, Some(b"2")).await
    }

    async fn ttl(&self) -> Outcome {
        self.client
            .put_with_ttl(self.key("ttl"), b"t".to_vec(), 100)
            .await?;
        let left = self.client.get_key_ttl_secs(self.key("ttl")).await?;
        ensure(left.is_some_and(|s| (90..=100).contains(&s)), || {
            format!("TTL left: {left:?}")
        })?;
        self.client
            .put_with_ttl(self.key("ttl_short"), b"t".to_vec(), 1)
            .await?;
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(5) {
            if self.client.get(self.key("ttl_short")).await?.is_none() {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Err("a key with a TTL of 1 s is still there after 5 s".into())
    }

    async fn write_theirs(&self) -> Outcome {
        for i in 0..SHARED {
            self.client
                .put(self.key(format!("theirs_{i:04}")), format!("value {i}"))
                .await?;
        }
        Ok(())
    }

    async fn all(&mut self, ttl: bool) {
        // Each body borrows the client; a clone of the handle lets `check` note the outcome.
        let this = Run {
            client: self.client.clone(),
            prefix: self.prefix.clone(),
            passed: true,
        };
        self.check("read what pytikv wrote", this.read_ours()).await;
        self.check("put and get", this.put_get()).await;
        self.check("binary keys and large values", this.binary())
            .await;
        self.check("batches", this.batches()).await;
        self.check("scans", this.scans()).await;
        self.check("delete range", this.delete_range()).await;
        self.check("compare and swap", this.compare_and_swap())
            .await;
        if ttl {
            self.check("TTL", this.ttl()).await;
        }
        self.check("write for pytikv", this.write_theirs()).await;
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let arguments = match arguments() {
        Ok(arguments) => arguments,
        Err(message) => {
            eprintln!("{message}");
            return ExitCode::from(2);
        }
    };
    let config = match &arguments.keyspace {
        Some(name) => Config::default().with_keyspace(name),
        None => Config::default(),
    };
    let whole = async {
        if arguments.txn {
            return txn::run(&arguments, config).await;
        }
        let client = match RawClient::new_with_config(vec![arguments.pd.clone()], config).await {
            Ok(client) => client,
            Err(error) => return report("connect", &Err(error.into())),
        };
        report("connect", &Ok(()));
        let mut run = Run {
            client,
            prefix: arguments.prefix.clone(),
            passed: true,
        };
        run.all(arguments.ttl).await;
        run.passed
    };
    match tokio::time::timeout(arguments.timeout, whole).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(_) => {
            report("within the time given", &Err("time out".into()));
            ExitCode::FAILURE
        }
    }
}
