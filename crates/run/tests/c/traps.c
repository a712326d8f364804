// Mappings of files and what the kernel promises of them. Each case says "ok" or what is wrong.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>

#define PAGE 4096L
#define CHECK(what) do { if (!(what)) { printf("%s: failed, errno %d (%s)\n", #what, errno, strerror(errno)); exit(1); } } while (0)

static char *map(const char *path, size_t len, int prot, int flags, off_t at) {
    int fd = open(path, O_RDONLY);
    CHECK(fd >= 0);
    char *p = mmap(NULL, len, prot, flags, fd, at);
    CHECK(p != MAP_FAILED);
    close(fd);
    return p;
}

// In files made by the test, byte i of page n is (n * 7 + i) & 0xff.
static int is_page(const char *p, long n, long len) {
    for (long i = 0; i < len; i++)
        if ((unsigned char)p[i] != ((n * 7 + i) & 0xff)) return 0;
    return 1;
}
static int is_zero(const char *p, long len) {
    for (long i = 0; i < len; i++) if (p[i]) return 0;
    return 1;
}
static sigjmp_buf jump;
static void on_fault(int signal) { siglongjmp(jump, signal); }
static int faults(volatile char *p, int write) {
    signal(SIGBUS, on_fault);
    signal(SIGSEGV, on_fault);
    int got = sigsetjmp(jump, 1);
    if (!got) { if (write) *p = 1; else (void)*p; }
    return got;
}
// The name that the kernel has for what is mapped at p.
static const char *name_at(const void *p) {
    static char line[512], found[512];
    FILE *maps = fopen("/proc/self/maps", "r");
    found[0] = 0;
    while (fgets(line, sizeof line, maps)) {
        unsigned long from, to; int at = 0;
        if (sscanf(line, "%lx-%lx %*s %*s %*s %*s %n", &from, &to, &at) >= 2 && (unsigned long)p >= from && (unsigned long)p < to) {
            strcpy(found, line + at);
            break;
        }
    }
    fclose(maps);
    return found;
}
static int in_place(const void *p) { return strstr(name_at(p), "memfd:") != NULL; }

