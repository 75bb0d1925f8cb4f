// Worker threads: each builds, compresses, hashes and sends back; buffers are transferred, so that one thread frees what
// another allocated. Prints sums that do not depend on the order of arrival.
const { Worker, isMainThread, parentPort, workerData } = require('worker_threads');
const crypto = require('crypto');
const zlib = require('zlib');

function generator(seed) {
  return (below) => {
    seed = (Math.imul(seed, 1664525) + 1013904223) >>> 0;
    return Math.floor((seed / 4294967296) * below);
  };
}

function work(id) {
  const draw = generator(id + 1);
  const hash = crypto.createHash('sha256');
  const kept = new Map();
  for (let round = 0; round < 150; round++) {
    const rows = [];
    for (let i = 0; i < 200; i++) rows.push({ id: i, name: 'n'.repeat(draw(40)), list: [draw(9), draw(9)] });
    const text = JSON.stringify(rows);
    const packed = zlib.deflateSync(Buffer.from(text), { level: 1 + (round % 9) });
    if (zlib.inflateSync(packed).toString() !== text) throw new Error('inflate');
    const secret = crypto.createCipheriv('aes-128-cbc', Buffer.alloc(16, id), Buffer.alloc(16));
    hash.update(secret.update(packed)).update(secret.final());
    kept.set(draw(20), Buffer.allocUnsafe(1 + draw(100000)).fill(round & 255));
  }
  let bytes = 0;
  for (const buffer of kept.values()) bytes += buffer.length + buffer[buffer.length - 1];
  return { digest: hash.digest('hex'), bytes };
}

if (isMainThread) {
  const count = 6;
  const generations = 3;
  const results = [];
  const start = (generation, id) =>
    new Promise((resolve, reject) => {
      const worker = new Worker(__filename, { workerData: { id: generation * count + id } });
      let received = 0;
      worker.on('message', (message) => {
        if (message.result) {
          results.push(`${generation}.${id} ${message.result.digest} ${message.result.bytes} ${received}`);
        } else {
          const view = new Uint8Array(message.buffer);
          received += view[0] + view[view.length - 1] + view.length;
          worker.postMessage(message.buffer, [message.buffer]);
        }
      });
      worker.on('error', reject);
      worker.on('exit', (code) => (code === 0 ? resolve() : reject(new Error(`exit ${code}`))));
    });
  (async () => {
    for (let generation = 0; generation < generations; generation++) {
      await Promise.all([...Array(count).keys()].map((id) => start(generation, id)));
    }
    // A worker that is ended in the midst of its work.
    const endless = new Worker('for (;;) Buffer.from("x".repeat(1e5)).toString("base64");', { eval: true });
    await new Promise((resolve) => endless.on('online', resolve));
    await endless.terminate();
    console.log(results.sort().join('\n'));
  })().catch((error) => {
    console.error(error);
    process.exit(1);
  });
} else {
  const draw = generator(workerData.id);
  let open = 60;
  parentPort.on('message', (buffer) => {
    if (new Uint8Array(buffer)[0] > 255) throw new Error('buffer');
    if (--open === 0) {
      parentPort.postMessage({ result: work(workerData.id) });
      parentPort.close();
    }
  });
  for (let i = 0; i < 60; i++) {
    const buffer = new ArrayBuffer(1 + draw(200000));
    new Uint8Array(buffer).fill(i);
    parentPort.postMessage({ buffer }, [buffer]);
  }
}
