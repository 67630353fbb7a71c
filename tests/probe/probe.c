/* What a process finds in its container, as one JSON object on standard output.
 *
 * Arguments are questions, answered under "asked" in their order; what is no question is only reported as argument:
 *   read:PATH     the first 4 KiB of a file, or the error       write:PATH    error of opening it for writing
 *   create:DIR    error of making a file in it                  open:PATH     errors of opening a device each way
 *   stat:PATH     type, mode, owner, device, link                tree:PATH     the same of all below it
 *   run:PATH      status or error of executing it                mknod:PATH    errors of making a device and opening it
 *   mount:PATH    error of mounting a tmpfs on it                syscall:NAME  error or signal of a system call
 *   peers:N       how many processes /proc shows are less than N (true or false)
 * and some are orders:
 *   hook:FILE     append a hook's view (with its standard input) to FILE instead
 *   hold          after the report, wait for a signal; SIGTERM ends it with 0
 *   sleep:MS      before the report                              exit:N        with this status
 *
 * cc -O2 -static -o probe probe.c
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <ifaddrs.h>
#include <linux/capability.h>
#include <linux/securebits.h>
#include <net/if.h>
#include <arpa/inet.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/fsuid.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/utsname.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

static char *out;
static size_t used, room;

static void put(const char *data, size_t count)
{
    if (used + count > room) {
        room = 2 * room + count + 65536;
        out = realloc(out, room);
        if (out == NULL)
            abort();
    }
    memcpy(out + used, data, count);
    used += count;
}

static void comma(void)
{
    if (used && strchr("{[:", out[used - 1]) == NULL)
        put(",", 1);
}

/* Bytes that are not ASCII become U+0080…U+00FF each. */
static void quote(const char *text, size_t count)
{
    char escaped[8];

    comma();
    put("\"", 1);
    for (size_t i = 0; i < count; i++) {
        unsigned char c = text[i];
        if (c < ' ' || c >= 0x7f || c == '"' || c == '\\')
            put(escaped, snprintf(escaped, sizeof escaped, "\\u%04x", c));
        else
            put(text + i, 1);
    }
    put("\"", 1);
}

static void text(const char *value) { quote(value, strlen(value)); }
static void begin(const char *bracket) { comma(); put(bracket, 1); }
static void end(const char *bracket) { put(bracket, 1); }
static void key(const char *name) { text(name); put(":", 1); }

static void number(long long value)
{
    char digits[32];

    comma();
    put(digits, snprintf(digits, sizeof digits, "%lld", value));
}

static void boolean(int value) { comma(); value ? put("true", 4) : put("false", 5); }
static void named(const char *name, long long value) { key(name); number(value); }

/* "" for success. */
static void error_of(int failed)
{
    const char *name = failed ? strerrorname_np(errno) : "";
    text(name ? name : "?");
}

static char *slurp(const char *path, size_t most, size_t *count)
{
    /* A hook waits for its input; nothing else may make the probe wait. */
    int fd = path ? open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY) : dup(0);
    char *data;
    ssize_t n;

    if (fd < 0)
        return NULL;
    data = malloc(most + 1);
    *count = 0;
    while (*count < most && (n = read(fd, data + *count, most - *count)) != 0) {
        if (n < 0) {
            int error = errno;
            close(fd);
            free(data);
            errno = error;
            return NULL;
        }
        *count += n;
    }
    close(fd);
    data[*count] = 0;
    return data;
}

static void content(const char *path, size_t most)
{
    size_t count;
    char *data = slurp(path, most, &count);

    begin("{");
    if (data != NULL) {
        key("text");
        quote(data, count);
        free(data);
    } else {
        key("error");
        error_of(1);
    }
    end("}");
}

static void link_of(const char *path)
{
    char target[4096];
    ssize_t count = readlink(path, target, sizeof target);

    count < 0 ? error_of(1) : quote(target, count);
}

