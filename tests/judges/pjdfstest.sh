# pjdfstest: what POSIX says of the calls that make, move, remove and describe files. It fails when a case fails that is not
# named in pjdfstest.toml, and when one that is named there passes.
here=$(dirname "$0")
pjdfstest -c "$here/pjdfstest.toml" -s "$ARTIFACTS" -p "$PWD"
