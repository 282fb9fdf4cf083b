/* burst N EVERY AHEAD: N processes, AHEAD at a time, that each make one connection in one of three ways and end at once; one in EVERY
 * executes this program anew first. Prints "number pid protocol port" of each, as it saw itself. Number n connects to 10.9.x.y. */
#include <arpa/inet.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

static void one(int n)
{
	int way = n % 3, s = socket(AF_INET, way ? SOCK_DGRAM : SOCK_STREAM | SOCK_NONBLOCK, 0);
	struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons(9), .sin_addr.s_addr = htonl(0x0a090000 + 2 + n) }, me;
	socklen_t size = sizeof me;
	if (way < 2)
		connect(s, (void *)&to, sizeof to);
	if (way == 1)
		send(s, "x", 1, 0);
	if (way == 2)
		sendto(s, "x", 1, 0, (void *)&to, sizeof to);
	getsockname(s, (void *)&me, &size);
	char line[64];
	if (write(1, line, snprintf(line, sizeof line, "%d %d %s %d\n", n, getpid(), way ? "udp" : "tcp", ntohs(me.sin_port))) < 0)
		_exit(1);
	_exit(0);
}

int main(int argc, char **argv)
{
	if (argc == 2)
		one(atoi(argv[1]));
	int total = atoi(argv[1]), every = atoi(argv[2]), ahead = atoi(argv[3]), running = 0;
	for (int n = 0; n < total; n++) {
		pid_t pid;
		while ((pid = fork()) < 0)
			wait(0), running--; /* a small pid namespace is full */
		if (pid == 0) {
			char number[16];
			snprintf(number, sizeof number, "%d", n);
			if (n % every == 0)
				execl("/proc/self/exe", "burst", number, (char *)0);
			one(n);
		}
		if (++running == ahead)
			wait(0), running--;
	}
	while (wait(0) > 0)
		;
	return 0;
}
