// Loaded by Fornax before a cluster worker's script. It does nothing until the worker is asked to leave. Then every HTTP
// connection is closed by its next answer, which says so, and idle ones once it has been quiet for a while: a connection
// closed under a client's hand would fail its request.
'use strict';

/** Milliseconds without a finished answer after which idle connections are closed. */
const QUIET_MS = 250;
/** Milliseconds that the process waits for its signal once its servers are closed, so that its handlers run. */
const WAIT_MS = 10_000;

// Children, worker threads and snapshots are made with these arguments, and are none of ours.
const at = process.execArgv.indexOf(__filename);
if (at > 0) process.execArgv.splice(at - 1, 2);

if (process.channel) {
  process.prependListener('internalMessage', function leave(message) {
    if (!message || message.cmd !== 'NODE_CLUSTER' || message.act !== 'disconnect') return;
    process.removeListener('internalMessage', leave);
    try {
      drain();
    } catch {
      // An older Node leaves as Node leaves.
    }
  });
}

function drain() {
  const channels = require('diagnostics_channel');
  let last = Date.now();
  channels.subscribe('http.server.request.start', ({ response }) => {
    response.shouldKeepAlive = false;
  });
  channels.subscribe('http.server.response.finish', () => {
    last = Date.now();
  });
  for (const name of ['http', 'https']) {
    const { prototype } = require(name).Server;
    const closeIdle = prototype.closeIdleConnections;
    prototype.closeIdleConnections = function closeIdleLater() {
      const timer = setInterval(() => {
        if (Date.now() - last >= QUIET_MS) closeIdle.call(this);
      }, 50);
      this.once('close', () => clearInterval(timer));
    };
  }
  setTimeout(() => {}, WAIT_MS);
}
