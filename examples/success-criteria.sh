#!/bin/bash
# The success criteria of the plan, each with its evidence, on real ComfyUI on the processor, two instances.
#
#   FORNAX=target/debug/fornax COMFYUI=/path/to/ComfyUI PYTHON=/path/to/venv/bin/python examples/success-criteria.sh
#
# COMFYUI is a git repository of ComfyUI, by path or URL: it is installed from there. PYTHON is a Python with torch, which the
# install then need not fetch. What needs redis-server, or the right to mount a small disk, is said not to be shown without.
#
# It has a home and a workspace of its own below a temporary folder, and leaves nothing behind. Ports: BASE (19200), HTTP (19290), and the next two.
# It ends with 0 if every criterion that could be shown was met. What could not be shown is said.
set -u
FORNAX=$(realpath "${FORNAX:-target/release/fornax}") COMFYUI=${COMFYUI:?a git repository of ComfyUI} PYTHON=${PYTHON:?a Python with torch}
BASE=${BASE:-19200} HTTP=${HTTP:-19290}
root=$(mktemp -d "${TMPDIR:-/tmp}/fornax-criteria.XXXXXX")
export PM2_HOME=$root/pm2 FORNAX_WORKSPACE=$root/workspace FORNAX_LEASE_DIR=$root/leases FORNAX_HTTP=127.0.0.1:$HTTP NO_COLOR=1
url=http://127.0.0.1:$HTTP failed=0
redis="" worker=""
leave() {
  [ -z "$worker" ] || kill "$worker"
  [ -z "$redis" ] || kill "$redis"
  "$FORNAX" down > /dev/null 2>&1
  wait
  rm -rf "$root"
}
trap leave EXIT
met() { echo "MET      $1"; echo "         $2" | cut -c1-300; }
not() { echo "NOT MET  $1"; echo "         $2" | cut -c1-600; failed=1; }
unshown() { echo "UNSHOWN  $1"; echo "         $2"; }
judge() { if [ "$1" = "$2" ]; then met "$3" "$4"; else not "$3" "wanted $2, got $1: $4"; fi; }
get() { curl -s --max-time 400 "$url$1"; }
field() { python3 -c 'import json,sys
value = json.load(sys.stdin)
for key in sys.argv[1].split("."): value = value[int(key)] if isinstance(value, list) else value[key]
print(value)' "$1"; }
post() { curl -s --max-time 60 -X "${2:-POST}" -H "Authorization: Bearer $(cat "$PM2_HOME/http.token" 2> /dev/null)" "$url$1" "${@:3}"; }
graph() { echo "{\"1\":{\"class_type\":\"EmptyImage\",\"inputs\":{\"width\":64,\"height\":64,\"batch_size\":1,\"color\":$1}},\"3\":{\"class_type\":\"SaveImage\",\"inputs\":{\"images\":[\"1\",0],\"filename_prefix\":\"criteria\"}}}"; }
until_settled() { # a job's id
  for _ in $(seq 600); do
    state=$(get "/jobs/$1" | field state)
    case $state in done|failed|dead|cancelled) echo "$state"; return;; esac
    sleep 0.2
  done
  echo "still $state"
}

echo "# $("$FORNAX" --version) with ComfyUI of $COMFYUI"
mkdir -p "$FORNAX_WORKSPACE"

cat > "$FORNAX_WORKSPACE/fornax.json" << END
{"machine": {"repository": "$COMFYUI", "python": "$PYTHON", "system_site_packages": true}}
END

# Nothing is installed yet: that is told as such, and not as sick.
"$FORNAX" up --cpu --gpus 0,1 --no-install --base-port "$BASE" > "$root/up1" 2>&1
told=$(get /services/comfyui-gpu0/health)
judge "$(echo "$told" | field status)" not_installed "accurate installation status" "before ComfyUI is there: $(echo "$told" | field message)"
"$FORNAX" down > /dev/null 2>&1

