"""How much time the installer takes above git's and pip's own: 62 nodes whose repositories are local.

    python3 benches/install_nodes.py PATH/TO/fornax [NODES]

It samples /proc: a moment in which the installer has no living child is the installer's own; a child that has ended and was
not seen to end yet counts against it. Prints one line of JSON. Needs git and python3 with venv; no network.
"""
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent.parent / "tests/fixtures/comfyui"
PERIOD = 0.002


def living_children(pid):
    for task in os.listdir(f"/proc/{pid}/task"):
        try:
            with open(f"/proc/{pid}/task/{task}/children", encoding="ascii") as file:
                children = file.read().split()
            for child in children:
                with open(f"/proc/{child}/stat", encoding="utf-8", errors="replace") as file:
                    if file.read().rsplit(")", 1)[1].split()[0] not in "ZX":
                        return True
        except (FileNotFoundError, ProcessLookupError):
            continue
    return False


def cpu_seconds(pid):
    with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
        fields = file.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main():
    program, count = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 62
    with tempfile.TemporaryDirectory(prefix="fornax-bench-") as folder:
        folder = pathlib.Path(folder)
        wheels, repos, workspace = folder / "wheels", folder / "repos", folder / "workspace"
        wheels.mkdir()
        workspace.mkdir()
        for package in (["smallcore", "1.0"], ["smalltorch", "2.0"], ["smallnode", "1.0"]):
            subprocess.run([sys.executable, HERE / "make_wheel.py", wheels, *package], check=True)

        def repository(source, name):
            target = repos / name
            shutil.copytree(source, target)
            for command in (["init", "-q"], ["add", "-A"], ["-c", "user.name=b", "-c", "user.email=b@b", "commit", "-qm", "one"]):
                subprocess.run(["git", *command], cwd=target, check=True)
            return str(target)

        nodes = [{"name": f"node{at}", "url": repository(HERE / "pack", f"node{at}"), "requirements": True} for at in range(count)]
        machine = {"repository": repository(HERE / "tree", "ComfyUI"), "torch": ["smalltorch"], "torch_index": "pypi", "installer": "pip"}
        (workspace / "fornax.json").write_text(json.dumps({"machine": machine}))
        (workspace / "config_nodes.json").write_text(json.dumps({"custom_nodes": nodes}))
        env = {**os.environ, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(wheels)}
        began = time.perf_counter()
        run = subprocess.Popen([program, "comfyui", "install", "--cpu", "--workspace", workspace], env=env,
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        own = samples = 0
        cpu = 0.0
        while run.poll() is None:
            try:
                samples += 1
                own += not living_children(run.pid)
                cpu = cpu_seconds(run.pid)
            except FileNotFoundError:
                break
            time.sleep(PERIOD)
        wall = time.perf_counter() - began
        assert run.wait() == 0, "the install failed"
        print(json.dumps({"nodes": count, "wall_s": round(wall, 2), "without_a_child_percent": round(100 * own / samples, 2),
                          "own_cpu_s": round(cpu, 2), "samples": samples}))


if __name__ == "__main__":
    main()