// dense: 40 pages. tail: 2 pages and 100 bytes. sparse: pages 2..4 and 9 of 12.
static void content(void) {
    char *p = map("/data/dense", 40 * PAGE, PROT_READ, MAP_PRIVATE, 0);
    for (long n = 0; n < 40; n++) CHECK(is_page(p + n * PAGE, n, PAGE) && in_place(p + n * PAGE));
    p = map("/data/dense", 3 * PAGE + 5, PROT_READ, MAP_PRIVATE, 17 * PAGE);
    for (long n = 0; n < 4; n++) CHECK(is_page(p + n * PAGE, n + 17, PAGE) && in_place(p + n * PAGE));
}
static void hole(void) {
    char *p = map("/data/sparse", 12 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, 0);
    for (long n = 0; n < 12; n++) {
        int data = (n >= 2 && n <= 4) || n == 9;
        CHECK(data ? is_page(p + n * PAGE, n, PAGE) : is_zero(p + n * PAGE, PAGE));
        CHECK(in_place(p + n * PAGE) == data);
    }
    p[0] = 1;
    CHECK(p[0] == 1);
}
static void tail(void) {
    char *p = map("/data/tail", 6 * PAGE, PROT_READ, MAP_PRIVATE, 0);
    CHECK(is_page(p, 0, PAGE) && is_page(p + PAGE, 1, PAGE) && is_page(p + 2 * PAGE, 2, 100));
    CHECK(is_zero(p + 2 * PAGE + 100, PAGE - 100));
    CHECK(in_place(p + 2 * PAGE));
    CHECK(faults(p + 3 * PAGE, 0) == SIGBUS && faults(p + 5 * PAGE, 0) == SIGBUS);
}
static void populate(void) {
    char *p = map("/data/dense", 40 * PAGE, PROT_READ, MAP_PRIVATE | MAP_POPULATE, 0);
    unsigned char there[40];
    CHECK(mincore(p, 40 * PAGE, there) == 0);
    for (long n = 0; n < 40; n++) CHECK(is_page(p + n * PAGE, n, PAGE) && in_place(p) && (there[n] & 1));
}
static void shared(void) {
    char *p = map("/data/dense", 40 * PAGE, PROT_READ, MAP_SHARED, 0);
    CHECK(is_page(p + 39 * PAGE, 39, PAGE) && in_place(p));
    CHECK(mprotect(p, PAGE, PROT_READ | PROT_WRITE) == -1 && errno == EACCES);
    CHECK(faults(p, 1) == SIGSEGV);
    int fd = open("/data/dense", O_RDONLY);
    CHECK(mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) == MAP_FAILED && errno == EACCES);
    // A second mapping of the same pages is allowed, more than them is not.
    char *again = mremap(p, 0, 3 * PAGE, MREMAP_MAYMOVE);
    CHECK(again != MAP_FAILED && again != p && is_page(again + 2 * PAGE, 2, PAGE));
    CHECK(mremap(p, 0, 41 * PAGE, MREMAP_MAYMOVE) == MAP_FAILED && errno == ENOMEM);
    CHECK(syscall(SYS_remap_file_pages, p, PAGE, 0, 1, 0) == -1 && errno == EINVAL);
    CHECK(syscall(SYS_remap_file_pages, p, PAGE, 0, 100, 0) == -1);
    CHECK(is_page(p, 0, PAGE));
}
static void private(void) {
    char *p = map("/data/dense", 2 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, 0);
    char *q = map("/data/dense", 2 * PAGE, PROT_READ, MAP_PRIVATE, 0);
    p[5] = 99;
    CHECK(p[5] == 99 && is_page(q, 0, PAGE));
    CHECK(mprotect(q, PAGE, PROT_READ | PROT_WRITE) == 0);
    q[6] = 98;
    CHECK(q[6] == 98 && p[6] == 6);
    char byte;
    int fd = open("/data/dense", O_RDONLY);
    CHECK(pread(fd, &byte, 1, 5) == 1 && byte == 5);
}
static void fixed(void) {
    char *room = mmap(NULL, 16 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    int fd = open("/data/dense", O_RDONLY);
    CHECK(mmap(room + PAGE, PAGE, PROT_READ, MAP_PRIVATE | MAP_FIXED_NOREPLACE, fd, 0) == MAP_FAILED && errno == EEXIST);
    CHECK(mmap(room + PAGE, PAGE, PROT_READ, MAP_PRIVATE | MAP_FIXED, fd, PAGE) == room + PAGE);
    CHECK(is_page(room + PAGE, 1, PAGE) && in_place(room + PAGE) && faults(room, 0) == SIGSEGV && faults(room + 2 * PAGE, 0) == SIGSEGV);
    munmap(room, 16 * PAGE);
    CHECK(mmap(room, PAGE, PROT_READ, MAP_PRIVATE | MAP_FIXED_NOREPLACE, fd, 3 * PAGE) == room);
    CHECK(is_page(room, 3, PAGE) && in_place(room));
    CHECK(mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE, fd, 5) == MAP_FAILED && errno == EINVAL);
    CHECK(mmap(NULL, 0, PROT_READ, MAP_PRIVATE, fd, 0) == MAP_FAILED && errno == EINVAL);
    int path = open("/data/dense", O_PATH);
    CHECK(mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE, path, 0) == MAP_FAILED && errno == EBADF);
}
// Growing never shows what is behind the file in the image.
static void grow(void) {
    char *p = map("/data/dense", 10 * PAGE, PROT_READ, MAP_PRIVATE, 0);
    CHECK(mremap(p, 10 * PAGE, 20 * PAGE, MREMAP_MAYMOVE) == MAP_FAILED && errno == ENOMEM);
    CHECK(is_page(p + 9 * PAGE, 9, PAGE));
    CHECK(mremap(p, 10 * PAGE - 1, 10 * PAGE, 0) == p);
    CHECK(mremap(p, 10 * PAGE, 4 * PAGE, 0) == p && is_page(p + 3 * PAGE, 3, PAGE));
    char *other = map("/data/tail", 2 * PAGE + 100, PROT_READ, MAP_PRIVATE, 0);
    CHECK(mremap(other, 3 * PAGE, 9 * PAGE, MREMAP_MAYMOVE) == MAP_FAILED && errno == ENOMEM);
    char *memory = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    memory[0] = 42;
    memory = mremap(memory, PAGE, 100 * PAGE, MREMAP_MAYMOVE);
    CHECK(memory != MAP_FAILED && memory[0] == 42 && memory[99 * PAGE] == 0);
}
// The kernel zeroes the rest of the last page of program data.
static char some_data[PAGE * 3 + 77] = {1, 2, 3};
static char no_data[PAGE * 5];
static void bss(void) {
    CHECK(some_data[0] == 1 && some_data[1] == 2 && is_zero(some_data + 3, sizeof some_data - 3));
    CHECK(is_zero(no_data, sizeof no_data));
    some_data[PAGE] = no_data[PAGE] = 1;
}
static void traced(void) {
    CHECK(ptrace(PTRACE_TRACEME, 0, 0, 0) == -1 && errno == EPERM);
}
// Registers and signal masks are as they were.
static void untouched(void) {
    sigset_t set, now;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    sigprocmask(SIG_SETMASK, &set, NULL);
    int fd = open("/data/dense", O_RDONLY);
    register long rax __asm__("rax") = SYS_mmap;
    register long rdi __asm__("rdi") = 0, rsi __asm__("rsi") = 3 * PAGE, rdx __asm__("rdx") = PROT_READ;
    register long r10 __asm__("r10") = MAP_PRIVATE, r8 __asm__("r8") = fd, r9 __asm__("r9") = PAGE;
    __asm__ volatile("syscall" : "+r"(rax), "+r"(rdi), "+r"(rsi), "+r"(rdx), "+r"(r10), "+r"(r8), "+r"(r9) : : "rcx", "r11", "memory");
    long results[] = {rax, rdi, rsi, rdx, r10, r8, r9};
    CHECK(results[1] == 0 && results[2] == 3 * PAGE && results[3] == PROT_READ && results[4] == MAP_PRIVATE && results[5] == fd && results[6] == PAGE);
    CHECK(is_page((char *)results[0], 1, PAGE));
    sigprocmask(SIG_SETMASK, NULL, &now);
    CHECK(memcmp(&set, &now, 8) == 0);
    CHECK(fcntl(fd + 1, F_GETFD) == -1 && errno == EBADF);
}

