package dev.pytikv.interop;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.Iterator;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.stream.Collectors;
import org.tikv.common.BytePairWrapper;
import org.tikv.common.ByteWrapper;
import org.tikv.common.TiSession;
import org.tikv.common.util.ConcreteBackOffer;
import org.tikv.kvproto.Kvrpcpb.KvPair;
import org.tikv.shade.com.google.protobuf.ByteString;
import org.tikv.txn.KVClient;
import org.tikv.txn.TwoPhaseCommitter;

/**
 * The checks of transactions, which run with -txn instead of the raw ones.
 *
 * <p>client-java has no transaction object: it reads at a timestamp, and commits in two phases step by step, so that one
 * can stop between any two of them. It neither locks pessimistically nor commits asynchronously.
 */
final class Transactions {
  private static final int SHARED = 50;
  private static final int BATCH = 300;
  private static final int LEFT = 10; // keys in each of two regions that a transaction which stops half way writes
  private static final long TTL_MS = 3_000;
  private static final int BACK_OFF_MS = 10_000;
  private static final int SHORT_BACK_OFF_MS = 500; // for what must fail: it tries a conflict again until then

  private final TiSession session;
  private final KVClient client;
  private final String prefix;

  Transactions(TiSession session, KVClient client, String prefix) {
    this.session = session;
    this.client = client;
    this.prefix = prefix;
  }

  Map<String, Main.Check> checks() {
    Map<String, Main.Check> checks = new LinkedHashMap<>();
    checks.put("read what pytikv wrote", this::readOurs);
    checks.put("write, read, delete", this::writeRead);
    checks.put("conflict", this::conflict);
    checks.put("binary keys and large values", this::binary);
    checks.put("many keys over regions", this::many);
    checks.put("scans", this::scans);
    checks.put("snapshots", this::snapshots);
    checks.put("meet a dead client's prewrite", () -> meet("prewrite", "before"));
    checks.put("meet a dead client's half commit", () -> meet("committed", "after"));
    checks.put("write for pytikv", this::writeTheirs);
    checks.put("leave locks for pytikv", this::leaveLocks);
    return checks;
  }

  private ByteString key(String format, Object... arguments) {
    return Main.text(prefix + String.format(format, arguments));
  }

  private static ByteString text(String format, Object... arguments) {
    return Main.text(String.format(format, arguments));
  }

  private long now() {
    return session.getTimestamp().getVersion();
  }

  /** How far a transaction goes before its client dies. */
  private enum Until { PREWRITE, COMMIT_OF_PRIMARY, END }

  /** Writes pairs in one transaction; an empty value deletes. The first key is the primary. */
  private void write(Map<ByteString, ByteString> pairs, Until until, long startTs, int backOffMs) throws Exception {
    List<Map.Entry<ByteString, ByteString>> all = new ArrayList<>(pairs.entrySet());
    byte[] primary = all.get(0).getKey().toByteArray();
    List<Map.Entry<ByteString, ByteString>> others = all.subList(1, all.size());
    TwoPhaseCommitter committer = new TwoPhaseCommitter(session, startTs, TTL_MS);
    committer.prewritePrimaryKey(
        ConcreteBackOffer.newCustomBackOff(backOffMs), primary, all.get(0).getValue().toByteArray());
    if (!others.isEmpty()) {
      Iterator<BytePairWrapper> secondaries = others.stream()
          .map(pair -> new BytePairWrapper(pair.getKey().toByteArray(), pair.getValue().toByteArray()))
          .iterator();
      committer.prewriteSecondaryKeys(primary, secondaries, backOffMs);
    }
    if (until == Until.PREWRITE) {
      return;
    }
    long commitTs = now();
    committer.commitPrimaryKey(ConcreteBackOffer.newCustomBackOff(backOffMs), primary, commitTs);
    if (until == Until.END && !others.isEmpty()) {
      Iterator<ByteWrapper> keys = others.stream().map(pair -> new ByteWrapper(pair.getKey().toByteArray())).iterator();
      committer.commitSecondaryKeys(keys, commitTs, backOffMs);
    }
    committer.close();
  }

  private void write(Map<ByteString, ByteString> pairs) throws Exception {
    write(pairs, Until.END, now(), BACK_OFF_MS);
  }

  private void expect(Map<ByteString, ByteString> pairs) throws Exception {
    long ts = now();
    for (Map.Entry<ByteString, ByteString> pair : pairs.entrySet()) {
      Main.same("get " + pair.getKey().toStringUtf8(), client.get(pair.getKey(), ts), pair.getValue());
    }
    List<ByteString> keys = new ArrayList<>(pairs.keySet());
    Map<ByteString, ByteString> got = Main.asMap(
        client.batchGet(ConcreteBackOffer.newCustomBackOff(BACK_OFF_MS), keys, ts));
    Main.same("batch get", got, pairs);
  }

