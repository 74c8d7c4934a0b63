/** Opens Vulkan: the library by dlopen, the instance, its devices and their facts, one logical device with a compute queue. */
#include "vulkan.h"
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static _Thread_local char error[512];

/** Text of the last failure on this thread. */
const char *gpu_error(void) { return error; }

int64_t gpu_fail(const char *what, VkResult result) {
  static const struct { VkResult code; const char *name; } names[] = {
      {-1, "VK_ERROR_OUT_OF_HOST_MEMORY"},  {-2, "VK_ERROR_OUT_OF_DEVICE_MEMORY"}, {-3, "VK_ERROR_INITIALIZATION_FAILED"}, {-4, "VK_ERROR_DEVICE_LOST"},
      {-5, "VK_ERROR_MEMORY_MAP_FAILED"},   {-6, "VK_ERROR_LAYER_NOT_PRESENT"},    {-7, "VK_ERROR_EXTENSION_NOT_PRESENT"}, {-8, "VK_ERROR_FEATURE_NOT_PRESENT"},
      {-9, "VK_ERROR_INCOMPATIBLE_DRIVER"}, {-10, "VK_ERROR_TOO_MANY_OBJECTS"},    {-13, "VK_ERROR_UNKNOWN"},
  };
  const char *name = "VkResult";
  for (unsigned i = 0; i < sizeof names / sizeof *names; i++)
    if (names[i].code == result) name = names[i].name;
  if (result == VK_SUCCESS) snprintf(error, sizeof error, "%s", what);
  else snprintf(error, sizeof error, "%s: %s (%d)", what, name, result);
  return 0;
}

/** Opens `library` (a loader, or an ICD itself) and makes an instance, with the Khronos validation layer if asked. NULL on failure. */
GpuInstance *gpu_open(const char *library, int64_t validate) {
  void *handle = dlopen(library, RTLD_NOW | RTLD_LOCAL);
  if (!handle) return (GpuInstance *)gpu_fail(dlerror(), VK_SUCCESS);
  /* An ICD opened without a loader must first be told which interface version its caller speaks. */
  VkResult (*negotiate)(uint32_t *) = (VkResult(*)(uint32_t *))dlsym(handle, "vk_icdNegotiateLoaderICDInterfaceVersion");
  uint32_t version = 5;
  if (negotiate) negotiate(&version);
  GetInstanceProcAddr get = (GetInstanceProcAddr)dlsym(handle, "vkGetInstanceProcAddr");
  if (!get) get = (GetInstanceProcAddr)dlsym(handle, "vk_icdGetInstanceProcAddr");
  VkResult (*create)(const InstanceInfo *, const void *, VkInstance *) = get ? get(0, "vkCreateInstance") : 0;
  if (!create) {
    dlclose(handle);
    return (GpuInstance *)gpu_fail("the library has no vkCreateInstance", VK_SUCCESS);
  }
  ApplicationInfo application = {.c.type = ST_APPLICATION, .application = "alpha", .api = 1u << 22 | 3u << 12};
  const char *layer = "VK_LAYER_KHRONOS_validation";
  InstanceInfo info = {.c.type = ST_INSTANCE, .application = &application, .layer_count = validate ? 1 : 0, .layers = &layer};
  GpuInstance *g = calloc(1, sizeof *g);
  VkResult result = create(&info, 0, &g->handle);
  if (result) {
    free(g);
    dlclose(handle);
    return (GpuInstance *)gpu_fail("vkCreateInstance", result);
  }
  g->library = handle;
  g->get = get;
#define LOAD(result_, name, arguments) g->call.name = get(g->handle, "vk" #name);
  INSTANCE_FUNCTIONS(LOAD)
#undef LOAD
  g->count = 16;
  result = g->call.EnumeratePhysicalDevices(g->handle, &g->count, g->devices);
  if (result && result != VK_INCOMPLETE) g->count = 0;
  return g;
}

