/* The cage: starts the programs of one command line in confinement, and outlives them until none of their processes is
 * left.
 *
 *     cage --serve SOCKET_FD SERVICE_PID
 *     cage --room SPEC_FD
 *     cage --version
 *
 * With --serve it is a server: for each request on the socket it creates a child of the service, the supervisor of one
 * command. A request is nothing but descriptors: status, life, control, a spec, and those that the spec refers to by the
 * numbers that they get here. The server reads none of them and holds none when the supervisor is there. There is no answer:
 * a supervisor closes life when it ends, and a request that failed closes it too. The server ends when the socket is closed
 * or the service has died.
 *
 * The spec lists the programs, the confinement of each and their limits. Each byte read from the control descriptor is a
 * signal number for every process of the command; end of file means that the service has died, and everything is killed.
 * What was applied, what could not be executed, how each program ended and what all of them used is written to the status
 * descriptor, one line each, never longer than PIPE_BUF:
 *
 *     pid SUPERVISOR              as the service sees it; without it nothing was started
 *     failed ERRNO                the supervisor could not be created
 *     applied STAGE LEVEL LAYER,LAYER,...
 *     error STAGE ERRNO
 *     end STAGE WAIT_STATUS
 *     usage CPU_MICROSECONDS PEAK_KIB READ_BYTES WRITTEN_BYTES
 *
 * The launcher decides what is permitted; this program applies it and reports what was actually applied. A spec that is
 * truncated, has trailing bytes or holds anything unexpected runs nothing: exit status BAD_SPEC.
 *
 * With --room it makes a room instead: namespaces in which only what the spec lists exists. The first process in them is
 * this program; it reaps orphans, and it ends with everything in the room when its life line is closed. A spec of a command
 * may name such a room, in which the command then runs. Where the spec names a socket, a socket that listens on the room's
 * loopback is sent through it: the way out, if there is one.
 *
 * There is no C library, whose startup alone would take longer than everything that is done here. System calls are made
 * directly: a negative result is an error number. scripts/build_binaries.py makes the binaries next to this file. */

#include <asm/stat.h>
#include <asm/unistd.h>
#include <linux/capability.h>
#include <linux/errno.h>
#include <linux/fcntl.h>
#include <linux/filter.h>
#include <linux/in.h>
#include <linux/mman.h>
#include <linux/mount.h>
#include <linux/poll.h>
#include <linux/prctl.h>
#include <linux/resource.h>
#include <linux/sched.h>
#include <linux/seccomp.h>
#include <linux/signal.h>
#include <linux/signalfd.h>
#include <linux/wait.h>
#include <stddef.h>
#include <stdint.h>

#if defined __x86_64__
__asm__(".globl _start\n_start: xor %ebp, %ebp\n mov %rsp, %rdi\n and $-16, %rsp\n call start\n");

static long syscall6(long number, long a, long b, long c, long d, long e, long f)
{
    long result;
    register long r10 __asm__("r10") = d, r8 __asm__("r8") = e, r9 __asm__("r9") = f;
    __asm__ volatile("syscall" : "=a"(result) : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                     : "rcx", "r11", "memory");
    return result;
}
#elif defined __aarch64__
__asm__(".globl _start\n_start: mov x29, #0\n mov x0, sp\n bl start\n");

static long syscall6(long number, long a, long b, long c, long d, long e, long f)
{
    register long x8 __asm__("x8") = number, x0 __asm__("x0") = a, x1 __asm__("x1") = b, x2 __asm__("x2") = c;
    register long x3 __asm__("x3") = d, x4 __asm__("x4") = e, x5 __asm__("x5") = f;
    __asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x5) : "memory");
    return x0;
}
#else
#error "x86-64 and aarch64 only"
#endif

#define SYSCALL6(n, a, b, c, d, e, f, ...) \
    syscall6((n), (long)(a), (long)(b), (long)(c), (long)(d), (long)(e), (long)(f))
#define CALL(...) SYSCALL6(__VA_ARGS__, 0, 0, 0, 0, 0, 0, 0)

/* The compiler generates calls to these two. */
void *memcpy(void *to, const void *from, size_t count)
{
    for (size_t i = 0; i < count; i++)
        ((volatile char *)to)[i] = ((const char *)from)[i];
    return to;
}

void *memset(void *to, int value, size_t count)
{
    for (size_t i = 0; i < count; i++)
        ((volatile char *)to)[i] = (char)value;
    return to;
}

static int equal(const char *a, const char *b)
{
    while (*a && *a == *b)
        a++, b++;
    return *a == *b;
}

#define MAX_DIGITS 18 /* so that no value overflows */

/* Decimal digits, optionally after a minus sign. *end is set to the first character after them, or to `text` where there
 * is no number or one of too many digits. */
static long long to_number(const char *text, const char **end)
{
    const char *digit = text + (*text == '-'), *first = digit;
    long long value = 0;
    for (; *digit >= '0' && *digit <= '9' && digit - first < MAX_DIGITS; digit++)
        value = value * 10 + (*digit - '0');
    if (end)
        *end = digit == first ? text : digit;
    return *text == '-' ? -value : value;
}

struct line { char text[400]; size_t length; };

static void append(struct line *line, const char *text)
{
    while (*text && line->length < sizeof line->text)
        line->text[line->length++] = *text++;
}

static void append_number(struct line *line, long long value)
{
    char digits[24], *digit = digits + sizeof digits;
    unsigned long long left = value < 0 ? -(unsigned long long)value : (unsigned long long)value;
    *--digit = 0;
    do
        *--digit = (char)('0' + left % 10);
    while (left /= 10);
    if (value < 0)
        *--digit = '-';
    append(line, digit);
}

static void exit_now(int code) __attribute__((noreturn));
static void exit_now(int code)
{
    for (;;)
        CALL(__NR_exit_group, code);
}

static int open_file(const char *path, int flags) { return (int)CALL(__NR_openat, AT_FDCWD, path, flags | O_CLOEXEC, 0644); }
static void close_file(int fd) { CALL(__NR_close, fd); }
static int fork_child(void) { return (int)CALL(__NR_clone, SIGCHLD); }
static int fork_for_parent(void) { return (int)CALL(__NR_clone, CLONE_PARENT | SIGCHLD); }

/* Numbers that old headers lack; they are the same on all architectures. */
#ifndef CLONE_INTO_CGROUP
#define CLONE_INTO_CGROUP (1ull << 33)
#endif
#define NR_CLONE3 435
#define NR_CLOSE_RANGE 436
#define NR_PIDFD_SEND_SIGNAL 424
#define NR_OPEN_TREE 428
#define NR_MOVE_MOUNT 429
#define NR_FSOPEN 430
#define NR_FSCONFIG 431
#define NR_FSMOUNT 432
#define NR_MOUNT_SETATTR 442
#define NR_LANDLOCK_CREATE_RULESET 444
#define NR_LANDLOCK_ADD_RULE 445
#define NR_LANDLOCK_RESTRICT_SELF 446

#define LANDLOCK_ABI_NEWEST 7 /* whose features are used */
#define LANDLOCK_ABI_FOR_L2 3 /* the first that protects files outside from truncation */
#define LANDLOCK_CREATE_RULESET_VERSION 1
#define LANDLOCK_RULE_PATH_BENEATH 1
#define LANDLOCK_RULE_NET_PORT 2
#define RIGHTS_FIRST 0x1fffull /* the thirteen rights of ABI 1 */
#define RIGHT_REFER (1ull << 13)
#define RIGHT_TRUNCATE (1ull << 14)
#define RIGHT_IOCTL_DEV (1ull << 15)
#define RIGHTS_OF_FILES (7ull | RIGHT_TRUNCATE | RIGHT_IOCTL_DEV) /* execute, write, read; the others are for folders */
#define NET_TCP 3ull /* bind and connect */
#define NET_CONNECT_TCP 2ull
#define SCOPE_ALL 3 /* abstract UNIX sockets and signals */