  private Map<ByteString, ByteString> numbered(String stem, String value, int count) {
    Map<ByteString, ByteString> pairs = new LinkedHashMap<>();
    for (int i = 0; i < count; i++) {
      pairs.put(key("%s_%04d", stem, i), text("%s %d", value, i));
    }
    return pairs;
  }

  private static Map<ByteString, ByteString> allTo(Map<ByteString, ByteString> pairs, String value) {
    Map<ByteString, ByteString> other = new LinkedHashMap<>();
    pairs.keySet().forEach(key -> other.put(key, text(value)));
    return other;
  }

  private void readOurs() throws Exception {
    Map<ByteString, ByteString> wanted = numbered("pytikv", "value", SHARED);
    expect(wanted);
    List<KvPair> scanned = client.scan(key("pytikv_"), key("pytikv_~"), now());
    Main.same("scan", new ArrayList<>(Main.asMap(scanned).entrySet()), new ArrayList<>(wanted.entrySet()));
  }

  private void writeRead() throws Exception {
    for (String value : new String[] {"one", "two"}) {
      Map<ByteString, ByteString> pair = Map.of(key("point"), text(value));
      write(pair);
      expect(pair);
    }
    write(Map.of(key("point"), ByteString.EMPTY));
    Main.same("after the delete", client.get(key("point"), now()), ByteString.EMPTY);
  }

  private void conflict() throws Exception {
    long startTs = now();
    Map<ByteString, ByteString> second = Map.of(key("conflict"), text("second"));
    write(second);
    boolean failed = false;
    try {
      write(Map.of(key("conflict"), text("first")), Until.END, startTs, SHORT_BACK_OFF_MS);
    } catch (Exception expected) {
      failed = true;
    }
    Main.same("the older transaction failed", failed, true);
    expect(second);
  }

  private void binary() throws Exception {
    Map<ByteString, ByteString> pairs = new LinkedHashMap<>();
    byte[][] tails = {{0}, {-1}, {0, -1, 0}, {-1, -1, -1, -1, -1, -1, -1, -1, -1}};
    for (byte[] tail : tails) {
      ByteString value = ByteString.copyFrom(tail).concat(ByteString.copyFrom(new byte[] {0, -1}));
      pairs.put(key("binary").concat(ByteString.copyFrom(tail)), value);
    }
    pairs.put(key("large"), ByteString.copyFrom(new byte[2 << 20]));
    write(pairs);
    expect(pairs);
  }

  private void many() throws Exception {
    Map<ByteString, ByteString> pairs = numbered("batch", "b", BATCH);
    write(pairs);
    expect(pairs);
    Map<ByteString, ByteString> removed = numbered("batch", "", BATCH / 2);
    write(allTo(removed, ""));
    Main.same("keys left", client.scan(key("batch_"), key("batch_~"), now()).size(), BATCH - BATCH / 2);
  }

  private void scans() throws Exception {
    Map<ByteString, ByteString> pairs = new LinkedHashMap<>();
    for (int i = 0; i < 20; i++) {
      pairs.put(key("scan_%02d", i), text("s%d", i));
    }
    write(pairs);
    List<ByteString> got = client.scan(key("scan_05"), key("scan_10"), now()).stream()
        .map(KvPair::getKey)
        .collect(Collectors.toList());
    Main.same("scan", got, new ArrayList<>(pairs.keySet()).subList(5, 10));
  }

  private void snapshots() throws Exception {
    List<Long> stamps = new ArrayList<>();
    for (int i = 0; i < 3; i++) {
      write(Map.of(key("snapshot"), text("version %d", i)));
      stamps.add(now());
    }
    for (int i = 0; i < 3; i++) {
      Main.same("snapshot", client.get(key("snapshot"), stamps.get(i)), text("version %d", i));
    }
  }

  /** The keys of a transaction that stopped half way, in two regions. */
  private Map<ByteString, ByteString> half(String stem, String value) {
    Map<ByteString, ByteString> pairs = new LinkedHashMap<>();
    for (int i = 0; i < LEFT; i++) {
      for (String start : Arrays.asList("", "~")) {
        pairs.put(key("%s%s_%d", start, stem, i), text(value));
      }
    }
    return pairs;
  }

  private void meet(String kind, String value) throws Exception {
    Map<ByteString, ByteString> pairs = half("dead_" + kind, value);
    int scanned = client.scan(key("dead_%s_", kind), key("dead_%s_~", kind), now()).size();
    Main.same("scan", scanned, LEFT);
    expect(pairs);
    Map<ByteString, ByteString> over = allTo(pairs, "over");
    write(over);
    expect(over);
  }

  private void writeTheirs() throws Exception {
    write(numbered("theirs", "value", SHARED));
  }

  private void leaveLocks() throws Exception {
    for (String kind : new String[] {"prewrite", "committed"}) {
      Map<ByteString, ByteString> pairs = half("left_" + kind, "before");
      write(pairs);
      Until until = kind.equals("prewrite") ? Until.PREWRITE : Until.COMMIT_OF_PRIMARY;
      write(allTo(pairs, "after"), until, now(), BACK_OFF_MS);
    }
  }
}