void gpu_close(GpuInstance *g) {
  g->call.DestroyInstance(g->handle, 0);
  dlclose(g->library);
  free(g);
}

int64_t gpu_count(const GpuInstance *g) { return g->count; }

/** Number of facts that gpu_facts writes; src/native-vulkan.ts names them in this order. */
enum { FACTS = 32 };

/** Writes facts of a device: numbers to `facts` (FACTS), name, driver and driver info as three C strings of 256 bytes, the UUID as 16 bytes after them. */
void gpu_facts(const GpuInstance *g, int64_t index, int64_t *facts, char *text) {
  Properties13 p13 = {.c.type = ST_PROPERTIES_13};
  Properties12 p12 = {.c = {ST_PROPERTIES_12, &p13}};
  Properties11 p11 = {.c = {ST_PROPERTIES_11, &p12}};
  Properties2 p = {.c = {ST_PROPERTIES_2, &p11}};
  FeaturesBfloat16 bfloat = {.c.type = ST_BFLOAT16};
  FeaturesMatrix2 matrix2 = {.c = {ST_COOPERATIVE_MATRIX_2, &bfloat}};
  FeaturesMatrix matrix = {.c = {ST_COOPERATIVE_MATRIX, &matrix2}};
  Features13 f13 = {.c = {ST_FEATURES_13, &matrix}};
  Features12 f12 = {.c = {ST_FEATURES_12, &f13}};
  Features11 f11 = {.c = {ST_FEATURES_11, &f12}};
  Features2 f = {.c = {ST_FEATURES_2, &f11}};
  MemoryProperties2 memory = {.c.type = ST_MEMORY_PROPERTIES_2};
  VkPhysicalDevice device = g->devices[index];
  g->call.GetPhysicalDeviceProperties2(device, &p);
  g->call.GetPhysicalDeviceFeatures2(device, &f);
  g->call.GetPhysicalDeviceMemoryProperties2(device, &memory);
  int64_t local = 0;
  for (uint32_t h = 0; h < memory.p.heap_count; h++)
    if (memory.p.heaps[h].flags & 1 && (int64_t)memory.p.heaps[h].bytes > local) local = (int64_t)memory.p.heaps[h].bytes;
  const Limits *l = &p.p.limits;
  const int64_t values[FACTS] = {
      p.p.api, p.p.driver, p.p.vendor, p.p.device, p.p.kind, local, p11.max_allocation_bytes, l->max_storage_range, l->max_push_bytes, l->max_shared_bytes,
      l->max_invocations, p11.subgroup_size, p13.min_subgroup_size, p13.max_subgroup_size, p13.required_subgroup_stages, p11.subgroup_operations,
      (int64_t)(l->timestamp_period * 1e6), f.on[40] /* shaderInt64 */, f11.on[0] /* storageBuffer16BitAccess */, f12.on[38] /* bufferDeviceAddress */,
      f12.on[37] /* timelineSemaphore */, f12.on[41] /* vulkanMemoryModel */, f13.on[7] /* subgroupSizeControl */, f13.on[8] /* computeFullSubgroups */,
      matrix.on[0], matrix2.on[0] && matrix2.on[1], matrix2.on[2] && matrix2.on[3] && matrix2.on[4], matrix2.on[5], bfloat.on[0], bfloat.on[2],
      f12.on[7] /* shaderFloat16 */, f13.on[14] /* maintenance4 */,
  };
  memcpy(facts, values, sizeof values);
  memcpy(text, p.p.name, 256);
  memcpy(text + 256, p12.driver_name, 256);
  memcpy(text + 512, p12.driver_info, 256);
  memcpy(text + 768, p11.device_uuid, 16);
}