#define VERSION "cage 8"
#define SPEC_LIMIT (8 << 20) /* bytes; more than the kernel accepts as arguments */
#define MAX_STAGES 64
#define MAX_RULES 256
#define MAX_PORTS 64
#define MAX_FILTER 4096
#define MAX_PROCESSES 65536 /* of the whole machine, scanned when a command is to end */
#define SUPERVISOR_PID 0xC0DEDEADu /* placeholder in the filter for the pid that only this program knows */
#define SERVER_PID 0xC0DEDEAEu /* the same for the pid of the server */
#define MAX_GROUPS 2
enum { SOCKET, SIGNALS_OF_SERVER, UNUSED, FIRST_GIVEN }; /* descriptors of a server */
enum { STATUS = FIRST_GIVEN, LIFE, CONTROL, SPEC, FIRST_OF_SPEC }; /* and what each request has */
#define MAX_GIVEN 253 /* descriptors of one request; the most that the kernel passes at once */
#define RESCAN 50000000 /* nanoseconds until the processes left are signalled again */
#define DIRECT_ROUNDS 2 /* of SIGKILL alone; then processes are stopped first, since a fork bomb outruns plain kills */
#define FREEZE_PASSES 200
#define CANNOT_RUN 127
#define BAD_SPEC 125
#define NO_PROC 124
#define NO_ROOM 123
#define MAX_NAME 255 /* bytes of one name in a path */
#define MAX_ENTRIES 64 /* of /proc, that a room shows */
#define SIGNALS 64
#define CHILD_ENDED (1ull << (SIGCHLD - 1))
#define PARENT_DIED (1ull << (SIGHUP - 1)) /* the signal that is asked for */
#define AF_INET 2 /* the kernel's headers leave it to the C library */
#define SOCK_STREAM 1
#define SOCK_DGRAM 2
#define SOL_SOCKET 1
#define SCM_RIGHTS 1
#define ONE_PASSED 24 /* bytes of a control message with one descriptor */
#define MSG_CTRUNC 8
#define MSG_DONTWAIT 0x40
#define MSG_CMSG_CLOEXEC 0x40000000
#define BACKLOG 128 /* connections that wait for the service */
#define LOOPBACK 0x0100007f /* 127.0.0.1 in network byte order */
#define JUMP_IF_EQUAL (BPF_JMP | BPF_JEQ | BPF_K)
#define S_IFMT 0170000
#define S_IFDIR 0040000
#define S_IFREG 0100000
#define DT_DIR 4
#define DT_LNK 10
#define SIOCGIFFLAGS 0x8913
#define SIOCSIFFLAGS 0x8914
#define MNT_DETACH 2
#define SOCK_CLOEXEC O_CLOEXEC
#define INTERFACE_UP 0x41 /* IFF_UP and IFF_RUNNING */
#define S_IFIFO 0010000

struct ruleset { uint64_t fs, net, scoped; };
struct path_rule { uint64_t rights; int32_t fd; } __attribute__((packed));
struct port_rule { uint64_t rights, port; };
struct handling { void *handler; unsigned long flags; void *restorer; uint64_t mask; };
struct limit { uint64_t soft, hard; };
struct moment { long seconds, nanoseconds; };
struct address { uint16_t family, port; uint32_t host; char rest[8]; };
struct part { void *data; size_t length; };
struct message { void *name; int name_length; struct part *parts; size_t nparts; void *control; size_t control_length; int flags; };
struct passed { size_t length; int level, type, fds[MAX_GIVEN]; };
struct entry { uint64_t inode; int64_t offset; uint16_t length; uint8_t type; char name[]; };

struct rule { const char *path; uint64_t rights; int required; };
struct confinement {
    int network, scoped, nports, nrules; /* network: any port; otherwise the listed ones alone */
    uint16_t ports[MAX_PORTS];
    struct rule rules[MAX_RULES];
    struct sock_fprog filter;
    struct sock_filter instructions[MAX_FILTER];
};
struct stage { struct confinement *confinement; char *executable, *cwd, **argv, **env; int fds[3], kept, kept_as, pid; };
struct group { int folder, joined, memory, processes; const char *join, *layers; }; /* memory, processes: it counts them */
struct process { int pid, parent; char state, ours; };

static struct {
    int minimum, control, status, nconfinements, nstages, ngroups, signals, io, proc, parent, self, room, namespaces;
    long long uid, gid, cpu, data, file_size, processes, open_files;
    struct confinement *confinements;
    struct stage stages[MAX_STAGES];
    struct group groups[MAX_GROUPS];
} cage;

static struct { int self, service; char *task; } server; /* task: the first argument, as lists of processes show it */

static const char *cursor, *spec_end;

static void bad_spec(void) __attribute__((noreturn));
static void bad_spec(void) { exit_now(BAD_SPEC); }

/* A field: its length in four bytes, the bytes, a NUL that is not counted. */
static char *next_field(uint32_t *length)
{
    if (spec_end - cursor < 5)
        bad_spec();
    memcpy(length, cursor, 4);
    if ((uint64_t)(spec_end - cursor) < (uint64_t)*length + 5 || cursor[4 + (uint64_t)*length])
        bad_spec();
    const char *field = cursor + 4;
    cursor = field + *length + 1;
    return (char *)field;
}

/* A NUL inside would end the text early: what runs would differ from what was judged. */
static char *next_text(void)
{
    uint32_t length;
    char *field = next_field(&length);
    for (uint32_t i = 0; i < length; i++)
        if (!field[i])
            bad_spec();
    return field;
}

static long long next_number(void)
{
    const char *end, *field = next_text();
    long long value = to_number(field, &end);
    if (end == field || *end)
        bad_spec();
    return value;
}

static long long next_between(long long least, long long most)
{
    long long value = next_number();
    if (value < least || value > most)
        bad_spec();
    return value;
}

static long long next_limit(void) { return next_between(0, INT64_MAX); }
static long long next_id(void) { return next_between(-1, UINT32_MAX - 1); } /* -1: unchanged */
static int next_int(int least, int most) { return (int)next_between(least, most); }
static int next_descriptor(void) { return next_int(FIRST_OF_SPEC, MAX_GIVEN + FIRST_GIVEN); }

static void *map(size_t size, int fd)
{
    int flags = fd < 0 ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_PRIVATE;
    long address = CALL(__NR_mmap, 0, size, PROT_READ | PROT_WRITE, flags, fd, 0);
    if (address < 0 && address > -4096)
        bad_spec();
    return (void *)address;
}

static char **next_strings(void)
{
    int count = (int)next_between(0, (spec_end - cursor) / 5); /* a field has at least five bytes */
    char **words = map(((size_t)count + 1) * sizeof *words, -1);
    for (int i = 0; i < count; i++)
        words[i] = next_text();
    return words;
}

/* The filter compares with these pids (kill) and with their negatives (kill of a process group). */
static void insert_pid(struct sock_filter *instruction, uint32_t placeholder, int pid)
{
    if (instruction->code != JUMP_IF_EQUAL)
        return;
    if (instruction->k == placeholder)
        instruction->k = (uint32_t)pid;
    else if (instruction->k == -placeholder)
        instruction->k = -(uint32_t)pid;
}

static void read_filter(struct confinement *to)
{
    uint32_t length;
    char *field = next_field(&length);
    if (length > sizeof to->instructions || length % sizeof *to->instructions)
        bad_spec();
    memcpy(to->instructions, field, length);
    to->filter.len = (unsigned short)(length / sizeof *to->instructions);
    to->filter.filter = to->instructions;
}

static void insert_pids(void)
{
    for (int i = 0; i < cage.nconfinements; i++)
        for (int k = 0; k < cage.confinements[i].filter.len; k++) {
            insert_pid(&cage.confinements[i].instructions[k], SUPERVISOR_PID, cage.self);
            insert_pid(&cage.confinements[i].instructions[k], SERVER_PID, server.self);
        }
}