static void describe(const char *path)
{
    struct stat st;
    char mode[16], device[32];

    begin("{");
    if (lstat(path, &st) < 0) {
        key("error");
        error_of(1);
    } else {
        key("type");
        text(S_ISREG(st.st_mode) ? "file" : S_ISDIR(st.st_mode) ? "directory" : S_ISLNK(st.st_mode) ? "link"
             : S_ISCHR(st.st_mode) ? "character" : S_ISBLK(st.st_mode) ? "block" : S_ISFIFO(st.st_mode) ? "fifo" : "socket");
        key("mode");
        snprintf(mode, sizeof mode, "%04o", st.st_mode & 07777);
        text(mode);
        named("uid", st.st_uid);
        named("gid", st.st_gid);
        if (S_ISCHR(st.st_mode) || S_ISBLK(st.st_mode)) {
            key("device");
            snprintf(device, sizeof device, "%u:%u", major(st.st_rdev), minor(st.st_rdev));
            text(device);
        }
        if (S_ISREG(st.st_mode))
            named("size", st.st_size);
        if (S_ISLNK(st.st_mode)) {
            key("target");
            link_of(path);
        }
    }
    end("}");
}

static int visible(const struct dirent *entry) { return strcmp(entry->d_name, ".") && strcmp(entry->d_name, ".."); }

static void descend(const char *path, int depth)
{
    struct dirent **entries;
    int count = scandir(path, &entries, visible, alphasort);
    int pts = strcmp(path, "/dev/pts") == 0;

    for (int i = 0; i < count; i++) {
        char below[4096];
        struct stat st;
        snprintf(below, sizeof below, "%s/%s", strcmp(path, "/") ? path : "", entries[i]->d_name);
        /* Terminals come and go; how many there are is nobody's configuration. */
        if (!pts || strspn(entries[i]->d_name, "0123456789") != strlen(entries[i]->d_name)) {
            key(below);
            describe(below);
            if (depth > 0 && lstat(below, &st) == 0 && S_ISDIR(st.st_mode))
                descend(below, depth - 1);
        }
        free(entries[i]);
    }
    if (count >= 0)
        free(entries);
}

static void descriptors(void)
{
    begin("{");
    for (int fd = 0; fd < 1024; fd++) {
        char number_text[16], path[64], target[4096];
        struct stat st;
        ssize_t count;

        if (fcntl(fd, F_GETFD) < 0)
            continue;
        snprintf(number_text, sizeof number_text, "%d", fd);
        snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
        key(number_text);
        begin("{");
        key("target");
        count = readlink(path, target, sizeof target);
        count < 0 ? text("?") : quote(target, count);
        named("mode", fcntl(fd, F_GETFL) & (O_ACCMODE | O_APPEND | O_NONBLOCK | O_PATH));
        if (fstat(fd, &st) == 0)
            named("type", st.st_mode & S_IFMT), named("owner", st.st_uid);
        end("}");
    }
    end("}");
}

static void namespaces(void)
{
    static const char *const kinds[] = {"cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts"};

    begin("{");
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        char path[64];
        struct stat st;
        snprintf(path, sizeof path, "/proc/self/ns/%s", kinds[i]);
        if (stat(path, &st) == 0)
            named(kinds[i], st.st_ino);
    }
    end("}");
}

static void status(void)
{
    size_t count;
    char *data = slurp("/proc/self/status", 65536, &count), *line, *rest = data;

    begin("{");
    while (data && (line = strsep(&rest, "\n")) != NULL) {
        char *value = strchr(line, ':');
        if (value == NULL || !strncmp(line, "Vm", 2) || !strncmp(line, "Rss", 3) || !strncmp(line, "Hugetlb", 7)
            || strstr(line, "ctxt_switches") || !strncmp(line, "SigQ", 4) || !strncmp(line, "x86_Thread", 10))
            continue;
        *value++ = 0;
        key(line);
        text(value + strspn(value, "\t "));
    }
    end("}");
    free(data);
}

