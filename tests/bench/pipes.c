/*
 * Two processes on one CPU pass a byte back and forth through pipes: two system calls and one context switch each way.
 *
 * usage: pipes ROUNDS REPEATS; prints the best time of a round, ns.
 */
#define _GNU_SOURCE
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

static long now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1000000000L + time.tv_nsec;
}

static void answer(int from, int to)
{
    char byte;
    while (read(from, &byte, 1) == 1 && write(to, &byte, 1) == 1)
        ;
    _exit(0);
}

int main(int count, char **arguments)
{
    if (count != 3)
        return 2;
    int rounds = atoi(arguments[1]), repeats = atoi(arguments[2]), there[2], back[2];
    cpu_set_t allowed, one;
    CPU_ZERO(&one);
    if (sched_getaffinity(0, sizeof allowed, &allowed))
        return 1;
    int cpu = CPU_SETSIZE - 1;
    while (!CPU_ISSET(cpu, &allowed))
        cpu--;
    CPU_SET(cpu, &one);
    if (sched_setaffinity(0, sizeof one, &one) || pipe(there) || pipe(back))
        return 1;
    if (fork() == 0) {
        close(there[1]);
        close(back[0]);
        answer(there[0], back[1]);
    }
    close(there[0]);
    close(back[1]);
    char byte = 0;
    long best = -1;
    for (int repeat = 0; repeat < repeats; repeat++) {
        long begin = now();
        for (int round = 0; round < rounds; round++)
            if (write(there[1], &byte, 1) != 1 || read(back[0], &byte, 1) != 1)
                return 1;
        long taken = (now() - begin) / rounds;
        if (best < 0 || taken < best)
            best = taken;
    }
    printf("%ld\n", best);
    return 0;
}
