/* The limit that the built-in runtime is measured against: one container, by what the kernel has to be asked for.
 *
 * It is containerd's default specification as `wherry.oci.spec.default_spec` writes it, all of it known in advance: no
 * document is read, no state kept, no path resolved with care for who made the root file system. Create, start, wait
 * and delete are steps of their own, as with a runtime: the process waits to be started once it is complete.
 *
 *   limit [--cgroup PATH] ROOTFS PROGRAM [ARGUMENT...]    one container; its status is the program's
 *   limit [--cgroup PATH] --serve ROOTFS PROGRAM ...      one for each byte of standard input, its own and its output
 *                                                         being /dev/null; the nanoseconds of each as a line
 *
 * With --cgroup the process is in PATH below the top of every hierarchy that there is, v1's as v2's, and has the device
 * rules; without, it stays in its parent's. It is born in v2's and gets into v1's by itself: who moves another process
 * waits for an RCU grace period.
 *
 * cc -O2 -static -o limit limit.c
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <linux/sched.h>
#include <net/if.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define MOST_HIERARCHIES 16

static char *hierarchies[MOST_HIERARCHIES]; /* the container's directory in each */
static int hierarchy_count, serving;
static const char *unified; /* that of v2 among them */
static const char *root;
static char **program;

static const unsigned kept[] = {CAP_CHOWN, CAP_DAC_OVERRIDE, CAP_FSETID, CAP_FOWNER, CAP_MKNOD, CAP_NET_RAW, CAP_SETGID,
                                CAP_SETUID, CAP_SETFCAP, CAP_SETPCAP, CAP_NET_BIND_SERVICE, CAP_SYS_CHROOT, CAP_KILL,
                                CAP_AUDIT_WRITE};

static const struct {
    const char *source, *target, *type, *data;
    unsigned long flags;
} mounts[] = {
    {"proc", "proc", "proc", NULL, MS_NOSUID | MS_NOEXEC | MS_NODEV},
    {"tmpfs", "dev", "tmpfs", "mode=755,size=65536k", MS_NOSUID | MS_STRICTATIME},
    {"devpts", "dev/pts", "devpts", "newinstance,ptmxmode=0666,mode=0620,gid=5", MS_NOSUID | MS_NOEXEC},
    {"shm", "dev/shm", "tmpfs", "mode=1777,size=65536k", MS_NOSUID | MS_NOEXEC | MS_NODEV},
    {"mqueue", "dev/mqueue", "mqueue", NULL, MS_NOSUID | MS_NOEXEC | MS_NODEV},
    {"sysfs", "sys", "sysfs", NULL, MS_NOSUID | MS_NOEXEC | MS_NODEV | MS_RDONLY},
    {"tmpfs", "run", "tmpfs", "mode=755,size=65536k", MS_NOSUID | MS_STRICTATIME},
};

static const struct {
    const char *name;
    unsigned major, minor;
} devices[] = {{"null", 1, 3}, {"random", 1, 8}, {"full", 1, 7}, {"tty", 5, 0}, {"zero", 1, 5}, {"urandom", 1, 9}};

static const char *const links[][2] = {{"/proc/kcore", "core"}, /* first: not every kernel has it */
                                       {"/proc/self/fd", "fd"},
                                       {"/proc/self/fd/0", "stdin"},
                                       {"/proc/self/fd/1", "stdout"},
                                       {"/proc/self/fd/2", "stderr"},
                                       {"pts/ptmx", "ptmx"}};

static const char *const device_rules[] = {"c *:* m",   "b *:* m",   "c 1:3 rwm",   "c 1:8 rwm",
                                           "c 1:7 rwm", "c 5:0 rwm", "c 1:5 rwm",   "c 1:9 rwm",
                                           "c 5:1 rwm", "c 5:2 rwm", "c 136:* rwm", "c 10:200 rwm"};

static const char *const masked[] = {"proc/acpi",       "proc/asound",      "proc/kcore",       "proc/keys",
                                     "proc/latency_stats", "proc/timer_list", "proc/timer_stats", "proc/sched_debug",
                                     "sys/firmware",    "proc/scsi"};

static const char *const read_only[] = {"proc/bus", "proc/fs", "proc/irq", "proc/sys", "proc/sysrq-trigger"};

static void must(int good, const char *what)
{
    if (!good) {
        perror(what);
        _exit(125);
    }
}

/* ---- cgroups ---------------------------------------------------------------------------------------------------- */

static void put(const char *directory, const char *name, const char *value)
{
    char path[4096];

    snprintf(path, sizeof path, "%s/%s", directory, name);
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    must(fd >= 0 && write(fd, value, strlen(value)) >= 0, path);
    close(fd);
}

static ssize_t get(const char *directory, const char *name, char *value, size_t room)
{
    char path[4096];

    snprintf(path, sizeof path, "%s/%s", directory, name);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    must(fd >= 0, path);
    ssize_t count = read(fd, value, room - 1);
    must(count >= 0, path);
    value[count] = 0;
    close(fd);
    return count;
}