static void limits(void)
{
    static const char *const names[] = {"CPU", "FSIZE", "DATA", "STACK", "CORE", "RSS", "NPROC", "NOFILE", "MEMLOCK", "AS",
                                        "LOCKS", "SIGPENDING", "MSGQUEUE", "NICE", "RTPRIO", "RTTIME"};

    begin("{");
    for (int i = 0; i < 16; i++) {
        struct rlimit limit;
        if (getrlimit(i, &limit) == 0) {
            key(names[i]);
            begin("[");
            number(limit.rlim_cur);
            number(limit.rlim_max);
            end("]");
        }
    }
    end("}");
}

static void identity(void)
{
    uid_t uid[3];
    gid_t gid[3], groups[1024];
    int count = getgroups(1024, groups);
    mode_t mask = umask(0);
    char bits[16], cwd[4096];
    struct utsname names;

    umask(mask);
    getresuid(&uid[0], &uid[1], &uid[2]);
    getresgid(&gid[0], &gid[1], &gid[2]);
    key("uid"), begin("[");
    for (int i = 0; i < 3; i++)
        number(uid[i]);
    number(setfsuid(-1)), end("]");
    key("gid"), begin("[");
    for (int i = 0; i < 3; i++)
        number(gid[i]);
    number(setfsgid(-1)), end("]");
    key("groups"), begin("[");
    for (int i = 0; i < count; i++)
        number(groups[i]);
    end("]");
    snprintf(bits, sizeof bits, "%04o", mask);
    key("umask"), text(bits);
    key("cwd");
    getcwd(cwd, sizeof cwd) ? text(cwd) : error_of(1);
    uname(&names);
    key("hostname"), text(names.nodename);
    key("domainname"), text(names.domainname);
}

static void signals(void)
{
    sigset_t blocked;

    sigprocmask(SIG_BLOCK, NULL, &blocked);
    key("blocked"), begin("[");
    for (int i = 1; i < 65; i++)
        if (sigismember(&blocked, i) == 1)
            number(i);
    end("]");
    key("ignored"), begin("[");
    for (int i = 1; i < 65; i++) {
        struct sigaction action;
        if (sigaction(i, NULL, &action) == 0 && action.sa_handler == SIG_IGN)
            number(i);
    }
    end("]");
}

static void capabilities(void)
{
    struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct data[2] = {{0}};
    unsigned long long bounding = 0, ambient = 0;
    char digits[32];

    for (int i = 0; i < 64; i++) {
        bounding |= (unsigned long long)(prctl(PR_CAPBSET_READ, i) == 1) << i;
        ambient |= (unsigned long long)(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_IS_SET, i, 0, 0) == 1) << i;
    }
    syscall(SYS_capget, &header, data);
    begin("{");
#define SET(name, value) key(name), snprintf(digits, sizeof digits, "%016llx", value), text(digits)
    SET("bounding", bounding);
    SET("ambient", ambient);
    SET("effective", data[0].effective | (unsigned long long)data[1].effective << 32);
    SET("permitted", data[0].permitted | (unsigned long long)data[1].permitted << 32);
    SET("inheritable", data[0].inheritable | (unsigned long long)data[1].inheritable << 32);
    end("}");
}

static void process(void)
{
    int signal = -1;

    begin("{");
    named("dumpable", prctl(PR_GET_DUMPABLE));
    prctl(PR_GET_PDEATHSIG, &signal);
    named("pdeathsig", signal);
    named("securebits", prctl(PR_GET_SECUREBITS));
    named("keepcaps", prctl(PR_GET_KEEPCAPS));
    named("no_new_privs", prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0));
    named("timerslack", prctl(PR_GET_TIMERSLACK));
    named("thp_disable", prctl(PR_GET_THP_DISABLE, 0, 0, 0, 0));
    named("personality", personality(0xffffffff));
    signal = 0;
    prctl(PR_GET_CHILD_SUBREAPER, &signal);
    named("subreaper", signal);
    key("session_leader"), boolean(getsid(0) == getpid());
    key("group_leader"), boolean(getpgrp() == getpid());
    key("parent_seen"), boolean(getppid() != 0);
    named("pid", getpid());
    end("}");
}

