# tar: a tree with attributes, ACLs, links, holes, odd modes and names, packed here, unpacked here, and compared.
describe() {
    # A directory's size is its own affair.
    find . -type d -printf '%p %m %U %G %n %T@\n' | sort
    find . ! -type d -printf '%p %y %m %U %G %s %n %l %T@\n' | sort
    find . -print0 | sort -z | xargs -0 getfattr --absolute-names -h -d -m -
    find . ! -type l -print0 | sort -z | xargs -0 getfacl -p -n
    find . -type f -print0 | sort -z | xargs -0 sha256sum
}
mkdir one
cd one
mkdir -p plain/deep 'name with spaces' default
for n in $(seq 1 200); do echo "$n" > "plain/deep/file $n"; done
ln 'plain/deep/file 1' plain/hard
ln -s ../plain/deep plain/soft
ln -s "$(printf '%0200d' 7)" plain/long
mkfifo plain/fifo
mknod plain/null c 1 3
truncate -s 3M plain/sparse
printf data | dd of=plain/sparse bs=1 seek=2000000 conv=notrunc status=none
install -m 4755 /dev/null plain/setuid
install -m 2750 -o daemon -g daemon /dev/null plain/setgid
chmod 1777 'name with spaces'
setfattr -n user.short -v value plain/hard
setfattr -n user.long -v "$(printf '%02000d' 1)" plain/deep
setfattr -n trusted.mine -v value 'name with spaces'
setfattr -n security.test -v value plain/setuid
setfacl -m u:daemon:rwx,g:games:r-x plain/hard
setfacl -d -m u:daemon:rwx,g::r-x default
touch default/inherits
getfacl -n default/inherits | grep -q "user:$(id -u daemon):rwx"
touch -h -d '2001-02-03 04:05:06.789012345' plain/long plain/hard
describe > ../one.list
cd ..
tar --create --sparse --xattrs --xattrs-include='*' --acls --file=one.tar -C one .
mkdir two
tar --extract --xattrs --xattrs-include='*' --acls --numeric-owner --file=one.tar -C two
(cd two && describe) > two.list
diff -u one.list two.list
test "$(stat -c %b two/plain/sparse)" -lt 100
