# A C build: many sources that include each other, compiled two at a time, put into an archive, linked and run; then made
# again, which has nothing to do, and again after one header has changed.
units=${LONG:+200}
units=${units:-40}
mkdir -p source/include && cd source
n=0
echo "#include <stdio.h>" > main.c
while [ $n -lt "$units" ]; do
    n=$((n + 1))
    echo "int unit$n(int);" > include/unit$n.h
    printf '#include <stdlib.h>\n#include "unit%s.h"\n#include "unit1.h"\nint unit%s(int x) { return abs(x) + %s; }\n' \
        $n $n $n > unit$n.c
    echo "#include \"unit$n.h\"" >> main.c
done
{
    echo "int main(void) { int sum = 0;"
    seq 1 "$units" | sed 's/.*/sum = unit&(sum);/'
    printf '%s\n' 'printf("%d\n", sum); return 0; }'
} >> main.c
cat > Makefile <<'M'
OBJECTS = $(patsubst %.c,%.o,$(wildcard unit*.c))
program: main.o libunits.a ; $(CC) -o $@ main.o -L. -lunits
libunits.a: $(OBJECTS) ; rm -f $@ && ar rcs $@ $^
%.o: %.c ; $(CC) -Iinclude -O1 -g -MMD -c -o $@ $<
-include *.d
M
make -s -j2
test "$(./program)" = $((units * (units + 1) / 2))
make -q
# What depends on one header: main and the unit itself.
touch include/unit2.h
test "$(make -n | grep -c -e ' -c ')" = 2
make -s -j2
test "$(./program)" = $((units * (units + 1) / 2))
