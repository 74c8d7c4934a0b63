/** A Vulkan driver before the one that LOST_DRIVER names. Once the file LOST_FILE is there, the next kernel and all after it never end; LOST_WAY says which call tells. */
#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "vulkan.h"

typedef VkResult (*Negotiate)(uint32_t *);
static GetInstanceProcAddr next_instance, next_physical;
static void *(*next_device)(VkDevice, const char *);
static VkResult (*next_submit)(VkQueue, uint32_t, const SubmitInfo *, uint64_t);
static VkResult (*next_wait)(VkDevice, const SemaphoreWait *, uint64_t);
static VkResult (*next_counter)(VkDevice, VkSemaphore, uint64_t *);
static VkResult (*next_idle)(VkDevice);
static void (*next_dispatch)(VkCommandBuffer, uint32_t, uint32_t, uint32_t);
static void (*next_properties)(VkPhysicalDevice, Properties2 *);
static VkCommandBuffer with_kernel;
static int is_lost;

/** What the call `way` answers once the device is lost. */
static VkResult answer(const char *way, VkResult otherwise) {
  const char *telling = getenv("LOST_WAY");
  return telling && !strcmp(telling, way) ? VK_ERROR_DEVICE_LOST : otherwise;
}

static VkResult submit(VkQueue queue, uint32_t count, const SubmitInfo *infos, uint64_t fence) {
  const char *file = getenv("LOST_FILE");
  if (with_kernel && infos->command_count && infos->commands[0] == with_kernel && file && !access(file, F_OK)) is_lost = 1;
  if (!is_lost) return next_submit(queue, count, infos, fence);
  return infos->command_count ? VK_SUCCESS : answer("submit", VK_SUCCESS);
}

static VkResult wait(VkDevice device, const SemaphoreWait *info, uint64_t nanoseconds) {
  if (!is_lost) return next_wait(device, info, nanoseconds);
  VkResult result = answer("wait", VK_TIMEOUT);
  if (result == VK_TIMEOUT) usleep((useconds_t)(nanoseconds / 1000));
  return result;
}

static VkResult counter(VkDevice device, VkSemaphore semaphore, uint64_t *value) {
  VkResult result = is_lost ? answer("counter", VK_SUCCESS) : VK_SUCCESS;
  return result ? result : next_counter(device, semaphore, value);
}

static VkResult idle(VkDevice device) {
  if (is_lost) pause(); /* for ever */
  return next_idle(device);
}

static void dispatch(VkCommandBuffer commands, uint32_t x, uint32_t y, uint32_t z) {
  with_kernel = commands;
  next_dispatch(commands, x, y, z);
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
  TAKE(dispatch, name, "vkCmdDispatch", found);
  return found;
}

static void *of_instance(const char *name, void *found) {
  TAKE(properties, name, "vkGetPhysicalDeviceProperties2", found);
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
