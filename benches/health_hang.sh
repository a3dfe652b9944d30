#!/bin/bash
# `/health` while every ComfyUI hangs: p99 at 1,000 requests a second (issue 5: at most 2 ms). Needs wrk and curl.
#
#     benches/health_hang.sh target/release/fornax [SECONDS]
#
# Two simulated instances, each with a job that never ends and no restarts left, so that they stay as they are. wrk has no fixed
# rate: ten connections that wait 10 ms between answer and question come to just under 1,000 a second.
set -euo pipefail
fornax=$(realpath "$1"); seconds=${2:-30}
dir=$(mktemp -d); cd "$dir"
export PM2_HOME=$dir/home FORNAX_LEASE_DIR=$dir/lease FORNAX_HTTP=127.0.0.1:0
mkdir -p "$FORNAX_LEASE_DIR"
trap '"$fornax" kill > /dev/null 2>&1 || true; rm -rf "$dir"' EXIT
app() {
  printf '{"name":"comfyui-gpu%s","script":"%s","interpreter":"none","args":["simulate","--port","%s","--fault","silence"],' "$1" "$fornax" "$2"
  printf '"fornax":{"type":"comfyui","port":%s,"probe":{"http":{"path":"/prompt"}},"monitor":{"period":"1s","stall":"10s","restarts":0,"canary":0}}}' "$2"
}
ports=$(python3 -c 'import socket
a=[socket.socket() for _ in range(2)]
[s.bind(("127.0.0.1",0)) for s in a]
print(*[s.getsockname()[1] for s in a])')
set -- $ports
echo "{\"apps\":[$(app 0 "$1"),$(app 1 "$2")]}" > apps.json
"$fornax" start apps.json > /dev/null
"$fornax" wait comfyui-gpu0 comfyui-gpu1 --timeout 60s
job='{"prompt":{"1":{"class_type":"EmptyImage","inputs":{"width":1,"height":1,"batch_size":1,"color":1}},"2":{"class_type":"PreviewImage","inputs":{"images":["1",0]}}}}'
for port in "$1" "$2"; do curl -sS -o /dev/null -H 'content-type: application/json' -d "$job" "http://127.0.0.1:$port/prompt"; done
"$fornax" wait comfyui-gpu0 comfyui-gpu1 --for unhealthy --timeout 120s
url=http://$(sed -n "s/.*http state=Listening(\(.*\))/\1/p" "$PM2_HOME/pm2.log" | tail -1)
echo "both hang: $(curl -s "$url/health" | cut -c1-200)"
echo 'function delay() return 10 end' > delay.lua
wrk -t1 -c10 -d"${seconds}s" -s delay.lua --latency "$url/health"
