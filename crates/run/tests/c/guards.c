// Ways round the runner that are closed, and programs that guard themselves. Each case says "ok" or what is wrong.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define PAGE 4096L
#define CHECK(what) do { if (!(what)) { printf("%s: failed, errno %d (%s)\n", #what, errno, strerror(errno)); fflush(stdout); _exit(1); } } while (0)
extern char **environ;

static void map_once(void) {
    int fd = open("/data/dense", O_RDONLY);
    CHECK(fd >= 0);
    unsigned char *p = mmap(NULL, 40 * PAGE, PROT_READ, MAP_PRIVATE, fd, 0);
    CHECK(p != MAP_FAILED && p[39 * PAGE + 1] == ((39 * 7 + 1) & 0xff));
    munmap(p, 40 * PAGE);
    close(fd);
}
static void uring(void) {
    char parameters[256] = {0};
    CHECK(syscall(425, 4, parameters) == -1 && errno == ENOSYS);
    CHECK(syscall(426, -1, 0, 0, 0, 0, 0) == -1 && errno == ENOSYS);
    CHECK(syscall(427, -1, 0, 0, 0) == -1 && errno == ENOSYS);
}
static int quiet(void *unused) { return 0; }
static void *thread(void *count) { map_once(); ++*(int *)count; return NULL; }
// Nothing starts unseen, and the library finds another way to start threads and programs.
static void unseen(void) {
    static char stack[65536];
    CHECK(clone(quiet, stack + sizeof stack, CLONE_UNTRACED | SIGCHLD, NULL) == -1 && errno == EPERM);
    char arguments[88] = {0};
    CHECK(syscall(435, arguments, sizeof arguments) == -1 && errno == ENOSYS);
    int count = 0, child, status;
    pthread_t id;
    CHECK(pthread_create(&id, NULL, thread, &count) == 0 && pthread_join(id, NULL) == 0 && count == 1);
    char *program[] = {"guards", "map", NULL};
    CHECK(posix_spawn(&child, "/bin/guards", NULL, NULL, program, environ) == 0);
    CHECK(waitpid(child, &status, 0) == child && status == 0);
}
// Only what a program needs to load a library: any other call ends the process.
static void lock(int tsync) {
    static const unsigned short allowed[] = {
        SYS_read, SYS_write, SYS_open, SYS_openat, SYS_close, SYS_fstat, SYS_newfstatat, SYS_lseek, SYS_mmap, SYS_mprotect,
        SYS_munmap, SYS_brk, SYS_pread64, SYS_futex, SYS_exit, SYS_exit_group, SYS_execve, SYS_access, SYS_arch_prctl,
        SYS_set_tid_address, SYS_set_robust_list, SYS_rseq, SYS_prlimit64, SYS_getrandom, SYS_clone, SYS_vfork, SYS_wait4,
        SYS_rt_sigaction, SYS_rt_sigprocmask, SYS_getpid, SYS_gettid, SYS_statx, SYS_readlink, SYS_madvise, 435};
    enum { COUNT = sizeof allowed / sizeof *allowed };
    struct sock_filter code[2 * COUNT + 2] = {BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr))};
    int at = 1;
    for (int i = 0; i < COUNT; i++) {
        code[at++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, allowed[i], 0, 1);
        code[at++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
    }
    code[at++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS);
    struct sock_fprog program = {at, code};
    CHECK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
    if (tsync) CHECK(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, &program) == 0);
    else CHECK(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0);
}
static void after_lock(void) {
    map_once();
#ifdef DYNAMIC
    void *library = dlopen("libm.so.6", RTLD_NOW);
    CHECK(library && ((double (*)(double))dlsym(library, "sqrt"))(9.0) == 3.0);
#endif
    int child = vfork(), status;
    if (!child) { execl("/bin/guards", "guards", "map", NULL); _exit(1); }
    CHECK(wait4(child, &status, 0, NULL) == child && status == 0);
}
static void locked(void) {
    // That a filter could be set is asked for without harm.
    CHECK(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, NULL) == -1);
    lock(0);
    after_lock();
}
static pthread_barrier_t barrier;
static void *maps_after(void *unused) {
    pthread_barrier_wait(&barrier);
    pthread_barrier_wait(&barrier);
    map_once();
    return NULL;
}
// Another thread locks the whole process.
static void locked_all(void) {
    pthread_t id;
    pthread_barrier_init(&barrier, NULL, 2);
    CHECK(pthread_create(&id, NULL, maps_after, NULL) == 0);
    pthread_barrier_wait(&barrier);
    lock(1);
    pthread_barrier_wait(&barrier);
    pthread_join(id, NULL);
    after_lock();
}
// A filter that is refused changes nothing.
static void probed(void) {
    CHECK(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, NULL) == -1);
    map_once();
}