/** Writes the names of a device's extensions, one a line, into `text`; returns the bytes written. */
int64_t gpu_extensions(const GpuInstance *g, int64_t index, char *text, int64_t bytes) {
  uint32_t count = 0;
  g->call.EnumerateDeviceExtensionProperties(g->devices[index], 0, &count, 0);
  ExtensionProperties *all = calloc(count, sizeof *all);
  g->call.EnumerateDeviceExtensionProperties(g->devices[index], 0, &count, all);
  int64_t at = 0;
  for (uint32_t i = 0; i < count && at + 257 < bytes; i++) at += snprintf(text + at, bytes - at, "%s\n", all[i].name);
  free(all);
  return at;
}

/** Writes the cooperative matrix shapes as rows of 10 numbers: m, n, k, types of a, b, accumulator, result, saturating, scope, invocations (0 = KHR, else flexible). */
int64_t gpu_matrix_shapes(const GpuInstance *g, int64_t index, int64_t *rows, int64_t most) {
  VkResult (*fixed)(VkPhysicalDevice, uint32_t *, MatrixProperties *) = g->get(g->handle, "vkGetPhysicalDeviceCooperativeMatrixPropertiesKHR");
  VkResult (*flexible)(VkPhysicalDevice, uint32_t *, FlexibleDimensions *) = g->get(g->handle, "vkGetPhysicalDeviceCooperativeMatrixFlexibleDimensionsPropertiesNV");
  int64_t n = 0;
  uint32_t count = 0;
  if (fixed && !fixed(g->devices[index], &count, 0)) {
    MatrixProperties *all = calloc(count, sizeof *all);
    for (uint32_t i = 0; i < count; i++) all[i].c.type = ST_COOPERATIVE_MATRIX_PROPERTIES;
    fixed(g->devices[index], &count, all);
    for (uint32_t i = 0; i < count && n < most; i++, n++)
      for (int j = 0; j < 9; j++) rows[n * 10 + j] = (&all[i].m)[j], rows[n * 10 + 9] = 0;
    free(all);
  }
  count = 0;
  if (flexible && !flexible(g->devices[index], &count, 0)) {
    FlexibleDimensions *all = calloc(count, sizeof *all);
    for (uint32_t i = 0; i < count; i++) all[i].c.type = ST_FLEXIBLE_DIMENSIONS;
    flexible(g->devices[index], &count, all);
    for (uint32_t i = 0; i < count && n < most; i++, n++)
      for (int j = 0; j < 10; j++) rows[n * 10 + j] = (&all[i].m)[j];
    free(all);
  }
  return n;
}

/** The family to compute on: one without graphics where there is one. −1 without any. */
static int64_t compute_family(const GpuInstance *g, VkPhysicalDevice device) {
  QueueFamily families[16];
  uint32_t count = 16;
  int64_t found = -1;
  g->call.GetPhysicalDeviceQueueFamilyProperties(device, &count, families);
  for (int64_t i = (int64_t)count - 1; i >= 0; i--)
    if (families[i].flags & QUEUE_COMPUTE && (found < 0 || !(families[i].flags & 1))) found = i;
  return found;
}