static void read_stage(struct stage *stage)
{
    stage->confinement = &cage.confinements[next_int(0, cage.nconfinements - 1)];
    stage->executable = next_text();
    stage->cwd = next_text();
    for (int i = 0; i < 3; i++)
        stage->fds[i] = next_descriptor();
    stage->kept_as = next_int(-1, INT32_MAX); /* the number under which the program has it; -1: none */
    stage->kept = stage->kept_as < 0 ? -1 : next_descriptor();
    if (stage->kept_as >= 0 && stage->kept_as < 3)
        bad_spec();
    stage->argv = next_strings();
    stage->env = next_strings();
    if (!stage->argv[0])
        bad_spec();
}

static void read_groups(void)
{
    cage.ngroups = next_int(0, MAX_GROUPS);
    for (int i = 0; i < cage.ngroups; i++) {
        cage.groups[i].folder = next_descriptor();
        cage.groups[i].join = next_text();
        cage.groups[i].layers = next_text();
        cage.groups[i].memory = next_int(0, 1);
        cage.groups[i].processes = next_int(0, 1);
    }
}

static void read_confinement(struct confinement *to)
{
    to->network = next_int(0, 1);
    to->scoped = next_int(0, SCOPE_ALL);
    to->nports = next_int(0, MAX_PORTS);
    for (int i = 0; i < to->nports; i++)
        to->ports[i] = (uint16_t)next_int(1, UINT16_MAX);
    to->nrules = next_int(0, MAX_RULES);
    for (int i = 0; i < to->nrules; i++) {
        to->rules[i].path = next_text();
        to->rules[i].rights = (uint64_t)next_limit();
        to->rules[i].required = next_int(0, 1);
    }
    read_filter(to);
}

static void read_confinements(void)
{
    cage.nconfinements = next_int(1, MAX_STAGES);
    cage.confinements = map((size_t)cage.nconfinements * sizeof *cage.confinements, -1);
    for (int i = 0; i < cage.nconfinements; i++)
        read_confinement(&cage.confinements[i]);
}

static void read_limits(void)
{
    cage.cpu = next_limit();
    cage.data = next_limit();
    cage.file_size = next_limit();
    cage.processes = next_limit();
    cage.open_files = next_limit();
}

static void map_spec(int fd)
{
    struct stat about;
    if (CALL(__NR_fstat, fd, &about) || about.st_size <= 0 || about.st_size > SPEC_LIMIT)
        bad_spec();
    cursor = map((size_t)about.st_size, fd);
    spec_end = cursor + about.st_size;
    close_file(fd);
}

static void read_spec(void)
{
    if (!equal(next_text(), VERSION))
        bad_spec();
    cage.minimum = next_int(0, 3);
    cage.room = next_int(-1, MAX_GIVEN + FIRST_GIVEN); /* -1: none */
    if (cage.room >= 0 && cage.room < FIRST_OF_SPEC)
        bad_spec();
    cage.namespaces = next_int(0, INT32_MAX);
    cage.uid = next_id();
    cage.gid = next_id();
    read_limits();
    read_groups();
    read_confinements();
    cage.nstages = next_int(1, MAX_STAGES);
    for (int i = 0; i < cage.nstages; i++)
        read_stage(&cage.stages[i]);
    if (cursor != spec_end)
        bad_spec();
}

/* One write per line, so that lines of several processes do not mix. */
static void report(struct line *line)
{
    append(line, "\n");
    CALL(__NR_write, cage.status, line->text, line->length);
}

static void report_number(const char *kind, long long number)
{
    struct line line = {.length = 0};
    append(&line, kind);
    append_number(&line, number);
    report(&line);
}

static void report_numbers(const char *kind, long long first, long long second)
{
    struct line line = {.length = 0};
    append(&line, kind);
    append_number(&line, first);
    append(&line, " ");
    append_number(&line, second);
    report(&line);
}

static void fail_stage(int stage, long result) __attribute__((noreturn));
static void fail_stage(int stage, long result)
{
    report_numbers("error ", stage, -result);
    exit_now(CANNOT_RUN);
}

static void close_range(unsigned from, unsigned to)
{
    struct limit limit = {0, 0};
    if (from > to || !CALL(NR_CLOSE_RANGE, from, to, 0))
        return;
    CALL(__NR_prlimit64, 0, RLIMIT_NOFILE, 0, &limit);
    for (unsigned fd = from; fd <= to && fd < limit.soft && fd < 1u << 20; fd++)
        close_file((int)fd);
}

static long install_descriptors(const struct stage *stage)
{
    struct stat about;
    for (int i = 0; i < 3; i++) {
        long failed = CALL(__NR_dup3, stage->fds[i], i, 0);
        if (failed < 0)
            return failed;
        /* Opening /dev/stdin or /dev/stdout opens the pipe again, which only its owner may do; no harm where it fails. */
        if (cage.uid >= 0 && !CALL(__NR_fstat, i, &about) && (about.st_mode & S_IFMT) == S_IFIFO)
            CALL(__NR_fchown, i, cage.uid, -1);
    }
    unsigned kept = (unsigned)cage.status;
    if (stage->kept >= 0) {
        int above = (int)CALL(__NR_fcntl, cage.status, F_DUPFD_CLOEXEC, stage->kept_as + 1);
        long failed = above < 0 ? above : stage->kept == stage->kept_as ? 0 : CALL(__NR_dup3, stage->kept, stage->kept_as, 0);
        if (failed < 0)
            return failed;
        if (stage->kept == stage->kept_as)
            CALL(__NR_fcntl, stage->kept, F_SETFD, 0);
        cage.status = above;
        kept = (unsigned)stage->kept_as;
    }
    close_range(3, kept - 1);
    close_range(kept + 1, (unsigned)cage.status - 1);
    close_range((unsigned)cage.status + 1, ~0u);
    return 0;
}

/* Children inherit it, so the programs too. */
static void reset_signals(void)
{
    const struct handling standard = {.handler = 0};
    for (int number = 1; number <= SIGNALS; number++)
        CALL(__NR_rt_sigaction, number, &standard, 0, 8);
}

static void set_blocked(uint64_t signals) { CALL(__NR_rt_sigprocmask, SIG_SETMASK, &signals, 0, 8); }

static long set_rlimit(int what, long long soft, long long hard)
{
    struct limit now, next = {(uint64_t)soft, (uint64_t)hard};
    long failed = CALL(__NR_prlimit64, 0, what, 0, &now);
    if (failed)
        return failed;
    next.hard = next.hard < now.hard ? next.hard : now.hard;
    next.soft = next.soft < next.hard ? next.soft : next.hard;
    return CALL(__NR_prlimit64, 0, what, &next, 0);
}

/* A group counts what all processes of a command use, and reports when that is too much: it is to be met first, but one
 * process and one user are to be limited even then. */
static long long beside_group(long long limit, int counted)
{
    return !counted ? limit : limit < INT64_MAX / 2 ? 2 * limit : INT64_MAX;
}

static long long data_limit(void)
{
    int counted = 0;
    for (int i = 0; i < cage.ngroups; i++)
        counted |= cage.groups[i].joined && cage.groups[i].memory;
    return beside_group(cage.data, counted);
}

static long long process_limit(void)
{
    int counted = 0;
    for (int i = 0; i < cage.ngroups; i++)
        counted |= cage.groups[i].joined && cage.groups[i].processes;
    return beside_group(cage.processes, counted);
}

static long apply_rlimits(void)
{
    long long data = data_limit();
    long failed = set_rlimit(RLIMIT_CPU, cage.cpu, cage.cpu + 1);
    failed = failed ? failed : set_rlimit(RLIMIT_DATA, data, data);
    /* The stack is not data: without a hard limit, a program could raise its own and grow past the limit of memory. */
    failed = failed ? failed : set_rlimit(RLIMIT_STACK, 8LL << 20, 64LL << 20);
    failed = failed ? failed : set_rlimit(RLIMIT_FSIZE, cage.file_size, cage.file_size);
    failed = failed ? failed : set_rlimit(RLIMIT_NOFILE, cage.open_files, cage.open_files);
    /* Not 0, which stops dumps to files only: a crash handler set in core_pattern would still be started, as root. */
    return failed ? failed : set_rlimit(RLIMIT_CORE, 1, 1);
}