( "$FORNAX" up --cpu --gpus 0,1 --base-port "$BASE" > "$root/up2" 2>&1 ) & up=$!
waited=$(date +%s)
for _ in $(seq 100); do get /version > /dev/null && break; sleep 0.1; done
during=$(get /services/comfyui-install/health | field message)
first=$(get "/services/comfyui-gpu0/health?wait=healthy&timeout=390s")
judge "$(echo "$first" | field status)" healthy "workers wait for service health before connecting" "one request waited $(($(date +%s) - waited)) s for comfyui-gpu0: $(echo "$first" | field message)"
wait $up
code=$(curl -s -o "$root/health" -w '%{http_code}' "$url/health")
judge "$code" 200 "health at localhost:$HTTP" "$(cat "$root/health")"
installed=$("$FORNAX" comfyui status 2>&1 | tr -s '\n ' ' ')
again=$(date +%s%N)
"$FORNAX" up --cpu --gpus 0,1 --base-port "$BASE" > "$root/up3" 2>&1 || echo "the second up failed" >> "$root/up3"
again=$((($(date +%s%N) - again) / 1000000))
case $(get /health/comfyui/installation) in
  *'"status":"installed"'*) met "ComfyUI installed automatically on first run" "one \`fornax up\` on an empty workspace; meanwhile: $during; then: $installed; a second up took $again ms";;
  *) not "ComfyUI installed automatically on first run" "$(get /health/comfyui/installation) $(tail -3 "$root/up2")";;
esac
for gpu in 0 1; do
  port=$((BASE + gpu))
  argv=$(curl -s "http://127.0.0.1:$port/system_stats" | field system.argv)
  case $argv in *"'--port', '$port'"*) met "instances per GPU on the right ports" "GPU $gpu: ${argv:0:160}";; *) not "instances per GPU on the right ports" "GPU $gpu on $port: $argv";; esac
done
pid=$(get /services/comfyui-gpu0/health | field pid)
kill -9 "$pid"
again=$(get "/services/comfyui-gpu0/health?wait=unhealthy&timeout=20s" > /dev/null; get "/services/comfyui-gpu0/health?wait=healthy&timeout=400s")
[ "$(echo "$again" | field pid)" != "$pid" ] && [ "$(echo "$again" | field status)" = healthy ] \
  && met "our PM2 managing them" "pid $pid was killed by SIGKILL, $(echo "$again" | field pid) runs; restarts $(echo "$again" | field restarts)" \
  || not "our PM2 managing them" "$again"
yaml=$(ls "$FORNAX_WORKSPACE"/*.yaml "$FORNAX_WORKSPACE"/*/*.yaml 2> /dev/null | head -1)
folders=$(curl -s "http://127.0.0.1:$BASE/internal/folder_paths" | field checkpoints)
case $folders in *"$FORNAX_WORKSPACE"*) met "custom nodes and models configured" "checkpoints are looked for in $folders ($yaml)";; *) not "custom nodes and models configured" "$folders";; esac

# Jobs.
post /jobs POST -d '{}' > /dev/null
id=$(post /jobs POST -d "{\"workflow\":$(graph 1)}" | field id)
state=$(until_settled "$id")
name=$(get "/jobs/$id" | field outputs.0.name)
get "/jobs/$id/outputs/$name" > "$root/out.png"
judge "$state $(head -c 4 "$root/out.png" | tail -c 3)" "done PNG" "jobs processed end to end with a PNG out" "$(file "$root/out.png" | sed "s|$root/||"); $(get "/jobs/$id" | field attempts.0.instance)"
if command -v redis-server > /dev/null; then
  ask() { redis-cli -p $((HTTP + 1)) "$@"; }
  begin() { redis-server --port $((HTTP + 1)) --bind 127.0.0.1 --save '' --appendonly yes --appendfsync always --dir "$root" > /dev/null 2>&1 & redis=$!; }
  until_count() { for _ in $(seq 600); do [ "$(ask XLEN fornax:results)" = "$1" ] && break; sleep 0.1; done; }
  begin
  FORNAX_REDIS_URL=redis://127.0.0.1:$((HTTP + 1)) "$FORNAX" worker --lease 10s > "$root/worker" 2>&1 & worker=$!
  for _ in $(seq 100); do [ "$(ask PING 2> /dev/null)" = PONG ] && break; sleep 0.1; done
  for number in 1 2 3; do ask XADD fornax:jobs '*' id "order-$number" job "$(graph "1$number")" > /dev/null; done
  until_count 3
  judge "$(ask HGET fornax:job:order-3 state) $(ask --raw HGET fornax:outputs:order-3 criteria_00001_.png | head -c 4 | tail -c 3)" "done PNG" \
    "workers connect to the instances" "three jobs of a queue in Redis: $(ask HGET fornax:job:order-3 attempts)"
  for number in 4 5 6 7 8 9; do ask XADD fornax:jobs '*' id "order-$number" job "$(graph "1$number")" > /dev/null; done
  for _ in $(seq 100); do grep -q "claimed order-4" "$root/worker" && break; sleep 0.1; done
  kill -9 $redis; wait $redis 2> /dev/null; sleep 3; begin
  for _ in $(seq 100); do [ "$(ask PING 2> /dev/null)" = PONG ] && break; sleep 0.1; done
  until_count 9
  results=$(ask XRANGE fornax:results - + | grep -c '^order-')
  judge "$results $(ask XLEN fornax:jobs)" "9 0" "Redis gone and back" "killed at work, back after 3 s: one result for each of 9 jobs, none left; $(grep -c 'again' "$root/worker") return told"
  kill $worker; wait $worker; worker=""
  kill $redis; wait $redis 2> /dev/null; redis=""
