/** Sums over NVIDIA GPUs: NCCL and CUDA's driver by dlopen, on memory and a timeline semaphore that Vulkan has exported. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The part of CUDA's driver API and of NCCL that is called: facts of their headers (CUDA 13.0, NCCL 2.30). */
typedef struct CUctx_st *CUcontext;
typedef struct CUstream_st *CUstream;
typedef struct CUextMemory_st *CUexternalMemory;
typedef struct CUextSemaphore_st *CUexternalSemaphore;
typedef struct ncclComm *ncclComm;
typedef uint64_t CUdeviceptr;
typedef struct CUuuid { uint8_t bytes[16]; } CUuuid;
typedef struct ncclUniqueId { char bytes[128]; } ncclUniqueId;

enum {
  MEMORY_OPAQUE_FD = 1, MEMORY_DEDICATED = 1, SEMAPHORE_TIMELINE_FD = 9, SCHEDULE_BLOCKING = 4, STREAM_NON_BLOCKING = 1,
  NCCL_SUM = 0, NCCL_INT8 = 0, NCCL_FLOAT32 = 7,
};

typedef struct MemoryHandle {
  int32_t type;
  union { int32_t fd; struct { void *handle; const void *name; } windows; } handle;
  uint64_t bytes;
  uint32_t flags, reserved[16];
} MemoryHandle;

typedef struct MappedBuffer { uint64_t offset, bytes; uint32_t flags, reserved[16]; } MappedBuffer;

typedef struct SemaphoreHandle {
  int32_t type;
  union { int32_t fd; struct { void *handle; const void *name; } windows; } handle;
  uint32_t flags, reserved[16];
} SemaphoreHandle;

/* Of a signal and of a wait: they differ in reserved fields only. */
typedef struct SemaphoreStep {
  uint64_t value, sci_sync, key;
  uint32_t reserved[12], flags, after[16];
} SemaphoreStep;

_Static_assert(sizeof(MemoryHandle) == 104 && offsetof(MemoryHandle, bytes) == 24, "CUDA_EXTERNAL_MEMORY_HANDLE_DESC");
_Static_assert(sizeof(MappedBuffer) == 88, "CUDA_EXTERNAL_MEMORY_BUFFER_DESC");
_Static_assert(sizeof(SemaphoreHandle) == 96 && offsetof(SemaphoreHandle, flags) == 24, "CUDA_EXTERNAL_SEMAPHORE_HANDLE_DESC");
_Static_assert(sizeof(SemaphoreStep) == 144 && offsetof(SemaphoreStep, flags) == 72, "CUDA_EXTERNAL_SEMAPHORE_SIGNAL_PARAMS");

#define CUDA_FUNCTIONS(X)                                                                                        \
  X(cuInit, "cuInit", (unsigned))                                                                                \
  X(cuDeviceGetCount, "cuDeviceGetCount", (int *))                                                               \
  X(cuDeviceGet, "cuDeviceGet", (int *, int))                                                                    \
  X(cuDeviceGetUuid, "cuDeviceGetUuid_v2", (CUuuid *, int))                                                      \
  X(cuDevicePrimaryCtxSetFlags, "cuDevicePrimaryCtxSetFlags_v2", (int, unsigned))                                \
  X(cuDevicePrimaryCtxRetain, "cuDevicePrimaryCtxRetain", (CUcontext *, int))                                    \
  X(cuCtxSetCurrent, "cuCtxSetCurrent", (CUcontext))                                                             \
  X(cuStreamCreate, "cuStreamCreate", (CUstream *, unsigned))                                                    \
  X(cuStreamSynchronize, "cuStreamSynchronize", (CUstream))                                                      \
  X(cuMemAlloc, "cuMemAlloc_v2", (CUdeviceptr *, size_t))                                                        \
  X(cuMemFree, "cuMemFree_v2", (CUdeviceptr))                                                                    \
  X(cuMemcpyHtoD, "cuMemcpyHtoD_v2", (CUdeviceptr, const void *, size_t))                                        \
  X(cuMemcpyDtoH, "cuMemcpyDtoH_v2", (void *, CUdeviceptr, size_t))                                              \
  X(cuImportExternalMemory, "cuImportExternalMemory", (CUexternalMemory *, const MemoryHandle *))                \
  X(cuExternalMemoryGetMappedBuffer, "cuExternalMemoryGetMappedBuffer", (CUdeviceptr *, CUexternalMemory, const MappedBuffer *)) \
  X(cuDestroyExternalMemory, "cuDestroyExternalMemory", (CUexternalMemory))                                      \
  X(cuImportExternalSemaphore, "cuImportExternalSemaphore", (CUexternalSemaphore *, const SemaphoreHandle *))    \
  X(cuDestroyExternalSemaphore, "cuDestroyExternalSemaphore", (CUexternalSemaphore))                             \
  X(cuWaitExternalSemaphores, "cuWaitExternalSemaphoresAsync", (const CUexternalSemaphore *, const SemaphoreStep *, unsigned, CUstream)) \
  X(cuSignalExternalSemaphores, "cuSignalExternalSemaphoresAsync", (const CUexternalSemaphore *, const SemaphoreStep *, unsigned, CUstream)) \
  X(cuGetErrorString, "cuGetErrorString", (int, const char **))

