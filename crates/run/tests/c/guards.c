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

int main(int argc, char **argv) {
    struct { const char *name; void (*run)(void); } cases[] = {
        {"uring", uring}, {"unseen", unseen}, {"locked", locked}, {"locked-all", locked_all}, {"probed", probed},
    };
    if (argc > 1 && !strcmp(argv[1], "map")) { map_once(); return 0; }
    for (unsigned i = 0; i < sizeof cases / sizeof *cases; i++)
        if (argc > 1 && !strcmp(argv[1], cases[i].name)) { cases[i].run(); puts("ok"); return 0; }
    puts("no such case");
    return 2;
}
