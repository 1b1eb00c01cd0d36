"""What the kernel defines apart from a particular host: the format of BTF, system calls, perf events, USDT notation."""