// A part of a file that is mapped anew over the same. Whether the page at p is in the table of pages:
static int present(const void *p) {
    uint64_t entry = 0;
    int fd = open("/proc/self/pagemap", O_RDONLY);
    CHECK(pread(fd, &entry, 8, (uintptr_t)p / PAGE * 8) == 8);
    close(fd);
    return entry >> 63;
}
static int dense;
static char *anew(char *p, long n, long pages, int prot, int flags) {
    char *at = p + n * PAGE;
    CHECK(mmap(at, pages * PAGE, prot, MAP_PRIVATE | MAP_FIXED | flags, dense, n * PAGE) == at);
    return at;
}
static char *dense_all(int prot) {
    dense = open("/data/dense", O_RDONLY);
    return map("/data/dense", 40 * PAGE, prot, MAP_PRIVATE, 0);
}
// On which processors a process may be, in the kernel's words.
static void allowed(int process, char line[512]) {
    char path[64];
    sprintf(path, "/proc/%d/status", process);
    FILE *status = fopen(path, "r");
    CHECK(status);
    do CHECK(fgets(line, 512, status)); while (strncmp(line, "Cpus_allowed:", 13));
    fclose(status);
}
static void map_in_all_ways(void) {
    char *p = dense_all(PROT_READ);
    anew(p, 2, 3, PROT_READ | PROT_EXEC, 0x800);
    anew(p, 20, 3, PROT_READ | PROT_WRITE, 0x800);
    CHECK(munmap(p, 40 * PAGE) == 0);
    CHECK(munmap(map("/data/dense", 80 * PAGE, PROT_READ, MAP_PRIVATE, 0), 80 * PAGE) == 0);
    CHECK(mmap(NULL, 80 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, dense, 0) == MAP_FAILED && errno == EACCES);
    close(dense);
}
static void processors(void) {
    char before[512], now[512];
    cpu_set_t all, one;
    // Its first thread stays where it was started.
    allowed(getppid(), before);
    allowed(getpid(), now);
    CHECK(!strcmp(before, now));
    CHECK(sched_getaffinity(0, sizeof all, &all) == 0);
    CPU_ZERO(&one);
    for (int n = 0; n < CPU_SETSIZE && !CPU_COUNT(&one); n++) if (CPU_ISSET(n, &all)) CPU_SET(n, &one);
    for (int round = 0; round < 20; round++) {
        CHECK(sched_setaffinity(0, sizeof all, round % 2 ? &one : &all) == 0);
        allowed(getpid(), before);
        map_in_all_ways();
        allowed(getpid(), now);
        CHECK(!strcmp(before, now));
        pid_t child = fork();
        if (child == 0) {
            map_in_all_ways();
            allowed(getpid(), now);
            _exit(strcmp(before, now) != 0);
        }
        int status;
        CHECK(waitpid(child, &status, 0) == child && status == 0);
    }
}

