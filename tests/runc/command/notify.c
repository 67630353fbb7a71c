// Says its arguments, one datagram each, to the socket in NOTIFY_SOCKET; "+" before a number: sleep so many seconds.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

int main(int argc, char **argv) {
    const char *path = getenv("NOTIFY_SOCKET");
    printf("socket %s\n", path ? path : "none");
    fflush(stdout);
    int s = socket(AF_UNIX, SOCK_DGRAM, 0);
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    strncpy(address.sun_path, path ? path : "", sizeof address.sun_path - 1);
    for (int i = 1; i < argc; i++)
        if (argv[i][0] == '+')
            usleep(atof(argv[i] + 1) * 1e6);
        else if (sendto(s, argv[i], strlen(argv[i]), 0, (void *)&address, sizeof address) < 0)
            perror("sendto");
    return 0;
}