static void scheduling(void)
{
    struct {
        unsigned size, policy;
        unsigned long long flags;
        int nice;
        unsigned priority;
        unsigned long long runtime, deadline, period;
        unsigned util_min, util_max;
    } attributes = {0};
    cpu_set_t cpus;
    int io = syscall(SYS_ioprio_get, 1, 0);

    begin("{");
    syscall(SYS_sched_getattr, 0, &attributes, sizeof attributes, 0);
    named("policy", attributes.policy);
    named("flags", attributes.flags);
    named("nice", attributes.nice);
    named("priority", attributes.priority);
    /* The time slice of a fair process is the kernel's own since 6.12. */
    if (attributes.policy == 6) {
        named("runtime", attributes.runtime);
        named("deadline", attributes.deadline);
        named("period", attributes.period);
    }
    named("io_class", io >> 13);
    named("io_level", io & 0x1fff);
    key("cpus"), begin("[");
    if (sched_getaffinity(0, sizeof cpus, &cpus) == 0)
        for (int i = 0; i < CPU_SETSIZE; i++)
            if (CPU_ISSET(i, &cpus))
                number(i);
    end("]");
    end("}");
}

static void terminals(void)
{
    begin("{");
    for (int fd = 0; fd < 3; fd++) {
        char name[4096], digit[2] = {'0' + fd, 0};
        struct winsize size;
        struct termios modes;
        if (!isatty(fd))
            continue;
        key(digit);
        begin("{");
        key("name");
        ttyname_r(fd, name, sizeof name) ? text("?") : text(name);
        if (ioctl(fd, TIOCGWINSZ, &size) == 0)
            named("rows", size.ws_row), named("columns", size.ws_col);
        if (tcgetattr(fd, &modes) == 0)
            named("input", modes.c_iflag), named("output", modes.c_oflag), named("control", modes.c_cflag),
                named("local", modes.c_lflag);
        key("session"), boolean(tcgetsid(fd) == getsid(0));
        key("foreground"), boolean(tcgetpgrp(fd) == getpgrp());
        end("}");
    }
    int fd = open("/dev/tty", O_RDWR | O_CLOEXEC | O_NOCTTY);
    key("controlling");
    error_of(fd < 0);
    if (fd >= 0)
        close(fd);
    end("}");
}

static void interfaces(void)
{
    struct ifaddrs *list = NULL;

    begin("[");
    getifaddrs(&list);
    for (struct ifaddrs *one = list; one; one = one->ifa_next) {
        char address[INET6_ADDRSTRLEN] = "";
        if (one->ifa_addr == NULL)
            continue;
        if (one->ifa_addr->sa_family == AF_INET)
            inet_ntop(AF_INET, &((struct sockaddr_in *)one->ifa_addr)->sin_addr, address, sizeof address);
        else if (one->ifa_addr->sa_family == AF_INET6)
            inet_ntop(AF_INET6, &((struct sockaddr_in6 *)one->ifa_addr)->sin6_addr, address, sizeof address);
        begin("{");
        key("name"), text(one->ifa_name);
        named("flags", one->ifa_flags);
        named("family", one->ifa_addr->sa_family);
        key("address"), text(address);
        end("}");
    }
    freeifaddrs(list);
    end("]");
}

static void keyring(void)
{
    long id = syscall(SYS_keyctl, 0 /* GET_KEYRING_ID */, -3 /* session */, 0);
    char description[512];
    long count = id < 0 ? -1 : syscall(SYS_keyctl, 6 /* DESCRIBE */, id, description, sizeof description);

    count < 0 ? error_of(1) : quote(description, count - 1);
}

static void files(void)
{
    static const char *const paths[] = {"cgroup", "uid_map", "gid_map", "projid_map", "setgroups", "oom_score_adj",
                                        "timerslack_ns", "loginuid", "timens_offsets", "attr/current", "attr/exec",
                                        "coredump_filter", "comm", "mountinfo"};

    begin("{");
    for (size_t i = 0; i < sizeof paths / sizeof *paths; i++) {
        char path[64];
        snprintf(path, sizeof path, "/proc/self/%s", paths[i]);
        key(paths[i]);
        content(path, 1 << 20);
    }
    key("exe"), link_of("/proc/self/exe");
    key("root"), link_of("/proc/self/root");
    end("}");
}