else
  unshown "workers connect to the instances" "there is no redis-server; the examples in Node and Python are tested by tests/workers.rs"
  unshown "Redis gone and back" "there is no redis-server"
fi

# What goes wrong.
id=$(post /jobs POST -d '{"workflow":{"1":{"class_type":"NoSuchNode","inputs":{}}}}' | field id)
judge "$(until_settled "$id")" failed "a workflow that ComfyUI refuses" "$(get "/jobs/$id" | field error)"
half="{\"workflow\":$(graph 2 | sed 's/}}}$/}},"4":{"class_type":"SaveImage","inputs":{"filename_prefix":"x"}}}/')}"
id=$(post /jobs POST -d "$half" | field id)
judge "$(until_settled "$id")" failed "a workflow that ComfyUI takes in part" "$(get "/jobs/$id" | field error)"
large=$(head -c 100000000 /dev/zero | post /jobs POST -o "$root/large" -w '%{http_code}' --data-binary @-)
judge "$large" 413 "a body of 100 MB" "$(cat "$root/large")"
python3 -c 'import socket,time
s = socket.socket(); s.bind(("127.0.0.1", 0)); s.listen(); print(s.getsockname()[1], flush=True); time.sleep(600)' > "$root/silent" & silent=$!
sleep 1
id=$(post /jobs POST -d "{\"workflow\":$(graph 3),\"webhook\":{\"url\":\"http://127.0.0.1:$(cat "$root/silent")/\"}}" | field id)
judge "$(until_settled "$id")" "done" "a webhook that never answers" "the job is done meanwhile"
kill $silent
for gpu in 0 1; do post "/services/comfyui-gpu$gpu/drain" > /dev/null; done
id=$(post /jobs POST -d "{\"workflow\":$(graph 4)}" | field id)
sleep 2
judge "$(get "/jobs/$id" | field state)" queued "a job for a machine on which nothing takes jobs" "$(get "/jobs/$id" | field waits_for)"
for gpu in 0 1; do post "/services/comfyui-gpu$gpu/drain" DELETE > /dev/null; done
judge "$(until_settled "$id")" "done" "and it is done when something does" "$(get "/jobs/$id" | field attempts.0.instance)"

mkdir "$root/disk"
if mount -t tmpfs -o size=2m tmpfs "$root/disk" 2> /dev/null; then
  other=http://127.0.0.1:$((HTTP + 2))
  small() { PM2_HOME=$root/small FORNAX_HTTP=127.0.0.1:$((HTTP + 2)) FORNAX_JOBS_DIR=$root/disk/jobs "$@"; }
  small "$FORNAX" ping > /dev/null
  curl -s -X POST "$other/jobs" > /dev/null
  note=$(head -c 100000 /dev/zero | tr '\0' x) taken=0
  for number in $(seq 60); do
    graph "$number" | sed "s/\"color\"/\"note\":\"$note\",\"color\"/; s/^/{\"workflow\":/; s/$/}/" > "$root/large-job"
    code=$(curl -s -o "$root/refused" -w '%{http_code}' -H "Authorization: Bearer $(cat "$root/small/http.token")" "$other/jobs" -d "@$root/large-job")
    [ "$code" = 202 ] || break
    taken=$((taken + 1))
  done
  kept=$(curl -s "$other/jobs?state=queued&limit=1000" | field count)
  judge "$code $kept" "507 $taken" "a full disk under the job store" "$taken jobs were taken and are there; then: $(field error < "$root/refused")"
  small "$FORNAX" down > /dev/null 2>&1
  umount "$root/disk"
else
  unshown "a full disk under the job store" "this user may not mount a small one; tests/jobs.rs shows it as root"
fi

# An instance that is stopped in the middle of its life is sick, and told so: not as not installed.
pid=$(get /services/comfyui-gpu1/health | field pid)
kill -STOP "$pid"
sick=$(get "/services/comfyui-gpu1/health?wait=unhealthy&timeout=120s")
kill -CONT "$pid" 2> /dev/null
judge "$(echo "$sick" | field status)" unhealthy "not installed told from unhealthy" "$(echo "$sick" | field message)"
exit $failed