// Whether a descriptor is the segment, and not the runner's page of code.
static int is_segment(int fd) {
    char path[64], name[256] = "";
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    return readlink(path, name, sizeof name - 1) > 0 && strstr(name, "memfd:xip") && !strstr(name, "xip-calls");
}
// Opens what a process that maps all the time, or the youngest process, has at numbers where the segment would be, for two
// seconds; how often it was the segment. It must be able to look: `opened` counts how often a descriptor could be opened.
static int spy(int child, int youngest, long *opened) {
    struct timespec start, now;
    clock_gettime(CLOCK_MONOTONIC, &start);
    int found = 0, last = open("/proc/loadavg", O_RDONLY);
    int processes[] = {child, child, child};
    do {
        for (int at = 0; at < (youngest ? 3 : 1); at++)
            for (int fd = 3; fd < 6; fd++) {
                char path[64];
                snprintf(path, sizeof path, "/proc/%d/fd/%d", processes[at], fd);
                int got = open(path, O_RDONLY);
                if (got < 0) continue;
                ++*opened;
                found += is_segment(got);
                close(got);
            }
        char line[128] = "";
        if (youngest && pread(last, line, sizeof line - 1, 0) > 0)
            processes[2] = (processes[1] = atoi(strrchr(line, ' '))) + 1;
        clock_gettime(CLOCK_MONOTONIC, &now);
    } while (now.tv_sec - start.tv_sec < 2 || now.tv_nsec < start.tv_nsec);
    return found;
}
static void *map_on(void *unused) {
    for (int fd = open("/data/dense", O_RDONLY);;) munmap(mmap(NULL, 2 * PAGE, PROT_READ, MAP_PRIVATE, fd, 0), 2 * PAGE);
}
static void *show_on(void *unused) { for (;;) prctl(PR_SET_DUMPABLE, 1, 0, 0, 0); return NULL; }
static void spied_on(void (*child)(void), int youngest, int own_namespace, int sees) {
    int process = fork(), status;
    if (!process) { child(); _exit(1); }
    if (own_namespace) CHECK(unshare(CLONE_NEWUSER) == 0);
    long opened = 0;
    int found = spy(process, youngest, &opened);
    CHECK(kill(process, SIGKILL) == 0 && waitpid(process, &status, 0) == process);
    if (found || (sees && !opened)) { printf("%d of %ld descriptors were the segment\n", found, opened); exit(1); }
}
static void maps_alone(void) { map_on(NULL); }
static void maps_in_threads(void) {
    pthread_t id;
    CHECK(pthread_create(&id, NULL, show_on, NULL) == 0);
    map_on(NULL);
}
static void starts_programs_in_threads(void) {
    pthread_t id;
    CHECK(pthread_create(&id, NULL, map_on, NULL) == 0);
    for (;;) {
        int child = vfork();
        if (!child) { execl("/bin/guards", "guards", "map", NULL); _exit(1); }
        waitpid(child, NULL, 0);
    }
}
// Nobody sees the segment's descriptor in a process that has it for a moment.
static void spied(void) { spied_on(maps_alone, 0, 0, 1); }
static void spied_threads(void) { spied_on(maps_in_threads, 1, 0, 1); }
static void spied_programs(void) { spied_on(starts_programs_in_threads, 1, 0, 1); }
// Not even one who is root in a user namespace of its own. (It sees what is dumpable, of its own user.)
static void spied_nested(void) { spied_on(maps_alone, 0, 1, 0); }