static void make_directories(char *path)
{
    for (char *slash = path + strlen("/sys/fs/cgroup/"); (slash = strchr(slash, '/')) != NULL; slash++) {
        *slash = 0;
        must(mkdir(path, 0755) == 0 || errno == EEXIST, path);
        *slash = '/';
    }
}

static void find_hierarchies(const char *cgroup)
{
    char line[4096], point[2048], *dash;
    FILE *file = fopen("/proc/self/mountinfo", "re");

    must(file != NULL, "/proc/self/mountinfo");
    while (fgets(line, sizeof line, file) != NULL) {
        dash = strstr(line, " - cgroup");
        if (dash == NULL || sscanf(line, "%*s %*s %*s %*s %2047s", point) != 1 || hierarchy_count == MOST_HIERARCHIES)
            continue;
        must(asprintf(&hierarchies[hierarchy_count], "%s%s", point, cgroup) > 0, "memory");
        if (!strncmp(dash, " - cgroup2 ", strlen(" - cgroup2 ")))
            unified = hierarchies[hierarchy_count];
        make_directories(hierarchies[hierarchy_count++]); /* those above are no container's */
    }
    fclose(file);
}

static void fill_cpuset(const char *directory)
{
    static const char *const names[] = {"cpuset.cpus", "cpuset.mems"};
    char value[4096], above[4096];

    snprintf(above, sizeof above, "%s", directory);
    *strrchr(above, '/') = 0;
    for (int i = 0; i < 2; i++) {
        if (get(directory, names[i], value, sizeof value) > 1)
            continue;
        if (get(above, names[i], value, sizeof value) <= 1) {
            fill_cpuset(above);
            get(above, names[i], value, sizeof value);
        }
        put(directory, names[i], value);
    }
}

/* Complete before anybody is in them: what the process does while it is moved is allowed throughout. */
static void make_cgroups(void)
{
    for (int i = 0; i < hierarchy_count; i++) {
        must(mkdir(hierarchies[i], 0755) == 0 || errno == EEXIST, hierarchies[i]);
        if (strstr(hierarchies[i], "/cpuset/"))
            fill_cpuset(hierarchies[i]);
        if (strstr(hierarchies[i], "/devices/")) {
            put(hierarchies[i], "devices.deny", "a");
            for (size_t rule = 0; rule < sizeof device_rules / sizeof *device_rules; rule++)
                put(hierarchies[i], "devices.allow", device_rules[rule]);
        }
    }
}

static void enter_cgroups(void)
{
    for (int i = 0; i < hierarchy_count; i++)
        if (hierarchies[i] != unified)
            put(hierarchies[i], "tasks", "0");
}

static void remove_cgroups(void)
{
    for (int i = 0; i < hierarchy_count; i++)
        while (rmdir(hierarchies[i]) < 0) {
            must(errno == EBUSY, hierarchies[i]); /* the process is gone, and not quite yet */
            usleep(200);
        }
}

/* ---- the container's process ------------------------------------------------------------------------------------ */

static void bring_up_loopback(void)
{
    struct ifreq request = {.ifr_name = "lo", .ifr_flags = IFF_UP | IFF_RUNNING};
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

    must(fd >= 0 && ioctl(fd, SIOCSIFFLAGS, &request) == 0, "loopback");
    close(fd);
}

static void take_keyring(void)
{
    long serial = syscall(SYS_keyctl, 1 /* KEYCTL_JOIN_SESSION_KEYRING */, "_ses.limit");
    char description[256], *field = description;

    if (serial < 0 || syscall(SYS_keyctl, 6 /* KEYCTL_DESCRIBE */, serial, description, sizeof description) < 0)
        return;
    for (int i = 0; i < 3 && field; i++)
        if ((field = strchr(field, ';')) != NULL)
            field++;
    if (field)
        syscall(SYS_keyctl, 5 /* KEYCTL_SETPERM */, serial, strtoul(field, NULL, 16) | 0x00080000 /* user: search */);
}

static void enter_root(void)
{
    must(mount(NULL, "/", NULL, MS_SLAVE | MS_REC, NULL) == 0, "propagation");
    must(mount(root, root, NULL, MS_BIND | MS_REC, NULL) == 0, root);
    must(chdir(root) == 0, root);
    for (size_t i = 0; i < sizeof mounts / sizeof *mounts; i++) {
        mkdir(mounts[i].target, 0755);
        must(mount(mounts[i].source, mounts[i].target, mounts[i].type, mounts[i].flags, mounts[i].data) == 0,
             mounts[i].target);
    }
    int dev = open("dev", O_PATH | O_DIRECTORY | O_CLOEXEC);
    for (size_t i = 0; i < sizeof devices / sizeof *devices; i++)
        must(mknodat(dev, devices[i].name, S_IFCHR | 0666, makedev(devices[i].major, devices[i].minor)) == 0,
             devices[i].name);
    for (size_t i = access("proc/kcore", F_OK) ? 1 : 0; i < sizeof links / sizeof *links; i++)
        must(symlinkat(links[i][0], dev, links[i][1]) == 0, links[i][1]);
    close(dev);
    for (size_t i = 0; i < sizeof read_only / sizeof *read_only; i++) {
        unsigned long flags = MS_BIND | MS_REMOUNT | MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC;
        if (mount(read_only[i], read_only[i], NULL, MS_BIND | MS_REC, NULL) < 0) {
            must(errno == ENOENT, read_only[i]);
            continue;
        }
        must(mount(NULL, read_only[i], NULL, flags, NULL) == 0, read_only[i]);
    }
    for (size_t i = 0; i < sizeof masked / sizeof *masked; i++) {
        if (mount("/dev/null", masked[i], NULL, MS_BIND, NULL) == 0 || errno == ENOENT)
            continue;
        must(errno == ENOTDIR && mount("tmpfs", masked[i], "tmpfs", MS_RDONLY, NULL) == 0, masked[i]);
    }
    /* The old root lands on the new one, and is taken off it: pivot_root(2), NOTES. */
    must(syscall(SYS_pivot_root, ".", ".") == 0 && umount2(".", MNT_DETACH) == 0 && chdir("/") == 0, "pivot_root");
}

