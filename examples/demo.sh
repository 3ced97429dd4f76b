#!/bin/bash
# The tutorial on a real network of this machine, told with timings. `make demo` runs it; it ends by itself, with status 0
# when everything happened as told.
set -euo pipefail

here=$(dirname "$(realpath "$0")")
bin=${ALEPH_BIN_DIR:-$here/../target/release}
port=${DEMO_PORT:-4024}
PATH=$(realpath "$bin"):$PATH

work=$(mktemp -d /tmp/aleph-demo.XXXXXX)
began=$(date +%s%N)
network=

elapsed() { awk -v from="$1" -v to="$(date +%s%N)" 'BEGIN { printf "%.2f s", (to - from) / 1e9 }'; }
say() { printf '\n\033[1m── %s\033[0m  [%s]\n' "$1" "$(elapsed "$began")"; }
run() { printf '$ %s\n' "$*"; "$@"; }
fail() { printf '\ndemo failed: %s\n' "$1" >&2; exit 1; }

finish() {
    status=$?
    trap - EXIT
    if [ -n "$network" ]; then
        kill -INT "$network" 2>/dev/null || true
        wait "$network" 2>/dev/null || true
    fi
    [ "$status" = 0 ] || { echo "the logs are in $work/network/logs:" >&2; tail -n 5 "$work"/network/logs/*.log >&2 || true; exit "$status"; }
    rm -rf "$work"
}
trap finish EXIT

# Asks until a program answers with 200, for at most 60 s, and prints the answer.
wait_for() {
    for _ in $(seq 600); do
        if answer=$(curl --silent --fail --max-time 40 "$1"); then
            echo "$answer"
            return
        fi
        sleep 0.1
    done
    fail "$1 does not answer"
}

# Which nodes run a program, by what the nodes themselves say.
nodes_with() {
    jq -r '.compute_nodes[].url' "$work/network.json" | while read -r url; do
        curl --silent --max-time 5 "$url/about/executions/list" | jq -e --arg id "$1" 'has($id)' >/dev/null 2>&1 && echo "$url"
    done || true
}

# Asks the counter, and remembers its count.
ask_counter() {
    printf '$ curl %s\n' "$counter_url"
    answer=$(curl --silent --show-error --fail --max-time 60 "$counter_url") || fail "the counter does not answer"
    echo "$answer"
    count=$(jq .count <<<"$answer")
}

# Waits until another node has everything that the counter wrote before this, for at most 60 s.
wait_until_copied() {
    local since=$SECONDS risk
    for _ in $(seq 600); do
        risk=$(aleph program find "$counter" --json | jq '.data.at_risk_ms // empty')
        [ -z "$risk" ] || [ "$risk" -ge $(((SECONDS - since - 1) * 1000)) ] || return 0
        sleep 0.1
    done
    fail "nobody has a copy of the counter's data"
}

# Waits until no node runs a program, for at most 60 s.
wait_until_gone() {
    for _ in $(seq 600); do
        [ -n "$(nodes_with "$1")" ] || return 0
        sleep 0.1
    done
    fail "$1 still runs"
}

say "A network: message node, scheduler, gateway, three compute nodes"
echo "\$ aleph-node up --nodes 3 --port $port --idle-after 3s"
aleph-node up --json --nodes 3 --port "$port" --idle-after 3s --data-dir "$work/network" >"$work/network.json" &
network=$!
while [ ! -s "$work/network.json" ]; do
    kill -0 "$network" 2>/dev/null || { network=; fail "the network did not start"; }
    sleep 0.05
done
jq -r '"message node  \(.message_node.url)\nscheduler     \(.scheduler.url)\ngateway       \(.gateway)", (.compute_nodes[] | "compute node  \(.url)  \(.id)")' "$work/network.json"
ALEPH_API_HOST=$(jq -r .message_node.url "$work/network.json")
ALEPH_CONFIG_HOME=$(dirname "$(dirname "$(jq -r .account.private_key_file "$work/network.json")")")
export ALEPH_API_HOST ALEPH_CONFIG_HOME

say "An account with tokens"
run aleph account balance

say "The tutorial: a FastAPI program, always running"
cp -r "$here/fastapi/src" "$work/src"
cd "$work"
run cat ./src/main.py
at=$(date +%s%N)
run aleph program upload --persistent ./src/ main:app
echo "(from the command to the first answer: $(elapsed "$at"))"
MESSAGE_ID=$(aleph program list --json | jq -r '.[0].item_hash')

say "Where is it?"
run aleph program find "$MESSAGE_ID"
url=$(aleph program find "$MESSAGE_ID" --json | jq -r .url)
run curl --silent --show-error --fail "$url"
echo

say "A program with data: it counts its requests in SQLite, on a volume"
run cat "$here/counter/main.py"
run aleph program upload --persistent --name counter --persistent-volume name=data,mount=/data,size_mib=64 "$here/counter" main:app
counter=$(aleph program list --json | jq -r '.[] | select(.name == "counter") | .item_hash')
counter_url=$(aleph program find "$counter" --json | jq -r .url)
for _ in 1 2 3; do
    ask_counter
done
at=$(date +%s%N)
wait_until_copied
echo "(another node has a copy of everything that was written: $(elapsed "$at") later)"
run aleph program find "$counter"

say "Its compute node dies: SIGKILL to the node and everything of it"
node_url=$(aleph program find "$counter" --json | jq -r .node_url)
node_pid=$(jq -r --arg url "$node_url" '.compute_nodes[] | select(.url == $url) | .pid' "$work/network.json")
node_data=$(jq -r --arg url "$node_url" '.compute_nodes[] | select(.url == $url) | .data_dir' "$work/network.json")
sandboxes=/run/aleph-node/$(printf %s "$node_data" | sha256sum | cut -c1-12)
supervisors=$(pgrep -f "aleph-supervisor $sandboxes/" | tr '\n' ' ' || true)
[ -n "$supervisors" ] || fail "the program has no supervisor on its node"
at=$(date +%s%N)
echo "\$ kill -9 $node_pid $supervisors"
kill -9 "$node_pid" $supervisors
expected=$((count + 1))
ask_counter
printf '(the same URL answered again after %s: lease and margin, then the start on another node)\n' "$(elapsed "$at")"
[ "$count" = "$expected" ] || fail "the count is not $expected"
run aleph program find "$counter"
[ "$(aleph program find "$counter" --json | jq -r .node_url)" != "$node_url" ] || fail "it is on the node that died"
echo "No count is lost. What was at risk, as the history has it: at most what was written in so many milliseconds before the lease was over."
aleph program history "$counter" --json | jq -c '.entries[] | select(.fact == "data_lost") | {epoch, of, snapshot, at_most_ms}'

say "The tutorial's program runs on, wherever it was"
run curl --silent --show-error --fail --max-time 60 "$url"
echo

say "A planned move, with the data: nothing is lost"
wait_until_copied
at=$(date +%s%N)
run aleph program move "$counter"
echo "(the command took $(elapsed "$at"))"
expected=$((count + 1))
ask_counter
[ "$count" = "$expected" ] || fail "the count is not $expected"
losses=$(aleph program history "$counter" --json | jq '[.entries[] | select(.fact == "data_lost")] | length')
[ "$losses" = 1 ] || fail "there are $losses losses, not the crash's one"

say "On demand: another framework, started by the first request"
run aleph program upload --name starlette "$here/starlette" main:app
on_demand=$(aleph program list --json | jq -r '.[] | select(.name == "starlette") | .item_hash')
url=$(aleph program find "$on_demand" --json | jq -r .url)
at=$(date +%s%N)
run curl --silent --show-error --fail "$url"
echo "  (first request: $(elapsed "$at"))"
at=$(date +%s%N)
run curl --silent --show-error --fail "$url"
echo "  (second request: $(elapsed "$at"))"

say "On demand: a static Rust binary, in an image with nothing in it"
run aleph program upload --name static --interface binary "$here/../target/examples/static-server" static-server
binary=$(aleph program list --json | jq -r '.[] | select(.name == "static") | .item_hash')
url=$(aleph program find "$binary" --json | jq -r .url)
at=$(date +%s%N)
run curl --silent --show-error --fail "${url}any/path"
echo "(first request: $(elapsed "$at"))"

say "Idle copies go"
at=$(date +%s%N)
for id in "$on_demand" "$binary"; do
    wait_until_gone "$id"
done
echo "both are gone after $(elapsed "$at")"

say "The end of the tutorial"
run aleph unpersist "$MESSAGE_ID"
wait_until_gone "$MESSAGE_ID"
run aleph program delete --yes "$counter"
wait_until_gone "$counter"
running=$(jq -r '.compute_nodes[].url' "$work/network.json" | while read -r url; do curl --silent --max-time 5 "$url/about/executions/list" | jq -r 'keys[]'; done || true)
[ -z "$running" ] || fail "something still runs: $running"
echo "nothing runs"

say "Ctrl-C"
kill -INT "$network"
wait "$network"
network=
echo "done in $(elapsed "$began")"
