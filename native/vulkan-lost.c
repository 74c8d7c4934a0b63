/** Whether a device is lost, asked in every way that does not wait, and where it went wrong. */
#include <unistd.h>
#include "vulkan.h"

typedef struct FaultCounts { Chain c; uint32_t addresses, of_maker; uint64_t binary_bytes; } FaultCounts;
typedef struct FaultAddress { uint32_t kind; uint64_t address, precision; } FaultAddress;
typedef struct FaultInfo { Chain c; char description[256]; FaultAddress *addresses; void *of_maker, *binary; } FaultInfo;
typedef VkResult (*GetDeviceFaultInfo)(VkDevice, FaultCounts *, FaultInfo *);

static int64_t lost(const char *what, VkResult result) { return gpu_fail(what, result), -1; }

/**
 * Value the timeline has reached; −1 when the device is lost. NVIDIA's driver 580 tells of a page fault to who submits or looks at a fence:
 * waits for semaphores time out and their values stay. So an empty batch with a fence follows what was submitted.
 */
int64_t gpu_reached(Gpu *d) {
  uint64_t value = 0;
  SubmitInfo nothing = {.c.type = ST_SUBMIT};
  VkResult result = d->call.GetSemaphoreCounterValue(d->handle, d->timeline, &value);
  if (result) return lost("vkGetSemaphoreCounterValue", result);
  if (!d->is_probing && (result = d->call.QueueSubmit(d->queue, 1, &nothing, d->probe))) return lost("vkQueueSubmit", result);
  result = d->call.GetFenceStatus(d->handle, d->probe);
  d->is_probing = result == VK_NOT_READY;
  if (result == VK_SUCCESS) result = d->call.ResetFences(d->handle, 1, &d->probe);
  return result && result != VK_NOT_READY ? lost("vkGetFenceStatus", result) : (int64_t)value;
}

/** Writes kind (1 read, 2 written, 3 executed, more: of the instruction) and address of up to 8 faults of a lost device, which may come a little later; returns how many. */
int64_t gpu_faults(Gpu *d, int64_t out[16]) {
  GetDeviceFaultInfo get = (GetDeviceFaultInfo)d->instance->call.GetDeviceProcAddr(d->handle, "vkGetDeviceFaultInfoEXT");
  FaultAddress addresses[8];
  FaultInfo info = {.c.type = ST_FAULT_INFO, .addresses = addresses};
  for (int tries = 0; get && tries < 20; tries++) {
    FaultCounts counts = {.c.type = ST_FAULT_COUNTS};
    if (get(d->handle, &counts, 0) >= 0 && counts.addresses) {
      counts = (FaultCounts){.c.type = ST_FAULT_COUNTS, .addresses = counts.addresses < 8 ? counts.addresses : 8};
      if (get(d->handle, &counts, &info) < 0) return 0;
      for (uint32_t i = 0; i < counts.addresses; i++) out[2 * i] = addresses[i].kind, out[2 * i + 1] = (int64_t)addresses[i].address;
      return counts.addresses;
    }
    d->call.GetFenceStatus(d->handle, d->probe);
    usleep(50000);
  }
  return 0;
}
