/* The cage: starts the programs of one command line confined, and outlives them until nothing of them is left.
 *
 *     cage SPEC_FD
 *
 * The spec names the programs, the bounds and two more descriptors. Bytes read from the control descriptor are signal
 * numbers for every process of the command; its end means that the service has died, so that everything is killed.
 * What was applied, what could not be executed, how each program ended and what all used is written to the status
 * descriptor, one line each, never longer than a pipe writes at once:
 *
 *     applied STAGE LEVEL LAYER,LAYER,...
 *     error STAGE ERRNO
 *     end STAGE WAIT_STATUS
 *     usage CPU_MICROSECONDS PEAK_KIB READ_BYTES WRITTEN_BYTES
 *
 * The launcher decides what is permitted; this program applies it and says what really was. cage.py is the same for
 * machines without a compiler: keep the two in step.
 *
 * It stands without a C library, whose start alone takes longer than all that is done here. So calls go straight to the
 * kernel: a negative result is an error number. */

#include <asm/stat.h>
#include <asm/unistd.h>
#include <linux/capability.h>
#include <linux/errno.h>
#include <linux/fcntl.h>
#include <linux/filter.h>
#include <linux/in.h>
#include <linux/mman.h>
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
__asm__(".globl _start\n_start: xor %ebp, %ebp\n mov %rsp, %rdi\n and $-16, %rsp\n call enter\n");

static long kernel(long number, long a, long b, long c, long d, long e, long f)
{
    long result;
    register long r10 __asm__("r10") = d, r8 __asm__("r8") = e, r9 __asm__("r9") = f;
    __asm__ volatile("syscall" : "=a"(result) : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                     : "rcx", "r11", "memory");
    return result;
}
#elif defined __aarch64__
__asm__(".globl _start\n_start: mov x29, #0\n mov x0, sp\n bl enter\n");

static long kernel(long number, long a, long b, long c, long d, long e, long f)
{
    register long x8 __asm__("x8") = number, x0 __asm__("x0") = a, x1 __asm__("x1") = b, x2 __asm__("x2") = c;
    register long x3 __asm__("x3") = d, x4 __asm__("x4") = e, x5 __asm__("x5") = f;
    __asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x5) : "memory");
    return x0;
}
#else
#error "x86-64 and aarch64 only"
#endif

#define ARGUMENTS(n, a, b, c, d, e, f, ...) \
    kernel((n), (long)(a), (long)(b), (long)(c), (long)(d), (long)(e), (long)(f))
#define CALL(...) ARGUMENTS(__VA_ARGS__, 0, 0, 0, 0, 0, 0, 0)

/* The compiler calls these by itself. */
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

static int same(const char *a, const char *b)
{
    while (*a && *a == *b)
        a++, b++;
    return *a == *b;
}

/* Decimal digits with a sign; *end is set behind them. */
static long long to_number(const char *text, const char **end)
{
    int negative = *text == '-';
    unsigned long long value = 0;
    for (text += negative; *text >= '0' && *text <= '9'; text++)
        value = value * 10 + (unsigned)(*text - '0');
    if (end)
        *end = text;
    return negative ? -(long long)value : (long long)value;
}

struct line { char text[400]; size_t length; };

static void add(struct line *line, const char *text)
{
    while (*text && line->length < sizeof line->text)
        line->text[line->length++] = *text++;
}

static void add_number(struct line *line, long long value)
{
    char digits[24], *digit = digits + sizeof digits;
    unsigned long long left = value < 0 ? -(unsigned long long)value : (unsigned long long)value;
    *--digit = 0;
    do
        *--digit = (char)('0' + left % 10);
    while (left /= 10);
    if (value < 0)
        *--digit = '-';
    add(line, digit);
}

static void exit_now(int code) __attribute__((noreturn));
static void exit_now(int code)
{
    for (;;)
        CALL(__NR_exit_group, code);
}

static int open_file(const char *path, int flags) { return (int)CALL(__NR_openat, AT_FDCWD, path, flags | O_CLOEXEC, 0644); }
static void close_file(int fd) { CALL(__NR_close, fd); }
static int fork_here(void) { return (int)CALL(__NR_clone, SIGCHLD); }

