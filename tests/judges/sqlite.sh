# sqlite3's own shell: writers that run at the same time, each transaction durable, in both of its journals; then its own check.
transactions=${LONG:+2000}
transactions=${transactions:-200}
writers="1 2 3 4"
for journal in delete wal; do
    echo "sqlite: journal $journal"
    sqlite3 "$journal.db" "PRAGMA journal_mode=$journal; CREATE TABLE t(writer, n, bytes, UNIQUE(writer, n));"
    for writer in $writers; do
        {
            echo ".bail on"
            echo ".timeout 120000"
            n=0
            while [ $n -lt "$transactions" ]; do
                n=$((n + 1))
                echo "BEGIN IMMEDIATE; INSERT INTO t VALUES($writer, $n, randomblob(1 + $n * 37 % 9000));"
                echo "DELETE FROM t WHERE writer = $writer AND n = $n - 50 AND n % 3 = 0; COMMIT;"
            done
        } | sqlite3 "$journal.db" &
        eval "writer_$writer=$!"
    done
    for writer in $writers; do eval "wait \$writer_$writer"; done
    test "$(sqlite3 "$journal.db" 'PRAGMA integrity_check;')" = ok
    # Of each writer's rows every third is gone, but for the last fifty.
    there=$(sqlite3 "$journal.db" 'SELECT count(*) FROM t;')
    expected=$((4 * (transactions - (transactions - 50) / 3)))
    test "$there" = "$expected" || { echo "$there rows, not $expected"; exit 1; }
    sqlite3 "$journal.db" 'VACUUM; PRAGMA integrity_check;'
done
