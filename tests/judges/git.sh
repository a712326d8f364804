# git: a repository with a history, made here, cloned here, collected, checked, and compared.
export GIT_CONFIG_GLOBAL=/dev/null GIT_CONFIG_SYSTEM=/dev/null
export GIT_AUTHOR_NAME=t GIT_AUTHOR_EMAIL=t@example.org GIT_COMMITTER_NAME=t GIT_COMMITTER_EMAIL=t@example.org
commits=${LONG:+300}
git init -q -b main origin
cd origin
commit=0
while [ $commit -lt "${commits:-40}" ]; do
    commit=$((commit + 1))
    mkdir -p "dir$((commit % 7))/deep/er"
    for n in 1 2 3 4 5; do
        seq $commit $n $((commit * 200 + n)) > "dir$((commit % 7))/deep/er/file$n-$((commit % 11))"
    done
    ln -sf "file1-$((commit % 11))" "dir$((commit % 7))/deep/er/link"
    git add -A
    git commit -q -m "commit $commit"
done
git branch side HEAD~20
git mv dir1 moved
git commit -q -m moved
cd ..
git clone -q --no-local origin clone
git clone -q --local origin linked
for repository in origin clone linked; do
    git -C $repository gc -q --prune=now
    git -C $repository fsck --full --strict
    test -z "$(git -C $repository status --porcelain)"
done
git -C clone checkout -q side
git -C clone checkout -q main
diff -r --exclude=.git origin clone
rm -rf origin
git -C linked fsck --full --strict
