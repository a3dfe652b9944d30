#!/usr/bin/env python3
"""Mixed jobs on two real ComfyUI (on the processor) under fornax, for so many minutes: none of them may be taken for hung.

    FORNAX_COMFYUI=/path/to/ComfyUI FORNAX_COMFYUI_PYTHON=/path/to/venv/bin/python \
        python3 benches/comfyui_soak.py --fornax target/release/fornax --minutes 60

Every job ends well by itself: some step steadily for minutes, some compute or load for minutes without a word, most are small.
The limits are shorter than the defaults, so that a wrong judgement has its chance. Prints what it saw; ends with 1 if an
instance was restarted, called ill, or a job was lost.
"""

import argparse, json, os, random, shutil, subprocess, sys, tempfile, threading, time, urllib.error, urllib.request, uuid

HERE = os.path.dirname(os.path.abspath(__file__))
MONITOR = {"period": "2s", "stall": "45s", "waiting": "6m", "busy": "15m", "canary": "20s"}


def ask(url, body=None, timeout=30):
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=timeout) as answer:
            return json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return json.loads(error.read())


def fault(name, seconds):
    return {"1": {"class_type": name, "inputs": {"seconds": seconds, "seed": random.getrandbits(50)}}}


def image():
    return {"1": {"class_type": "EmptyImage", "inputs": {"width": 256, "height": 256, "batch_size": 1, "color": random.getrandbits(24)}},
            "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": uuid.uuid4().hex}}}


def a_job():
    """What is run next: its kind, its graph, and how long it may take."""
    kind = random.choices(["image", "steps", "steady", "compute", "load", "map", "several"], [8, 3, 2, 3, 3, 2, 4])[0]
    if kind == "steps":
        return kind, [fault("FornaxSteps", random.uniform(5, 60))]
    if kind == "steady":
        return kind, [fault("FornaxSteps", random.uniform(120, 300))]
    if kind == "compute":
        return kind, [fault("FornaxCompute", random.uniform(20, 150))]
    if kind == "load":
        return kind, [fault("FornaxLoad", random.uniform(20, 180))]
    if kind == "map":
        return kind, [fault("FornaxMap", random.uniform(20, 120))]
    return kind, [image() for _ in range(1 if kind == "image" else random.randint(2, 12))]


