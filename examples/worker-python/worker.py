"""A worker: takes items from a folder, has this machine do them as jobs, and saves the outputs. It uses port 9090 only.

WORK_DIR: new (put items here, by rename), claimed, done, failed, outputs. The contract: docs/worker-contract.md.
"""

import hashlib
import http.client
import json
import os
import pathlib
import signal
import socket
import threading
import time
import urllib.error
import urllib.request

BASE = os.environ.get("FORNAX_URL", "http://127.0.0.1:9090").rstrip("/")
WORK = pathlib.Path(os.environ.get("WORK_DIR", "work")).resolve()
ME = os.environ.get("WORKER_NAME") or f"python-{socket.gethostname()}-{os.getpid()}"
PER_INSTANCE = int(os.environ.get("WORKER_DEPTH", "2"))  # items held for each healthy instance
LEASE = float(os.environ.get("WORKER_LEASE_SECONDS", "60"))
MINE = WORK / "claimed" / ME
SETTLED = ("done", "failed", "cancelled", "dead")

stop = threading.Event()
wake = threading.Event()
opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # no proxy stands before this machine


def log(text):
    now = time.time()
    print(time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now)) + f".{int(now * 1000) % 1000:03}Z {text}", flush=True)


def token():
    if os.environ.get("FORNAX_HTTP_TOKEN"):
        return os.environ["FORNAX_HTTP_TOKEN"]
    home = pathlib.Path(os.environ.get("PM2_HOME") or pathlib.Path.home() / ".pm2")
    try:
        return (home / "http.token").read_text().strip()
    except OSError:
        return ""


def open_url(method, where, body=None, timeout=20, key=None):
    request = urllib.request.Request(BASE + where, data=body, method=method)
    request.add_header("Authorization", f"Bearer {token()}")
    if body is not None:
        request.add_header("Content-Type", "application/json")
    if key is not None:
        request.add_header("Idempotency-Key", key)
    return opener.open(request, timeout=timeout)


def ask(method, where, body=None, timeout=20, key=None):
    """The answer's status, headers and body, whatever the status."""
    try:
        with open_url(method, where, body, timeout, key) as answer:
            return answer.status, answer.headers, answer.read()
    except urllib.error.HTTPError as answer:
        with answer:
            return answer.code, answer.headers, answer.read()


class View:
    """What the machine can do: GET /services says which are ComfyUIs, GET /events each change."""

    def __init__(self):
        self.lock = threading.Lock()
        self.connected = False
        self.services = {}
        self.changed = set()  # jobs of which /events has told something
        self.told = ""

    def learn(self):
        _, _, body = ask("GET", "/services")
        services = {
            one["name"]: {
                "comfyui": one["type"] == "comfyui",
                "takes": one["status"] == "healthy" and not one["draining"],
                "why": "draining" if one["draining"] else one["message"] or one["status"],
            }
            for one in json.loads(body)["services"]
        }
        with self.lock:
            self.services = services

    def on_event(self, name, data):
        if name == "missed" or (name == "service" and data["service"] not in self.services):
            self.learn()
            return
        with self.lock:
            if name == "service":
                known = self.services[data["service"]]
                known["takes"] = data["healthy"] and not data["draining"]
                known["why"] = "draining" if data["draining"] else data["message"] or data["status"]
            elif name == "removed":
                self.services.pop(data["service"], None)
            elif name == "job":
                self.changed.add(data["job"])

    def follow(self):
        while not stop.is_set():
            try:
                with open_url("GET", "/events", timeout=45) as stream:  # a comment comes each 15 s
                    self.learn()
                    self.connected = True
                    wake.set()
                    name = ""
                    for line in stream:
                        key, _, value = line.decode().rstrip("\r\n").partition(": ")
                        if key == "event":
                            name = value
                        elif key == "data":
                            self.on_event(name, json.loads(value))
                            wake.set()
            except (OSError, http.client.HTTPException, ValueError, KeyError) as error:
                if self.connected:
                    log(f"the machine does not answer: {error}")
            self.connected = False  # no answer is not healthy
            wake.set()
            stop.wait(1)

    def healthy(self):
        with self.lock:
            every = {name: one for name, one in self.services.items() if one["comfyui"]} if self.connected else {}
        able = sum(one["takes"] for one in every.values())
        ill = "; ".join(f"{name}: {one['why']}" for name, one in every.items() if not one["takes"])
        state = f"{able} of {len(every)} ComfyUIs take jobs" + (f" ({ill})" if ill else "")
        if not self.connected:
            state = f"waits for {BASE}"
        if state != self.told:
            self.told = state
            log(state)
        return able

    def take_changed(self):
        with self.lock:
            changed, self.changed = self.changed, set()
        return changed


class Item:
    def __init__(self):
        self.job = None
        self.look_at = 0.0
        self.failures = 0
        self.renewed = time.time()


def move(source, target):
    """Whoever renames an item has it. False: another worker was first."""
    try:
        os.rename(source, target)
        return True
    except FileNotFoundError:
        return False


