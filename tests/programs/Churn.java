import java.io.ByteArrayOutputStream;
import java.nio.ByteBuffer;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Random;
import java.util.concurrent.Callable;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.zip.CRC32;
import java.util.zip.Deflater;
import java.util.zip.Inflater;

/**
 * Threads that make garbage on the Java heap and memory outside it: direct buffers, zlib's state, threads that come and
 * go. The sums that it prints depend on nothing but the seeds.
 */
public final class Churn {
  private static long task(int id) throws Exception {
    Random draw = new Random(id);
    CRC32 sum = new CRC32();
    Map<Integer, byte[]> live = new HashMap<>();
    List<ByteBuffer> direct = new ArrayList<>();
    for (int round = 0; round < 80; round++) {
      byte[] data = new byte[1 + draw.nextInt(40000)];
      for (int i = 0; i < data.length; i += 1 + draw.nextInt(9)) data[i] = (byte) draw.nextInt(50);
      live.put(draw.nextInt(64), data);

      Deflater deflater = new Deflater(1 + round % 9);
      deflater.setInput(data);
      deflater.finish();
      ByteArrayOutputStream packed = new ByteArrayOutputStream();
      byte[] piece = new byte[4096];
      while (!deflater.finished()) packed.write(piece, 0, deflater.deflate(piece));
      deflater.end();
      Inflater inflater = new Inflater();
      inflater.setInput(packed.toByteArray());
      byte[] back = new byte[data.length];
      int length = 0;
      while (length < back.length) length += inflater.inflate(back, length, back.length - length);
      if (round % 10 != 0) inflater.end(); // the others are left to the cleaner
      if (!java.util.Arrays.equals(data, back)) throw new IllegalStateException("inflate");
      sum.update(packed.size());

      ByteBuffer buffer = ByteBuffer.allocateDirect(1 + draw.nextInt(100000));
      while (buffer.remaining() >= 8) buffer.putLong(draw.nextLong());
      direct.add(buffer);
      if (direct.size() > 20) {
        ByteBuffer old = direct.remove(draw.nextInt(direct.size()));
        old.flip();
        sum.update(old);
      }
      StringBuilder text = new StringBuilder();
      for (int i = 0; i < 300; i++) text.append(draw.nextInt(1000)).append(',');
      sum.update(text.toString().getBytes());
    }
    for (byte[] data : new java.util.TreeMap<>(live).values()) sum.update(data);
    return sum.getValue();
  }

  public static void main(String[] arguments) throws Exception {
    ExecutorService pool = Executors.newFixedThreadPool(4);
    List<Future<Long>> results = new ArrayList<>();
    for (int id = 0; id < 16; id++) {
      final int number = id;
      results.add(pool.submit((Callable<Long>) () -> task(number)));
    }
    for (Future<Long> result : results) System.out.println(result.get());
    pool.shutdown();
    long[] sums = new long[1];
    for (int round = 0; round < 40; round++) {
      Thread[] threads = new Thread[8];
      for (int i = 0; i < threads.length; i++) {
        final int number = i;
        threads[i] = new Thread(() -> {
          byte[][] blocks = new byte[50][];
          for (int j = 0; j < blocks.length; j++) blocks[j] = new byte[j * 100 + number];
          synchronized (sums) {
            for (byte[] block : blocks) sums[0] += block.length;
          }
        });
        threads[i].start();
      }
      for (Thread thread : threads) thread.join();
    }
    System.out.println(sums[0]);
  }
}
