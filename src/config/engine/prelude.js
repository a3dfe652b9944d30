// What Node gives a config and the engine itself does not: modules, process, console, and the parts of path, os, fs, url and util that configs use.
// It is one function: of the host's calls, the arguments and the environment. It returns what the host calls.
(function (host, readBytes, decode, encode, print, start) {
  'use strict';
  const ask = (op, ...args) => {
    const answer = JSON.parse(host(op, JSON.stringify(args)));
    if (!answer.error) return answer.value;
    const { message, ...rest } = answer.error;
    throw Object.assign(new Error(message), rest);
  };
  const LACKING = 'the JavaScript engine built into fornax; install Node.js to use it';
  const lacks = (what) => Object.assign(new Error(`${what} is not in ${LACKING}`), { code: 'ERR_FORNAX_LACKS' });

  // ---- Buffer: bytes with the encodings that configs use.
  const base64 = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/';
  const codecs = {
    utf8: { from: (text) => encode(text), to: (bytes) => decode(Array.from(bytes)) },
    hex: {
      from: (text) => Uint8Array.from(text.match(/[0-9a-f]{2}/gi) || [], (pair) => parseInt(pair, 16)),
      to: (bytes) => Array.from(bytes, (byte) => byte.toString(16).padStart(2, '0')).join(''),
    },
    latin1: {
      from: (text) => Uint8Array.from(text, (letter) => letter.charCodeAt(0)),
      to: (bytes) => Array.from(bytes, (byte) => String.fromCharCode(byte)).join(''),
    },
    base64: {
      from(text) {
        const out = [];
        let bits = 0, held = 0;
        for (const letter of text.replace(/-/g, '+').replace(/_/g, '/')) {
          const six = base64.indexOf(letter);
          if (six < 0) continue;
          held = (held << 6) | six;
          bits += 6;
          if (bits >= 8) { bits -= 8; out.push((held >> bits) & 255); held &= (1 << bits) - 1; }
        }
        return Uint8Array.from(out);
      },
      to(bytes) {
        let out = '';
        for (let at = 0; at < bytes.length; at += 3) {
          const [a, b = 0, c = 0] = bytes.subarray(at, at + 3);
          const all = (a << 16) | (b << 8) | c;
          const left = bytes.length - at;
          out += base64[all >> 18] + base64[(all >> 12) & 63] + (left > 1 ? base64[(all >> 6) & 63] : '=') + (left > 2 ? base64[all & 63] : '=');
        }
        return out;
      },
    },
  };
  const codec = (name = 'utf8') => {
    const known = { 'utf-8': 'utf8', utf8: 'utf8', hex: 'hex', latin1: 'latin1', binary: 'latin1', ascii: 'latin1', base64: 'base64', base64url: 'base64' }[String(name).toLowerCase()];
    if (!known) throw lacks(`the encoding ${name}`);
    return codecs[known];
  };
  class Buffer extends Uint8Array {
    static from(value, encoding) {
      const bytes = typeof value === 'string' ? codec(encoding).from(value) : value;
      const out = new Buffer(bytes.length);
      out.set(bytes);
      return out;
    }
    static alloc(size) { return new Buffer(size); }
    static isBuffer(value) { return value instanceof Buffer; }
    static byteLength(text, encoding) { return codec(encoding).from(String(text)).length; }
    static concat(list) {
      const out = new Buffer(list.reduce((sum, bytes) => sum + bytes.length, 0));
      list.reduce((at, bytes) => (out.set(bytes, at), at + bytes.length), 0);
      return out;
    }
    toString(encoding) { return codec(encoding).to(this); }
    toJSON() { return { type: 'Buffer', data: Array.from(this) }; }
  }

  // ---- util: how values are shown, enough for console.
  const inspect = (value, depth = 0) => {
    if (typeof value === 'string') return depth === 0 ? value : `'${value}'`;
    if (typeof value === 'function') return value.name ? `[Function: ${value.name}]` : '[Function (anonymous)]';
    if (typeof value === 'bigint') return `${value}n`;
    if (typeof value !== 'object' || value === null) return String(value);
    if (value instanceof Error) return value.stack ? `${value}\n${value.stack}`.trimEnd() : String(value);
    if (value instanceof Date || value instanceof RegExp) return String(value instanceof Date ? value.toISOString() : value);
    if (depth > 3) return Array.isArray(value) ? '[Array]' : '[Object]';
    const list = Array.isArray(value);
    const parts = Object.entries(value).map(([key, item]) => (list ? '' : `${key}: `) + inspect(item, depth + 1));
    if (parts.length === 0) return list ? '[]' : '{}';
    return list ? `[ ${parts.join(', ')} ]` : `{ ${parts.join(', ')} }`;
  };
  const format = (first, ...rest) => {
    if (typeof first !== 'string') return [first, ...rest].map((value) => inspect(value)).join(' ');
    const text = first.replace(/%([sdifjoOc%])/g, (whole, kind) => {
      if (kind === '%') return '%';
      if (rest.length === 0) return whole;
      const value = rest.shift();
      switch (kind) {
        case 'd': return String(Number(value));
        case 'i': return String(parseInt(value, 10));
        case 'f': return String(parseFloat(value));
        case 'j': return JSON.stringify(value);
        case 'c': return '';
        case 's': return typeof value === 'object' ? inspect(value, 1) : String(value);
        default: return inspect(value, 1);
      }
    });
    return [text, ...rest.map((value) => inspect(value))].join(' ');
  };
  const util = {
    inspect: (value) => inspect(value, 1), format,
    inherits(child, parent) { child.super_ = parent; Object.setPrototypeOf(child.prototype, parent.prototype); },
    promisify: () => { throw lacks('util.promisify'); },
    deprecate: (call) => call,
    types: { isRegExp: (value) => value instanceof RegExp, isDate: (value) => value instanceof Date },
  };

  // ---- console: everything goes to standard error.
  let indent = '';
  const say = (...values) => print(format(...values).replace(/^/gm, indent) + '\n');
  const quiet = () => {};
  const counts = new Map();
  const timers = new Map();
  const console = {
    log: say, info: say, warn: say, error: say, debug: say, dir: (value) => say(util.inspect(value)), table: (value) => say(util.inspect(value)),
    trace: (...values) => say('Trace:', ...values),
    assert: (truth, ...values) => { if (!truth) say('Assertion failed:', ...values); },
    group: (...values) => { if (values.length) say(...values); indent += '  '; },
    groupEnd: () => { indent = indent.slice(2); },
    count: (label = 'default') => { counts.set(label, (counts.get(label) || 0) + 1); say(`${label}: ${counts.get(label)}`); },
    countReset: (label = 'default') => { counts.delete(label); },
    time: (label = 'default') => { timers.set(label, Date.now()); },
    timeEnd: (label = 'default') => { say(`${label}: ${Date.now() - (timers.get(label) || Date.now())}ms`); timers.delete(label); },
    timeLog: (label = 'default', ...values) => say(`${label}: ${Date.now() - (timers.get(label) || Date.now())}ms`, ...values),
    clear: quiet,
  };
  console.groupCollapsed = console.group;

  // ---- path (POSIX).
  const text = (value, name = 'path') => {
    if (typeof value !== 'string') {
      throw Object.assign(new TypeError(`The "${name}" argument must be of type string. Received ${value === null ? 'null' : typeof value}`), { code: 'ERR_INVALID_ARG_TYPE' });
    }
    return value;
  };
  const simplify = (whole, absolute) => {
    const out = [];
    for (const part of whole.split('/')) {
      if (part === '' || part === '.') continue;
      if (part !== '..') out.push(part);
      else if (out.length && out[out.length - 1] !== '..') out.pop();
      else if (!absolute) out.push('..');
    }
    return out.join('/');
  };
  const path = {
    sep: '/', delimiter: ':',
    isAbsolute: (name) => text(name).startsWith('/'),
    normalize(name) {
      if (text(name) === '') return '.';
      const absolute = name.startsWith('/');
      const inner = simplify(name, absolute);
      if (inner === '') return absolute ? '/' : name.endsWith('/') ? './' : '.';
      return (absolute ? '/' : '') + inner + (name.endsWith('/') ? '/' : '');
    },
    join(...parts) {
      const whole = parts.map((part) => text(part)).filter((part) => part !== '').join('/');
      return whole === '' ? '.' : path.normalize(whole);
    },
    resolve(...parts) {
      let whole = '';
      for (const part of [process.cwd(), ...parts]) {
        if (text(part, 'paths') === '') continue;
        whole = part.startsWith('/') ? part : `${whole}/${part}`;
      }
      return '/' + simplify(whole, true);
    },
    relative(from, to) {
      const [a, b] = [from, to].map((name) => path.resolve(text(name)).split('/').filter(Boolean));
      let same = 0;
      while (same < a.length && same < b.length && a[same] === b[same]) same += 1;
      return [...a.slice(same).map(() => '..'), ...b.slice(same)].join('/');
    },
    dirname(name) {
      const bare = text(name).replace(/\/+$/, '');
      if (bare === '') return name.startsWith('/') ? '/' : '.';
      const at = bare.lastIndexOf('/');
      if (at < 0) return '.';
      if (at === 1 && name.startsWith('//')) return '//';
      return bare.slice(0, at) || '/';
    },
    basename(name, ending) {
      const base = text(name).replace(/\/+$/, '').split('/').pop();
      return ending !== undefined && base !== ending && base.endsWith(text(ending, 'suffix')) ? base.slice(0, base.length - ending.length) : base;
    },
    extname(name) {
      const base = path.basename(name);
      const at = base.lastIndexOf('.');
      return at <= 0 || base === '..' ? '' : base.slice(at);
    },
    parse(name) {
      const root = text(name).startsWith('/') ? '/' : '';
      const base = path.basename(name), ext = path.extname(name);
      const bare = name.replace(/\/+$/, '');
      const at = bare.lastIndexOf('/');
      const dir = at < 0 ? '' : bare.slice(0, at) || root;
      return { root, dir: bare === '' ? root : dir, base, ext, name: ext ? base.slice(0, base.length - ext.length) : base };
    },
    format: (parts) => {
      const dir = parts.dir || parts.root || '';
      const base = parts.base || (parts.name || '') + (parts.ext ? (parts.ext.startsWith('.') ? '' : '.') + parts.ext : '');
      return dir === '' ? base : dir === parts.root ? dir + base : `${dir}/${base}`;
    },
    toNamespacedPath: (name) => name,
  };
  path.posix = path;
  Object.defineProperty(path, 'win32', { enumerable: false, get() { throw lacks('path.win32'); } });

  // ---- process.
  const env = new Proxy(Object.assign(Object.create(null), start.env), {
    set(inner, key, value) {
      if (typeof key !== 'symbol') inner[key] = String(value);
      return true;
    },
  });
  const stream = (fd) => ({ fd, isTTY: false, writable: true, write: (value) => (print(String(value)), true), on: quiet, once: quiet });
  const began = Date.now();
  const process = {
    env, argv: start.argv, execArgv: [], execPath: start.argv[0], title: 'node', platform: 'linux', arch: start.arch, pid: start.pid, ppid: start.ppid,
    version: 'v20.0.0', versions: { node: '20.0.0', fornax: start.version }, release: { name: 'node' }, config: {}, features: {}, exitCode: undefined,
    cwd: () => start.cwd, chdir: () => { throw lacks('process.chdir'); },
    uptime: () => (Date.now() - began) / 1000, memoryUsage: () => ({ rss: 0, heapTotal: 0, heapUsed: 0, external: 0, arrayBuffers: 0 }),
    hrtime: Object.assign(() => { const ms = Date.now(); return [Math.floor(ms / 1000), (ms % 1000) * 1e6]; }, { bigint: () => BigInt(Date.now()) * 1000000n }),
    getuid: () => start.uid, geteuid: () => start.uid, getgid: () => start.gid, getegid: () => start.gid, umask: () => 0o22,
    nextTick: (call, ...args) => { Promise.resolve().then(() => call(...args)); },
    stdout: stream(1), stderr: stream(2), emitWarning: (warning) => say(String(warning)),
    exit: (code) => { throw new Error(`the config ended the process: process.exit(${code === undefined ? '' : code})`); },
    abort: () => { throw new Error('the config ended the process: process.abort()'); },
  };
  for (const name of ['on', 'once', 'addListener', 'removeListener', 'off', 'emit', 'removeAllListeners', 'setMaxListeners']) process[name] = () => process;
  Object.defineProperty(process, Symbol.toStringTag, { value: 'process' });

  // ---- os.
  const os = {
    EOL: '\n', devNull: '/dev/null', platform: () => 'linux', type: () => 'Linux', arch: () => start.arch, endianness: () => 'LE',
    homedir: () => env.HOME || ask('user').homedir, tmpdir: () => (env.TMPDIR || env.TMP || env.TEMP || '/tmp').replace(/(.)\/$/, '$1'),
    hostname: () => ask('uname').hostname, release: () => ask('uname').release, version: () => ask('uname').version, machine: () => ask('uname').machine,
    cpus: () => ask('cpus'), availableParallelism: () => ask('parallelism'),
    totalmem: () => ask('memory').total, freemem: () => ask('memory').available, loadavg: () => ask('load'), uptime: () => ask('uptime'),
    userInfo: () => ask('user'), networkInterfaces: () => ask('interfaces'), constants: { signals: {}, errno: {} },
  };

  // ---- fs, what reads.
  const named = (name) => (name instanceof URL ? url.fileURLToPath(name) : Buffer.isBuffer(name) ? name.toString() : text(name));
  const stats = (raw) => ({
    ...raw, mtime: new Date(raw.mtimeMs), ctime: new Date(raw.ctimeMs), atime: new Date(raw.atimeMs),
    isFile: () => raw.kind === 'file', isDirectory: () => raw.kind === 'directory', isSymbolicLink: () => raw.kind === 'link',
    isFIFO: () => raw.kind === 'fifo', isSocket: () => raw.kind === 'socket', isBlockDevice: () => raw.kind === 'block', isCharacterDevice: () => raw.kind === 'character',
  });
  const looked = (op) => (name, options) => {
    try { return stats(ask(op, named(name))); } catch (error) {
      if (options && options.throwIfNoEntry === false && error.code === 'ENOENT') return undefined;
      throw error;
    }
  };
  const fs = {
    constants: { F_OK: 0, R_OK: 4, W_OK: 2, X_OK: 1 },
    existsSync(name) { try { ask('stat', named(name)); return true; } catch { return false; } },
    readFileSync(name, options) {
      const file = named(name);
      ask('readable', file);
      const encoding = typeof options === 'string' ? options : options && options.encoding;
      if (/^utf-?8$/i.test(encoding)) return ask('text', file);
      const bytes = readBytes(file);
      return encoding ? codec(encoding).to(bytes) : Buffer.from(bytes);
    },
    statSync: looked('stat'), lstatSync: looked('lstat'),
    readdirSync(name, options) {
      const list = ask('readdir', named(name));
      if (options && options.recursive) throw lacks('fs.readdirSync with recursive');
      return options && options.withFileTypes
        ? list.map(([base, kind]) => ({ name: base, path: named(name), parentPath: named(name), ...stats({ kind, mtimeMs: 0, ctimeMs: 0, atimeMs: 0 }) }))
        : list.map(([base]) => base);
    },
    realpathSync: (name) => ask('realpath', named(name)), readlinkSync: (name) => ask('readlink', named(name)),
    accessSync(name, mode = 0) { ask('access', named(name), mode); },
  };
  fs.realpathSync.native = fs.realpathSync;

  // ---- url.
  class URL {
    constructor(href, base) { this.set(ask('url', String(href), base === undefined ? null : String(base))); }
    set(parts) { Object.assign(this, parts); this.searchParams = new URLSearchParams(parts.search); }
    toString() { return this.href; }
    toJSON() { return this.href; }
    static canParse(href, base) { try { return Boolean(new URL(href, base)); } catch { return false; } }
  }
  class URLSearchParams {
    constructor(query = '') {
      const plain = (part) => decodeURIComponent(part.replace(/\+/g, ' '));
      this.pairs = typeof query === 'object' ? Object.entries(query).map(([key, value]) => [key, String(value)])
        : String(query).replace(/^\?/, '').split('&').filter(Boolean).map((pair) => {
          const at = pair.indexOf('=');
          return at < 0 ? [plain(pair), ''] : [plain(pair.slice(0, at)), plain(pair.slice(at + 1))];
        });
    }
    get(key) { const found = this.pairs.find(([name]) => name === key); return found ? found[1] : null; }
    getAll(key) { return this.pairs.filter(([name]) => name === key).map(([, value]) => value); }
    has(key) { return this.pairs.some(([name]) => name === key); }
    append(key, value) { this.pairs.push([key, String(value)]); }
    set(key, value) { this.delete(key); this.append(key, value); }
    delete(key) { this.pairs = this.pairs.filter(([name]) => name !== key); }
    entries() { return this.pairs[Symbol.iterator](); }
    [Symbol.iterator]() { return this.entries(); }
    toString() { return this.pairs.map((pair) => pair.map(encodeURIComponent).join('=')).join('&'); }
  }
  const url = {
    URL, URLSearchParams,
    fileURLToPath: (value) => ask('fileURLToPath', String(value)),
    pathToFileURL: (name) => new URL(ask('pathToFileURL', path.resolve(name))),
    parse: () => { throw lacks('url.parse'); },
  };

  // ---- modules.
  const complete = { path, os, fs, url, util, process, console, buffer: { Buffer }, 'path/posix': path };
  const others = ['assert', 'async_hooks', 'child_process', 'cluster', 'constants', 'crypto', 'dgram', 'diagnostics_channel', 'dns', 'domain', 'events', 'fs/promises', 'http',
    'http2', 'https', 'inspector', 'module', 'net', 'os', 'perf_hooks', 'punycode', 'querystring', 'readline', 'repl', 'stream', 'string_decoder', 'sys', 'timers', 'tls', 'tty', 'v8', 'vm',
    'wasi', 'worker_threads', 'zlib'];
  // Whatever is asked of a module that is only partly here, or not at all, is named when it is used: many load modules that they then don't use.
  const guarded = (name, module) => new Proxy(module, {
    get(inner, key) {
      if (key in inner || typeof key === 'symbol' || key === 'then' || key === 'default' || key === '__esModule' || key === 'toJSON') return inner[key];
      throw lacks(`${name}.${key}`);
    },
  });
  const builtins = new Map(Object.entries(complete).map(([name, module]) => [name, name === 'process' || name === 'console' ? module : guarded(name, module)]));
  for (const name of others) if (!builtins.has(name)) builtins.set(name, guarded(name, {}));
  const builtin = (name) => builtins.get(name.replace(/^node:/, ''));

  const wrong = (name, from) => Object.assign(new Error(`Cannot find module '${name}'\nRequire stack:\n- ${from}`), { code: 'MODULE_NOT_FOUND' });
  const isFile = (name) => { try { return ask('stat', name).kind === 'file'; } catch { return false; } };
  const json = (name) => {
    try { return JSON.parse(ask('text', name).replace(/^\ufeff/, '')); } catch (error) {
      if (error instanceof SyntaxError) error.message = `${name}: ${error.message}`;
      throw error;
    }
  };
  const pack = (folder) => { try { return json(`${folder}/package.json`); } catch { return undefined; } };
  const asFile = (name) => [name, `${name}.js`, `${name}.json`, `${name}.cjs`, `${name}.node`].find((file) => (file === name || !/\.cjs$/.test(file)) && isFile(file));
  const asFolder = (name) => {
    const main = (pack(name) || {}).main;
    return (main && (asFile(path.join(name, main)) || asFile(path.join(name, main, 'index')))) || asFile(`${name}/index`);
  };
  // A package's `exports`: the first of the conditions that apply.
  const condition = (entry, conditions) => {
    if (typeof entry === 'string') return entry;
    if (Array.isArray(entry)) return entry.map((item) => condition(item, conditions)).find(Boolean);
    if (!entry) return undefined;
    for (const [key, inner] of Object.entries(entry)) {
      const found = conditions.includes(key) && condition(inner, conditions);
      if (found) return found;
    }
    return undefined;
  };
  const inPackage = (folder, inner, conditions) => {
    const exports = (pack(folder) || {}).exports;
    if (exports === undefined || exports === null) return inner ? asFile(`${folder}/${inner}`) || asFolder(`${folder}/${inner}`) : asFolder(folder);
    const key = inner ? `./${inner}` : '.';
    const table = typeof exports === 'string' || Array.isArray(exports) || !Object.keys(exports).some((name) => name.startsWith('.')) ? { '.': exports } : exports;
    if (key in table) {
      const target = condition(table[key], conditions);
      return target && asFile(path.join(folder, target));
    }
    for (const [pattern, entry] of Object.entries(table)) {
      const [head, tail] = pattern.split('*');
      if (tail !== undefined && key.startsWith(head) && key.endsWith(tail)) {
        const target = condition(entry, conditions);
        return target && asFile(path.join(folder, target.replace(/\*/g, key.slice(head.length, key.length - tail.length))));
      }
    }
    return undefined;
  };
  const find = (name, from, conditions) => {
    if (name.startsWith('file:')) name = url.fileURLToPath(name);
    const folder = path.dirname(from);
    if (/^(\.{0,2}\/|\.{1,2}$)/.test(name)) {
      const whole = path.resolve(folder, name);
      const found = (name.endsWith('/') ? undefined : asFile(whole)) || asFolder(whole);
      if (found) return fs.realpathSync(found);
      throw wrong(name, from);
    }
    const parts = name.split('/');
    const own = name.startsWith('@') ? parts.slice(0, 2).join('/') : parts[0];
    for (let up = folder; ; up = path.dirname(up)) {
      const found = inPackage(`${up}/node_modules/${own}`.replace('//', '/'), name.slice(own.length + 1), conditions);
      if (found) return fs.realpathSync(found);
      if (up === '/') throw wrong(name, from);
    }
  };
  // Node looks so too, where no package says what its files are: what parses as CommonJS is that.
  const looksLikeModule = (file) => {
    const source = ask('text', file);
    if (!/^\s*(import\s*[\w{*'"]|export\s*(default|const|let|var|function|class|async|[{*]))/m.test(source)) return false;
    try { start.compile(file, source); return false; } catch { return true; }
  };
  const isModule = (file) => {
    if (/\.mjs$/.test(file)) return true;
    if (/\.(cjs|json|node)$/.test(file)) return false;
    for (let up = path.dirname(file); ; up = path.dirname(up)) {
      const found = pack(up);
      if (found && found.type) return found.type === 'module';
      if (found || up === '/') return looksLikeModule(file);
    }
  };

  const cache = Object.create(null);
  const requireFrom = (from) => {
    const require = (name) => {
      const own = builtin(text(name, 'id'));
      if (own) return own;
      if (name.startsWith('node:')) throw Object.assign(new Error(`No such built-in module: ${name}`), { code: 'ERR_UNKNOWN_BUILTIN_MODULE' });
      return load(find(name, from, ['node', 'require', 'default'])).exports;
    };
    require.resolve = (name) => (builtin(name) ? name : find(name, from, ['node', 'require', 'default']));
    require.cache = cache;
    require.main = undefined;
    require.extensions = {};
    return require;
  };
  const load = (file) => {
    if (cache[file]) return cache[file];
    const module = { exports: {}, id: file, filename: file, path: path.dirname(file), loaded: false, children: [], paths: [], parent: null };
    module.require = requireFrom(file);
    cache[file] = module;
    try {
      if (/\.json$/.test(file)) module.exports = json(file);
      else if (/\.node$/.test(file)) throw lacks(`a compiled module (${file})`);
      else if (isModule(file)) module.exports = start.esm(file);
      else {
        const wrapped = start.compile(file, ask('text', file));
        wrapped.call(module.exports, module.exports, module.require, module, file, path.dirname(file));
      }
    } catch (error) {
      delete cache[file];
      throw error;
    }
    module.loaded = true;
    return module;
  };

  Object.assign(globalThis, { process, console, Buffer, URL, URLSearchParams, global: globalThis, queueMicrotask: process.nextTick });

  Object.defineProperty(globalThis, '__fornax', { value: { builtin, load }, enumerable: false });

  const changes = () => Object.fromEntries([...new Set([...Object.keys(start.env), ...Object.keys(env)])]
    .filter((name) => start.env[name] !== env[name]).map((name) => [name, env[name] ?? null]));
  const told = (config) => JSON.stringify({ config, env: changes() });
  const tells = (o) => o && (Array.isArray(o) || 'apps' in Object(o) || 'pm2' in Object(o) || 'script' in Object(o));
  return {
    isModule,
    // Where an import leads: a name of ours for what is no ES module.
    resolve: (name, from) => {
      if (builtin(name)) return `node:${name.replace(/^node:/, '')}`;
      return find(name, from, ['node', 'import', 'default']);
    },
    // The text of a module that stands for one that is none.
    standIn: (name) => {
      const exports = name.startsWith('node:') ? builtin(name) : load(name).exports;
      const keys = Object(exports) === exports ? Object.keys(exports).filter((key) => key !== 'default' && /^[A-Za-z_$][\w$]*$/.test(key)) : [];
      const get = name.startsWith('node:') ? `builtin(${JSON.stringify(name)})` : `load(${JSON.stringify(name)}).exports`;
      return `const all = globalThis.__fornax.${get};\nexport default all;\n` + keys.map((key, at) => `const v${at} = all.${key};\nexport { v${at} as ${key} };\n`).join('');
    },
    load: (file) => load(file).exports,
    // As PM2's users mean it: the named exports, the default one, or what CommonJS exports; and what the config did to the environment.
    answer: (exports) => {
      const layers = [exports, Object(exports).default, Object(Object(exports).default).default].filter((o) => o !== undefined && o !== null);
      const config = [layers[1], layers[2], layers[0]].find(tells) || layers[1] || layers[0];
      if (typeof config === 'function') throw new TypeError('the file exports a function, not the config itself');
      return told(config === exports && !Array.isArray(exports) ? { ...exports } : config);
    },
    plain: (value) => told(value),
  };
})