/* A control group that cannot be joined is not reported; the program runs without it. */
static void join_groups(void)
{
    for (int i = 0; i < cage.ngroups; i++) {
        struct group *group = &cage.groups[i];
        if (group->joined)
            continue;
        int fd = (int)CALL(__NR_openat, group->folder, group->join, O_WRONLY | O_CLOEXEC, 0);
        group->joined = fd >= 0 && CALL(__NR_write, fd, "0", 1) == 1;
        if (fd >= 0)
            close_file(fd);
    }
}

/* When memory runs out, the kernel is to choose a command, not the service. */
static void raise_oom_score(void)
{
    int fd = open_file("/proc/self/oom_score_adj", O_WRONLY);
    if (fd >= 0) {
        CALL(__NR_write, fd, "500", 3);
        close_file(fd);
    }
}

static int landlock_abi(void)
{
    long abi = CALL(NR_LANDLOCK_CREATE_RULESET, 0, 0, LANDLOCK_CREATE_RULESET_VERSION);
    return abi < 0 ? 0 : abi > LANDLOCK_ABI_NEWEST ? LANDLOCK_ABI_NEWEST : (int)abi;
}

static long add_rule(int ruleset, const struct rule *rule, uint64_t handled)
{
    int fd = open_file(rule->path, O_PATH);
    if (fd < 0)
        return rule->required ? fd : 0;
    struct stat about;
    struct path_rule attr = {.rights = rule->rights & handled, .fd = fd};
    long failed = CALL(__NR_fstat, fd, &about);
    if (!failed && (about.st_mode & S_IFMT) != S_IFDIR)
        attr.rights &= RIGHTS_OF_FILES;
    if (!failed && attr.rights)
        failed = CALL(NR_LANDLOCK_ADD_RULE, ruleset, LANDLOCK_RULE_PATH_BENEATH, &attr, 0);
    close_file(fd);
    return failed;
}

static long add_ports(int ruleset, const struct confinement *with)
{
    long failed = 0;
    for (int i = 0; !failed && i < with->nports; i++) {
        struct port_rule attr = {.rights = NET_CONNECT_TCP, .port = with->ports[i]};
        failed = CALL(NR_LANDLOCK_ADD_RULE, ruleset, LANDLOCK_RULE_NET_PORT, &attr, 0);
    }
    return failed;
}

/* The paths are opened before the uid is dropped, while those below a private folder can still be reached. */
static int make_ruleset(const struct confinement *with, int abi)
{
    struct ruleset attr = {.fs = RIGHTS_FIRST};
    attr.fs |= abi >= 2 ? RIGHT_REFER : 0;
    attr.fs |= abi >= 3 ? RIGHT_TRUNCATE : 0;
    attr.fs |= abi >= 5 ? RIGHT_IOCTL_DEV : 0;
    attr.net = abi >= 4 && !with->network ? NET_TCP : 0;
    attr.scoped = abi >= 6 ? (uint64_t)with->scoped : 0;
    int ruleset = (int)CALL(NR_LANDLOCK_CREATE_RULESET, &attr, abi >= 6 ? 24 : abi >= 4 ? 16 : 8, 0);
    long failed = ruleset < 0 ? ruleset : attr.net ? add_ports(ruleset, with) : 0;
    for (int i = 0; !failed && i < with->nrules; i++)
        failed = add_rule(ruleset, &with->rules[i], attr.fs);
    return failed ? (int)failed : ruleset;
}

static long drop_privileges(void)
{
    long uid = cage.uid, gid = cage.gid, failed = 0;
    unsigned real, effective, saved;
    if (uid >= 0) {
        if (CALL(__NR_geteuid) == 0)
            failed = CALL(__NR_setgroups, 0, 0);
        failed = failed ? failed : CALL(__NR_setresgid, gid, gid, gid);
        failed = failed ? failed : CALL(__NR_setresuid, uid, uid, uid);
        failed = failed ? failed : CALL(__NR_getresuid, &real, &effective, &saved);
        if (failed || real != uid || effective != uid || saved != uid)
            return failed ? failed : -EPERM;
    }
    if (CALL(__NR_getuid)) {
        struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
        struct __user_cap_data_struct none[2] = {{0, 0, 0}, {0, 0, 0}};
        if ((failed = CALL(__NR_capset, &header, none)))
            return failed;
    }
    /* After the change of uid, which clears it. */
    failed = CALL(__NR_prctl, PR_SET_PDEATHSIG, SIGKILL);
    return failed ? failed : CALL(__NR_getppid) == cage.self ? 0 : -ESRCH;
}

static int run_attempt(char **argv);

/* Reports what was applied; returns the level reached. */
static int confine(int index)
{
    const struct confinement *with = cage.stages[index].confinement;
    struct line line = {.length = 0};
    long ruleset = -1, failed = apply_rlimits();
    if (failed)
        fail_stage(index, failed);
    int abi = landlock_abi();
    if (abi && (ruleset = make_ruleset(with, abi)) < 0)
        fail_stage(index, ruleset);
    if ((failed = drop_privileges()))
        fail_stage(index, failed);
    /* Not before the change of uid: a user who already has that many processes could execute nothing more, so that one
     * command that forks without end would keep all others from starting. */
    long long processes = process_limit();
    if ((failed = set_rlimit(RLIMIT_NPROC, processes, processes)))
        fail_stage(index, failed);
    long uid = CALL(__NR_getuid);
    int locked = !CALL(__NR_prctl, PR_SET_NO_NEW_PRIVS, 1);
    int fenced = abi && !CALL(NR_LANDLOCK_RESTRICT_SELF, ruleset, 0);
    if (abi)
        close_file((int)ruleset);
    int filtered = locked && with->filter.len && !CALL(__NR_seccomp, SECCOMP_SET_MODE_FILTER, 0, &with->filter);
    int apart = cage.room >= 0; /* a command that could not enter its room does not come here */
    int level = !(locked && filtered && uid) ? 0 : fenced && abi >= LANDLOCK_ABI_FOR_L2 ? 2 + apart : 1;
    append(&line, "applied ");
    append_number(&line, index);
    append(&line, " L");
    append_number(&line, level);
    append(&line, " session,rlimits,uid:");
    append_number(&line, uid);
    append(&line, locked ? ",no_new_privs" : "");
    append(&line, fenced ? ",landlock:" : "");
    if (fenced)
        append_number(&line, abi);
    append(&line, filtered ? ",seccomp" : "");
    append(&line, apart ? ",namespaces" : "");
    append(&line, apart && cage.namespaces & CLONE_NEWNET ? ",loopback" : "");
    for (int i = 0; i < cage.ngroups; i++)
        if (cage.groups[i].joined) {
            append(&line, ",");
            append(&line, cage.groups[i].layers);
        }
    report(&line);
    return level;
}

static void run_stage(int index) __attribute__((noreturn));
static void run_stage(int index)
{
    struct stage *stage = &cage.stages[index];
    long failed;
    CALL(__NR_setpgid, 0, cage.stages[0].pid);
    join_groups();
    CALL(__NR_prctl, PR_SET_DUMPABLE, 1); /* otherwise our own entries in /proc are closed to us */
    set_blocked(0);
    CALL(__NR_umask, 022);
    raise_oom_score();
    if ((failed = install_descriptors(stage)))
        fail_stage(index, failed);
    if (confine(index) < cage.minimum)
        fail_stage(index, -EPERM);
    if ((failed = CALL(__NR_chdir, stage->cwd)))
        fail_stage(index, failed);
    if (!*stage->executable)
        exit_now(run_attempt(stage->argv));
    CALL(__NR_fcntl, cage.status, F_SETFD, FD_CLOEXEC);
    fail_stage(index, CALL(__NR_execve, stage->executable, stage->argv, stage->env));
}

