# fio writes blocks with checksums in them, at random places, and reads them all again: by system calls, past the page cache,
# and through a shared mapping.
size=${LONG:+256m}
for how in "psync 0" "libaio 1" "mmap 0"; do
    set -- $how
    echo "fio: $1, direct: $2"
    fio --minimal --name="$1" --ioengine="$1" --direct="$2" --rw=randwrite --bsrange=4k-64k --size="${size:-32m}" \
        --numjobs=2 --iodepth=8 --verify=crc32c --verify_fatal=1 --end_fsync=1 --randseed=1 --group_reporting
done