static unsigned long find_page(unsigned long *end) {
    unsigned long start = 0;
    char line[512];
    FILE *maps = fopen("/proc/self/maps", "r");
    CHECK(maps);
    while (fgets(line, sizeof line, maps)) if (strstr(line, "xip-calls")) CHECK(sscanf(line, "%lx-%lx", &start, end) == 2);
    fclose(maps);
    CHECK(start);
    return start;
}
// Nothing comes in the place of the runner's page of code.
static void page(void) {
    unsigned long end, start = find_page(&end);
    if (syscall(462, 0, 0, 0)) { puts("no mseal here"); return; }
    void *address = (void *)start;
    CHECK(munmap(address, PAGE) == -1 && errno == EPERM);
    CHECK(mprotect(address, PAGE, PROT_NONE) == -1 && errno == EPERM);
    CHECK(mmap(address, PAGE, PROT_READ | PROT_WRITE, MAP_FIXED | MAP_ANONYMOUS | MAP_SHARED, -1, 0) == MAP_FAILED && errno == EPERM);
    CHECK(mremap(address, end - start, end - start, MREMAP_MAYMOVE | MREMAP_FIXED, (void *)0x100000000000) == MAP_FAILED);
    int memory = open("/proc/self/mem", O_RDWR);
    CHECK(memory >= 0 && pwrite(memory, "\xcc", 1, start) == -1);
    map_once();
}
// In a user namespace of its own a program runs, and what it maps is left to the page cache.
static void nested(void) {
    CHECK(unshare(CLONE_NEWUSER) == 0);
    map_once();
    int child = vfork(), status;
    if (!child) { execl("/bin/guards", "guards", "map", NULL); _exit(1); }
    CHECK(waitpid(child, &status, 0) == child && status == 0);
}
// Its process may be looked at afterwards if it could before, and not otherwise.
static void dumpable(void) {
    for (int want = 0; want < 2; want++) {
        CHECK(prctl(PR_SET_DUMPABLE, want, 0, 0, 0) == 0);
        map_once();
        CHECK(prctl(PR_GET_DUMPABLE, 0, 0, 0, 0) == want);
        pthread_t id;
        int count = 0;
        CHECK(pthread_create(&id, NULL, thread, &count) == 0 && pthread_join(id, NULL) == 0 && count == 1);
        CHECK(prctl(PR_GET_DUMPABLE, 0, 0, 0, 0) == want);
    }
}