#define NCCL_FUNCTIONS(X)                                                                                        \
  X(ncclGetVersion, "ncclGetVersion", (int *))                                                                   \
  X(ncclGetUniqueId, "ncclGetUniqueId", (ncclUniqueId *))                                                        \
  X(ncclCommInitRank, "ncclCommInitRank", (ncclComm *, int, ncclUniqueId, int))                                  \
  X(ncclAllReduce, "ncclAllReduce", (const void *, void *, size_t, int, int, ncclComm, CUstream))                \
  X(ncclAllGather, "ncclAllGather", (const void *, void *, size_t, int, ncclComm, CUstream))                     \
  X(ncclBroadcast, "ncclBroadcast", (const void *, void *, size_t, int, int, ncclComm, CUstream))                \
  X(ncclCommDestroy, "ncclCommDestroy", (ncclComm))

#define POINTER(name, symbol, arguments) static int(*name) arguments;
CUDA_FUNCTIONS(POINTER)
NCCL_FUNCTIONS(POINTER)
static const char *(*ncclGetErrorString)(int);
static const char *(*ncclGetLastError)(ncclComm);

static char problem[1024];
static CUstream stream;
static ncclComm world;
static CUexternalMemory memory;
static CUexternalSemaphore semaphore;
static CUdeviceptr shared, scratch;
static size_t scratch_bytes;

const char *nccl_error(void) { return problem; }

static int64_t fail_cuda(const char *what, int code) {
  const char *text = 0;
  if (cuGetErrorString) cuGetErrorString(code, &text);
  snprintf(problem, sizeof problem, "%s: %s (%d)", what, text ? text : "unknown", code);
  return 0;
}

static int64_t fail_nccl(const char *what, int code) {
  const char *detail = ncclGetLastError ? ncclGetLastError(world) : 0;
  snprintf(problem, sizeof problem, "%s: %s%s%s", what, ncclGetErrorString(code), detail && *detail ? ": " : "", detail ? detail : "");
  return 0;
}

