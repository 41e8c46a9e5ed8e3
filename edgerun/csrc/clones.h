/* ER_CLONES: one function compiled for several x86-64 processors; the loader picks. Integer sums do not depend on it.
 * ER_NO_CLONES leaves the levels out, ER_PORTABLE every fast path beside the plain C.
 * Only for static functions: clang gives what others link to another name. It takes features, not levels.
 */
#ifndef EDGERUN_CLONES_H
#define EDGERUN_CLONES_H

#include <stdint.h>

#if !defined(__x86_64__) || !defined(__linux__) || !defined(__GLIBC__) || defined(ER_NO_CLONES) || \
    defined(ER_PORTABLE)
#define ER_CLONES
#elif defined(__clang__) && __clang_major__ >= 14
#define ER_CLONES __attribute__((target_clones("default", "avx2")))
#elif defined(__GNUC__) && !defined(__clang__)
#define ER_CLONES __attribute__((target_clones("default", "arch=x86-64-v3", "arch=x86-64-v4")))
#else
#define ER_CLONES
#endif

#endif