static void take_identity(void)
{
    struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct data[2] = {{0}};
    unsigned long long mask = 0;

    for (size_t i = 0; i < sizeof kept / sizeof *kept; i++)
        mask |= 1ULL << kept[i];
    must(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0, "no_new_privs");
    for (int i = 0; prctl(PR_CAPBSET_READ, i) >= 0; i++)
        if (!(mask >> i & 1))
            must(prctl(PR_CAPBSET_DROP, i) == 0, "bounding set");
    must(setgroups(0, NULL) == 0 && setresgid(0, 0, 0) == 0 && setresuid(0, 0, 0) == 0, "ids");
    for (int i = 0; i < 2; i++)
        data[i].effective = data[i].permitted = mask >> (32 * i);
    must(syscall(SYS_capset, &header, data) == 0, "capabilities");
    umask(022);
}

static void take_streams(void)
{
    int null = open("/dev/null", O_RDWR);

    for (int i = 0; i < 2; i++)
        must(dup2(null, i) == i, "streams");
}

static void be_process(int channel)
{
    char *environment[] = {"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/", NULL};
    char byte = 0, path[4096];

    prctl(PR_SET_DUMPABLE, 0);
    if (serving)
        take_streams();
    umask(0);
    enter_cgroups();
    setsid();
    take_keyring();
    bring_up_loopback();
    enter_root();
    take_identity();
    must(write(channel, &byte, 1) == 1, "ready");
    must(read(channel, &byte, 1) == 1, "start");
    snprintf(path, sizeof path, strchr(program[0], '/') ? "%s" : "/bin/%s", program[0]);
    syscall(SYS_close_range, 3, ~0U, 0);
    execve(path, program, environment);
    perror(path);
    _exit(127);
}

/* ---- the runtime ------------------------------------------------------------------------------------------------ */

static int container(void)
{
    struct clone_args arguments = {
        .flags = CLONE_NEWPID | CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS,
        .exit_signal = SIGCHLD,
    };
    const struct rlimit files = {1024, 1024};
    int ends[2], status;
    char byte = 0;

    make_cgroups();
    if (unified != NULL) {
        arguments.cgroup = open(unified, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        must((int)arguments.cgroup >= 0, unified);
        arguments.flags |= CLONE_INTO_CGROUP;
    }
    must(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) == 0, "socketpair");
    pid_t pid = syscall(SYS_clone3, &arguments, sizeof arguments);
    must(pid >= 0, "clone3");
    if (pid == 0)
        be_process(ends[1]);
    close(ends[1]);
    if (unified != NULL)
        close(arguments.cgroup);
    must(prlimit(pid, RLIMIT_NOFILE, &files, NULL) == 0, "prlimit");
    must(read(ends[0], &byte, 1) == 1, "the process ended"); /* created */
    must(write(ends[0], &byte, 1) == 1, "channel");          /* started */
    must(waitpid(pid, &status, 0) == pid, "waitpid");
    close(ends[0]);
    remove_cgroups();
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static long long nanoseconds(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000000LL + now.tv_nsec;
}

int main(int count, char **arguments)
{
    const char *cgroup = NULL;
    char byte;
    int next = 1;

    for (; next < count && !strncmp(arguments[next], "--", 2); next++)
        if (!strcmp(arguments[next], "--serve"))
            serving = 1;
        else if (!strcmp(arguments[next], "--cgroup") && next + 1 < count)
            cgroup = arguments[++next];
        else
            break;
    if (count - next < 2) {
        fprintf(stderr, "limit [--cgroup PATH] [--serve] ROOTFS PROGRAM [ARGUMENT...]\n");
        return 2;
    }
    root = arguments[next];
    program = arguments + next + 1;
    if (cgroup)
        find_hierarchies(cgroup);
    if (!serving)
        return container();
    while (read(0, &byte, 1) == 1) {
        long long began = nanoseconds();
        int status = container();
        long long taken = nanoseconds() - began;
        must(status == 0, "the program failed");
        dprintf(1, "%lld\n", taken);
    }
    return 0;
}
