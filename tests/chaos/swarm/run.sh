#!/bin/bash
# What Docker Swarm does where our nodes end their programs: a service of one replica, and a partition around the worker that
# runs it. Every copy writes at what times it runs; how long two ran at once is read from that.
#
#   run.sh DOCKER_ROOT PROBE RUNS PARTITION_SECONDS HEARTBEAT_SECONDS
#
#   manager ─┐
#   worker 1 ┼── a bridge, where the worker's packets are dropped in both directions
#   worker 2 ┘
#
# Each is a dockerd with network, mount and process namespaces of its own; they end with this script.
set -euo pipefail
docker_root=$1 probe=$2 runs=$3 partition=$4 heartbeat=$5
export PATH=$docker_root/usr/bin:$docker_root/usr/sbin:$PATH

work=$(mktemp -d /tmp/swarm.XXXXXX)
name=$(basename "$work")
pids=()
mkdir "$work/witness" "$work/image"

cleanup() {
    # What they started is in their process namespaces, which end with them.
    for pid in "${pids[@]}"; do kill -KILL "$pid" 2>/dev/null || true; done
    wait "${pids[@]}" 2>/dev/null || true
    for host in switch 0 1 2; do ip netns delete "$name-$host" 2>/dev/null || true; done
    find /sys/fs/cgroup -depth -type d -path "*/$name/*" -exec rmdir {} \; 2>/dev/null || true
    find /sys/fs/cgroup -depth -type d -name "$name" -exec rmdir {} \; 2>/dev/null || true
    rm -rf "$work"
}
trap cleanup EXIT

# await SECONDS COMMAND...: until it succeeds.
await() {
    local end=$((SECONDS + $1))
    shift
    until "$@" >/dev/null 2>&1; do
        if [ $SECONDS -ge $end ]; then
            echo "in vain: $*" >&2
            tail -n 3 "$work"/*/log >&2
            exit 1
        fi
        sleep 0.1
    done
}

on() { docker --host "unix://$work/$1/socket" "${@:2}"; }
uptime_now() { cut -d' ' -f1 /proc/uptime; }

start_host() {
    local host=$1 namespace=$name-$1
    ip netns add "$namespace"
    ip -n "$namespace" link set lo up
    ip -n "$name-switch" link add "to$host" type veth peer name uplink netns "$namespace"
    ip -n "$name-switch" link set "to$host" master switch up
    ip -n "$namespace" address add "10.98.0.1$host/24" dev uplink
    ip -n "$namespace" link set uplink up
    ip -n "$namespace" route add default via 10.98.0.1
    mkdir "$work/$host"
    # Not `ip netns exec`: it hides the control groups.
    nsenter --net="/run/netns/$namespace" unshare --mount --pid --fork --mount-proc --kill-child -- \
        dockerd --data-root "$work/$host/data" --exec-root "$work/$host/exec" --pidfile "$work/$host/pid" \
        --host "unix://$work/$host/socket" --cgroup-parent "$name" --storage-driver vfs --bridge none \
        --iptables=false --ip6tables=false --ip-forward=false --userland-proxy=false >"$work/$host/log" 2>&1 &
    pids+=($!)
    await 60 on "$host" info
}

ip netns add "$name-switch"
ip -n "$name-switch" link add switch type bridge
ip -n "$name-switch" link set switch up
for host in 0 1 2; do start_host "$host"; done

install -m 755 "$probe" "$work/image/probe"
for host in 1 2; do tar -C "$work/image" -c probe | on "$host" import --change 'CMD ["/probe"]' - probe:1 >/dev/null; done

on 0 swarm init --advertise-addr 10.98.0.10 --listen-addr 10.98.0.10:2377 >/dev/null
on 0 swarm update --dispatcher-heartbeat "${heartbeat}s" >/dev/null
token=$(on 0 swarm join-token --quiet worker)
for host in 1 2; do
    on "$host" swarm join --advertise-addr "10.98.0.1$host" --token "$token" 10.98.0.10:2377 >/dev/null
done
on 0 service create --detach --quiet --name probe --replicas 1 --network host --no-resolve-image --constraint node.role==worker \
    --env 'NODE={{.Node.ID}}' --mount "type=bind,source=$work/witness,destination=/witness" probe:1 >/dev/null

newest() { find "$work/witness" -type f -printf '%T@ %f\n' | sort -n | tail -n 1 | cut -d' ' -f2; }
copies() { find "$work/witness" -type f | wc -l; }
# Whether exactly one copy wrote within the last second.
one_runs() { [ "$(find "$work/witness" -type f -newermt '1 second ago' | wc -l)" = 1 ]; }
more_than() { [ "$(copies)" -gt "$1" ]; }
both_ready() { [ "$(on 0 node ls --format '{{.Status}}' | grep -c Ready)" = 3 ]; }

await 60 one_runs
echo "Docker $(on 0 version --format '{{.Server.Version}}'), dispatcher heartbeat $heartbeat s, partitions of $partition s"
printf '%-5s %22s %14s %24s\n' run 'second copy after, s' 'both ran, s' 'first ended after heal, s'
for run in $(seq "$runs"); do
    await 120 both_ready
    await 60 one_runs
    old=$(newest)
    before=$(copies)
    for host in 1 2; do
        [ "$(on "$host" info --format '{{.Swarm.NodeID}}')" = "${old%-*}" ] && port=to$host
    done
    cut=$(uptime_now)
    ip netns exec "$name-switch" nft -f - <<-END
	table bridge fault {
	    chain forward { type filter hook forward priority 0; iifname $port drop; oifname $port drop; }
	}
	END
    sleep "$partition" # The length of the partition is what is being tested.
    ip netns exec "$name-switch" nft delete table bridge fault
    healed=$(uptime_now)
    await 120 more_than "$before"
    await 120 one_runs
    new=$(newest)
    last=$(tail -n 1 "$work/witness/$old")
    awk -v run="$run" -v cut="$cut" -v healed="$healed" -v first="${new##*-}" -v last="$last" 'BEGIN {
        both = last - first
        printf "%-5s %22.1f %14.1f %24.1f\n", run, first - cut, (both > 0 ? both : 0), last - healed
    }'
done
