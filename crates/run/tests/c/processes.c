// Threads, processes and descriptors, while files are mapped. Each case says "ok" or what is wrong.
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
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
// Whether this process has a descriptor of the segment, which is the only memory object around.
static int holds_segment(void) {
    char path[64], target[256];
    for (int fd = 0; fd < 64; fd++) {
        struct stat status;
        // By the descriptor itself: what a thread could read from.
        if (fstat(fd, &status) || !S_ISREG(status.st_mode)) continue;
        snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
        ssize_t len = readlink(path, target, sizeof target - 1);
        if (len > 0 && (target[len] = 0, strstr(target, "memfd:"))) return 1;
    }
    return 0;
}
static atomic_int done;
static void *map_often(void *unused) {
    for (int i = 0; i < 200; i++) map_once();
    return unused;
}
static void *look(void *found) {
    while (!done) if (holds_segment()) *(atomic_int *)found = 1;
    return NULL;
}
// No thread can catch the segment's descriptor while another one maps.
static void leak(void) {
    pthread_t mapper, looker[2];
    atomic_int found = 0;
    CHECK(!holds_segment());
    map_once();
    CHECK(!holds_segment());
    for (int i = 0; i < 2; i++) pthread_create(&looker[i], NULL, look, &found);
    pthread_create(&mapper, NULL, map_often, NULL);
    pthread_join(mapper, NULL);
    done = 1;
    for (int i = 0; i < 2; i++) pthread_join(looker[i], NULL);
    CHECK(!found);
}
static int shares_table(void *found) {
    look(found);
    return 0;
}
// The same with another process that shares the table.
static void leak_process(void) {
    static char stack[65536];
    static atomic_int found;
    // Memory is shared too, so that `done` is seen.
    int child = clone(shares_table, stack + sizeof stack, CLONE_VM | CLONE_FILES | SIGCHLD, &found);
    CHECK(child > 0);
    map_often(NULL);
    done = 1;
    CHECK(waitpid(child, NULL, 0) == child && !found);
}
static void threads(void) {
    pthread_t thread[8];
    for (int i = 0; i < 8; i++) CHECK(pthread_create(&thread[i], NULL, map_often, NULL) == 0);
    for (int i = 0; i < 8; i++) pthread_join(thread[i], NULL);
    // A thread that was joined may still be on its way out.
    for (int count = 0; count != 1; sched_yield()) {
        DIR *tasks = opendir("/proc/self/task");
        count = 0;
        for (struct dirent *entry; (entry = readdir(tasks));) count += entry->d_name[0] != '.';
        closedir(tasks);
    }
}
static void *execute(void *unused) {
    execl("/bin/processes", "processes", "after-exec", NULL);
    return unused;
}
// The new program takes the number of the leader, which maps a file at that moment or another.
static void exec_thread(void) {
    for (int i = 0; i < 40; i++) {
        int child = fork(), status;
        if (child) {
            CHECK(waitpid(child, &status, 0) == child && status == 0);
            continue;
        }
        pthread_t mapper, executor;
        char pid[32];
        snprintf(pid, sizeof pid, "%d", getpid());
        setenv("BEFORE", pid, 1);
        pthread_create(&mapper, NULL, map_often, NULL);
        pthread_create(&executor, NULL, execute, NULL);
        for (;;) map_once();
    }
}
static void after_exec(void) {
    CHECK(getenv("BEFORE") && atoi(getenv("BEFORE")) == getpid());
    map_once();
    // What the runner started for threads of before is gone.
    CHECK(waitpid(-1, NULL, __WALL) == -1 && errno == ECHILD);
    _exit(0);
}
// A program that is not there ends no thread, and they go on.
static void exec_fails(void) {
    pthread_t mapper[2];
    for (int i = 0; i < 2; i++) pthread_create(&mapper[i], NULL, map_often, NULL);
    for (int i = 0; i < 100; i++) CHECK(execl("/bin/none", "none", NULL) == -1 && errno == ENOENT);
    for (int i = 0; i < 2; i++) pthread_join(mapper[i], NULL);
}
// A program that has had a thread executes another, whose children begin and end: all of them come back.
static void *nothing(void *unused) { return unused; }
static void after_threads(void) {
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, nothing, NULL) == 0 && pthread_join(thread, NULL) == 0);
    execl("/bin/processes", "processes", "busy", NULL);
}
static void busy(void) {
    int status, bad = 0;
    for (int worker = 0; worker < 6; worker++) {
        if (fork()) continue;
        for (int i = 0; i < 100; i++) {
            int child = fork();
            if (!child) { if (i % 2) _exit(0); execl("/bin/processes", "processes", "quiet", NULL); _exit(1); }
            CHECK(waitpid(child, &status, 0) == child && status == 0);
        }
        _exit(0);
    }
    while (wait(&status) > 0) bad |= status;
    CHECK(!bad);
}
static void vforks(void) {
    for (int i = 0; i < 20; i++) {
        int child = vfork(), status;
        if (!child) { execl("/bin/processes", "processes", "quiet", NULL); _exit(1); }
        CHECK(waitpid(child, &status, 0) == child && status == 0);
        char *arguments[] = {"processes", "quiet", NULL};
        CHECK(posix_spawn(&child, "/bin/processes", NULL, NULL, arguments, environ) == 0);
        CHECK(waitpid(child, &status, 0) == child && status == 0);
        if (!(child = fork())) { map_once(); _exit(5); }
        CHECK(waitpid(child, &status, 0) == child && WEXITSTATUS(status) == 5);
    }
}
static atomic_int ticks;
static void tick(int signal) { ticks += signal == SIGALRM; }
// Signals come while files are mapped, and none is lost or doubled into an error.
static void signals(void) {
    struct sigaction action = {.sa_handler = tick};
    sigaction(SIGALRM, &action, NULL);
    timer_t timer;
    struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGALRM};
    struct itimerspec often = {{0, 200000}, {0, 200000}};
    CHECK(timer_create(CLOCK_MONOTONIC, &event, &timer) == 0 && timer_settime(timer, 0, &often, NULL) == 0);
    while (ticks < 100) {
        int fd;
        while ((fd = open("/data/dense", O_RDONLY)) < 0) CHECK(errno == EINTR);
        char *p = mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE, fd, 0);
        CHECK(p != MAP_FAILED && p[1] == 1);
        munmap(p, PAGE);
        close(fd);
    }
}
static void *stop_often(void *unused) {
    for (int i = 0; i < 50; i++) { kill(getpid(), SIGSTOP); usleep(1000); }
    done = 1;
    return unused;
}
// Stopped and continued from outside while threads map.
static void stops(void) {
    int child = fork(), status;
    if (!child) {
        pthread_t stopper, mapper;
        pthread_create(&stopper, NULL, stop_often, NULL);
        pthread_create(&mapper, NULL, map_often, NULL);
        while (!done) map_once();
        pthread_join(mapper, NULL);
        _exit(6);
    }
    int stopped = 0;
    for (;;) {
        CHECK(waitpid(child, &status, WUNTRACED) == child);
        if (!WIFSTOPPED(status)) break;
        CHECK(WSTOPSIG(status) == SIGSTOP);
        stopped++;
        kill(child, SIGCONT);
    }
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 6 && stopped > 0);
}

