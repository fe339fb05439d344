#!/bin/sh
# Five peers on loopback; one shares two files and is stopped; a sixth joins and fetches both.
# $STREW is the binary. Everything happens in a temporary directory, which is removed.
set -eu

strew=$(realpath "$STREW")
# The settings of whoever runs this are not the demo's.
for name in $(env | sed -n 's/^\(STREW_[A-Z_]*\)=.*/\1/p'); do unset "$name"; done
unset XDG_CONFIG_HOME XDG_DATA_HOME
dir=$(mktemp -d)
export HOME="$dir/home"
pids=
cleanup() {
    # shellcheck disable=SC2086 # one word a process
    [ -z "$pids" ] || kill $pids 2>/dev/null || true
    wait
    rm -rf "$dir"
}
trap cleanup EXIT
trap 'exit 1' INT TERM
cd "$dir"

now() { date +%s.%N; }
calculate() { awk "BEGIN { printf \"%.${2:-2}f\", $1 }"; }
size() { stat -L -c %s "$1"; }

# start NAME [OPTION...]: a peer with data directory NAME; its address is then in NAME.addr, its pid in $pid.
start() {
    name=$1
    shift
    : >"$name.ready"
    "$strew" serve -d "$name" -l 127.0.0.1:0 --capacity 1G "$@" >"$name.ready" 2>"$name.log" &
    pid=$!
    pids="$pids $pid"
    tries=0
    while ! grep -q '^ready ' "$name.ready"; do
        tries=$((tries + 1))
        if [ $tries -gt 500 ] || ! kill -0 $pid 2>/dev/null; then
            echo "demo: peer $name did not start:" >&2
            cat "$name.log" >&2
            exit 1
        fi
        sleep 0.02
    done
    cut -d' ' -f2 "$name.ready" >"$name.addr"
}

# open NAME: waits until the peer is open for blocks.
open() {
    tries=0
    until "$strew" status -d "$1" | grep -qx 'mode peer'; do
        tries=$((tries + 1))
        if [ $tries -gt 250 ]; then
            echo "demo: peer $1 was not reached by the others" >&2
            exit 1
        fi
        sleep 0.02
    done
}

began=$(now)
start peer1
first=$(cat peer1.addr)
start peer2 -p "$first"
start peer3 -p "$first"
start peer4 -p "$first"
start peer5 -p "$first"
sharer=$pid
for name in peer1 peer2 peer3 peer4 peer5; do open $name; done
echo "five peers are up, the first at $first"

head -c 67108864 /dev/urandom >random
cp "$strew" executable
copies=
for file in random executable; do
    from=$(now)
    "$strew" share -d peer5 "$file" >"$file.address" 2>"$file.told"
    took=$(calculate "$(now) - $from")
    cat "$file.told"
    least=$(sed -n 's/.*at least \([0-9]*\) cop.*/\1/p' "$file.told")
    if [ -z "$copies" ] || [ "$least" -lt "$copies" ]; then copies=$least; fi
    echo "shared $file: $(size "$file") bytes in $took s, $(calculate "$(size "$file") / $took / 1048576" 0) MiB/s"
done

kill "$sharer"
wait "$sharer"
echo "the sharer is stopped"

start peer6 -p "$first"
for file in random executable; do
    from=$(now)
    "$strew" fetch -d peer6 -o "$file.fetched" "$(cat "$file.address")"
    took=$(calculate "$(now) - $from")
    cmp "$file" "$file.fetched"
    echo "fetched $file: the same bytes, in $took s, $(calculate "$(size "$file") / $took / 1048576" 0) MiB/s"
done
echo "ok: 2 files, $copies copies, $(calculate "$(now) - $began" 1) s"
