// An HTTP server and its clients in one process, over a socket in the working directory; asynchronous compression on
// the thread pool; a directory of files written and read; child processes.
const child = require('child_process');
const crypto = require('crypto');
const fs = require('fs');
const http = require('http');
const util = require('util');
const zlib = require('zlib');

const gzip = util.promisify(zlib.gzip);
const gunzip = util.promisify(zlib.gunzip);
const digest = (data) => crypto.createHash('sha1').update(data).digest('hex');

const server = http.createServer(async (request, response) => {
  const chunks = [];
  for await (const chunk of request) chunks.push(chunk);
  const body = await gunzip(Buffer.concat(chunks));
  response.setHeader('x-digest', digest(body));
  response.end(await gzip(body.toString().split('').reverse().join('')));
});

const ask = (text) =>
  new Promise((resolve, reject) => {
    gzip(text).then((packed) => {
      const request = http.request({ socketPath: './socket', method: 'POST' }, async (response) => {
        const chunks = [];
        for await (const chunk of response) chunks.push(chunk);
        resolve({ digest: response.headers['x-digest'], text: (await gunzip(Buffer.concat(chunks))).toString() });
      });
      request.on('error', reject);
      request.end(packed);
    });
  });

(async () => {
  await new Promise((resolve) => server.listen('./socket', resolve));
  let good = 0;
  for (let round = 0; round < 20; round++) {
    const texts = [...Array(25).keys()].map((i) => `${round}.${i} `.repeat(1 + ((i * 97) % 500)));
    const answers = await Promise.all(texts.map(ask));
    answers.forEach((answer, i) => {
      if (answer.digest === digest(texts[i]) && answer.text === texts[i].split('').reverse().join('')) good++;
    });
  }
  console.log(`requests: ${good}`);
  server.close();

  const names = [...Array(100).keys()].map((i) => `file${i}`);
  await Promise.all(names.map((name, i) => fs.promises.writeFile(name, Buffer.alloc(i * 1000, name))));
  const contents = await Promise.all(names.map((name) => fs.promises.readFile(name)));
  console.log(`files: ${digest(Buffer.concat(contents))}`);

  const children = await Promise.all(
    [...Array(10).keys()].map((i) => util.promisify(child.execFile)('sort', ['-n', ...names.slice(i * 10, i * 10 + 10)])),
  );
  console.log(`children: ${digest(children.map((c) => c.stdout).join(''))}`);
  const keys = await Promise.all([...Array(8).keys()].map((i) => util.promisify(crypto.scrypt)('word', `salt${i}`, 64)));
  console.log(`scrypt: ${digest(Buffer.concat(keys))}`);
})().catch((error) => {
  console.error(error);
  process.exit(1);
});