static struct process processes[MAX_PROCESSES];
static int process_count;

/* Adds a process to the table. The kernel's line is "pid (name) state parent ...", where a name may hold anything. */
static void read_process(int pid)
{
    struct line path = {.length = 0};
    char text[512];
    const char *after = NULL;
    append_number(&path, pid);
    append(&path, "/stat");
    path.text[path.length] = 0;
    int fd = (int)CALL(__NR_openat, cage.proc, path.text, O_RDONLY | O_CLOEXEC, 0);
    if (fd < 0)
        return;
    long length = CALL(__NR_read, fd, text, sizeof text - 1);
    close_file(fd);
    for (long i = 0; i < length; i++)
        if (text[i] == ')')
            after = text + i;
    if (!after || after + 4 >= text + length || process_count == MAX_PROCESSES)
        return;
    text[length] = 0;
    int parent = (int)to_number(after + 4, NULL);
    processes[process_count++] = (struct process){.pid = pid, .parent = parent, .state = after[2], .ours = parent == cage.self};
}

static int is_ours(int pid)
{
    int low = 0, high = process_count; /* /proc lists processes in the order of their ids */
    while (low < high) {
        int middle = (low + high) / 2;
        if (processes[middle].pid == pid)
            return processes[middle].ours;
        if (processes[middle].pid < pid)
            low = middle + 1;
        else
            high = middle;
    }
    return 0;
}

/* Finds all descendants of this process: as their subreaper it stays the ancestor of whatever they start. */
static void scan_processes(void)
{
    _Alignas(8) char names[16384];
    process_count = 0;
    CALL(__NR_lseek, cage.proc, 0, 0);
    for (long length; (length = CALL(__NR_getdents64, cage.proc, names, sizeof names)) > 0;)
        for (long at = 0; at < length; at += ((struct entry *)(names + at))->length) {
            const char *name = ((struct entry *)(names + at))->name;
            if (*name >= '1' && *name <= '9')
                read_process((int)to_number(name, NULL));
        }
    for (int changed = 1; changed;) {
        changed = 0;
        for (int i = 0; i < process_count; i++)
            if (!processes[i].ours && is_ours(processes[i].parent))
                changed = processes[i].ours = 1;
    }
}

/* Returns how many were still running, that is neither stopped nor dead. A dead one is signalled too: a process whose
 * first thread has ended looks dead while its other threads go on. */
static int signal_all(int number)
{
    int running = 0;
    scan_processes();
    for (int i = 0; i < process_count; i++)
        if (processes[i].ours) {
            running += processes[i].state != 'T' && processes[i].state != 'Z' && processes[i].state != 'X';
            CALL(__NR_kill, processes[i].pid, number);
        }
    return running;
}

/* Created inside its control group where possible: joining one by cgroup.procs may take 15 ms. */
static int fork_stage(void)
{
    for (int i = 0; i < cage.ngroups; i++)
        if (equal(cage.groups[i].join, "cgroup.procs")) {
            uint64_t how[11] = {[0] = CLONE_INTO_CGROUP, [4] = SIGCHLD, [10] = (uint64_t)cage.groups[i].folder};
            int pid = (int)CALL(NR_CLONE3, how, sizeof how);
            cage.groups[i].joined = pid == 0;
            if (pid >= 0)
                return pid;
        }
    return fork_child();
}

static void start_stages(void)
{
    for (int i = 0; i < cage.nstages; i++) {
        int pid = fork_stage();
        if (pid == 0)
            run_stage(i);
        if (pid < 0)
            report_numbers("error ", i, -pid);
        else
            CALL(__NR_setpgid, pid, i ? cage.stages[0].pid : 0);
        cage.stages[i].pid = pid;
    }
    for (int i = 0; i < cage.nstages; i++) {
        for (int k = 0; k < 3; k++)
            close_file(cage.stages[i].fds[k]);
        if (cage.stages[i].kept >= 0)
            close_file(cage.stages[i].kept);
    }
    for (int i = 0; i < cage.ngroups; i++)
        close_file(cage.groups[i].folder);
    CALL(__NR_prctl, PR_SET_DUMPABLE, 0);
}

/* Readable when one of these signals is pending; all of them are blocked. */
static int open_signals(uint64_t signals)
{
    return (int)CALL(__NR_signalfd4, -1, &signals, 8, O_CLOEXEC | O_NONBLOCK);
}

/* Returns how many programs of the command line are left; *none is set when no process at all is left. */
static int reap(int *none)
{
    int status, left = 0;
    long pid;
    while ((pid = CALL(__NR_wait4, -1, &status, WNOHANG, 0)) > 0)
        for (int i = 0; i < cage.nstages; i++)
            if (cage.stages[i].pid == pid) {
                report_numbers("end ", i, status);
                cage.stages[i].pid = -1;
            }
    *none = pid == -ECHILD;
    for (int i = 0; i < cage.nstages; i++)
        left += cage.stages[i].pid > 0;
    return left;
}

/* Returns the events of the control descriptor. Pending signals of the kernel are consumed. */
static int wait_for_event(const struct moment *bound)
{
    struct pollfd sources[2] = {{.fd = cage.signals, .events = POLLIN}, {.fd = cage.control, .events = POLLIN}};
    struct signalfd_siginfo pending[4];
    struct moment left = bound ? *bound : (struct moment){0, 0};
    CALL(__NR_ppoll, sources, cage.control < 0 ? 1 : 2, bound ? &left : NULL, 0, 8);
    while (CALL(__NR_read, cage.signals, pending, sizeof pending) > 0) {}
    return cage.control < 0 ? 0 : sources[1].revents;
}

/* Passes on the signals requested. Returns whether everything is to be killed: on request, or because the service died. */
static int handle_control(int events)
{
    unsigned char numbers[64];
    if (CALL(__NR_getppid) != cage.parent)
        return 1;
    if (!events)
        return 0;
    long count = CALL(__NR_read, cage.control, numbers, sizeof numbers);
    if (count <= 0)
        return count != -EAGAIN && count != -EINTR;
    for (long i = 0; i < count; i++) {
        if (numbers[i] == SIGKILL)
            return 1;
        signal_all(numbers[i]);
    }
    return 0;
}

static void kill_all(void)
{
    const struct moment bound = {0, RESCAN};
    int none;
    cage.control = -1;
    for (int round = 0; reap(&none), !none; round++) {
        if (round >= DIRECT_ROUNDS)
            for (int pass = 0; pass < FREEZE_PASSES && signal_all(SIGSTOP); pass++)
                CALL(__NR_sched_yield);
        signal_all(SIGKILL);
        wait_for_event(&bound);
    }
}

static long long io_value(const char *text, const char *name)
{
    for (; *text; text++) {
        const char *here = text, *expected = name;
        while (*expected && *here == *expected)
            here++, expected++;
        if (!*expected)
            return to_number(here, NULL);
    }
    return 0;
}

/* The kernel adds what reaped processes read and wrote to this process's own figures; 0 where they cannot be read. */
static void report_usage(void)
{
    char text[512] = "";
    struct rusage used;
    struct line line = {.length = 0};
    CALL(__NR_getrusage, RUSAGE_CHILDREN, &used);
    if (cage.io >= 0)
        CALL(__NR_pread64, cage.io, text, sizeof text - 1, 0);
    long long microseconds = used.ru_utime.tv_usec + used.ru_stime.tv_usec;
    const long long values[] = {(used.ru_utime.tv_sec + used.ru_stime.tv_sec) * 1000000ll + microseconds, used.ru_maxrss,
                                io_value(text, "\nread_bytes: "), io_value(text, "\nwrite_bytes: ")};
    append(&line, "usage");
    for (int i = 0; i < 4; i++) {
        append(&line, " ");
        append_number(&line, values[i]);
    }
    report(&line);
}

