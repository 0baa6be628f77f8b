package dev.pytikv.interop;

import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.Optional;
import org.tikv.common.TiConfiguration;
import org.tikv.common.TiSession;
import org.tikv.common.exception.RawCASConflictException;
import org.tikv.kvproto.Kvrpcpb.KvPair;
import org.tikv.raw.RawKVClient;
import org.tikv.shade.com.google.protobuf.ByteString;
import org.tikv.txn.KVClient;

/**
 * Runs client-java's raw client, or with -txn its transactions, against a server, as a check of the server and of data written by other clients.
 *
 * <p>It prints one JSON line a check, {"check", "ok", "detail"}, and exits with 1 when one failed. interop/README.md has
 * the contract that all these programs share.
 */
public final class Main {
  private static final int SHARED = 50;
  private static final int BATCH = 300;

  private final RawKVClient client;
  private final String prefix;
  private boolean passed = true;

  private Main(RawKVClient client, String prefix) {
    this.client = client;
    this.prefix = prefix;
  }

  interface Check {
    void run() throws Exception;
  }

  public static void main(String[] arguments) {
    String pd = "127.0.0.1:2379";
    String prefix = "interop_";
    boolean ttl = false;
    long timeoutS = 60;
    boolean v2 = false;
    boolean txn = false;
    for (int i = 0; i < arguments.length; i++) {
      switch (arguments[i]) {
        case "-pd": pd = arguments[++i]; break;
        case "-prefix": prefix = arguments[++i]; break;
        case "-timeout": timeoutS = Long.parseLong(arguments[++i]); break;
        case "-api-version": v2 = arguments[++i].equals("2"); break;
        case "-ttl": ttl = true; break;
        case "-txn": txn = true; break;
        default:
          System.err.println("unknown flag " + arguments[i]);
          System.exit(2);
      }
    }
    stopAfter(timeoutS);
    TiConfiguration configuration = txn ? TiConfiguration.createDefault(pd) : TiConfiguration.createRawDefault(pd);
    configuration.setEnableAtomicForCAS(true);
    configuration.setTimeout(5_000);
    if (v2) {
      configuration.setApiVersion(TiConfiguration.ApiVersion.V2);
    }
    boolean passed = txn ? transactions(configuration, prefix) : raw(configuration, prefix, ttl);
    System.out.flush();
    Runtime.getRuntime().halt(passed ? 0 : 1); // the client's threads would keep the process for seconds
  }

  private static boolean raw(TiConfiguration configuration, String prefix, boolean ttl) {
    try (TiSession session = TiSession.create(configuration); RawKVClient client = session.createRawClient()) {
      report("connect", null);
      Main run = new Main(client, prefix);
      run.all(ttl);
      return run.passed;
    } catch (Exception error) {
      report("connect and close", error);
      return false;
    }
  }

  private static boolean transactions(TiConfiguration configuration, String prefix) {
    try (TiSession session = TiSession.create(configuration); KVClient client = session.createKVClient()) {
      report("connect", null);
      boolean passed = true;
      for (Map.Entry<String, Check> check : new Transactions(session, client, prefix).checks().entrySet()) {
        passed &= ran(check.getKey(), check.getValue());
      }
      return passed;
    } catch (Exception error) {
      report("connect and close", error);
      return false;
    }
  }

  private static void stopAfter(long seconds) {
    Thread guard = new Thread(() -> {
      try {
        Thread.sleep(seconds * 1000);
      } catch (InterruptedException ignored) {
        return;
      }
      report("within the time given", new Exception("time out"));
      System.out.flush();
      Runtime.getRuntime().halt(1);
    });
    guard.setDaemon(true);
    guard.start();
  }

  private void all(boolean ttl) {
    check("read what pytikv wrote", this::readOurs);
    check("put and get", this::putGet);
    check("binary keys and large values", this::binary);
    check("batches", this::batches);
    check("scans", this::scans);
    check("delete range", this::deleteRange);
    check("compare and swap", this::compareAndSwap);
    if (ttl) {
      check("TTL", this::ttl);
    }
    check("write for pytikv", this::writeTheirs);
  }

  private void check(String name, Check body) {
    passed &= ran(name, body);
  }

  private static boolean ran(String name, Check body) {
    Exception failure = null;
    try {
      body.run();
    } catch (Exception error) {
      failure = error;
    }
    report(name, failure);
    return failure == null;
  }

  private static void report(String name, Exception failure) {
    String detail = failure == null ? "" : failure + (failure.getCause() == null ? "" : ", by " + failure.getCause());
    System.out.printf("{\"check\": \"%s\", \"ok\": %s, \"detail\": \"%s\"}%n", name, failure == null, escaped(detail));
  }

  private static String escaped(String text) {
    StringBuilder out = new StringBuilder();
    for (char c : text.toCharArray()) {
      if (c == '"' || c == '\\') {
        out.append('\\').append(c);
      } else if (c < ' ') {
        out.append(String.format("\\u%04x", (int) c));
      } else {
        out.append(c);
      }
    }
    return out.toString();
  }

  private ByteString key(String format, Object... arguments) {
    return text(prefix + String.format(format, arguments));
  }

  static ByteString text(String text) {
    return ByteString.copyFrom(text, StandardCharsets.UTF_8);
  }

