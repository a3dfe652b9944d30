// A worker: takes items from a folder, has this machine do them as jobs, and saves the outputs. It uses port 9090 only.
// WORK_DIR: new (put items here, by rename), claimed, done, failed, outputs. The contract: docs/worker-contract.md.
'use strict';
const crypto = require('crypto');
const fs = require('fs');
const os = require('os');
const path = require('path');

const base = (process.env.FORNAX_URL || 'http://127.0.0.1:9090').replace(/\/+$/, '');
const work = path.resolve(process.env.WORK_DIR || 'work');
const me = process.env.WORKER_NAME || `node-${os.hostname()}-${process.pid}`;
const perInstance = Number(process.env.WORKER_DEPTH || 2); // items held for each healthy instance
const leaseMs = Number(process.env.WORKER_LEASE_SECONDS || 60) * 1000;
const mine = path.join(work, 'claimed', me);
const settled = ['done', 'failed', 'cancelled', 'dead'];

const services = new Map(); // name -> { comfyui, takes, why }
const held = new Map(); // item's file name -> { job, lookAt, failures, renewed }
let connected = false;
let notBefore = 0; // no claim before this moment
let told = '';
let stopping = null;
let awake = () => {};

const log = (text) => console.log(`${new Date().toISOString()} ${text}`);
const pause = (ms) => new Promise((done) => {
  const timer = setTimeout(done, ms);
  awake = () => { clearTimeout(timer); done(); };
});

function token() {
  if (process.env.FORNAX_HTTP_TOKEN) return process.env.FORNAX_HTTP_TOKEN;
  const home = process.env.PM2_HOME || path.join(os.homedir(), '.pm2');
  try { return fs.readFileSync(path.join(home, 'http.token'), 'utf8').trim(); } catch { return ''; }
}

function ask(method, where, body, signal = AbortSignal.timeout(20000), key = '') {
  const headers = { authorization: `Bearer ${token()}` };
  if (body) headers['content-type'] = 'application/json';
  if (key) headers['idempotency-key'] = key;
  return fetch(base + where, { method, headers, body, signal });
}

// ---- What the machine can do: GET /services says which are ComfyUIs, GET /events each change.

async function learn() {
  const answer = await (await ask('GET', '/services')).json();
  services.clear();
  for (const one of answer.services) {
    services.set(one.name, {
      comfyui: one.type === 'comfyui',
      takes: one.status === 'healthy' && !one.draining,
      why: one.draining ? 'draining' : one.message || one.status,
    });
  }
}

async function onEvent(name, data) {
  if (name === 'service') {
    const known = services.get(data.service);
    if (!known) return learn();
    known.takes = data.healthy && !data.draining;
    known.why = data.draining ? 'draining' : data.message || data.status;
  } else if (name === 'removed') {
    services.delete(data.service);
  } else if (name === 'missed') {
    return learn();
  } else if (name === 'job') {
    for (const one of held.values()) if (one.job === data.job) one.lookAt = 0;
  }
}

async function followEvents() {
  while (!stopping) {
    const silent = new AbortController();
    let timer;
    const heard = () => { clearTimeout(timer); timer = setTimeout(() => silent.abort(), 45000); }; // a comment comes each 15 s
    try {
      heard();
      const stream = await ask('GET', '/events', undefined, silent.signal);
      if (!stream.ok) throw new Error(`/events: ${stream.status} ${await stream.text()}`);
      await learn();
      connected = true;
      const decoder = new TextDecoder();
      let text = '';
      for await (const bytes of stream.body) {
        heard();
        text += decoder.decode(bytes, { stream: true });
        const events = text.split('\n\n');
        text = events.pop();
        for (const event of events) {
          const field = (key) => (event.split('\n').find((line) => line.startsWith(`${key}: `)) || '').slice(key.length + 2);
          if (field('data')) await onEvent(field('event'), JSON.parse(field('data')));
        }
        awake();
      }
    } catch (error) {
      if (connected) log(`the machine does not answer: ${error.message}`);
    }
    clearTimeout(timer);
    silent.abort();
    connected = false; // no answer is not healthy
    await new Promise((done) => setTimeout(done, 1000));
  }
}

function healthy() {
  const all = connected ? [...services].filter(([, one]) => one.comfyui) : [];
  const able = all.filter(([, one]) => one.takes);
  const ill = all.filter(([, one]) => !one.takes).map(([name, one]) => `${name}: ${one.why}`);
  const state = connected
    ? `${able.length} of ${all.length} ComfyUIs take jobs${ill.length ? ` (${ill.join('; ')})` : ''}`
    : `waits for ${base}`;
  if (state !== told) log(told = state);
  return able.length;
}

// ---- Items: whoever renames one has it.

function move(from, to) {
  try { fs.renameSync(from, to); return true; } catch (error) {
    if (error.code === 'ENOENT') return false; // another worker was first
    throw error;
  }
}

function claim(room) {
  for (const name of fs.readdirSync(path.join(work, 'new')).filter((one) => one.endsWith('.json')).sort()) {
    if (room <= 0) return;
    if (held.has(name)) continue;
    const file = path.join(work, 'new', name);
    const now = new Date();
    try { fs.utimesSync(file, now, now); } catch { continue; } // the lease begins before the claim
    if (!move(file, path.join(mine, name))) continue;
    held.set(name, { job: null, lookAt: 0, failures: 0, renewed: Date.now() });
    log(`${name}: claimed`);
    room -= 1;
  }
}

function giveBack(name, why) {
  held.delete(name);
  if (move(path.join(mine, name), path.join(work, 'new', name))) log(`${name}: returned, ${why}`);
}

