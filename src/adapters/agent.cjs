// Loaded by Fornax before a Node app's script (pmx: false leaves it out). It tells the daemon, over the app's own channel, what
// PM2's agent tells: heap, event loop, handles, HTTP, and exceptions that nobody caught. It listens to nothing, holds nothing
// open, and changes no exit code.
'use strict';

/** Milliseconds between two reports; the first comes after FIRST_MS. */
const REPORT_MS = 2_000;
const FIRST_MS = 500;
/** Milliseconds between two looks at how late the event loop is. */
const LOOK_MS = 250;
/** Looks, and answers, whose figures are kept. */
const KEPT = 256;
/** Reports that the daemon has not taken; with so many under way, further ones are dropped. */
const UNDER_WAY = 4;

// Children, workers and snapshots are made with these arguments, and are none of ours.
const at = process.execArgv.indexOf(__filename);
if (at > 0) {
  process.execArgv.splice(at - 1, 2);
  // It stands before us where we have set it; the app's own comes after us.
  if (process.execArgv[at - 2] === '--enable-source-maps') process.execArgv.splice(at - 2, 1);
}

// A worker thread has no channel.
if (process.connected && process.send) start(process.send.bind(process));

function start(post) {
  // What `ps` and `pgrep -f` know an app by, as under PM2.
  if (process.argv[1] && !process.execArgv.some((word) => word.startsWith('--title'))) {
    process.title = process.env.PROCESS_TITLE || `node ${process.argv[1]}`;
  }
  let underWay = 0;
  const taken = () => {
    underWay -= 1;
  };
  const send = (message) => {
    if (!process.connected || underWay >= UNDER_WAY) return;
    underWay += 1;
    try {
      // With a callback, an error is the callback's and not the app's.
      post(message, undefined, undefined, taken);
    } catch {
      underWay -= 1;
    }
  };
  const tell = (type, data) => send({ type, data });

  send({ node_version: process.versions.node });
  process.on('uncaughtExceptionMonitor', (thrown, origin) => {
    if (tellsItself()) return;
    const error = thrown instanceof Error ? thrown : { name: 'Error', message: String(thrown), stack: '' };
    tell('process:exception', { message: error.message, stack: error.stack, name: error.name, origin });
  });

  const late = ring();
  let due = process.hrtime();
  repeat(LOOK_MS, () => {
    late.add(Math.max(0, ms(process.hrtime(due)) - LOOK_MS));
    due = process.hrtime();
  });
  const http = watchHttp();
  const report = () => tell('axm:monitor', { ...http(), ...figures(late) });
  setTimeout(() => {
    const known = dependencies();
    if (known) tell('application:dependencies', known);
    report();
    repeat(REPORT_MS, report);
  }, FIRST_MS).unref();
}

/** Whether @pm2/io or pmx, loaded by the app, tells of what nobody catches: it knows more of it, and twice would be wrong. */
function tellsItself() {
  if (process.listenerCount('uncaughtException') === 0) return false;
  const isPmx = (path) => /[\\/]node_modules[\\/]pmx[\\/]/.test(path);
  return globalThis[Symbol.for('@pm2/io')] !== undefined || Object.keys(require.cache).some(isPmx);
}

/** Calls again and again, for as long as something else keeps the process. */
function repeat(period, what) {
  const timer = setInterval(() => {
    if (process.connected) what();
    else clearInterval(timer);
  }, period);
  timer.unref();
}

/** Milliseconds of a time of process.hrtime. */
function ms([seconds, nanoseconds]) {
  return seconds * 1e3 + nanoseconds / 1e6;
}

/** The latest values, and what share of them is below which. */
function ring() {
  const values = [];
  let next = 0;
  return {
    add(value) {
      values[next] = value;
      next = (next + 1) % KEPT;
    },
    quantile(share) {
      const sorted = [...values].sort((a, b) => a - b);
      return sorted.length ? sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))] : 0;
    },
  };
}

function figures(late) {
  const { heapTotal, heapUsed } = process.memoryUsage();
  const mib = (bytes) => (bytes / 1048576).toFixed(2);
  const metric = (type, value, unit) => ({ historic: true, ...(unit && { unit }), type: `internal/${type}`, value });
  const count = (name) => (typeof process[name] === 'function' ? process[name]().length : 0);
  return {
    'Heap Size': metric('v8/heap/total', mib(heapTotal), 'MiB'),
    'Heap Usage': metric('v8/heap/usage', Math.round((heapUsed / heapTotal) * 1e4) / 100, '%'),
    'Used Heap Size': metric('v8/heap/used', mib(heapUsed), 'MiB'),
    'Active requests': metric('libuv/requests', count('_getActiveRequests')),
    'Active handles': metric('libuv/handles', count('_getActiveHandles')),
    'Event Loop Latency': metric('libuv/latency/p50', late.quantile(0.5).toFixed(2), 'ms'),
    'Event Loop Latency p95': metric('libuv/latency/p95', late.quantile(0.95).toFixed(2), 'ms'),
  };
}

/** Counts requests without loading http: Node tells of each on a channel, if the app serves any. */
function watchHttp() {
  let channels;
  try {
    channels = require('diagnostics_channel');
  } catch {
    return () => ({});
  }
  const latency = ring();
  let answered = 0;
  let served = false;
  // One request at a time is timed, so that a busy server pays a comparison for each of the others. One that takes longer than
  // until the next report makes room, and is still timed.
  let timed;
  let since;
  let slow;
  // Answers of each of the last minute's reports.
  const minute = [];
  channels.channel('http.server.request.start').subscribe(({ request }) => {
    if (timed !== undefined) return;
    served = true;
    timed = request;
    since = process.hrtime();
  });
  channels.channel('http.server.response.finish').subscribe(({ request }) => {
    answered += 1;
    if (request === timed) {
      latency.add(ms(process.hrtime(since)));
      timed = undefined;
    } else if (slow !== undefined && slow.has(request)) {
      latency.add(ms(process.hrtime(slow.get(request))));
      slow.delete(request);
    }
  });
  return () => {
    if (!served) return {};
    if (timed !== undefined && ms(process.hrtime(since)) > REPORT_MS) {
      slow = slow || new WeakMap();
      slow.set(timed, since);
      timed = undefined;
    }
    minute.push(answered);
    answered = 0;
    if (minute.length > 60_000 / REPORT_MS) minute.shift();
    const perMinute = (minute.reduce((sum, some) => sum + some, 0) * 60_000) / (minute.length * REPORT_MS);
    const metric = (type, value, unit) => ({ historic: true, unit, type: `internal/http/builtin/${type}`, value });
    const round = (value) => Math.round(value * 100) / 100;
    return {
      'HTTP Mean Latency': metric('latency/p50', round(latency.quantile(0.5)), 'ms'),
      'HTTP P95 Latency': metric('latency/p95', round(latency.quantile(0.95)), 'ms'),
      HTTP: metric('reqs', round(perMinute), 'req/min'),
    };
  };
}

/** What the script's package depends on, and in which versions. */
function dependencies() {
  try {
    const fs = require('fs');
    const path = require('path');
    let folder = path.dirname(process.argv[1]);
    while (!fs.existsSync(path.join(folder, 'package.json'))) {
      const parent = path.dirname(folder);
      if (parent === folder) return undefined;
      folder = parent;
    }
    const wanted = JSON.parse(fs.readFileSync(path.join(folder, 'package.json'), 'utf8')).dependencies || {};
    const known = {};
    for (const [name, version] of Object.entries(wanted)) known[name] = { version };
    return Object.keys(known).length ? known : undefined;
  } catch {
    return undefined;
  }
}
