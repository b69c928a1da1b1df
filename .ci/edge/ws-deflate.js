// Node's ws against getty, in both roles. Usage: node ws-deflate.js URL CLIENT

'use strict';
const assert = require('node:assert');
const { spawn } = require('node:child_process');
const { randomBytes } = require('node:crypto');
const WebSocket = require('ws');

const [url, client] = process.argv.slice(2);
const messages = [
  '',
  'x',
  'hello '.repeat(100),
  JSON.stringify(Array.from({ length: 3000 }, (_, id) => ({ id, name: `user ${id}` }))),
  'äöü€'.repeat(20000),
  Buffer.alloc(0),
  Buffer.alloc(1000000),
  randomBytes(100),
  randomBytes(70000),
];

// Sends each message whole and in two fragments, and expects its echo.
async function exchange(ws) {
  const received = [];
  let wake = () => {};
  let stop = () => {};
  ws.on('close', () => stop());
  ws.on('message', (data, binary) => {
    received.push(binary ? data : data.toString());
    wake();
  });
  const next = () =>
    new Promise((resolve, reject) => {
      const look = () => received.length && resolve(received.shift());
      wake = look;
      stop = () => reject(new Error('closed too early'));
      look();
    });
  for (const message of messages) {
    for (const cut of [false, true]) {
      if (cut) {
        const half = message.length >> 1;
        ws.send(message.slice(0, half), { fin: false });
        ws.ping();
        ws.send(message.slice(half), { fin: true });
      } else {
        ws.send(message);
      }
      assert.deepStrictEqual(await next(), message);
    }
  }
}

function* product(...lists) {
  if (lists.length === 0) return yield [];
  for (const first of lists[0]) for (const rest of product(...lists.slice(1))) yield [first, ...rest];
}

function settings([serverNoContextTakeover, clientNoContextTakeover, serverMaxWindowBits, clientMaxWindowBits]) {
  const all = { serverNoContextTakeover, clientNoContextTakeover, serverMaxWindowBits, clientMaxWindowBits, threshold: 0 };
  return Object.fromEntries(Object.entries(all).filter(([, value]) => value !== undefined));
}

async function againstTheServer() {
  let agreed = 0;
  for (const variant of product([undefined, true], [undefined, true], [undefined, 9, 15], [undefined, true, 9, 15])) {
    const ws = new WebSocket(url, { perMessageDeflate: settings(variant) });
    await new Promise((resolve, reject) => ws.on('open', resolve).on('error', reject));
    assert.ok(ws.extensions.startsWith('permessage-deflate'), `not agreed: ${variant}`);
    await exchange(ws);
    ws.close();
    agreed += 1;
  }
  console.log(`  Node's ws as a client: ${agreed} variants were agreed, and every message came back`);
}

async function againstTheClient() {
  let ran = 0;
  const variants = [...product([undefined, true], [undefined, true], [undefined, 9, 15], [undefined, 9, 15])];
  for (const variant of variants) {
    const server = new WebSocket.Server({ host: '127.0.0.1', port: 0, perMessageDeflate: settings(variant) });
    await new Promise((resolve) => server.on('listening', resolve));
    let failure;
    server.on('connection', async (ws, request) => {
      try {
        if (request.url === '/getCaseCount') ws.send('1');
        else if (request.url.startsWith('/runCase')) {
          assert.ok(ws.extensions.startsWith('permessage-deflate'), `not agreed: ${variant}`);
          await exchange(ws);
          ran += 1;
        }
      } catch (error) {
        failure = error;
      }
      ws.close();
    });
    const child = spawn(client, [`ws://127.0.0.1:${server.address().port}`], { stdio: 'ignore' });
    const status = await new Promise((resolve) => child.on('exit', resolve));
    server.close();
    if (failure) throw failure;
    assert.strictEqual(status, 0, `the client ended with ${status}`);
  }
  assert.strictEqual(ran, variants.length);
  console.log(`  Node's ws as a server: ${ran} variants were agreed, and every message came back`);
}

againstTheServer()
  .then(againstTheClient)
  .then(() => process.exit(0))
  .catch((error) => {
    console.error(error);
    process.exit(1);
  });