function fail(name, why) {
  held.delete(name);
  fs.writeFileSync(path.join(work, 'failed', `${name}.txt`), `${why}\n`);
  if (move(path.join(mine, name), path.join(work, 'failed', name))) log(`${name}: failed, ${why}`);
}

// A claim that nobody has renewed is a dead worker's.
function reclaim() {
  for (const owner of fs.readdirSync(path.join(work, 'claimed'))) {
    let names = [];
    try { names = fs.readdirSync(path.join(work, 'claimed', owner)); } catch { continue; }
    for (const name of names) {
      if (owner === me && held.has(name)) continue;
      const file = path.join(work, 'claimed', owner, name);
      let age = 0;
      try { age = Date.now() - fs.statSync(file).mtimeMs; } catch { continue; }
      if (age > leaseMs && move(file, path.join(work, 'new', name))) log(`${name}: ${owner} has let it go; returned`);
    }
  }
}

// ---- One item: post it, look at its job, save its outputs.

async function post(name, one) {
  const bytes = fs.readFileSync(path.join(mine, name));
  let job;
  try { job = JSON.parse(bytes); } catch (error) { return fail(name, `it is no JSON: ${error.message}`); }
  if (job === null || typeof job !== 'object' || Array.isArray(job)) return fail(name, 'it is no JSON object');
  // The same item is the same job, whoever posts it and however often: so its bytes are posted as they are.
  const body = job.workflow ? bytes : Buffer.concat([Buffer.from('{"workflow":'), bytes, Buffer.from('}')]);
  const key = job.idempotency_key || `${name}:${crypto.createHash('sha256').update(bytes).digest('hex').slice(0, 16)}`;
  const answer = await ask('POST', '/jobs', body, undefined, key);
  const text = await answer.text();
  if (answer.status === 200 || answer.status === 202) {
    one.job = JSON.parse(text).id;
    one.lookAt = 0;
    log(`${name}: job ${one.job}${answer.status === 200 ? ' (known)' : ''}`);
  } else if ([400, 409, 413].includes(answer.status)) {
    fail(name, `${answer.status} ${text}`);
  } else if (answer.status === 401 && one.failures === 0) {
    one.failures += 1; // the token is made by the first change that is asked for
  } else {
    const seconds = Number(answer.headers.get('retry-after')) || 5;
    notBefore = Date.now() + seconds * 1000;
    giveBack(name, `${answer.status} ${text}`);
  }
}

async function look(name, one) {
  one.lookAt = Date.now() + 2000;
  const answer = await ask('GET', `/jobs/${one.job}`);
  if (answer.status === 404) { one.job = null; return; } // the store is another one: post it again
  if (!answer.ok) throw new Error(`/jobs/${one.job}: ${answer.status}`);
  const job = await answer.json();
  one.failures = 0;
  if (!settled.includes(job.state)) return;
  if (job.state !== 'done') return fail(name, `${job.state}: ${job.error || 'no reason told'}`);
  const folder = path.join(work, 'outputs', name.slice(0, -'.json'.length));
  fs.mkdirSync(folder, { recursive: true });
  for (const output of job.outputs) {
    const file = await ask('GET', output.url, undefined, AbortSignal.timeout(600000));
    const bytes = Buffer.from(await file.arrayBuffer());
    if (!file.ok || bytes.length !== output.bytes) throw new Error(`${output.name}: ${file.status}, ${bytes.length} of ${output.bytes} bytes`);
    const to = path.join(folder, output.name.replace(/[/\\]/g, '_'));
    fs.writeFileSync(`${to}.${me}.part`, bytes);
    fs.renameSync(`${to}.${me}.part`, to);
  }
  held.delete(name); // only now: what it asked for is here
  if (move(path.join(mine, name), path.join(work, 'done', name))) {
    log(`${name}: done, ${job.outputs.length} output(s), ${job.attempts.length} attempt(s)`);
  }
}

async function step(name, one) {
  try {
    if (Date.now() - one.renewed > leaseMs / 4) {
      one.renewed = Date.now();
      const now = new Date();
      fs.utimesSync(path.join(mine, name), now, now); // fails if another worker has it by now
    }
    if (Date.now() < one.lookAt) return;
    if (one.job) await look(name, one); else await post(name, one);
  } catch (error) {
    if (error.code === 'ENOENT') { held.delete(name); log(`${name}: another worker has it`); return; }
    one.failures += 1;
    one.lookAt = Date.now() + 500 * one.failures;
    if (one.failures > 20) {
      notBefore = Date.now() + 5000;
      giveBack(name, error.message);
    }
  }
}

async function main() {
  for (const folder of ['new', 'claimed', 'done', 'failed', 'outputs']) fs.mkdirSync(path.join(work, folder), { recursive: true });
  fs.mkdirSync(mine, { recursive: true });
  followEvents();
  let looked = 0;
  while (!stopping) {
    if (Date.now() - looked > leaseMs / 4) { looked = Date.now(); reclaim(); }
    await Promise.all([...held].map(([name, one]) => step(name, one)));
    const room = healthy() * perInstance - held.size;
    if (!stopping && Date.now() >= notBefore) claim(room);
    const fresh = [...held.values()].some((one) => one.lookAt === 0);
    if (!stopping) await pause(fresh ? 20 : 500);
  }
  // The jobs go on by themselves: whoever claims an item next finds its job by the key.
  for (const name of [...held.keys()]) giveBack(name, stopping);
  try { fs.rmdirSync(mine); } catch { /* something is left in it: its lease ends */ }
  process.exit(0);
}

for (const signal of ['SIGINT', 'SIGTERM']) process.on(signal, () => { stopping = signal; awake(); });
main().catch((error) => { console.error(error); process.exit(1); });