  static void same(String what, Object got, Object wanted) throws Exception {
    if (!Objects.equals(got, wanted)) {
      String shown = String.valueOf(got);
      throw new Exception(what + ": " + shown.substring(0, Math.min(80, shown.length())) + " instead of " + wanted);
    }
  }

  static Map<ByteString, ByteString> asMap(List<KvPair> pairs) {
    Map<ByteString, ByteString> map = new LinkedHashMap<>();
    for (KvPair pair : pairs) {
      map.put(pair.getKey(), pair.getValue());
    }
    return map;
  }

  private void readOurs() throws Exception {
    Map<ByteString, ByteString> wanted = new LinkedHashMap<>();
    for (int i = 0; i < SHARED; i++) {
      wanted.put(key("pytikv_%04d", i), text("value " + i));
      same("get", client.get(key("pytikv_%04d", i)), Optional.of(text("value " + i)));
    }
    same("batch get", asMap(client.batchGet(new ArrayList<>(wanted.keySet()))), wanted);
    List<KvPair> scanned = client.scan(key("pytikv_"), key("pytikv_~"), 2 * SHARED);
    same("scan", new ArrayList<>(asMap(scanned).entrySet()), new ArrayList<>(wanted.entrySet()));
  }

  private void putGet() throws Exception {
    for (String value : new String[] {"one", "two"}) {
      client.put(key("point"), text(value));
      same("get", client.get(key("point")), Optional.of(text(value)));
    }
    client.delete(key("point"));
    same("get after delete", client.get(key("point")), Optional.empty());
  }

  private void binary() throws Exception {
    byte[][] tails = {{0}, {-1}, {0, -1, 0}, {-1, -1, -1, -1, -1, -1, -1, -1, -1}};
    for (byte[] tail : tails) {
      ByteString key = key("binary").concat(ByteString.copyFrom(tail));
      ByteString value = ByteString.copyFrom(tail).concat(ByteString.copyFrom(new byte[] {0, -1}));
      client.put(key, value);
      same("binary", client.get(key), Optional.of(value));
    }
    ByteString large = ByteString.copyFrom(new byte[2 << 20]);
    client.put(key("large"), large);
    same("large", client.get(key("large")).map(ByteString::size), Optional.of(large.size()));
    client.delete(key("large"));
  }

  private void batches() throws Exception {
    Map<ByteString, ByteString> pairs = new LinkedHashMap<>();
    for (int i = 0; i < BATCH; i++) {
      pairs.put(key("batch_%04d", i), text("b" + i));
    }
    client.batchPut(pairs);
    List<ByteString> keys = new ArrayList<>(pairs.keySet());
    List<ByteString> asked = new ArrayList<>(keys);
    asked.add(key("absent"));
    same("batch get", asMap(client.batchGet(asked)), pairs);
    client.batchDelete(new ArrayList<>(keys.subList(0, BATCH / 2)));
    same("keys left", client.scan(key("batch_"), key("batch_~"), 2 * BATCH, true).size(), BATCH - BATCH / 2);
  }

  private void scans() throws Exception {
    for (int i = 0; i < 20; i++) {
      client.put(key("scan_%02d", i), text("s" + i));
    }
    List<KvPair> got = client.scan(key("scan_05"), key("scan_10"), 100);
    same("scan", got.size(), 5);
    same("first", got.get(0).getKey(), key("scan_05"));
    same("last value", got.get(4).getValue(), text("s9"));
    same("limited scan", client.scan(key("scan_"), 3).size(), 3);
    same("prefix scan", client.scanPrefix(key("scan_1")).size(), 10);
  }

  private void deleteRange() throws Exception {
    for (int i = 0; i < 10; i++) {
      client.put(key("range_%d", i), text("r"));
    }
    client.deleteRange(key("range_3"), key("range_7"));
    same("keys left", client.scan(key("range_"), key("range_~"), 100).size(), 6);
    client.deletePrefix(key("range_"));
    same("keys left after deletePrefix", client.scanPrefix(key("range_")).size(), 0);
  }

  private void compareAndSwap() throws Exception {
    ByteString key = key("cas");
    client.delete(key);
    same("putIfAbsent, absent", client.putIfAbsent(key, text("1")), Optional.empty());
    same("putIfAbsent, present", client.putIfAbsent(key, text("x")), Optional.of(text("1")));
    try {
      client.compareAndSet(key, Optional.of(text("0")), text("x"));
      throw new Exception("a swap with a wrong expectation succeeded");
    } catch (RawCASConflictException expected) {
      same("conflict", client.get(key), Optional.of(text("1")));
    }
    client.compareAndSet(key, Optional.of(text("1")), text("2"));
    same("at the end", client.get(key), Optional.of(text("2")));
  }

  private void ttl() throws Exception {
    client.put(key("ttl"), text("t"), 100L);
    long left = client.getKeyTTL(key("ttl")).orElse(0L);
    same("TTL between 90 and 100", left >= 90 && left <= 100, true);
    client.put(key("ttl_short"), text("t"), 1L);
    for (int i = 0; i < 50 && client.get(key("ttl_short")).isPresent(); i++) {
      Thread.sleep(100);
    }
    same("a key with a TTL of 1 s, after 5 s", client.get(key("ttl_short")), Optional.empty());
  }

  private void writeTheirs() {
    for (int i = 0; i < SHARED; i++) {
      client.put(key("theirs_%04d", i), text("value " + i));
    }
  }
}