#define CUDA(name, ...)                                         \
  do {                                                          \
    int code_ = name(__VA_ARGS__);                              \
    if (code_ != 0) return fail_cuda(#name, code_);             \
  } while (0)
#define NCCL(name, ...)                                         \
  do {                                                          \
    int code_ = name(__VA_ARGS__);                              \
    if (code_ != 0) return fail_nccl(#name, code_);             \
  } while (0)

static void *open_library(const char *path) {
  void *library = dlopen(path, RTLD_NOW | RTLD_GLOBAL);
  if (!library) snprintf(problem, sizeof problem, "%s", dlerror());
  return library;
}

/* Opens NCCL alone: enough to make an identifier. Returns its version (2.30.7 = 23007), or 0. */
int64_t nccl_open(const char *path) {
  void *library = open_library(path);
  if (!library) return 0;
#define FIND(name, symbol, arguments)                                            \
  *(void **)&name = dlsym(library, symbol);                                      \
  if (!name) {                                                                   \
    snprintf(problem, sizeof problem, "%s has no %s", path, symbol);             \
    return 0;                                                                    \
  }
  NCCL_FUNCTIONS(FIND)
  *(void **)&ncclGetErrorString = dlsym(library, "ncclGetErrorString");
  *(void **)&ncclGetLastError = dlsym(library, "ncclGetLastError"); /* since 2.13 */
  /* One algorithm for every size: the order of additions, and so the bits, are the same in every run. */
  setenv("NCCL_ALGO", "Ring", 0);
  setenv("NCCL_PROTO", "Simple", 0);
  int version = 0;
  NCCL(ncclGetVersion, &version);
  return version;
}

/* A new world's identifier, 128 bytes; the process that makes it is the one that the others find first. */
int64_t nccl_id(void *id) {
  NCCL(ncclGetUniqueId, id);
  return 1;
}

/* Joins the world `id` on the GPU whose UUID (16 bytes) is Vulkan's; the calling thread makes all calls from now on. */
int64_t nccl_join(const void *id, int64_t rank, int64_t size, const uint8_t *uuid) {
  const char *path = "libcuda.so.1";
  void *library = open_library(path);
  if (!library) return 0;
  CUDA_FUNCTIONS(FIND)
  int count = 0, device = -1;
  CUDA(cuInit, 0);
  CUDA(cuDeviceGetCount, &count);
  for (int i = 0; i < count && device < 0; i++) {
    int each;
    CUuuid own;
    CUDA(cuDeviceGet, &each, i);
    CUDA(cuDeviceGetUuid, &own, each);
    if (!memcmp(own.bytes, uuid, 16)) device = each;
  }
  if (device < 0) {
    snprintf(problem, sizeof problem, "CUDA sees %d GPUs, none of them the one that Vulkan uses (CUDA_VISIBLE_DEVICES hides it?)", count);
    return 0;
  }
  CUcontext context;
  cuDevicePrimaryCtxSetFlags(device, SCHEDULE_BLOCKING); /* a rank that waits leaves its processor to others; refused where CUDA runs already */
  CUDA(cuDevicePrimaryCtxRetain, &context, device);
  CUDA(cuCtxSetCurrent, context);
  CUDA(cuStreamCreate, &stream, STREAM_NON_BLOCKING);
  ncclUniqueId identifier;
  memcpy(&identifier, id, sizeof identifier);
  NCCL(ncclCommInitRank, &world, (int)size, identifier, (int)rank);
  return 1;
}

/* Maps exported memory and a timeline semaphore of the same GPU; CUDA owns both file descriptors afterwards. */
int64_t nccl_share(int64_t memory_fd, int64_t bytes, int64_t semaphore_fd) {
  MemoryHandle handle = {.type = MEMORY_OPAQUE_FD, .handle.fd = (int32_t)memory_fd, .bytes = (uint64_t)bytes, .flags = MEMORY_DEDICATED};
  MappedBuffer whole = {.bytes = (uint64_t)bytes};
  SemaphoreHandle signal = {.type = SEMAPHORE_TIMELINE_FD, .handle.fd = (int32_t)semaphore_fd};
  CUDA(cuImportExternalMemory, &memory, &handle);
  CUDA(cuExternalMemoryGetMappedBuffer, &shared, memory, &whole);
  CUDA(cuImportExternalSemaphore, &semaphore, &signal);
  return 1;
}

/* When the semaphore has reached `after`, adds floats [from, from + count) of the shared memory over all ranks in place, then moves it to `value`. */
int64_t nccl_sum(int64_t from, int64_t count, int64_t after, int64_t value) {
  SemaphoreStep begin = {.value = (uint64_t)after}, end = {.value = (uint64_t)value};
  void *floats = (void *)(shared + (uint64_t)from * 4);
  if (after > 0) CUDA(cuWaitExternalSemaphores, &semaphore, &begin, 1, stream);
  NCCL(ncclAllReduce, floats, floats, (size_t)count, NCCL_FLOAT32, NCCL_SUM, world, stream);
  if (value > 0) CUDA(cuSignalExternalSemaphores, &semaphore, &end, 1, stream);
  return 1;
}

static int64_t grow_scratch(size_t bytes) {
  if (bytes <= scratch_bytes) return 1;
  if (scratch) CUDA(cuMemFree, scratch);
  scratch = scratch_bytes = 0;
  CUDA(cuMemAlloc, &scratch, bytes);
  scratch_bytes = bytes;
  return 1;
}

/* into (size, bytes) = every rank's `bytes` at `mine`, in rank order; host memory, by way of the GPU. */
int64_t nccl_all_gather(const void *mine, void *into, int64_t bytes, int64_t size) {
  if (!grow_scratch((size_t)(bytes * (size + 1)))) return 0;
  CUdeviceptr own = scratch + (uint64_t)(bytes * size);
  CUDA(cuMemcpyHtoD, own, mine, (size_t)bytes);
  NCCL(ncclAllGather, (const void *)own, (void *)scratch, (size_t)bytes, NCCL_INT8, world, stream);
  CUDA(cuStreamSynchronize, stream);
  CUDA(cuMemcpyDtoH, into, scratch, (size_t)(bytes * size));
  return 1;
}

/* Copies `bytes` at `data` of rank `root` to all; host memory, by way of the GPU, in pieces. */
int64_t nccl_broadcast(char *data, int64_t bytes, int64_t root) {
  enum { PIECE = 64 << 20 };
  if (!grow_scratch(bytes < PIECE ? (size_t)bytes : PIECE)) return 0;
  for (int64_t at = 0; at < bytes; at += PIECE) {
    size_t part = (size_t)(bytes - at < PIECE ? bytes - at : PIECE);
    CUDA(cuMemcpyHtoD, scratch, data + at, part);
    NCCL(ncclBroadcast, (const void *)scratch, (void *)scratch, part, NCCL_INT8, (int)root, world, stream);
    CUDA(cuStreamSynchronize, stream);
    CUDA(cuMemcpyDtoH, data + at, scratch, part);
  }
  return 1;
}

/* Gives everything back, after all work is done. */
int64_t nccl_close(void) {
  CUDA(cuStreamSynchronize, stream);
  NCCL(ncclCommDestroy, world);
  if (scratch) CUDA(cuMemFree, scratch);
  if (semaphore) CUDA(cuDestroyExternalSemaphore, semaphore);
  if (shared) CUDA(cuMemFree, shared);
  if (memory) CUDA(cuDestroyExternalMemory, memory);
  return 1;
}
