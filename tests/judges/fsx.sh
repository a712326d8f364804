# fsx: random operations on one file, each read compared with what the file should hold.
# LONG: 1,000,000 operations, and five seeds of 200,000.
here=$(dirname "$0")
run() {
    echo "fsx: seed $1, $2 operations"
    errors="$ARTIFACTS/errors-$1"
    if ! fsx -q -f "$here/fsx.toml" -P "$ARTIFACTS" -S "$1" -N "$2" "fsx-$1" 2> "$errors"; then
        # Once in some 65,536 times fsx asks `posix_fallocate` for no bytes, takes the EINVAL that POSIX wants for the file system's
        # fault, and ends: on any file system. Then another seed does what is left.
        made=$(tail -1 "$errors" | sed -n 's/.* \([0-9]*\) POSIX_FALLOCATE .*( *0x0 bytes).*/\1/p')
        if [ -z "$made" ]; then
            cat "$errors"
            exit 1
        fi
        echo "fsx: seed $1 ended by itself after $made operations"
        rm "fsx-$1"
        run $(($1 + 100)) $(($2 - made))
        return
    fi
    rm "fsx-$1"
}
if [ -n "$LONG" ]; then
    # fsx leaves a mapping behind with each `sendfile`, on any file system: a million operations make more of them than Linux allows by
    # default. What was allowed before is again at the end.
    allowed=$(cat /proc/sys/vm/max_map_count)
    trap 'echo "$allowed" > /proc/sys/vm/max_map_count' EXIT
    echo 1000000 > /proc/sys/vm/max_map_count
    # Side by side, on one mount.
    (run 1 1000000) &
    many=$!
    for seed in 2 3 4 5 6; do run $seed 200000; done
    wait $many
else
    run 1 100000
    for seed in 2 3; do run $seed 20000; done
fi