// Reads all the time, far more than the page cache may keep, until it is killed.
static void readers(void) {
    static char bytes[1 << 14];
    for (int i = 0; i < 3; i++) fork();
    srand(getpid());
    int fd = open("/data/large", O_RDONLY);
    CHECK(fd >= 0);
    for (;;) CHECK(pread(fd, bytes, PAGE + rand() % (sizeof bytes - PAGE), (off_t)(rand() % 2000) * PAGE) > 0);
}

// The magic number of the runner, tried with many cookies, gets a program nothing.
static void magic(void) {
    for (long cookie = 0; cookie < 4096; cookie++)
        CHECK(syscall(0x20080524, 0, 0, 0, 0, cookie << 32, 0) == -1 && errno == ENOSYS);
    CHECK(!holds_segment());
}

int main(int argc, char **argv) {
    struct { const char *name; void (*run)(void); } cases[] = {
        {"leak", leak}, {"leak-process", leak_process}, {"threads", threads}, {"exec-thread", exec_thread},
        {"after-exec", after_exec}, {"exec-fails", exec_fails}, {"after-threads", after_threads}, {"busy", busy},
        {"vforks", vforks}, {"signals", signals}, {"stops", stops}, {"magic", magic}, {"readers", readers},
    };
    if (argc > 1 && !strcmp(argv[1], "quiet")) return 0;
    for (unsigned i = 0; i < sizeof cases / sizeof *cases; i++)
        if (argc > 1 && !strcmp(argv[1], cases[i].name)) { cases[i].run(); puts("ok"); return 0; }
    puts("no such case");
    return 2;
}
