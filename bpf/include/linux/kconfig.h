/*
 * BCC takes a directory for a kernel tree when it holds this file. A kernel built
 * with BPF is the only configuration fact BCC's own headers ask for.
 */
#ifndef REZOLUS_LINUX_KCONFIG_H
#define REZOLUS_LINUX_KCONFIG_H
#define CONFIG_BPF_SYSCALL 1
#endif