// Pages 0 to 11 and from 12 on are two pieces.
static void again(void) {
    char *p = dense_all(PROT_READ);
    for (long n = 0; n < 40; n++) CHECK(is_page(p + n * PAGE, n, PAGE));
    char *text = anew(p, 2, 3, PROT_READ | PROT_EXEC, 0x800), *data = anew(p, 20, 3, PROT_READ | PROT_WRITE, 0);
    // It was kept, which is all the use of it.
    CHECK(present(text) && present(data) && present(anew(p, 30, 4, PROT_READ, 0)));
    for (long n = 0; n < 40; n++) CHECK(is_page(p + n * PAGE, n, PAGE) && in_place(p + n * PAGE));
    CHECK(faults(text, 1) == SIGSEGV && faults(p + 19 * PAGE, 1) == SIGSEGV && faults(p + 23 * PAGE, 1) == SIGSEGV);
    data[5] = 99;
    CHECK(data[5] == 99 && is_page(map("/data/dense", PAGE, PROT_READ, MAP_PRIVATE, 20 * PAGE), 20, PAGE));
    // Other pages of the file, and of another file.
    CHECK(mmap(p + 14 * PAGE, PAGE, PROT_READ, MAP_PRIVATE | MAP_FIXED, dense, 25 * PAGE) == p + 14 * PAGE && is_page(p + 14 * PAGE, 25, PAGE));
    int tail = open("/data/tail", O_RDONLY);
    CHECK(mmap(p, PAGE, PROT_READ, MAP_PRIVATE | MAP_FIXED, tail, PAGE) == p && is_page(p, 1, PAGE) && is_page(p + PAGE, 1, PAGE));
    CHECK(mmap(p + PAGE, PAGE, PROT_READ, MAP_SHARED | MAP_FIXED, dense, PAGE) == p + PAGE && mprotect(p + PAGE, PAGE, PROT_READ | PROT_WRITE) == -1);
    CHECK(mmap(p + 3, PAGE, PROT_READ, MAP_PRIVATE | MAP_FIXED, dense, 0) == MAP_FAILED && errno == EINVAL);
}
static void again_written(void) {
    char *p = dense_all(PROT_READ | PROT_WRITE);
    for (long n = 16; n < 40; n++) memset(p + n * PAGE, 1, PAGE);
    CHECK(mprotect(p, 40 * PAGE, PROT_READ) == 0);
    anew(p, 16, 2, PROT_READ, 0);
    anew(p, 18, 2, PROT_READ | PROT_EXEC, 0);
    anew(p, 22, 2, PROT_READ | PROT_WRITE, 0);
    // A store that no rights keep out.
    int memory = open("/proc/self/mem", O_RDWR);
    CHECK(pwrite(memory, "xy", 2, (uintptr_t)p + 2 * PAGE) == 2 && p[2 * PAGE] == 'x');
    anew(p, 1, 3, PROT_READ, 0);
    for (long n = 0; n < 24; n++) if (n / 2 != 10) CHECK(is_page(p + n * PAGE, n, PAGE));
    CHECK(p[20 * PAGE] == 1 && p[24 * PAGE] == 1);
    // What was thrown away stays so.
    CHECK(munmap(p, 40 * PAGE) == 0 && mmap(p, PAGE, PROT_READ, MAP_PRIVATE | MAP_FIXED | MAP_ANONYMOUS, -1, 0) == p);
    CHECK(is_page(anew(p, 0, 1, PROT_READ, 0), 0, PAGE));
}
// A property of memory that a new mapping does not have.
static void again_special(void) {
    char *p = dense_all(PROT_READ);
    CHECK(madvise(p, 40 * PAGE, MADV_DONTFORK) == 0);
    anew(p, 2, 3, PROT_READ | PROT_EXEC, 0);
    pid_t child = fork();
    if (!child) _exit(is_page(p + 3 * PAGE, 3, PAGE) && faults(p + 7 * PAGE, 0) ? 0 : 1);
    int status;
    CHECK(waitpid(child, &status, 0) == child && status == 0);
}
static void again_locked(void) {
    char *p = map("/data/dense", 12 * PAGE, PROT_READ, MAP_PRIVATE | MAP_LOCKED, 0);
    dense = open("/data/dense", O_RDONLY);
    anew(p, 2, 3, PROT_READ, 0);
    char line[256];
    long locked = -1;
    FILE *status = fopen("/proc/self/status", "r");
    while (fgets(line, sizeof line, status)) sscanf(line, "VmLck: %ld", &locked);
    CHECK(locked == 9 * 4);
}
// Memory that is not executable may not become so: a new mapping may be.
static void again_refused(void) {
    char *p = dense_all(PROT_READ);
    if (syscall(SYS_prctl, 65, 1, 0, 0, 0) != 0) return;
    CHECK(mprotect(p, PAGE, PROT_READ | PROT_EXEC) == -1);
    for (int i = 0; i < 3; i++) {
        char *text = anew(p, 2 + i, 1, PROT_READ | PROT_EXEC, 0);
        CHECK(is_page(text, 2 + i, PAGE) && in_place(text));
    }
}
static volatile long signals, seen_inside;
static char *own_from, *own_to;
static void on_timer(int signal, siginfo_t *info, void *context) {
    char *at = (char *)((ucontext_t *)context)->uc_mcontext.gregs[REG_RIP];
    signals++;
    seen_inside += at >= own_from && at < own_to;
}
static void again_signals(void) {
    char *p = dense_all(PROT_READ);
    FILE *maps = fopen("/proc/self/maps", "r");
    for (char line[512]; fgets(line, sizeof line, maps);)
        if (strstr(line, "xip-calls")) sscanf(line, "%p-%p", &own_from, &own_to);
    CHECK(own_from);
    struct sigaction action = {.sa_sigaction = on_timer, .sa_flags = SA_SIGINFO};
    sigaction(SIGALRM, &action, NULL);
    struct itimerval often = {{0, 60}, {0, 60}};
    setitimer(ITIMER_REAL, &often, NULL);
    for (int i = 0; i < 5000; i++) {
        long n = i % 8;
        char *at = anew(p, n, 3, i & 1 ? PROT_READ : PROT_READ | PROT_EXEC, 0);
        CHECK(is_page(at, n, 100));
    }
    setitimer(ITIMER_REAL, &(struct itimerval){0}, NULL);
    CHECK(signals > 20 && seen_inside == 0);
}
// The registers that a system call does not change, and its flags.
static void again_untouched(void) {
    char *p = dense_all(PROT_READ);
    register long rax __asm__("rax") = SYS_mmap;
    register long rdi __asm__("rdi") = (long)p + PAGE, rsi __asm__("rsi") = 3 * PAGE - 1, rdx __asm__("rdx") = PROT_READ | PROT_EXEC;
    register long r10 __asm__("r10") = MAP_PRIVATE | MAP_FIXED, r8 __asm__("r8") = dense, r9 __asm__("r9") = PAGE;
    register long rbx __asm__("rbx") = 0x0605040302010, r12 __asm__("r12") = 0;
    long rcx, r11, here;
    __asm__ volatile("stc; syscall; 1: pushfq; pop %%r12; mov %%rcx, %0; mov %%r11, %1; lea 1b(%%rip), %2"
        : "=&r"(rcx), "=&r"(r11), "=&r"(here), "+r"(rax), "+r"(rdi), "+r"(rsi), "+r"(rdx), "+r"(r10), "+r"(r8), "+r"(r9), "+r"(rbx), "+r"(r12) : : "rcx", "r11", "memory");
    long results[] = {rax, rdi, rsi, rdx, r10, r8, r9, rbx, r12};
    CHECK(results[0] == (long)p + PAGE && results[1] == results[0] && results[2] == 3 * PAGE - 1 && results[3] == (PROT_READ | PROT_EXEC));
    CHECK(results[4] == (MAP_PRIVATE | MAP_FIXED) && results[5] == dense && results[6] == PAGE && results[7] == 0x0605040302010);
    CHECK(rcx == here && (results[8] & 1) && (results[8] & 0x8d5) == (r11 & 0x8d5));
    CHECK(is_page(p + PAGE, 1, PAGE) && present(p + PAGE));
}

int main(int argc, char **argv) {
    struct { const char *name; void (*run)(void); } cases[] = {
        {"content", content}, {"hole", hole}, {"tail", tail}, {"populate", populate}, {"shared", shared}, {"private", private},
        {"fixed", fixed}, {"grow", grow}, {"bss", bss}, {"traced", traced}, {"untouched", untouched}, {"processors", processors},
        {"again", again}, {"again-written", again_written}, {"again-special", again_special}, {"again-locked", again_locked},
        {"again-refused", again_refused}, {"again-signals", again_signals}, {"again-untouched", again_untouched},
    };
    for (unsigned i = 0; i < sizeof cases / sizeof *cases; i++)
        if (argc > 1 && !strcmp(argv[1], cases[i].name)) { cases[i].run(); puts("ok"); return 0; }
    puts("no such case");
    return 2;
}