/* The server has reset and blocked all signals. */
static void become_subreaper(void)
{
    CALL(__NR_setsid);
    if (CALL(__NR_prctl, PR_SET_CHILD_SUBREAPER, 1))
        exit_now(BAD_SPEC);
    CALL(__NR_prctl, PR_SET_PDEATHSIG, SIGHUP); /* not SIGKILL: the command must be killed first */
    cage.signals = open_signals(CHILD_ENDED | PARENT_DIED);
    if (cage.signals < 0)
        exit_now(BAD_SPEC);
    cage.io = open_file("/proc/self/io", O_RDONLY);
    CALL(__NR_fcntl, cage.control, F_SETFL, O_NONBLOCK);
}

static void refuse_all(long result) __attribute__((noreturn));
static void refuse_all(long result)
{
    for (int i = 0; i < cage.nstages; i++)
        report_numbers("error ", i, -result);
    exit_now(NO_PROC);
}

static void wait_readable(int fd)
{
    struct pollfd source = {.fd = fd, .events = POLLIN};
    while (CALL(__NR_ppoll, &source, 1, NULL, 0, 8) == -EINTR) {}
}

/* Waits for the supervisor in the room. Where that was killed, its processes belong to the first process of the room: so
 * that nothing outlives its command, the room ends, with all that is in it. */
static void stand_outside(int pid) __attribute__((noreturn));
static void stand_outside(int pid)
{
    int status = 0;
    CALL(__NR_prctl, PR_SET_PDEATHSIG, SIGHUP); /* not SIGKILL: it also comes when a thread of the service ends */
    close_range(0, LIFE - 1);
    close_range(LIFE + 1, (unsigned)cage.room - 1);
    close_range((unsigned)cage.room + 1, ~0u);
    cage.signals = open_signals(CHILD_ENDED | PARENT_DIED);
    cage.control = -1;
    if (cage.signals < 0) /* nothing would tell of its end, nor of that of the service */
        CALL(__NR_kill, pid, SIGKILL);
    while (CALL(__NR_wait4, pid, &status, cage.signals < 0 ? 0 : WNOHANG, 0) != pid) {
        if (CALL(__NR_getppid) != cage.parent)
            exit_now(NO_ROOM); /* the supervisor notices the end of its parent */
        wait_for_event(NULL);
    }
    if (!(status & 127))
        exit_now(status >> 8 & 255);
    CALL(NR_PIDFD_SEND_SIGNAL, cage.room, SIGKILL, 0, 0);
    wait_readable(cage.room);
    exit_now(NO_ROOM);
}

/* Goes on as the supervisor in the room, as a child, since no process changes its own pid namespace. Its parent is outside,
 * which in the room is number 0. */
static void enter_room(void)
{
    long failed = CALL(__NR_setns, cage.room, cage.namespaces);
    int pid = failed ? (int)failed : fork_child();
    if (pid < 0)
        refuse_all(pid);
    if (pid > 0)
        stand_outside(pid);
    close_file(cage.room);
    cage.self = (int)CALL(__NR_getpid);
    cage.parent = 0;
    CALL(__NR_prctl, PR_SET_DUMPABLE, 1); /* the change of user namespace closed our own entries in /proc to us */
}

/* Without /proc the processes of a command could not be found, and so not be ended: nothing is started then. */
static void require_proc(void)
{
    cage.proc = open_file("/proc", O_RDONLY | O_DIRECTORY);
    process_count = 0;
    if (cage.proc >= 0)
        read_process(cage.self);
    if (process_count && processes[0].parent == (int)CALL(__NR_getppid))
        return;
    refuse_all(-ENOSYS);
}

/* The supervisor of one command, with what the server received and a copy of its memory. Nothing of the server stays open. */
static void supervise(void) __attribute__((noreturn));
static void supervise(void)
{
    close_range(SOCKET, FIRST_GIVEN - 1);
    memcpy(server.task, "command", sizeof "--serve" - 1);
    CALL(__NR_prctl, PR_SET_DUMPABLE, 1); /* otherwise our own entries in /proc are closed to us */
    cage.control = CONTROL;
    cage.status = STATUS;
    cage.self = (int)CALL(__NR_getpid);
    cage.parent = server.service;
    report_number("pid ", cage.self);
    map_spec(SPEC);
    read_spec();
    if (cage.room >= 0)
        enter_room();
    insert_pids();
    become_subreaper();
    require_proc();
    start_stages();
    for (int none; reap(&none) > 0;)
        if (handle_control(wait_for_event(NULL)))
            break;
    kill_all();
    report_usage();
    exit_now(0);
}

/* The server. */

/* Takes the descriptors of a request, which the kernel numbers from FIRST_GIVEN on, as nothing else is open there. Returns
 * their count, an error, or 0 at the end. */
