# fsx: random operations on one file, each read compared with what the file should hold.
# LONG: ten seeds of 200,000 operations.
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
    # fsx leaves a mapping behind with each `sendfile`, on any file system, and whenever a file is cut the kernel looks at each of them: a
    # million operations in one go take hours and more mappings than Linux allows, and 200,000 take some minutes and 26,000.
    # Side by side, on one mount.
    (for seed in 1 2 3 4 5; do run $seed 200000; done) &
    half=$!
    for seed in 6 7 8 9 10; do run $seed 200000; done
    wait $half
else
    run 1 100000
    for seed in 2 3; do run $seed 20000; done
fi
