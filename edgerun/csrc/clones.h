/* ER_CLONES: one function compiled for several x86-64 levels; the loader picks. Integer sums do not depend on it. */
#ifndef EDGERUN_CLONES_H
#define EDGERUN_CLONES_H

#include <stdint.h>

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && defined(__linux__) && defined(__GLIBC__) && \
    !defined(ER_NO_CLONES)
#define ER_CLONES __attribute__((target_clones("default", "arch=x86-64-v3", "arch=x86-64-v4")))
#else
#define ER_CLONES
#endif

#endif