/* Numbers that old headers lack; they are the same on all architectures. */
#define NR_CLONE3 435
#define NR_CLOSE_RANGE 436
#define NR_LANDLOCK_CREATE_RULESET 444
#define NR_LANDLOCK_ADD_RULE 445
#define NR_LANDLOCK_RESTRICT_SELF 446

#define LANDLOCK_NEWEST 7
#define LANDLOCK_VERSION 1
#define LANDLOCK_PATH_BENEATH 1
#define RIGHTS_FIRST 0x1fffull /* the thirteen rights of ABI 1 */
#define RIGHT_REFER (1ull << 13)
#define RIGHT_TRUNCATE (1ull << 14)
#define RIGHT_IOCTL_DEV (1ull << 15)
#define RIGHTS_OF_FILES (7ull | RIGHT_TRUNCATE | RIGHT_IOCTL_DEV) /* execute, write, read; the rest is for folders */
#define NET_TCP 3ull /* bind and connect */
#define SCOPE_ALL 3ull /* abstract unix sockets and signals */

#define SPEC_LIMIT (8 << 20) /* bytes; more than the kernel takes as arguments */
#define MAX_STAGES 64
#define MAX_RULES 256
#define MAX_FILTER 4096
#define MAX_PROCESSES 65536 /* of the whole machine, looked through when a command is told to end */
#define SUPERVISOR_PID 0xC0DEDEADu /* stands in the filter for the pid that only this program knows */
#define MAX_GROUPS 2
#define INTO_CGROUP (1ull << 33) /* CLONE_INTO_CGROUP */
#define RESCAN 50000000 /* nanoseconds until processes told to die are looked for again */
#define DIRECT_ROUNDS 2 /* of killing, before processes are stopped first: a fork bomb outruns plain kills */
#define FREEZE_PASSES 200
#define CANNOT_RUN 127
#define BAD_SPEC 125
#define SIGNALS 64
#define INTERNET 2 /* AF_INET, which the kernel's headers leave to the C library */

struct ruleset { uint64_t fs, net, scoped; };
struct path_rule { uint64_t rights; int32_t fd; } __attribute__((packed));
struct handling { void *handler; unsigned long flags; void *restorer; uint64_t mask; };
struct limit { uint64_t soft, hard; };
struct moment { long seconds, nanoseconds; };
struct entry { uint64_t inode; int64_t offset; uint16_t length; uint8_t type; char name[]; };

struct rule { const char *path; uint64_t rights; int required; };
struct stage { char *executable, *cwd, **argv, **env; int fds[3], pid; };
struct group { int folder, joined; const char *join, *layers; };
struct process { int pid, parent; char state, ours; };

static struct {
    int minimum, control, status, network, nrules, nstages, ngroups, signals, io, server, self;
    long long uid, gid, cpu, data, file_size, processes, open_files;
    struct rule rules[MAX_RULES];
    struct stage stages[MAX_STAGES];
    struct group groups[MAX_GROUPS];
    struct sock_fprog filter;
    struct sock_filter instructions[MAX_FILTER];
} cage;

static const char *cursor, *spec_end;

static void bad_spec(void) __attribute__((noreturn));
static void bad_spec(void) { exit_now(BAD_SPEC); }

/* A field: four bytes of length, the bytes, a NUL that is not counted. */
static char *take(uint32_t *length)
{
    uint32_t n;
    if (spec_end - cursor < 5)
        bad_spec();
    memcpy(&n, cursor, 4);
    if ((uint64_t)(spec_end - cursor) < (uint64_t)n + 5 || cursor[4 + (uint64_t)n])
        bad_spec();
    const char *field = cursor + 4;
    cursor = field + n + 1;
    if (length)
        *length = n;
    return (char *)field;
}

static long long take_number(void)
{
    const char *end, *field = take(NULL);
    long long value = to_number(field, &end);
    if (end == field || *end)
        bad_spec();
    return value;
}

static int take_count(int most)
{
    long long count = take_number();
    if (count < 0 || count > most)
        bad_spec();
    return (int)count;
}

static void *map(size_t size, int fd)
{
    int flags = fd < 0 ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_PRIVATE;
    long address = CALL(__NR_mmap, 0, size, PROT_READ | PROT_WRITE, flags, fd, 0);
    if (address < 0 && address > -4096)
        bad_spec();
    return (void *)address;
}

static char **take_words(void)
{
    int count = take_count(SPEC_LIMIT / 5);
    char **words = map(((size_t)count + 1) * sizeof *words, -1);
    for (int i = 0; i < count; i++)
        words[i] = take(NULL);
    return words;
}

