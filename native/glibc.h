/** Binds functions to their oldest version in glibc, so that a library built on a new system loads on glibc 2.28; put before every file by the build. */
#pragma once
#if defined(__x86_64__)
#define OLD(name, x64) __asm__(".symver " #name "," #name "@GLIBC_" x64)
#elif defined(__aarch64__)
#define OLD(name, x64) __asm__(".symver " #name "," #name "@GLIBC_2.17")
#else
#error "native/glibc.h: add the oldest glibc of this processor"
#endif

// moved from libpthread and libdl to libc in 2.34
OLD(pthread_create, "2.2.5");
OLD(pthread_join, "2.2.5");
OLD(pthread_detach, "2.2.5");
OLD(pthread_once, "2.2.5");
OLD(pthread_kill, "2.2.5");
OLD(pthread_mutex_trylock, "2.2.5");
OLD(pthread_key_create, "2.2.5");
OLD(pthread_getspecific, "2.2.5");
OLD(pthread_setspecific, "2.2.5");
OLD(pthread_barrier_init, "2.2.5");
OLD(pthread_barrier_wait, "2.2.5");
OLD(pthread_barrier_destroy, "2.2.5");
OLD(pthread_setaffinity_np, "2.3.4");
OLD(pthread_setname_np, "2.12");
OLD(sem_init, "2.2.5");
OLD(sem_post, "2.2.5");
OLD(sem_wait, "2.2.5");
OLD(dlopen, "2.2.5");
OLD(dlsym, "2.2.5");
OLD(dlclose, "2.2.5");
OLD(dlerror, "2.2.5");
// rewritten without errno in 2.29
OLD(exp, "2.2.5");
OLD(exp2, "2.2.5");
OLD(log, "2.2.5");
OLD(log2, "2.2.5");
OLD(pow, "2.2.5");
