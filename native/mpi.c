/** Message passing between ranks: Open MPI, MPICH and the standard MPI ABI by dlopen; bytes only, errors by name. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* Handles are pointers in Open MPI and the standard ABI and ints in MPICH; both travel in one register, so one prototype serves all. */
typedef uintptr_t Handle;

enum { LARGEST = 1 << 30, VERSION_LENGTH = 8192, ERROR_LENGTH = 1024 };

#define FUNCTIONS(X)                                                      \
  X(Init_thread, (int *, char ***, int, int *))                           \
  X(Initialized, (int *))                                                 \
  X(Comm_rank, (Handle, int *))                                           \
  X(Comm_size, (Handle, int *))                                           \
  X(Comm_set_errhandler, (Handle, Handle))                                \
  X(Bcast, (void *, int, Handle, int, Handle))                            \
  X(Allgather, (const void *, int, Handle, void *, int, Handle, Handle))  \
  X(Alltoall, (const void *, int, Handle, void *, int, Handle, Handle))   \
  X(Ibarrier, (Handle, void *))                                           \
  X(Test, (void *, int *, void *))                                        \
  X(Get_library_version, (char *, int *))                                 \
  X(Error_string, (int, char *, int *))                                   \
  X(Finalize, (void))

#define POINTER(name, arguments) static int(*name) arguments;
FUNCTIONS(POINTER)

static Handle world, byte_type;
static void *ignored_status;
static char problem[ERROR_LENGTH + 256], version[VERSION_LENGTH];

const char *mpi_error(void) { return problem; }
const char *mpi_version(void) { return version; }

static int64_t fail(const char *what, int code) {
  char text[ERROR_LENGTH * 2] = "";
  int length = 0;
  if (Error_string) Error_string(code, text, &length);
  snprintf(problem, sizeof problem, "%s: %.*s", what, ERROR_LENGTH, text);
  return 0;
}

#define CALL(name, ...)                                    \
  do {                                                     \
    int code_ = name(__VA_ARGS__);                         \
    if (code_ != 0) return fail("MPI_" #name, code_);      \
  } while (0)

/* The constants of the library's ABI. MPICH's are the ints of its mpi.h, Open MPI's are addresses of its symbols, the standard's are in MPI 5.0, A. */
static int find_constants(void *library, int64_t abi, Handle *errors_return, int *funneled) {
  *funneled = 1;
  if (abi) {
    world = 0x101;
    byte_type = 0x247;
    *errors_return = 0x142;
    *funneled = 1024;
    ignored_status = NULL;
    return 1;
  }
  void *ours = dlsym(library, "ompi_mpi_comm_world");
  if (ours) {
    world = (Handle)ours;
    byte_type = (Handle)dlsym(library, "ompi_mpi_byte");
    *errors_return = (Handle)dlsym(library, "ompi_mpi_errors_return");
    ignored_status = NULL;
    return byte_type && *errors_return;
  }
  if (strstr(version, "MPICH") || strstr(version, "Intel(R) MPI") || strstr(version, "MVAPICH") || strstr(version, "CRAY")) {
    world = 0x44000000;
    byte_type = 0x4c00010d;
    *errors_return = 0x54000001;
    ignored_status = (void *)1;
    return 1;
  }
  return 0;
}

/* Opens the library at `path` and joins the world. abi: 1 = the standard ABI of MPI 5, else told from the library. Returns 1, or 0 with an error. */
int64_t mpi_open(const char *path, int64_t abi) {
  void *library = dlopen(path, RTLD_NOW | RTLD_GLOBAL); /* Open MPI's plugins look for its symbols among the global ones */
  if (!library) {
    snprintf(problem, sizeof problem, "%s", dlerror());
    return 0;
  }
#define FIND(name, arguments)                                                    \
  *(void **)&name = dlsym(library, "MPI_" #name);                                \
  if (!name) {                                                                   \
    snprintf(problem, sizeof problem, "%s has no MPI_" #name, path);             \
    return 0;                                                                    \
  }
  FUNCTIONS(FIND)
  int length = 0, done = 0, funneled = 0, level = 0;
  Handle errors_return = 0;
  if (Get_library_version(version, &length) != 0) return fail("MPI_Get_library_version", 0);
  if (!find_constants(library, abi, &errors_return, &funneled)) {
    snprintf(problem, sizeof problem, "%s is neither Open MPI nor MPICH: %.200s", path, version);
    return 0;
  }
  CALL(Initialized, &done);
  if (!done) CALL(Init_thread, NULL, NULL, funneled, &level);
  CALL(Comm_set_errhandler, world, errors_return);
  return 1;
}

int64_t mpi_rank(void) {
  int rank = -1;
  Comm_rank(world, &rank);
  return rank;
}

int64_t mpi_size(void) {
  int size = 0;
  Comm_size(world, &size);
  return size;
}

/* Copies `bytes` at `data` of rank `root` to all. */
int64_t mpi_broadcast(char *data, int64_t bytes, int64_t root) {
  for (int64_t at = 0; at < bytes; at += LARGEST)
    CALL(Bcast, data + at, (int)(bytes - at < LARGEST ? bytes - at : LARGEST), byte_type, (int)root, world);
  return 1;
}

/* into (size, bytes) = every rank's `bytes` at `mine`, in rank order; at most 2^30. */
int64_t mpi_all_gather(const void *mine, void *into, int64_t bytes) {
  CALL(Allgather, mine, (int)bytes, byte_type, into, (int)bytes, byte_type, world);
  return 1;
}

/* into (size, bytes): row r = the part of rank r's `from` (size, bytes) that is this rank's; at most 2^30. */
int64_t mpi_all_to_all(const void *from, void *into, int64_t bytes) {
  CALL(Alltoall, from, (int)bytes, byte_type, into, (int)bytes, byte_type, world);
  return 1;
}

/* Waits for all ranks without keeping a processor busy: waits can be as long as the preparation of a large text. */
int64_t mpi_barrier(void) {
  void *request[4] = {0};
  CALL(Ibarrier, world, request);
  struct timespec pause = {0, 100 * 1000};
  for (int done = 0;;) {
    CALL(Test, request, &done, ignored_status);
    if (done) return 1;
    nanosleep(&pause, NULL);
    if (pause.tv_nsec < 5 * 1000 * 1000) pause.tv_nsec += pause.tv_nsec / 4;
  }
}

int64_t mpi_close(void) {
  CALL(Finalize);
  return 1;
}

/* into[i] (+)= the rows of `rows` (count, n floats), one after another: the order of every sum is that of the rows. */
void mpi_sum_rows(float *into, const float *rows, int64_t count, int64_t n, int64_t adds) {
  for (int64_t r = 0; r < count; r++, rows += n) {
    if (r == 0 && !adds) memcpy(into, rows, (size_t)n * sizeof(float));
    else
      for (int64_t i = 0; i < n; i++) into[i] += rows[i];
  }
}

/* A variable that C libraries read: those of the script's own process.env do not reach them. */
void mpi_setenv(const char *name, const char *value) { setenv(name, value, 1); }

/* Ends the process at once, whatever its threads wait for: a rank that is lost must not keep the others. */
void mpi_exit(int64_t code) { _exit((int)code); }