static void take_filter(void)
{
    uint32_t length;
    char *field = take(&length);
    if (length > sizeof cage.instructions || length % sizeof *cage.instructions)
        bad_spec();
    memcpy(cage.instructions, field, length);
    cage.filter.len = (unsigned short)(length / sizeof *cage.instructions);
    cage.filter.filter = cage.instructions;
    for (int i = 0; i < cage.filter.len; i++)
        if (cage.instructions[i].k == SUPERVISOR_PID)
            cage.instructions[i].k = (uint32_t)cage.self;
        else if (cage.instructions[i].k == -SUPERVISOR_PID)
            cage.instructions[i].k = -(uint32_t)cage.self;
}

static void take_stage(struct stage *stage)
{
    stage->executable = take(NULL);
    stage->cwd = take(NULL);
    for (int i = 0; i < 3; i++)
        stage->fds[i] = (int)take_number();
    stage->argv = take_words();
    stage->env = take_words();
    if (!stage->argv[0])
        bad_spec();
}

static void take_groups(void)
{
    cage.ngroups = take_count(MAX_GROUPS);
    for (int i = 0; i < cage.ngroups; i++) {
        cage.groups[i].folder = (int)take_number();
        cage.groups[i].join = take(NULL);
        cage.groups[i].layers = take(NULL);
    }
}

static void read_spec(int fd)
{
    struct stat about;
    if (CALL(__NR_fstat, fd, &about) || about.st_size <= 0 || about.st_size > SPEC_LIMIT)
        bad_spec();
    cursor = map((size_t)about.st_size, fd);
    spec_end = cursor + about.st_size;
    close_file(fd);
    if (!same(take(NULL), "cage 2"))
        bad_spec();
    cage.minimum = take_count(3);
    cage.server = (int)take_number();
    cage.control = (int)take_number();
    cage.status = (int)take_number();
    cage.uid = take_number();
    cage.gid = take_number();
    cage.cpu = take_number();
    cage.data = take_number();
    cage.file_size = take_number();
    cage.processes = take_number();
    cage.open_files = take_number();
    take_groups();
    cage.network = take_count(1);
    cage.nrules = take_count(MAX_RULES);
    for (int i = 0; i < cage.nrules; i++) {
        cage.rules[i].path = take(NULL);
        cage.rules[i].rights = (uint64_t)take_number();
        cage.rules[i].required = take_count(1);
    }
    take_filter();
    cage.nstages = take_count(MAX_STAGES);
    for (int i = 0; i < cage.nstages; i++)
        take_stage(&cage.stages[i]);
    if (cursor != spec_end)
        bad_spec();
}

/* One write a line, so that lines of several processes do not mix. */
static void tell(struct line *line)
{
    add(line, "\n");
    CALL(__NR_write, cage.status, line->text, line->length);
}

static void tell_numbers(const char *word, long long first, long long second)
{
    struct line line = {.length = 0};
    add(&line, word);
    add_number(&line, first);
    add(&line, " ");
    add_number(&line, second);
    tell(&line);
}

static void refuse(int stage, long result) __attribute__((noreturn));
static void refuse(int stage, long result)
{
    tell_numbers("error ", stage, -result);
    exit_now(CANNOT_RUN);
}

static void close_foreign(unsigned from, unsigned to)
{
    struct limit limit = {0, 0};
    if (from > to || !CALL(NR_CLOSE_RANGE, from, to, 0))
        return;
    CALL(__NR_prlimit64, 0, RLIMIT_NOFILE, 0, &limit);
    for (unsigned fd = from; fd <= to && fd < limit.soft && fd < 1u << 20; fd++)
        close_file((int)fd);
}

static long take_descriptors(const struct stage *stage)
{
    struct stat about;
    for (int i = 0; i < 3; i++) {
        long failed = CALL(__NR_dup3, stage->fds[i], i, 0);
        if (failed < 0)
            return failed;
        /* /dev/stdin and its like are opened anew, which only the owner of a pipe may do; no harm where it fails. */
        if (cage.uid >= 0 && !CALL(__NR_fstat, i, &about) && (about.st_mode & 0170000) == 0010000)
            CALL(__NR_fchown, i, cage.uid, -1);
    }
    close_foreign(3, (unsigned)cage.status - 1);
    close_foreign((unsigned)cage.status + 1, ~0u);
    return 0;
}