static long receive(void)
{
    struct passed passed;
    char byte;
    struct part part = {&byte, sizeof byte};
    struct message message = {.parts = &part, .nparts = 1, .control = &passed, .control_length = sizeof passed};
    long failed = CALL(__NR_recvmsg, SOCKET, &message, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
    if (failed <= 0)
        return failed;
    if (message.flags & MSG_CTRUNC)
        return -EMFILE;
    if (message.control_length < offsetof(struct passed, fds) || passed.level != SOL_SOCKET || passed.type != SCM_RIGHTS)
        return -EBADMSG;
    long count = (long)((passed.length - offsetof(struct passed, fds)) / sizeof *passed.fds);
    for (long i = 0; i < count; i++)
        if (passed.fds[i] != FIRST_GIVEN + i)
            return -EBADMSG;
    return count < FIRST_OF_SPEC - FIRST_GIVEN ? -EBADMSG : count;
}

static void serve_next(void)
{
    long given = receive();
    if (given == 0)
        exit_now(0);
    if (given == -EAGAIN || given == -EINTR)
        return;
    long pid = given < 0 ? given : fork_for_parent();
    if (pid == 0)
        supervise();
    cage.status = STATUS;
    if (pid < 0)
        report_number("failed ", -pid);
    close_range(FIRST_GIVEN, ~0u);
}

/* Keeps nothing of the service but the socket: not its session, folder, signal handlers or other descriptors. */
static void leave_service(int socket)
{
    CALL(__NR_setsid);
    CALL(__NR_chdir, "/");
    reset_signals();
    set_blocked(~0ull);
    CALL(__NR_dup3, socket, SOCKET, O_CLOEXEC);
    CALL(__NR_dup3, SOCKET, UNUSED, O_CLOEXEC); /* so that no number below FIRST_GIVEN is free */
    cage.signals = (int)CALL(__NR_dup3, open_signals(PARENT_DIED), SIGNALS_OF_SERVER, O_CLOEXEC);
    if (cage.signals < 0)
        exit_now(BAD_SPEC);
    cage.control = SOCKET;
    CALL(__NR_prctl, PR_SET_DUMPABLE, 0);
    CALL(__NR_prctl, PR_SET_PDEATHSIG, SIGHUP); /* of the thread that started us, so that others may go on */
}

static void serve(char *task, int socket, int service) __attribute__((noreturn));
static void serve(char *task, int socket, int service)
{
    server.task = task;
    server.self = (int)CALL(__NR_getpid);
    server.service = service;
    leave_service(socket);
    close_range(FIRST_GIVEN, ~0u);
    while (CALL(__NR_getppid) == service) {
        wait_for_event(NULL);
        serve_next();
    }
    exit_now(0);
}

/* The room. */

enum { READ_ONLY, WRITABLE, DEVICE, SCRATCH, LINK, TEXT }; /* kinds of what a room shows */

static struct {
    int lifeline, root, nshown, flags, exit; /* exit: the socket that takes the way out, -1 where there is none */
    long long uid, gid;
    const char *shown[MAX_ENTRIES];
} room;

/* Returns the result, or reports what could not be done and ends. */
static int must(const char *what, long result)
{
    struct line line = {.length = 0};
    if (result >= 0)
        return (int)result;
    append(&line, "failed ");
    append_number(&line, -result);
    append(&line, " ");
    append(&line, what);
    line.length = line.length < sizeof line.text ? line.length : sizeof line.text - 1;
    report(&line);
    exit_now(NO_ROOM);
}

static void write_file(const char *path, const char *text)
{
    size_t length = 0;
    int fd = must(path, open_file(path, O_WRONLY));
    while (text[length])
        length++;
    must(path, CALL(__NR_write, fd, text, length));
    close_file(fd);
}

static void map_one(const char *path, long long id)
{
    struct line line = {.length = 0};
    append_number(&line, id);
    append(&line, " ");
    append_number(&line, id);
    append(&line, " 1");
    line.text[line.length] = 0;
    write_file(path, line.text);
}

/* In a user namespace of its own, a service that is not root may make the others. Its user is the only one there. */
static void become_owner(void)
{
    must("user namespace", CALL(__NR_unshare, CLONE_NEWUSER));
    CALL(__NR_prctl, PR_SET_DUMPABLE, 1);
    write_file("/proc/self/setgroups", "deny");
    map_one("/proc/self/uid_map", room.uid);
    map_one("/proc/self/gid_map", room.gid);
}

static int new_filesystem(const char *kind, const char *size, const char *mode, unsigned attributes)
{
    int context = must(kind, CALL(NR_FSOPEN, kind, FSOPEN_CLOEXEC));
    if (size) {
        must("size", CALL(NR_FSCONFIG, context, FSCONFIG_SET_STRING, "size", size, 0));
        must("nr_inodes", CALL(NR_FSCONFIG, context, FSCONFIG_SET_STRING, "nr_inodes", "4096", 0));
        must("mode", CALL(NR_FSCONFIG, context, FSCONFIG_SET_STRING, "mode", mode, 0));
    }
    must(kind, CALL(NR_FSCONFIG, context, FSCONFIG_CMD_CREATE, 0, 0, 0));
    int made = must(kind, CALL(NR_FSMOUNT, context, FSMOUNT_CLOEXEC, attributes));
    close_file(context);
    return made;
}

/* Opens the entry of the room with this absolute path, made where it is missing. No link is followed: what is shown may
 * have been written by commands, and a link would lead out, as nothing of the old tree has been left yet. */
static int open_place(const char *path, int folder)
{
    char name[MAX_NAME + 1];
    int at = must(path, CALL(__NR_openat, room.root, ".", O_PATH | O_CLOEXEC, 0));
    do {
        size_t length = 0;
        if (*path++ != '/')
            bad_spec();
        for (; *path && *path != '/'; path++, length++) {
            if (length == MAX_NAME)
                bad_spec();
            name[length] = *path;
        }
        name[length] = 0;
        if (!length || equal(name, ".") || equal(name, ".."))
            bad_spec();
        int inner = *path || folder;
        if (inner)
            CALL(__NR_mkdirat, at, name, 0111); /* on the way to something: to pass, not to list */
        else
            CALL(__NR_mknodat, at, name, S_IFREG | 0444, 0);
        int next = must(name, CALL(__NR_openat, at, name, O_PATH | O_NOFOLLOW | O_CLOEXEC | (inner ? O_DIRECTORY : 0), 0));
        close_file(at);
        at = next;
    } while (*path);
    return at;
}

static void attach(int tree, const char *path, int folder)
{
    int at = open_place(path, folder);
    must(path, CALL(NR_MOVE_MOUNT, tree, "", at, "", MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH));
    close_file(at);
    close_file(tree);
}

/* Shows a part of the machine under its own path. */
static void show(const char *path, uint64_t attributes)
{
    struct stat about;
    struct mount_attr attr = {.attr_set = attributes};
    int tree = must(path, CALL(NR_OPEN_TREE, AT_FDCWD, path, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_RECURSIVE));
    must(path, CALL(NR_MOUNT_SETATTR, tree, "", AT_EMPTY_PATH | AT_RECURSIVE, &attr, sizeof attr));
    must(path, CALL(__NR_fstat, tree, &about));
    attach(tree, path, (about.st_mode & S_IFMT) == S_IFDIR);
}

static void link_to(const char *target, const char *path)
{
    must(path, CALL(__NR_symlinkat, target, room.root, path + 1));
}

/* A file of the room's own, in the place of the machine's. */
static void show_text(const char *path, const char *text)
{
    struct mount_attr attr = {.attr_set = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC};
    long length = 0;
    while (text[length])
        length++;
    int fd = must(path, CALL(__NR_openat, room.root, "text", O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0444));
    if (must(path, CALL(__NR_write, fd, text, length)) != length)
        must(path, -EIO);
    close_file(fd);
    int tree = must(path, CALL(NR_OPEN_TREE, room.root, "text", OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC));
    must(path, CALL(NR_MOUNT_SETATTR, tree, "", AT_EMPTY_PATH, &attr, sizeof attr));
    attach(tree, path, 0);
    must(path, CALL(__NR_unlinkat, room.root, "text", 0));
}

static void show_next(void)
{
    int kind = next_int(READ_ONLY, TEXT);
    const char *path = next_text(), *with = next_text();
    if (*path != '/')
        bad_spec();
    if (kind == READ_ONLY)
        show(path, MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV);
    else if (kind == WRITABLE)
        show(path, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV);
    else if (kind == DEVICE)
        show(path, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC);
    else if (kind == SCRATCH)
        attach(new_filesystem("tmpfs", with, "1777", MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV), path, 1);
    else if (kind == TEXT)
        show_text(path, with);
    else
        link_to(with, path);
}

static int is_shown(const char *name)
{
    for (int i = 0; i < room.nshown; i++)
        if (equal(room.shown[i], name))
            return 1;
    return *name == '.' || (*name >= '1' && *name <= '9');
}

/* Of /proc a room shows its own processes and what is listed; the rest is covered by something empty. */
static void show_proc(void)
{
    _Alignas(8) char names[16384];
    attach(new_filesystem("proc", NULL, NULL, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC), "/proc", 1);
    must("cover", CALL(__NR_mkdirat, room.root, "folder", 0));
    must("cover", CALL(__NR_mknodat, room.root, "file", S_IFREG, 0));
    int proc = must("/proc", CALL(__NR_openat, room.root, "proc", O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0));
    for (int length; (length = must("/proc", CALL(__NR_getdents64, proc, names, sizeof names))) > 0;)
        for (int at = 0; at < length; at += ((struct entry *)(names + at))->length) {
            const struct entry *entry = (struct entry *)(names + at);
            if (entry->type == DT_LNK || is_shown(entry->name))
                continue;
            const char *cover = entry->type == DT_DIR ? "folder" : "file";
            int tree = must("cover", CALL(NR_OPEN_TREE, room.root, cover, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC));
            must(entry->name, CALL(NR_MOVE_MOUNT, tree, "", proc, entry->name, MOVE_MOUNT_F_EMPTY_PATH));
            close_file(tree);
        }
    close_file(proc);
    must("cover", CALL(__NR_unlinkat, room.root, "folder", AT_REMOVEDIR));
    must("cover", CALL(__NR_unlinkat, room.root, "file", 0));
}

/* The machine's tree is left and can no longer be reached. */
static void leave_machine(void)
{
    struct mount_attr attr = {.attr_set = MOUNT_ATTR_RDONLY};
    must("root", CALL(NR_MOUNT_SETATTR, room.root, "", AT_EMPTY_PATH, &attr, sizeof attr));
    must("root", CALL(__NR_fchdir, room.root));
    must("root", CALL(__NR_pivot_root, ".", "."));
    must("root", CALL(__NR_umount2, ".", MNT_DETACH));
    must("root", CALL(__NR_chdir, "/"));
}

static void raise_loopback(void)
{
    struct { char name[16]; short flags; char rest[22]; } request = {.name = "lo"};
    int fd = must("loopback", CALL(__NR_socket, AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    must("loopback", CALL(__NR_ioctl, fd, SIOCGIFFLAGS, &request));
    request.flags |= INTERFACE_UP;
    must("loopback", CALL(__NR_ioctl, fd, SIOCSIFFLAGS, &request));
    close_file(fd);
}

/* The service gets a socket that listens where only the room can reach it. It exists before any command does, so that none
 * can take its place. */
static void open_exit(void)
{
    struct address address = {.family = AF_INET, .host = LOOPBACK};
    struct passed passed = {.length = offsetof(struct passed, fds) + sizeof *passed.fds, .level = SOL_SOCKET, .type = SCM_RIGHTS};
    struct part part = {"", 1};
    struct message message = {.parts = &part, .nparts = 1, .control = &passed, .control_length = ONE_PASSED};
    passed.fds[0] = must("exit", CALL(__NR_socket, AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    must("exit", CALL(__NR_bind, passed.fds[0], &address, sizeof address));
    must("exit", CALL(__NR_listen, passed.fds[0], BACKLOG));
    must("exit", CALL(__NR_sendmsg, room.exit, &message, 0));
    close_file(passed.fds[0]);
}

static void build_room(void)
{
    must("mounts", CALL(__NR_mount, 0, "/", 0, MS_REC | MS_PRIVATE, 0));
    room.root = new_filesystem("tmpfs", "1m", "755", MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV);
    must("root", CALL(NR_MOVE_MOUNT, room.root, "", AT_FDCWD, "/", MOVE_MOUNT_F_EMPTY_PATH));
    room.nshown = next_int(0, MAX_ENTRIES);
    for (int i = 0; i < room.nshown; i++)
        room.shown[i] = next_text();
    show_proc();
    for (int left = next_int(0, MAX_RULES); left > 0; left--)
        show_next();
    if (cursor != spec_end)
        bad_spec();
    must("name", CALL(__NR_sethostname, "localhost", 9));
    if (room.flags & CLONE_NEWNET)
        raise_loopback();
    if (room.exit >= 0)
        open_exit();
    leave_machine();
}

/* The first process of a room: the kernel gives it the orphans, and ends all others with it. */
static void keep_room(void) __attribute__((noreturn));
static void keep_room(void)
{
    struct line line = {.length = 0};
    int status;
    set_blocked(~0ull);
    CALL(__NR_umask, 0); /* that of the service could close the way to the workspace */
    build_room();
    append(&line, "ready");
    report(&line);
    CALL(__NR_dup3, room.lifeline, 0, O_CLOEXEC);
    close_range(1, ~0u);
    cage.signals = open_signals(CHILD_ENDED);
    cage.control = 0;
    if (cage.signals < 0)
        exit_now(NO_ROOM);
    while (!wait_for_event(NULL))
        while (CALL(__NR_wait4, -1, &status, WNOHANG, 0) > 0) {}
    exit_now(0);
}

/* The service becomes the parent of the room's first process and learns its pid. */
static void make_room(int spec) __attribute__((noreturn));
static void make_room(int spec)
{
    struct line line = {.length = 0};
    map_spec(spec);
    if (!equal(next_text(), VERSION))
        bad_spec();
    room.lifeline = next_int(3, INT32_MAX);
    cage.status = next_int(3, INT32_MAX);
    room.exit = next_int(-1, INT32_MAX);
    room.flags = next_int(0, INT32_MAX);
    if (room.exit >= 0 && (room.exit < 3 || !(room.flags & CLONE_NEWNET)))
        bad_spec(); /* never on the machine's own loopback */
    room.uid = next_id();
    room.gid = next_id();
    if (room.uid >= 0)
        become_owner();
    int pid = must("namespaces", CALL(__NR_clone, (unsigned)room.flags | CLONE_PARENT | SIGCHLD, 0));
    if (pid == 0)
        keep_room();
    append(&line, "first ");
    append_number(&line, pid);
    report(&line);
    exit_now(0);
}

/* Called by _start with the kernel's arguments: their count, then the pointers. */
void start(long *words) __attribute__((noreturn, used));
void start(long *words)
{
    char **argv = (char **)(words + 1);
    if (words[0] == 3 && equal(argv[1], "--room"))
        make_room((int)to_number(argv[2], NULL));
    if (words[0] == 4 && equal(argv[1], "--serve"))
        serve(argv[1], (int)to_number(argv[2], NULL), (int)to_number(argv[3], NULL));
    if (words[0] == 2 && equal(argv[1], "--version"))
        exit_now(CALL(__NR_write, 1, VERSION "\n", sizeof VERSION) != sizeof VERSION);
    exit_now(BAD_SPEC);
}

/* What the self-tests attempt inside the confinement, without a tool of the machine. The result is printed: 0 or more on
 * success, otherwise a negative error number. */

static long try_open(const char *path, int flags)
{
    char byte = 'x';
    int fd = open_file(path, flags);
    if (fd < 0)
        return fd;
    return flags & O_WRONLY ? CALL(__NR_write, fd, &byte, 1) : CALL(__NR_read, fd, &byte, 1);
}

static long try_connect(int type, long long port)
{
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = (uint16_t)(port >> 8 | (port & 255) << 8)};
    to.sin_addr.s_addr = LOOPBACK;
    long fd = CALL(__NR_socket, AF_INET, type, 0), failed;
    if (fd < 0)
        return fd;
    failed = CALL(__NR_connect, fd, &to, sizeof to);
    if (!failed && type == SOCK_DGRAM) /* where nothing listens, the next one is refused */
        CALL(__NR_write, fd, "x", 1);
    return failed ? failed : CALL(__NR_write, fd, "x", 1);
}

static void sleep_forever(void) __attribute__((noreturn));
static void sleep_forever(void)
{
    for (;;)
        CALL(__NR_ppoll, 0, 0, 0, 0, 8);
}

/* Starts more processes than are permitted; none of them ends by itself. */
static long try_forks(long long count)
{
    while (count-- > 0) {
        int pid = fork_child();
        if (pid < 0)
            return pid;
        if (pid == 0)
            sleep_forever();
    }
    return 0;
}

/* Starts a process that leaves its session and its parent; its pid is the result. */
static long try_outlive(void)
{
    int pid[2], id;
    if (CALL(__NR_pipe2, pid, 0))
        return -EMFILE;
    if (fork_child() == 0) {
        CALL(__NR_setsid);
        if ((id = fork_child()) == 0)
            sleep_forever();
        CALL(__NR_write, pid[1], &id, sizeof id);
        exit_now(0);
    }
    return CALL(__NR_read, pid[0], &id, sizeof id) == sizeof id ? id : -EIO;
}

static long try_watch(const char *path)
{
    long fd = CALL(__NR_inotify_init1, 0);
    return fd < 0 ? fd : CALL(__NR_inotify_add_watch, fd, path, 0xfff);
}

static int run_attempt(char **argv)
{
    const char *what = argv[0], *with = argv[1] ? argv[1] : "";
    struct line line = {.length = 0};
    long result = -EINVAL;
    if (equal(what, "see"))
        result = open_file(with, O_PATH);
    else if (equal(what, "mode"))
        result = CALL(__NR_fchmodat, AT_FDCWD, with, 0600);
    else if (equal(what, "watch"))
        result = try_watch(with);
    else if (equal(what, "read"))
        result = try_open(with, O_RDONLY);
    else if (equal(what, "write"))
        result = try_open(with, O_WRONLY | O_CREAT);
    else if (equal(what, "tcp"))
        result = try_connect(SOCK_STREAM, to_number(with, NULL));
    else if (equal(what, "udp"))
        result = try_connect(SOCK_DGRAM, to_number(with, NULL));
    else if (equal(what, "signal"))
        result = CALL(__NR_kill, *with ? to_number(with, NULL) : CALL(__NR_getppid), 0);
    else if (equal(what, "forks"))
        result = try_forks(to_number(with, NULL));
    else if (equal(what, "outlive"))
        result = try_outlive();
    append_number(&line, result);
    CALL(__NR_write, 1, line.text, line.length);
    return result < 0;
}