/** Opens a device with all features it has of those alpha uses, the named extensions (one a line) and a pipeline cache holding `cache`. NULL on failure. */
Gpu *gpu_device(GpuInstance *g, int64_t index, char *extensions, const void *cache, int64_t cache_bytes) {
  FeaturesBfloat16 bfloat = {.c.type = ST_BFLOAT16};
  FeaturesMatrix2 matrix2 = {.c = {ST_COOPERATIVE_MATRIX_2, 0}};
  FeaturesMatrix matrix = {.c = {ST_COOPERATIVE_MATRIX, 0}};
  FeaturesFault fault = {.c = {ST_FAULT, 0}};
  Features13 f13 = {.c = {ST_FEATURES_13, 0}};
  Features12 f12 = {.c = {ST_FEATURES_12, &f13}};
  Features11 f11 = {.c = {ST_FEATURES_11, &f12}};
  Features2 f = {.c = {ST_FEATURES_2, &f11}};
  const char *names[64];
  uint32_t count = 0;
  void **tail = &f13.c.next;
  for (char *name = strtok(extensions, "\n"); name && count < 64; name = strtok(0, "\n")) {
    names[count++] = name;
    Chain *more = !strcmp(name, "VK_KHR_cooperative_matrix")     ? &matrix.c
                  : !strcmp(name, "VK_NV_cooperative_matrix2")   ? &matrix2.c
                  : !strcmp(name, "VK_KHR_shader_bfloat16")      ? &bfloat.c
                  : !strcmp(name, "VK_EXT_device_fault")         ? &fault.c
                                                                 : 0;
    if (more) *tail = more, tail = &more->next;
  }
  VkPhysicalDevice device = g->devices[index];
  g->call.GetPhysicalDeviceFeatures2(device, &f); /* what is there is switched on, but for checks that cost speed */
  f.on[0] = 0;                                    /* robustBufferAccess */
  matrix.on[1] = 0;                               /* cooperativeMatrixRobustBufferAccess */
  f13.on[0] = 0;                                  /* robustImageAccess */
  fault.on[1] = 0;                                /* deviceFaultVendorBinary */
  int64_t family = compute_family(g, device);
  if (family < 0) return (Gpu *)gpu_fail("the device has no compute queue", VK_SUCCESS);
  float priority = 1;
  QueueInfo queue = {.c.type = ST_QUEUE, .family = (uint32_t)family, .count = 1, .priorities = &priority};
  DeviceInfo info = {.c = {ST_DEVICE, &f}, .queue_count = 1, .queues = &queue, .extension_count = count, .extensions = names};
  Gpu *d = calloc(1, sizeof *d);
  d->instance = g;
  d->physical = device;
  VkResult result = g->call.CreateDevice(device, &info, 0, &d->handle);
  if (result) {
    free(d);
    return (Gpu *)gpu_fail("vkCreateDevice", result);
  }
#define LOAD(result_, name, arguments) d->call.name = g->call.GetDeviceProcAddr(d->handle, "vk" #name);
  DEVICE_FUNCTIONS(LOAD)
#undef LOAD
  d->call.GetDeviceQueue(d->handle, (uint32_t)family, 0, &d->queue);
  CommandPoolInfo pool = {.c.type = ST_COMMAND_POOL, .flags = POOL_RESET, .family = (uint32_t)family};
  SemaphoreType timeline = {.c.type = ST_SEMAPHORE_TYPE, .kind = SEMAPHORE_TIMELINE};
  SemaphoreInfo semaphore = {.c = {ST_SEMAPHORE, &timeline}};
  FenceInfo fence = {.c.type = ST_FENCE};
  PipelineCacheInfo cached = {.c.type = ST_PIPELINE_CACHE, .bytes = (uintptr_t)cache_bytes, .data = cache};
  QueryPoolInfo queries = {.c.type = ST_QUERY_POOL, .kind = QUERY_TIMESTAMP, .count = 8192};
  if (!(result = d->call.CreateCommandPool(d->handle, &pool, 0, &d->pool)) && !(result = d->call.CreateSemaphore(d->handle, &semaphore, 0, &d->timeline)) &&
      !(result = d->call.CreatePipelineCache(d->handle, &cached, 0, &d->cache)) && !(result = d->call.CreateQueryPool(d->handle, &queries, 0, &d->queries)) &&
      !(result = d->call.CreateFence(d->handle, &fence, 0, &d->probe)))
    return d;
  d->call.DestroyDevice(d->handle, 0);
  free(d);
  return (Gpu *)gpu_fail("opening the device", result);
}

void gpu_device_close(Gpu *d) {
  d->call.DeviceWaitIdle(d->handle);
  d->call.DestroyFence(d->handle, d->probe, 0);
  d->call.DestroyQueryPool(d->handle, d->queries, 0);
  d->call.DestroyPipelineCache(d->handle, d->cache, 0);
  d->call.DestroySemaphore(d->handle, d->timeline, 0);
  d->call.DestroyCommandPool(d->handle, d->pool, 0);
  d->call.DestroyDevice(d->handle, 0);
  free(d);
}