static void clean_signals(void)
{
    uint64_t none = 0;
    struct handling standard = {.handler = 0};
    for (int number = 1; number <= SIGNALS; number++)
        CALL(__NR_rt_sigaction, number, &standard, 0, 8);
    CALL(__NR_rt_sigprocmask, SIG_SETMASK, &none, 0, 8);
}

static long limit(int what, long long soft, long long hard)
{
    struct limit now, wanted = {(uint64_t)soft, (uint64_t)hard};
    long failed = CALL(__NR_prlimit64, 0, what, 0, &now);
    if (failed)
        return failed;
    wanted.hard = wanted.hard < now.hard ? wanted.hard : now.hard;
    wanted.soft = wanted.soft < wanted.hard ? wanted.soft : wanted.hard;
    return CALL(__NR_prlimit64, 0, what, &wanted, 0);
}

static long take_limits(void)
{
    long failed = limit(RLIMIT_CPU, cage.cpu, cage.cpu + 1);
    failed = failed ? failed : limit(RLIMIT_DATA, cage.data, cage.data);
    failed = failed ? failed : limit(RLIMIT_FSIZE, cage.file_size, cage.file_size);
    failed = failed ? failed : limit(RLIMIT_NOFILE, cage.open_files, cage.open_files);
    /* Not 0: that holds for files alone, a program that takes the dumps of all would be started as root. */
    return failed ? failed : limit(RLIMIT_CORE, 1, 1);
}

/* A control group that cannot be joined is not told; the program runs without it. */
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
static void offer_to_oom(void)
{
    int fd = open_file("/proc/self/oom_score_adj", O_WRONLY);
    if (fd >= 0) {
        CALL(__NR_write, fd, "500", 3);
        close_file(fd);
    }
}

static int landlock_abi(void)
{
    long abi = CALL(NR_LANDLOCK_CREATE_RULESET, 0, 0, LANDLOCK_VERSION);
    return abi < 0 ? 0 : abi > LANDLOCK_NEWEST ? LANDLOCK_NEWEST : (int)abi;
}

static long add_rule(int ruleset, const struct rule *rule, uint64_t handled)
{
    int fd = open_file(rule->path, O_PATH);
    if (fd < 0)
        return rule->required ? fd : 0;
    struct stat about;
    struct path_rule attr = {.rights = rule->rights & handled, .fd = fd};
    long failed = CALL(__NR_fstat, fd, &about);
    if (!failed && (about.st_mode & 0170000) != 0040000)
        attr.rights &= RIGHTS_OF_FILES;
    if (!failed && attr.rights)
        failed = CALL(NR_LANDLOCK_ADD_RULE, ruleset, LANDLOCK_PATH_BENEATH, &attr, 0);
    close_file(fd);
    return failed;
}

/* Rules are opened before the uid is dropped: what lies behind a private folder can be named still. */
static int make_ruleset(int abi)
{
    struct ruleset attr = {.fs = RIGHTS_FIRST};
    attr.fs |= abi >= 2 ? RIGHT_REFER : 0;
    attr.fs |= abi >= 3 ? RIGHT_TRUNCATE : 0;
    attr.fs |= abi >= 5 ? RIGHT_IOCTL_DEV : 0;
    attr.net = abi >= 4 && !cage.network ? NET_TCP : 0;
    attr.scoped = abi >= 6 ? SCOPE_ALL : 0;
    int ruleset = (int)CALL(NR_LANDLOCK_CREATE_RULESET, &attr, abi >= 6 ? 24 : abi >= 4 ? 16 : 8, 0);
    for (int i = 0; ruleset >= 0 && i < cage.nrules; i++) {
        long failed = add_rule(ruleset, &cage.rules[i], attr.fs);
        if (failed)
            return (int)failed;
    }
    return ruleset;
}

static long drop_rights(void)
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
    /* After the change of uid, which would clear it. */
    failed = CALL(__NR_prctl, PR_SET_PDEATHSIG, SIGKILL);
    return failed ? failed : CALL(__NR_getppid) == cage.self ? 0 : -ESRCH;
}

static int try_to(char **argv);