// Outside of a run: executes a command on a kernel that cannot seal memory.
static void without_mseal(char **command) {
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)), BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 462, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | ENOSYS), BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)};
    struct sock_fprog program = {4, code};
    CHECK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 && prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0);
    execvp(command[0], command);
    CHECK(!"executed");
}
// A forked process has not got the runner's page, and memory of its own there.
static void page_unforked(void) {
    unsigned long end, start = find_page(&end);
    static char copy[PAGE];
    memcpy(copy, (void *)start, PAGE);
    CHECK(madvise((void *)start, end - start, MADV_DONTFORK) == 0);
    int child = fork(), status;
    if (!child) {
        CHECK(mmap((void *)start, PAGE, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_FIXED | MAP_ANONYMOUS | MAP_SHARED, -1, 0) != MAP_FAILED);
        memcpy((void *)start, copy, PAGE);
        // Where its scripts would be: else the kernel puts the very mapping there.
        CHECK(mmap((void *)(start + PAGE), end - start - PAGE, PROT_NONE, MAP_FIXED | MAP_ANONYMOUS | MAP_PRIVATE, -1, 0) != MAP_FAILED);
        map_once();
        _exit(0);
    }
    CHECK(waitpid(child, &status, 0) == child && status == 0);
}
// A filter of the program's own that has other things to say to the tracer.
static void other_word(void) {
    int fd = open("/data/dense", O_RDONLY);
    char *p = mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE, fd, 0);
    CHECK(p != MAP_FAILED);
    for (int word = 0; word < 1000; word += 333) {
        struct sock_filter code[] = {
            BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)), BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_mremap, 0, 1),
            BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRACE | word), BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)};
        struct sock_fprog program = {4, code};
        CHECK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 && prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0);
        CHECK(mremap(p, PAGE, 100 * PAGE, MREMAP_MAYMOVE) == MAP_FAILED && errno == ENOMEM);
    }
    // And no listener of its own, which could let calls through.
    struct sock_filter allow[] = {BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)};
    struct sock_fprog program = {1, allow};
    CHECK(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER, &program) == -1 && errno == EBUSY);
}
// Children that are forked while a thread maps are as dumpable as their parent.
static void forked_dumpable(void) {
    pthread_t id;
    CHECK(pthread_create(&id, NULL, map_on, NULL) == 0);
    for (int i = 0; i < 100; i++) {
        int child = fork(), status;
        if (!child) _exit(prctl(PR_GET_DUMPABLE, 0, 0, 0, 0) == 1 ? 0 : 3);
        CHECK(waitpid(child, &status, 0) == child && status == 0);
    }
}
// Takes the runner's page away, as a kernel that cannot seal it lets it, and puts a copy of it there.
static void page_taken(void) {
    unsigned long end, start = find_page(&end);
    char copy[PAGE];
    map_once();
    memcpy(copy, (void *)start, PAGE);
    CHECK(mmap((void *)start, PAGE, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_FIXED | MAP_ANONYMOUS | MAP_SHARED, -1, 0) != MAP_FAILED);
    memcpy((void *)start, copy, PAGE);
    map_once();
    pthread_t id;
    int count = 0;
    CHECK(pthread_create(&id, NULL, thread, &count) == 0 && pthread_join(id, NULL) == 0 && count == 1);
}
// The same while processes end at the same time: what is not known of a new one yet is not taken for harmless.
static void nested_busy(void) {
    CHECK(unshare(CLONE_NEWUSER) == 0);
    int status, bad = 0;
    for (int worker = 0; worker < 6; worker++) {
        if (fork()) continue;
        for (int i = 0; i < 60; i++) {
            int child = fork();
            if (!child) { if (i % 2) _exit(0); execl("/bin/guards", "guards", "in-place", NULL); _exit(9); }
            CHECK(waitpid(child, &status, 0) == child && status == 0);
        }
        _exit(0);
    }
    while (wait(&status) > 0) bad |= status;
    CHECK(!bad);
}
// Whether anything is in place.
static int in_place(void) {
    char line[512];
    int found = 0;
    for (FILE *maps = fopen("/proc/self/maps", "r"); fgets(line, sizeof line, maps);) found |= !!strstr(line, "/memfd:xip");
    return found;
}
// With few descriptors for the runner, and many processes that it knows: growth is refused as ever.
static void many(void) {
    enum { CHILDREN = 150 };
    int fd = open("/data/dense", O_RDONLY), ready[2], children[CHILDREN];
    char *p = mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE, fd, 0), byte;
    CHECK(p != MAP_FAILED && pipe(ready) == 0);
    for (int i = 0; i < CHILDREN; i++) {
        CHECK((children[i] = fork()) >= 0);
        if (!children[i]) { map_once(); write(ready[1], "", 1); pause(); _exit(0); }
        CHECK(read(ready[0], &byte, 1) == 1);
    }
    CHECK(mremap(p, PAGE, 100 * PAGE, MREMAP_MAYMOVE) == MAP_FAILED && errno == ENOMEM);
    for (int i = 0; i < CHILDREN; i++) CHECK(kill(children[i], SIGKILL) == 0 && waitpid(children[i], NULL, 0) == children[i]);
}

int main(int argc, char **argv) {
    if (argc > 2 && !strcmp(argv[1], "without-mseal")) without_mseal(argv + 2);
    struct { const char *name; void (*run)(void); } cases[] = {
        {"uring", uring}, {"unseen", unseen}, {"locked", locked}, {"locked-all", locked_all}, {"probed", probed},
        {"spied", spied}, {"spied-threads", spied_threads}, {"spied-programs", spied_programs}, {"spied-nested", spied_nested},
        {"page", page}, {"nested", nested}, {"dumpable", dumpable}, {"page-taken", page_taken}, {"page-unforked", page_unforked},
        {"other-word", other_word}, {"forked-dumpable", forked_dumpable},
        {"nested-busy", nested_busy}, {"many", many},
    };
    if (argc > 1 && !strcmp(argv[1], "map")) { map_once(); return 0; }
    if (argc > 1 && !strcmp(argv[1], "in-place")) return in_place();
    for (unsigned i = 0; i < sizeof cases / sizeof *cases; i++)
        if (argc > 1 && !strcmp(argv[1], cases[i].name)) { cases[i].run(); puts("ok"); return 0; }
    puts("no such case");
    return 2;
}