static void words(char **list)
{
    begin("[");
    for (; *list; list++)
        text(*list);
    end("]");
}

static const struct call {
    const char *name;
    long number, a, b, c;
} calls[] = {
    {"getpid", SYS_getpid, 0, 0, 0},
    {"getppid", SYS_getppid, 0, 0, 0},
    {"uname-null", SYS_uname, 0, 0, 0},
    {"mkdir-null", SYS_mkdirat, AT_FDCWD, 0, 0},
    {"chmod-null", SYS_fchmodat, AT_FDCWD, 0, 0},
    {"unshare-uts", SYS_unshare, CLONE_NEWUTS, 0, 0},
    {"unshare-user", SYS_unshare, CLONE_NEWUSER, 0, 0},
    {"personality-read", SYS_personality, 0xffffffff, 0, 0},
    {"personality-linux32", SYS_personality, 8, 0, 0},
    {"keyctl", SYS_keyctl, 0, -3, 0},
    {"add_key-null", SYS_add_key, 0, 0, 0},
    {"bpf-null", SYS_bpf, 0, 0, 0},
    {"openat2-null", SYS_openat2, AT_FDCWD, 0, 0},
    {"clone3-null", SYS_clone3, 0, 0, 0},
    {"ptrace-traceme", SYS_ptrace, PTRACE_TRACEME, 0, 0},
    {"socket-vsock", SYS_socket, 40, SOCK_STREAM, 0},
    {"socket-inet", SYS_socket, AF_INET, SOCK_STREAM, 0},
    {"sethostname-null", SYS_sethostname, 0, 0, 0},
    {"unknown-460", 460, 0, 0, 0},
    {"unknown-1000", 1000, 0, 0, 0},
};

static void attempt(const char *name)
{
    for (size_t i = 0; i < sizeof calls / sizeof *calls; i++) {
        int ends[2], how = 0, code = 0;
        if (strcmp(calls[i].name, name))
            continue;
        if (pipe2(ends, O_CLOEXEC) < 0) {
            error_of(1);
            return;
        }
        pid_t child = fork();
        if (child == 0) {
            code = syscall(calls[i].number, calls[i].a, calls[i].b, calls[i].c) < 0 ? errno : 0;
            _exit(write(ends[1], &code, sizeof code) != sizeof code);
        }
        close(ends[1]);
        while (waitpid(child, &how, 0) < 0 && errno == EINTR)
            ;
        if (read(ends[0], &code, sizeof code) == sizeof code)
            errno = code, error_of(code != 0);
        else
            text(WIFSIGNALED(how) ? sigabbrev_np(WTERMSIG(how)) : "?");
        close(ends[0]);
        return;
    }
    text("no such question");
}

static void opened(const char *path, int flags)
{
    int fd = open(path, flags | O_CLOEXEC | O_NOCTTY | O_NONBLOCK, 0600);

    error_of(fd < 0);
    if (fd >= 0)
        close(fd);
}

static void executed(char *path)
{
    int how, error;
    pid_t child = vfork();

    if (child == 0) {
        char *arguments[] = {path, "silent", "exit:7", NULL};
        execv(path, arguments);
        error = errno;
        _exit(100 + error);
    }
    while (waitpid(child, &how, 0) < 0 && errno == EINTR)
        ;
    number(WIFEXITED(how) ? WEXITSTATUS(how) : -WTERMSIG(how));
}