/* Returns the level reached, having told what was applied. */
static int confine(int index)
{
    struct line line = {.length = 0};
    long ruleset = -1, failed = take_limits();
    if (failed)
        refuse(index, failed);
    int abi = landlock_abi();
    if (abi && (ruleset = make_ruleset(abi)) < 0)
        refuse(index, ruleset);
    if ((failed = drop_rights()))
        refuse(index, failed);
    /* Not before the change of uid: a user who has so many processes already could execute nothing more, so that one
     * command which forks without end would keep all others from starting. */
    if ((failed = limit(RLIMIT_NPROC, cage.processes, cage.processes)))
        refuse(index, failed);
    long uid = CALL(__NR_getuid);
    int locked = !CALL(__NR_prctl, PR_SET_NO_NEW_PRIVS, 1);
    int fenced = abi && !CALL(NR_LANDLOCK_RESTRICT_SELF, ruleset, 0);
    if (abi)
        close_file((int)ruleset);
    int filtered = locked && cage.filter.len && !CALL(__NR_seccomp, SECCOMP_SET_MODE_FILTER, 0, &cage.filter);
    int level = !(locked && filtered && uid) ? 0 : fenced && abi >= 3 ? 2 : 1;
    add(&line, "applied ");
    add_number(&line, index);
    add(&line, " L");
    add_number(&line, level);
    add(&line, " session,rlimits,uid:");
    add_number(&line, uid);
    add(&line, locked ? ",no_new_privs" : "");
    add(&line, fenced ? ",landlock:" : "");
    if (fenced)
        add_number(&line, abi);
    add(&line, filtered ? ",seccomp" : "");
    for (int i = 0; i < cage.ngroups; i++)
        if (cage.groups[i].joined) {
            add(&line, ",");
            add(&line, cage.groups[i].layers);
        }
    tell(&line);
    return level;
}

static void run_stage(int index) __attribute__((noreturn));
static void run_stage(int index)
{
    struct stage *stage = &cage.stages[index];
    long failed;
    CALL(__NR_setpgid, 0, cage.stages[0].pid);
    join_groups();
    CALL(__NR_prctl, PR_SET_DUMPABLE, 1); /* else our own entries in /proc are closed to us */
    clean_signals();
    CALL(__NR_umask, 022);
    offer_to_oom();
    if ((failed = take_descriptors(stage)))
        refuse(index, failed);
    if (confine(index) < cage.minimum)
        refuse(index, -EPERM);
    if ((failed = CALL(__NR_chdir, stage->cwd)))
        refuse(index, failed);
    if (!*stage->executable)
        exit_now(try_to(stage->argv));
    CALL(__NR_fcntl, cage.status, F_SETFD, FD_CLOEXEC);
    refuse(index, CALL(__NR_execve, stage->executable, stage->argv, stage->env));
}

static struct process processes[MAX_PROCESSES];
static int known;

/* Of the kernel's "pid (name) state parent ...", where a name may hold anything. */
static void remember(int pid)
{
    struct line path = {.length = 0};
    char text[512];
    const char *after = NULL;
    add(&path, "/proc/");
    add_number(&path, pid);
    add(&path, "/stat");
    path.text[path.length] = 0;
    int fd = open_file(path.text, O_RDONLY);
    if (fd < 0)
        return;
    long length = CALL(__NR_read, fd, text, sizeof text - 1);
    close_file(fd);
    for (long i = 0; i < length; i++)
        if (text[i] == ')')
            after = text + i;
    if (!after || after + 4 >= text + length || known == MAX_PROCESSES)
        return;
    text[length] = 0;
    int parent = (int)to_number(after + 4, NULL);
    processes[known++] = (struct process){.pid = pid, .parent = parent, .state = after[2], .ours = parent == cage.self};
}

