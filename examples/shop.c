/* A program to look into: cc -O1 -g -o /tmp/shop examples/shop.c && /tmp/shop */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

/* noinline: an inlined function is nowhere, so nothing can be attached to it. */
__attribute__((noinline)) int handle_order(int items)
{
    struct timespec work = {0, items * 1000000L};

    nanosleep(&work, NULL);
    return items > 8 ? -1 : 0;
}

int main(int argc, char **argv)
{
    long orders = argc > 1 ? atol(argv[1]) : 1000;
    int failed = 0;

    for (long order = 0; order < orders; order++)
        failed += handle_order((int)(order % 10)) != 0;
    printf("%ld orders, %d failed\n", orders, failed);
    return 0;
}