class Worker:
    def __init__(self, view):
        self.view = view
        self.held = {}
        self.not_before = 0.0  # no claim before this moment

    def claim(self, room):
        for file in sorted((WORK / "new").glob("*.json")):
            if room <= 0:
                return
            if file.name in self.held:
                continue
            try:
                os.utime(file)  # the lease begins before the claim
            except FileNotFoundError:
                continue
            if move(file, MINE / file.name):
                self.held[file.name] = Item()
                log(f"{file.name}: claimed")
                room -= 1

    def give_back(self, name, why):
        del self.held[name]
        if move(MINE / name, WORK / "new" / name):
            log(f"{name}: returned, {why}")

    def fail(self, name, why):
        del self.held[name]
        (WORK / "failed" / f"{name}.txt").write_text(f"{why}\n")
        if move(MINE / name, WORK / "failed" / name):
            log(f"{name}: failed, {why}")

    def reclaim(self):
        """A claim that nobody has renewed is a dead worker's."""
        for file in (WORK / "claimed").glob("*/*.json"):
            if file.parent == MINE and file.name in self.held:
                continue
            try:
                age = time.time() - file.stat().st_mtime
            except FileNotFoundError:
                continue
            if age > LEASE and move(file, WORK / "new" / file.name):
                log(f"{file.name}: {file.parent.name} has let it go; returned")

    def post(self, name, item):
        content = (MINE / name).read_bytes()
        try:
            job = json.loads(content)
        except ValueError as error:
            return self.fail(name, f"it is no JSON: {error}")
        if not isinstance(job, dict):
            return self.fail(name, "it is no JSON object")
        # The same item is the same job, whoever posts it and however often: so its bytes are posted as they are.
        body = content if job.get("workflow") else b'{"workflow":' + content + b"}"
        key = job.get("idempotency_key") or f"{name}:{hashlib.sha256(content).hexdigest()[:16]}"
        status, headers, body = ask("POST", "/jobs", body, key=key)
        text = body.decode(errors="replace")
        if status in (200, 202):
            item.job = json.loads(body)["id"]
            item.look_at = 0.0
            log(f"{name}: job {item.job}" + (" (known)" if status == 200 else ""))
        elif status in (400, 409, 413):
            self.fail(name, f"{status} {text}")
        elif status == 401 and item.failures == 0:
            item.failures += 1  # the token is made by the first change that is asked for
        else:
            after = headers.get("retry-after") or ""
            self.not_before = time.time() + (int(after) if after.isdigit() else 5)
            self.give_back(name, f"{status} {text}")

    def look(self, name, item):
        item.look_at = time.time() + 2
        status, _, body = ask("GET", f"/jobs/{item.job}")
        if status == 404:  # the store is another one: post it again
            item.job = None
            return
        if status != 200:
            raise OSError(f"/jobs/{item.job}: {status}")
        job = json.loads(body)
        item.failures = 0
        if job["state"] not in SETTLED:
            return
        if job["state"] != "done":
            self.fail(name, f"{job['state']}: {job['error'] or 'no reason told'}")
            return
        folder = WORK / "outputs" / name[: -len(".json")]
        folder.mkdir(parents=True, exist_ok=True)
        for output in job["outputs"]:
            status, _, content = ask("GET", output["url"], timeout=60)
            if status != 200 or len(content) != output["bytes"]:
                raise OSError(f"{output['name']}: {status}, {len(content)} of {output['bytes']} bytes")
            target = folder / output["name"].replace("/", "_").replace("\\", "_")
            part = target.with_name(f"{target.name}.{ME}.part")
            part.write_bytes(content)
            part.rename(target)
        del self.held[name]  # only now: what it asked for is here
        if move(MINE / name, WORK / "done" / name):
            log(f"{name}: done, {len(job['outputs'])} output(s), {len(job['attempts'])} attempt(s)")

    def step(self, name, item, changed):
        try:
            if time.time() - item.renewed > LEASE / 4:
                item.renewed = time.time()
                os.utime(MINE / name)  # fails if another worker has it by now
            if time.time() < item.look_at and item.job not in changed:
                return
            if item.job:
                self.look(name, item)
            else:
                self.post(name, item)
        except FileNotFoundError:
            self.held.pop(name, None)
            log(f"{name}: another worker has it")
        except (OSError, http.client.HTTPException, ValueError) as error:
            item.failures += 1
            item.look_at = time.time() + 0.5 * item.failures
            if item.failures > 20:
                self.not_before = time.time() + 5
                self.give_back(name, error)

    def run(self):
        reclaimed = 0.0
        while not stop.is_set():
            wake.clear()
            if time.time() - reclaimed > LEASE / 4:
                reclaimed = time.time()
                self.reclaim()
            changed = self.view.take_changed()
            for name, item in list(self.held.items()):
                if stop.is_set():
                    break
                self.step(name, item, changed)
            room = self.view.healthy() * PER_INSTANCE - len(self.held)
            if not stop.is_set() and time.time() >= self.not_before:
                self.claim(room)
            if not any(item.look_at == 0 for item in self.held.values()) and not stop.is_set():
                wake.wait(0.5)
        # The jobs go on by themselves: whoever claims an item next finds its job by the key.
        for name in list(self.held):
            self.give_back(name, "the worker is stopped")
        try:
            MINE.rmdir()
        except OSError:
            pass  # something is left in it: its lease ends


def on_signal(*_):
    stop.set()
    wake.set()


if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, on_signal)
    for folder in ("new", "done", "failed", "outputs"):
        (WORK / folder).mkdir(parents=True, exist_ok=True)
    MINE.mkdir(parents=True, exist_ok=True)
    view = View()
    threading.Thread(target=view.follow, daemon=True).start()
    Worker(view).run()
