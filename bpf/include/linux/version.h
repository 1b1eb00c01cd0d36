/*
 * BCC compares versions in a few optional helpers. Programs here never depend on a version:
 * what the kernel has is read from BTF before any C is written.
 */
#ifndef REZOLUS_LINUX_VERSION_H
#define REZOLUS_LINUX_VERSION_H
#define KERNEL_VERSION(major, minor, patch) (((major) << 16) + ((minor) << 8) + (patch))
#define LINUX_VERSION_CODE KERNEL_VERSION(5, 8, 0)
#endif