class Machine:
    def __init__(self, options):
        self.root = tempfile.mkdtemp(prefix="fornax-soak-")
        self.options, self.base = options, options.port
        self.http = f"127.0.0.1:{options.http}"
        self.env = dict(os.environ, PM2_HOME=f"{self.root}/pm2", FORNAX_HTTP=self.http, FORNAX_LEASE_DIR=f"{self.root}/leases")
        os.makedirs(f"{self.root}/leases")
        # A program that is built anew while this runs must not matter.
        self.fornax = shutil.copy(options.fornax, f"{self.root}/fornax")

    def run(self, *args):
        return subprocess.run([self.fornax, *args], env=self.env, check=True, stdout=subprocess.PIPE, text=True).stdout

    def start(self):
        tree, python = os.environ["FORNAX_COMFYUI"], os.environ["FORNAX_COMFYUI_PYTHON"]
        paths = f"{self.root}/paths.yaml"
        nodes = os.path.join(HERE, "../tests/fixtures/comfy-nodes")
        with open(paths, "w") as file:
            file.write(f"fornax:\n  base_path: {self.root}\n  custom_nodes: {os.path.realpath(nodes)}\n")
        apps = []
        for index in range(2):
            own, port = f"{self.root}/gpu{index}", self.base + index
            for name in ("output", "input", "temp", "user"):
                os.makedirs(f"{own}/{name}")
            args = ["--cpu", "--listen", "127.0.0.1", "--port", str(port), "--extra-model-paths-config", paths,
                    "--database-url", f"sqlite:///{own}/user/comfyui.db", "--disable-api-nodes"]
            for name in ("output", "input", "temp", "user"):
                args += [f"--{name}-directory", f"{own}/{name}"]
            apps.append({"name": f"comfyui-gpu{index}", "script": "main.py", "interpreter": python, "cwd": tree, "args": args,
                         "env": {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"},
                         "fornax": {"type": "comfyui", "port": port, "monitor": MONITOR,
                                    "stop": [{"signal": "SIGINT", "wait": "10s"}, {"signal": "SIGTERM", "wait": "2s"}]}})
        with open(f"{self.root}/ecosystem.json", "w") as file:
            json.dump({"apps": apps}, file)
        self.run("start", f"{self.root}/ecosystem.json")
        until = time.time() + 300
        while not ask(f"http://{self.http}/health/comfyui")["healthy"]:
            if time.time() > until:
                sys.exit(f"not healthy within 5 minutes: {ask(f'http://{self.http}/health/comfyui')}")
            time.sleep(1)

    def told(self):
        return ask(f"http://{self.http}/health/comfyui/instances")["instances"]

    def stop(self):
        self.run("kill")
        shutil.rmtree(self.root, ignore_errors=True)


class Feeder(threading.Thread):
    """Gives one instance jobs, one batch after the other, and looks what becomes of each."""

    def __init__(self, port, until):
        super().__init__(daemon=True)
        self.url, self.until = f"http://127.0.0.1:{port}", until
        self.done, self.lost, self.longest = {}, [], 0.0

    def run(self):
        while time.time() < self.until:
            kind, graphs = a_job()
            begun, ids = time.time(), [str(uuid.uuid4()) for _ in graphs]
            for graph, prompt_id in zip(graphs, ids):
                try:
                    ask(f"{self.url}/prompt", {"prompt": graph, "prompt_id": prompt_id, "client_id": str(uuid.uuid4())})
                except OSError as error:
                    self.lost.append(f"{kind} {prompt_id}: could not be given: {error}")
            for prompt_id in ids:
                self.wait(kind, prompt_id, begun + 900)
            self.longest = max(self.longest, time.time() - begun)
            # An idle while now and then, for the canary.
            time.sleep(random.choice([0, 0, 1, 30]))

    def wait(self, kind, prompt_id, until):
        while time.time() < until:
            try:
                entry = ask(f"{self.url}/history/{prompt_id}").get(prompt_id)
            except OSError:
                entry = None
            if entry:
                if entry["status"]["status_str"] == "success":
                    self.done[kind] = self.done.get(kind, 0) + 1
                else:
                    self.lost.append(f"{kind} {prompt_id}: {entry['status']}")
                return
            time.sleep(0.2)
        self.lost.append(f"{kind} {prompt_id}: not in the history after 15 minutes")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--fornax", default=os.path.join(HERE, "../target/release/fornax"))
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--port", type=int, default=27188)
    parser.add_argument("--http", type=int, default=27090)
    options = parser.parse_args()
    missing = [name for name in ("FORNAX_COMFYUI", "FORNAX_COMFYUI_PYTHON") if name not in os.environ]
    if missing:
        print(f"not run: {' and '.join(missing)} must name a ComfyUI and its Python")
        return 0
    machine = Machine(options)
    begun = time.time()
    try:
        machine.start()
        print(f"two instances healthy after {time.time() - begun:.0f} s; monitor {json.dumps(MONITOR)}", flush=True)
        until = time.time() + options.minutes * 60
        feeders = [Feeder(machine.base + index, until) for index in range(2)]
        for feeder in feeders:
            feeder.start()
        seen = {}
        told_at = time.time()
        while any(feeder.is_alive() for feeder in feeders):
            for one in machine.told():
                for event in one["monitor"]["events"]:
                    seen[(one["name"], event["at"], event["what"], event["message"])] = event
            if time.time() - told_at > 300:
                told_at = time.time()
                line = {f.url[-5:]: (sum(f.done.values()), len(f.lost)) for f in feeders}
                print(f"{(time.time() - begun) / 60:5.1f} min: jobs done and lost {line}", flush=True)
            time.sleep(2)
        bad = [event for event in seen.values() if event["what"] in ("ill", "cure", "given_up", "exit")]
        told = machine.told()
        done = {}
        for feeder in feeders:
            for kind, count in feeder.done.items():
                done[kind] = done.get(kind, 0) + count
        lost = [lost for feeder in feeders for lost in feeder.lost]
        restarts = sum(one["restarts"] for one in told)
        print(f"{(time.time() - begun) / 60:.1f} minutes; jobs done: {done}, {sum(done.values())} in all")
        print(f"longest batch {max(feeder.longest for feeder in feeders):.0f} s; jobs lost {len(lost)}; restarts {restarts}; "
              f"called ill or cured {len(bad)}")
        print(f"limits learned: {[one['monitor']['quiet_limit_ms'] for one in told]} ms")
        for event in bad:
            print("  ", json.dumps(event))
        for line in lost[:20]:
            print("  ", line)
        return 1 if bad or lost or restarts else 0
    finally:
        machine.stop()


if __name__ == "__main__":
    sys.exit(main())