static int is_ours(int pid)
{
    int low = 0, high = known; /* /proc lists processes in the order of their ids */
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

/* All processes that descend from this one: as subreaper it stays the ancestor of whatever they start. */
static void look_around(void)
{
    _Alignas(8) char names[16384];
    int folder = open_file("/proc", O_RDONLY | O_DIRECTORY);
    known = 0;
    if (folder < 0)
        return;
    for (long length; (length = CALL(__NR_getdents64, folder, names, sizeof names)) > 0;)
        for (long at = 0; at < length; at += ((struct entry *)(names + at))->length) {
            const char *name = ((struct entry *)(names + at))->name;
            if (*name >= '1' && *name <= '9')
                remember((int)to_number(name, NULL));
        }
    close_file(folder);
    for (int changed = 1; changed;) {
        changed = 0;
        for (int i = 0; i < known; i++)
            if (!processes[i].ours && is_ours(processes[i].parent))
                changed = processes[i].ours = 1;
    }
}

/* Returns how many were still running: neither stopped nor dead. A dead one gets the signal too: where the first thread
 * of a process has ended, it looks dead while others go on. */
static int signal_all(int number)
{
    int running = 0;
    look_around();
    if (!known && cage.stages[0].pid > 0)
        CALL(__NR_kill, -cage.stages[0].pid, number);
    for (int i = 0; i < known; i++)
        if (processes[i].ours) {
            running += processes[i].state != 'T' && processes[i].state != 'Z' && processes[i].state != 'X';
            CALL(__NR_kill, processes[i].pid, number);
        }
    return running;
}

/* Born in its control group where that is possible: to join one by cgroup.procs may take 15 ms. */
static int fork_stage(void)
{
    for (int i = 0; i < cage.ngroups; i++)
        if (same(cage.groups[i].join, "cgroup.procs")) {
            uint64_t how[11] = {[0] = INTO_CGROUP, [4] = SIGCHLD, [10] = (uint64_t)cage.groups[i].folder};
            int pid = (int)CALL(NR_CLONE3, how, sizeof how);
            cage.groups[i].joined = pid == 0;
            if (pid >= 0)
                return pid;
        }
    return fork_here();
}

static void start_stages(void)
{
    for (int i = 0; i < cage.nstages; i++) {
        int pid = fork_stage();
        if (pid == 0)
            run_stage(i);
        if (pid < 0)
            tell_numbers("error ", i, -pid);
        else
            CALL(__NR_setpgid, pid, i ? cage.stages[0].pid : 0);
        cage.stages[i].pid = pid;
    }
    for (int i = 0; i < cage.nstages; i++)
        for (int k = 0; k < 3; k++)
            close_file(cage.stages[i].fds[k]);
    for (int i = 0; i < cage.ngroups; i++)
        close_file(cage.groups[i].folder);
    CALL(__NR_prctl, PR_SET_DUMPABLE, 0);
}

/* Returns how many programs of the command line are left; *none is set when no process at all is. */
static int reap(int *none)
{
    int status, left = 0;
    long pid;
    while ((pid = CALL(__NR_wait4, -1, &status, WNOHANG, 0)) > 0)
        for (int i = 0; i < cage.nstages; i++)
            if (cage.stages[i].pid == pid) {
                tell_numbers("end ", i, status);
                cage.stages[i].pid = -1;
            }
    *none = pid == -ECHILD;
    for (int i = 0; i < cage.nstages; i++)
        left += cage.stages[i].pid > 0;
    return left;
}

/* Returns what is to be read from the control descriptor; what the kernel had to tell is taken. */
static int wait_for_news(const struct moment *bound)
{
    struct pollfd sources[2] = {{.fd = cage.signals, .events = POLLIN}, {.fd = cage.control, .events = POLLIN}};
    struct signalfd_siginfo told[4];
    struct moment left = bound ? *bound : (struct moment){0, 0};
    CALL(__NR_ppoll, sources, cage.control < 0 ? 1 : 2, bound ? &left : NULL, 0, 8);
    while (CALL(__NR_read, cage.signals, told, sizeof told) > 0) {}
    return cage.control < 0 ? 0 : sources[1].revents;
}

/* Returns whether everything is to be killed: so it was asked, or nobody is there any more to ask. */
static int obey(int asked)
{
    unsigned char numbers[64];
    if (CALL(__NR_getppid) != cage.server)
        return 1;
    if (!asked)
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
        wait_for_news(&bound);
    }
}

static long long io_value(const char *text, const char *name)
{
    for (; *text; text++) {
        const char *here = text, *wanted = name;
        while (*wanted && *here == *wanted)
            here++, wanted++;
        if (!*wanted)
            return to_number(here, NULL);
    }
    return 0;
}

/* What was reaped is counted as this process's own reading and writing. */
static void tell_usage(void)
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
    add(&line, "usage");
    for (int i = 0; i < 4; i++) {
        add(&line, " ");
        add_number(&line, values[i]);
    }
    tell(&line);
}