static void answer(const char *verb, char *value)
{
    char path[4096];

    if (!strcmp(verb, "read")) {
        content(value, 4096);
    } else if (!strcmp(verb, "write")) {
        opened(value, O_WRONLY);
    } else if (!strcmp(verb, "create")) {
        snprintf(path, sizeof path, "%s/.probe", value);
        opened(path, O_WRONLY | O_CREAT | O_EXCL);
        unlink(path);
    } else if (!strcmp(verb, "open")) {
        begin("[");
        opened(value, O_RDONLY), opened(value, O_WRONLY), opened(value, O_RDWR);
        end("]");
    } else if (!strcmp(verb, "stat")) {
        describe(value);
    } else if (!strcmp(verb, "tree")) {
        begin("{");
        descend(value, 8);
        end("}");
    } else if (!strcmp(verb, "run")) {
        executed(value);
    } else if (!strcmp(verb, "mknod")) {
        begin("[");
        error_of(mknod(value, S_IFCHR | 0600, makedev(1, 3)) < 0);
        opened(value, O_RDWR);
        end("]");
        unlink(value);
    } else if (!strcmp(verb, "mount")) {
        int failed = mount("tmpfs", value, "tmpfs", 0, NULL);
        error_of(failed);
        if (!failed)
            umount(value);
    } else if (!strcmp(verb, "syscall")) {
        attempt(value);
    } else if (!strcmp(verb, "peers")) {
        DIR *proc = opendir("/proc");
        int count = 0;
        for (struct dirent *entry; proc && (entry = readdir(proc)) != NULL;)
            count += entry->d_name[0] >= '1' && entry->d_name[0] <= '9';
        if (proc)
            closedir(proc);
        boolean(count < atoi(value));
    } else {
        text("no such question");
    }
}

static int deliver(const char *path, int flags)
{
    int fd = path ? open(path, flags | O_CLOEXEC, 0644) : 1;
    size_t done = 0;

    put("\n", 1);
    while (fd >= 0 && done < used) {
        ssize_t n = write(fd, out + done, used - done);
        if (n < 0)
            return 1;
        done += n;
    }
    return fd < 0;
}

static void finish(int signal) { _exit(signal != SIGTERM); }

int main(int count, char **arguments, char **environment)
{
    const char *hook = NULL;
    int code = 0, hold = 0, silent = 0, failed;

    for (int i = 1; i < count; i++) {
        if (!strncmp(arguments[i], "hook:", 5))
            hook = arguments[i] + 5;
        else if (!strncmp(arguments[i], "exit:", 5))
            code = atoi(arguments[i] + 5);
        else if (!strcmp(arguments[i], "hold"))
            hold = 1;
        else if (!strcmp(arguments[i], "silent"))
            silent = 1;
        else if (!strncmp(arguments[i], "sleep:", 6))
            usleep(1000 * atoi(arguments[i] + 6));
    }
    if (silent)
        return code;
    begin("{");
    key("descriptors"), descriptors(); /* first: later there are more */
    key("arguments"), words(arguments);
    key("environment"), words(environment);
    key("namespaces"), namespaces();
    identity();
    signals();
    key("capabilities"), capabilities();
    key("process"), process();
    if (hook) {
        size_t size;
        char *data = slurp(NULL, 1 << 20, &size);
        key("input");
        data ? quote(data, size) : error_of(1);
    } else {
        key("status"), status();
        key("limits"), limits();
        key("scheduling"), scheduling();
        key("terminals"), terminals();
        key("interfaces"), interfaces();
        key("keyring"), keyring();
        key("files"), files();
        key("dev"), begin("{");
        descend("/dev", 3);
        end("}");
        key("top"), begin("{");
        descend("/", 0);
        end("}");
        key("asked"), begin("{");
        for (int i = 1; i < count; i++) {
            char *value = strchr(arguments[i], ':');
            if (value == NULL || !strncmp(arguments[i], "exit:", 5) || !strncmp(arguments[i], "sleep:", 6))
                continue;
            char verb[16];
            snprintf(verb, sizeof verb, "%.*s", (int)(value - arguments[i]), arguments[i]);
            key(arguments[i]);
            answer(verb, value + 1);
        }
        end("}");
    }
    end("}");
    if (hold) {
        signal(SIGTERM, finish);
        signal(SIGINT, finish);
    }
    failed = deliver(hook, O_WRONLY | O_APPEND | O_CREAT);
    while (hold)
        pause();
    return failed ? 125 : code;
}
