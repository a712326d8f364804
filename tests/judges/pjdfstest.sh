# pjdfstest: what POSIX says of the calls that make, move, remove and describe files. It fails when a case fails that is not
# named in pjdfstest.toml, and when one that is named there passes. (Cases that it skips, it names.)
here=$(dirname "$0")
pjdfstest -c "$here/pjdfstest.toml" -s "$ARTIFACTS" -p "$PWD"
# Those that tell the mount to be read-only, and then not to be: by themselves, since others leave files open. And without
# mount's helper for FUSE, which would start a new server rather than ask the kernel.
mkdir -p "$ARTIFACTS/bin"
printf '#!/bin/sh\nexec %s -i "$@"\n' "$(command -v mount)" > "$ARTIFACTS/bin/mount"
chmod +x "$ARTIFACTS/bin/mount"
sed 's/^allow_remount = false/allow_remount = true/' "$here/pjdfstest.toml" > "$ARTIFACTS/remount.toml"
PATH=$ARTIFACTS/bin:$PATH pjdfstest -c "$ARTIFACTS/remount.toml" -s "$ARTIFACTS" -p "$PWD" erofs
