/** A timeline semaphore that Vulkan's queue and another API on the same device step in turn. */
#include "vulkan.h"

enum { ST_EXPORT_SEMAPHORE = 1000077000, ST_SEMAPHORE_GET_FD = 1000079001 };
typedef struct ExportSemaphore { Chain c; uint32_t handles; } ExportSemaphore;
typedef struct SemaphoreGetFd { Chain c; VkSemaphore semaphore; uint32_t handle; } SemaphoreGetFd;
typedef VkResult (*GetSemaphoreFd)(VkDevice, const SemaphoreGetFd *, int *);

static GetSemaphoreFd find(Gpu *d) { return (GetSemaphoreFd)d->instance->call.GetDeviceProcAddr(d->handle, "vkGetSemaphoreFdKHR"); }

/** An exportable timeline semaphore at 0; 0 on failure. */
int64_t gpu_semaphore(Gpu *d) {
  ExportSemaphore export = {.c.type = ST_EXPORT_SEMAPHORE, .handles = HANDLE_OPAQUE_FD};
  SemaphoreType timeline = {.c = {ST_SEMAPHORE_TYPE, &export}, .kind = SEMAPHORE_TIMELINE};
  SemaphoreInfo info = {.c = {ST_SEMAPHORE, &timeline}};
  VkSemaphore semaphore = 0;
  VkResult result = find(d) ? d->call.CreateSemaphore(d->handle, &info, 0, &semaphore) : -7;
  return result ? gpu_fail("an exportable semaphore", result) : (int64_t)semaphore;
}

/** A file descriptor of it for the other API; -1 on failure. */
int64_t gpu_semaphore_fd(Gpu *d, int64_t semaphore) {
  SemaphoreGetFd info = {.c.type = ST_SEMAPHORE_GET_FD, .semaphore = (VkSemaphore)semaphore, .handle = HANDLE_OPAQUE_FD};
  int fd = -1;
  VkResult result = find(d)(d->handle, &info, &fd);
  if (result) gpu_fail("vkGetSemaphoreFdKHR", result);
  return fd;
}

void gpu_semaphore_free(Gpu *d, int64_t semaphore) { d->call.DestroySemaphore(d->handle, (VkSemaphore)semaphore, 0); }

/** Queues a signal of `value` after all that was submitted before (signals 1), or a wait for it before all that is submitted later (signals 0). */
int64_t gpu_semaphore_step(Gpu *d, int64_t semaphore, int64_t value, int64_t signals) {
  VkSemaphore handle = (VkSemaphore)semaphore;
  uint64_t target = (uint64_t)value;
  uint32_t stage = PIPELINE_COMPUTE | PIPELINE_TRANSFER | PIPELINE_INDIRECT, on = signals != 0;
  TimelineSubmit timeline = {.c.type = ST_TIMELINE_SUBMIT, .wait_count = !on, .waits = &target, .signal_count = on, .signals = &target};
  SubmitInfo info = {.c = {ST_SUBMIT, &timeline}, .wait_count = !on, .waits = &handle, .wait_stages = &stage, .signal_count = on, .signals = &handle};
  VkResult result = d->call.QueueSubmit(d->queue, 1, &info, 0);
  return result ? gpu_fail("vkQueueSubmit of a semaphore", result) : 1;
}