static void stand_guard(void)
{
    const uint64_t all = ~0ull, news = 1ull << (SIGCHLD - 1) | 1ull << (SIGHUP - 1);
    const struct handling standard = {.handler = 0};
    CALL(__NR_setsid);
    if (CALL(__NR_prctl, PR_SET_CHILD_SUBREAPER, 1))
        exit_now(BAD_SPEC);
    CALL(__NR_prctl, PR_SET_PDEATHSIG, SIGHUP); /* not SIGKILL: the command is to be killed first */
    CALL(__NR_rt_sigaction, SIGCHLD, &standard, 0, 8); /* ignored, it would let children vanish unseen */
    CALL(__NR_rt_sigprocmask, SIG_SETMASK, &all, 0, 8);
    cage.signals = (int)CALL(__NR_signalfd4, -1, &news, 8, O_CLOEXEC | O_NONBLOCK);
    if (cage.signals < 0)
        exit_now(BAD_SPEC);
    cage.io = open_file("/proc/self/io", O_RDONLY);
    CALL(__NR_fcntl, cage.control, F_SETFL, O_NONBLOCK);
}

/* Called by _start with the kernel's words: their count, then they. */
void enter(long *words) __attribute__((noreturn, used));
void enter(long *words)
{
    char **argv = (char **)(words + 1);
    if (words[0] != 2)
        exit_now(BAD_SPEC);
    if (same(argv[1], "--version"))
        exit_now(CALL(__NR_write, 1, "cage 2\n", 7) != 7);
    cage.self = (int)CALL(__NR_getpid);
    read_spec((int)to_number(argv[1], NULL));
    stand_guard();
    start_stages();
    for (int none; reap(&none) > 0;)
        if (obey(wait_for_news(NULL)))
            break;
    kill_all();
    tell_usage();
    exit_now(0);
}

/* What the self-tests try inside the confinement, without a tool of the machine. The result is written: 0 or an error. */

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
    struct sockaddr_in to = {.sin_family = INTERNET, .sin_port = (uint16_t)(port >> 8 | (port & 255) << 8)};
    to.sin_addr.s_addr = 0x0100007f; /* 127.0.0.1 in the order of the network */
    long fd = CALL(__NR_socket, INTERNET, type, 0), failed;
    if (fd < 0)
        return fd;
    failed = CALL(__NR_connect, fd, &to, sizeof to);
    return failed ? failed : CALL(__NR_write, fd, "x", 1);
}

static void stay(void) __attribute__((noreturn));
static void stay(void)
{
    for (;;)
        CALL(__NR_ppoll, 0, 0, 0, 0, 8);
}

/* More processes than are permitted; none of them ends by itself. */
static long try_forks(long long count)
{
    while (count-- > 0) {
        int pid = fork_here();
        if (pid < 0)
            return pid;
        if (pid == 0)
            stay();
    }
    return 0;
}

/* A process that leaves its session and its parent; its pid is the result. */
static long try_to_stay(void)
{
    int pid[2], id;
    if (CALL(__NR_pipe2, pid, 0))
        return -EMFILE;
    if (fork_here() == 0) {
        CALL(__NR_setsid);
        if ((id = fork_here()) == 0)
            stay();
        CALL(__NR_write, pid[1], &id, sizeof id);
        exit_now(0);
    }
    return CALL(__NR_read, pid[0], &id, sizeof id) == sizeof id ? id : -EIO;
}

static int try_to(char **argv)
{
    const char *what = argv[0], *with = argv[1] ? argv[1] : "";
    struct line line = {.length = 0};
    long result = -EINVAL;
    if (same(what, "read"))
        result = try_open(with, O_RDONLY);
    else if (same(what, "write"))
        result = try_open(with, O_WRONLY | O_CREAT);
    else if (same(what, "tcp"))
        result = try_connect(1, to_number(with, NULL));
    else if (same(what, "udp"))
        result = try_connect(2, to_number(with, NULL));
    else if (same(what, "signal"))
        result = CALL(__NR_kill, *with ? to_number(with, NULL) : CALL(__NR_getppid), 0);
    else if (same(what, "forks"))
        result = try_forks(to_number(with, NULL));
    else if (same(what, "stay"))
        result = try_to_stay();
    add_number(&line, result);
    CALL(__NR_write, 1, line.text, line.length);
    return result < 0;
}
