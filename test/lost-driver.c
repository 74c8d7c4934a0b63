/** A Vulkan driver before the one that LOST_DRIVER names. Once the file LOST_FILE is there, the next kernel and all after it never end; LOST_WAY says which call tells. */
#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "vulkan.h"

typedef VkResult (*Negotiate)(uint32_t *);
static GetInstanceProcAddr next_instance, next_physical;
static void *(*next_device)(VkDevice, const char *);
static VkResult (*next_submit)(VkQueue, uint32_t, const SubmitInfo *, VkFence);
static VkResult (*next_wait)(VkDevice, const SemaphoreWait *, uint64_t);
static VkResult (*next_counter)(VkDevice, VkSemaphore, uint64_t *);
static VkResult (*next_idle)(VkDevice);
static VkResult (*next_status)(VkDevice, VkFence);
static VkResult (*next_create)(VkPhysicalDevice, const DeviceInfo *, const void *, VkDevice *);
static VkResult (*next_extensions)(VkPhysicalDevice, const char *, uint32_t *, ExtensionProperties *);
static void (*next_dispatch)(VkCommandBuffer, uint32_t, uint32_t, uint32_t);
static void (*next_properties)(VkPhysicalDevice, Properties2 *);
static VkCommandBuffer with_kernel;
static int is_lost;

#define FAULT "VK_EXT_device_fault"

/** What the call `way` answers once the device is lost. */
static VkResult answer(const char *way, VkResult otherwise) {
  const char *telling = getenv("LOST_WAY");
  return telling && !strcmp(telling, way) ? VK_ERROR_DEVICE_LOST : otherwise;
}

static VkResult submit(VkQueue queue, uint32_t count, const SubmitInfo *infos, VkFence fence) {
  const char *file = getenv("LOST_FILE");
  if (with_kernel && infos->command_count && infos->commands[0] == with_kernel && file && !access(file, F_OK)) is_lost = 1;
  if (!is_lost) return next_submit(queue, count, infos, fence);
  return infos->command_count ? VK_SUCCESS : answer("submit", VK_SUCCESS);
}

static VkResult wait(VkDevice device, const SemaphoreWait *info, uint64_t nanoseconds) {
  if (!is_lost) return next_wait(device, info, UINT64_MAX); /* however busy this machine is: what is not lost is no hang */
  VkResult result = answer("wait", VK_TIMEOUT);
  if (result == VK_TIMEOUT) usleep((useconds_t)(nanoseconds / 1000));
  return result;
}

static VkResult counter(VkDevice device, VkSemaphore semaphore, uint64_t *value) {
  VkResult result = is_lost ? answer("counter", VK_SUCCESS) : VK_SUCCESS;
  return result ? result : next_counter(device, semaphore, value);
}

static VkResult status(VkDevice device, VkFence fence) { return is_lost ? answer("fence", VK_NOT_READY) : next_status(device, fence); }

static VkResult idle(VkDevice device) {
  if (is_lost) pause(); /* for ever */
  return next_idle(device);
}

static void dispatch(VkCommandBuffer commands, uint32_t x, uint32_t y, uint32_t z) {
  with_kernel = commands;
  next_dispatch(commands, x, y, z);
}

/** One extension more: VK_EXT_device_fault. */
static VkResult extensions(VkPhysicalDevice physical, const char *layer, uint32_t *count, ExtensionProperties *out) {
  uint32_t room = *count;
  VkResult result = next_extensions(physical, layer, count, out);
  if (out && *count < room) out[*count] = (ExtensionProperties){FAULT, 2};
  if (!out || *count < room) ++*count;
  return result;
}

/** The driver behind has no such extension; its features in the chain are no harm. */
static VkResult create(VkPhysicalDevice physical, const DeviceInfo *info, const void *allocator, VkDevice *out) {
  const char *names[64];
  DeviceInfo known = *info;
  known.extensions = names, known.extension_count = 0;
  for (uint32_t i = 0; i < info->extension_count; i++)
    if (strcmp(info->extensions[i], FAULT)) names[known.extension_count++] = info->extensions[i];
  return next_create(physical, &known, allocator, out);
}

typedef struct FaultCounts { Chain c; uint32_t addresses, of_maker; uint64_t binary_bytes; } FaultCounts;
typedef struct FaultAddress { uint32_t kind; uint64_t address, precision; } FaultAddress;
typedef struct FaultInfo { Chain c; char description[256]; FaultAddress *addresses; void *of_maker, *binary; } FaultInfo;

/** A write to an address, and the instruction that did it. */
static VkResult faults(VkDevice device, FaultCounts *counts, FaultInfo *info) {
  (void)device;
  if (info) info->addresses[0] = (FaultAddress){6, 0x1000, 16}, info->addresses[1] = (FaultAddress){2, 0x123456789000, 4096};
  else counts->addresses = 2;
  return VK_SUCCESS;
}

/** No software device: on those a kernel may take long. */
static void properties(VkPhysicalDevice physical, Properties2 *out) {
  next_properties(physical, out);
  out->p.kind = 2;
}

#define TAKE(own, name, function, found) if (!strcmp(name, function)) return *(void **)&next_##own = found, (void *)own

static void *of_device(VkDevice device, const char *name) {
  void *found = next_device(device, name);
  TAKE(submit, name, "vkQueueSubmit", found);
  TAKE(wait, name, "vkWaitSemaphores", found);
  TAKE(counter, name, "vkGetSemaphoreCounterValue", found);
  TAKE(idle, name, "vkDeviceWaitIdle", found);
  TAKE(status, name, "vkGetFenceStatus", found);
  TAKE(dispatch, name, "vkCmdDispatch", found);
  return strcmp(name, "vkGetDeviceFaultInfoEXT") ? found : (void *)faults;
}

static void *of_instance(const char *name, void *found) {
  TAKE(properties, name, "vkGetPhysicalDeviceProperties2", found);
  TAKE(extensions, name, "vkEnumerateDeviceExtensionProperties", found);
  TAKE(create, name, "vkCreateDevice", found);
  if (found && !strcmp(name, "vkGetDeviceProcAddr")) return *(void **)&next_device = found, (void *)of_device;
  return found;
}

__attribute__((visibility("default"))) void *vk_icdGetInstanceProcAddr(VkInstance instance, const char *name) {
  return of_instance(name, next_instance(instance, name));
}

__attribute__((visibility("default"))) void *vk_icdGetPhysicalDeviceProcAddr(VkInstance instance, const char *name) {
  return of_instance(name, next_physical(instance, name));
}

__attribute__((visibility("default"))) VkResult vk_icdNegotiateLoaderICDInterfaceVersion(uint32_t *version) {
  void *library = dlopen(getenv("LOST_DRIVER"), RTLD_NOW);
  if (!library) return -9;
  *(void **)&next_instance = dlsym(library, "vk_icdGetInstanceProcAddr");
  *(void **)&next_physical = dlsym(library, "vk_icdGetPhysicalDeviceProcAddr");
  Negotiate negotiate;
  *(void **)&negotiate = dlsym(library, "vk_icdNegotiateLoaderICDInterfaceVersion");
  return negotiate(version);
}
