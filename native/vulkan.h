/** The part of Vulkan 1.3 that the shim calls: types, constants and the function table. Values from the Vulkan specification, registry version 1.4.359. */
#pragma once
#include <stdint.h>

typedef struct VkInstance_T *VkInstance;
typedef struct VkPhysicalDevice_T *VkPhysicalDevice;
typedef struct VkDevice_T *VkDevice;
typedef struct VkQueue_T *VkQueue;
typedef struct VkCommandBuffer_T *VkCommandBuffer;
typedef uint64_t VkBuffer, VkDeviceMemory, VkShaderModule, VkPipelineLayout, VkPipeline, VkPipelineCache, VkCommandPool, VkSemaphore, VkQueryPool, VkCuModuleNVX, VkCuFunctionNVX, VkFence;
typedef int32_t VkResult;

enum { VK_SUCCESS = 0, VK_NOT_READY = 1, VK_TIMEOUT = 2, VK_INCOMPLETE = 5, VK_ERROR_DEVICE_LOST = -4 };

/* ---- structure types ---- */
enum {
  ST_APPLICATION = 0, ST_INSTANCE = 1, ST_QUEUE = 2, ST_DEVICE = 3, ST_SUBMIT = 4, ST_MEMORY_ALLOCATE = 5, ST_FENCE = 8, ST_SEMAPHORE = 9, ST_QUERY_POOL = 11, ST_BUFFER = 12,
  ST_SHADER_MODULE = 16, ST_PIPELINE_CACHE = 17, ST_SHADER_STAGE = 18, ST_COMPUTE_PIPELINE = 29, ST_PIPELINE_LAYOUT = 30, ST_COMMAND_POOL = 39,
  ST_COMMAND_BUFFER = 40, ST_COMMAND_BEGIN = 42, ST_MEMORY_BARRIER = 46, ST_FEATURES_11 = 49, ST_PROPERTIES_11 = 50, ST_FEATURES_12 = 51, ST_PROPERTIES_12 = 52,
  ST_FEATURES_13 = 53, ST_PROPERTIES_13 = 54, ST_FEATURES_2 = 1000059000, ST_PROPERTIES_2 = 1000059001, ST_MEMORY_PROPERTIES_2 = 1000059006,
  ST_CU_MODULE = 1000029000, ST_CU_FUNCTION = 1000029001, ST_CU_LAUNCH = 1000029002,
  ST_MEMORY_ALLOCATE_FLAGS = 1000060000, ST_EXPORT_MEMORY = 1000072002, ST_EXTERNAL_BUFFER = 1000072000, ST_MEMORY_GET_FD = 1000074002,
  ST_MEMORY_DEDICATED = 1000127001, ST_BFLOAT16 = 1000141000, ST_SEMAPHORE_TYPE = 1000207002, ST_TIMELINE_SUBMIT = 1000207003, ST_SEMAPHORE_WAIT = 1000207004,
  ST_REQUIRED_SUBGROUP_SIZE = 1000225001, ST_MEMORY_BUDGET = 1000237000, ST_BUFFER_ADDRESS = 1000244001, ST_FAULT = 1000341000,
  ST_FAULT_COUNTS = 1000341001, ST_FAULT_INFO = 1000341002, ST_COOPERATIVE_MATRIX = 1000506000,
  ST_COOPERATIVE_MATRIX_PROPERTIES = 1000506001, ST_COOPERATIVE_MATRIX_2 = 1000593000, ST_FLEXIBLE_DIMENSIONS = 1000593001,
};

/* ---- flags ---- */
enum {
  STAGE_COMPUTE = 0x20, PIPELINE_COMPUTE = 0x800, PIPELINE_TRANSFER = 0x1000, PIPELINE_HOST = 0x4000, PIPELINE_INDIRECT = 0x2,
  ACCESS_INDIRECT = 0x1, ACCESS_SHADER_READ = 0x20, ACCESS_SHADER_WRITE = 0x40, ACCESS_TRANSFER_READ = 0x800, ACCESS_TRANSFER_WRITE = 0x1000,
  ACCESS_HOST_READ = 0x2000, ACCESS_HOST_WRITE = 0x4000,
  USAGE_TRANSFER = 0x1 | 0x2, USAGE_STORAGE = 0x20, USAGE_INDIRECT = 0x100, USAGE_ADDRESS = 0x20000,
  ALLOCATE_ADDRESS = 0x2, HANDLE_OPAQUE_FD = 0x1, QUEUE_COMPUTE = 0x2, MEMORY_HOST_VISIBLE = 0x2, STAGE_FULL_SUBGROUPS = 0x2, POOL_RESET = 0x2,
  QUERY_TIMESTAMP = 2, QUERY_64 = 1, QUERY_WAIT = 2, BIND_COMPUTE = 1, SEMAPHORE_TIMELINE = 1, SUBMIT_SIMULTANEOUS = 4,
};

typedef struct Chain { int32_t type; void *next; } Chain;

typedef struct ApplicationInfo { Chain c; const char *application; uint32_t application_version; const char *engine; uint32_t engine_version, api; } ApplicationInfo;
typedef struct InstanceInfo {
  Chain c; uint32_t flags; const ApplicationInfo *application;
  uint32_t layer_count; const char *const *layers; uint32_t extension_count; const char *const *extensions;
} InstanceInfo;
typedef struct ExtensionProperties { char name[256]; uint32_t version; } ExtensionProperties;

/* VkPhysicalDeviceLimits is 504 bytes; only these fields are read, at the offsets of the specification's layout. */
typedef struct Limits {
  uint8_t before_storage_range[28]; uint32_t max_storage_range, max_push_bytes, max_allocations;
  uint8_t before_shared[176]; uint32_t max_shared_bytes, max_groups[3], max_invocations, max_group_size[3];
  uint8_t before_timestamps[176]; float timestamp_period;
  uint8_t rest[76];
} Limits;
typedef struct Properties {
  uint32_t api, driver, vendor, device, kind; char name[256]; uint8_t cache_uuid[16];
  Limits limits __attribute__((aligned(8))); uint32_t sparse[5];
} Properties;
typedef struct Properties2 { Chain c; Properties p; } Properties2;
typedef struct Properties11 {
  Chain c; uint8_t device_uuid[16], driver_uuid[16], luid[8]; uint32_t node_mask, luid_valid, subgroup_size, subgroup_stages, subgroup_operations,
  quad_in_all_stages, point_clipping, max_view_count, max_view_index, protected_no_fault, max_set_descriptors; uint64_t max_allocation_bytes;
} Properties11;
typedef struct Properties12 { Chain c; uint32_t driver_id; char driver_name[256], driver_info[256]; uint8_t conformance[4]; uint8_t rest[200]; } Properties12;
typedef struct Properties13 {
  Chain c; uint32_t min_subgroup_size, max_subgroup_size, max_compute_subgroups, required_subgroup_stages; uint8_t rest[184];
} Properties13;

enum { FEATURES_10 = 55, FEATURES_11 = 12, FEATURES_12 = 47, FEATURES_13 = 15, FEATURES_MATRIX = 2, FEATURES_MATRIX_2 = 7, FEATURES_BFLOAT16 = 3, FEATURES_FAULT = 2 };
typedef struct Features2 { Chain c; uint32_t on[FEATURES_10]; } Features2;
typedef struct Features11 { Chain c; uint32_t on[FEATURES_11]; } Features11;
typedef struct Features12 { Chain c; uint32_t on[FEATURES_12]; } Features12;
typedef struct Features13 { Chain c; uint32_t on[FEATURES_13]; } Features13;
typedef struct FeaturesMatrix { Chain c; uint32_t on[FEATURES_MATRIX]; } FeaturesMatrix;
typedef struct FeaturesMatrix2 { Chain c; uint32_t on[FEATURES_MATRIX_2]; } FeaturesMatrix2;
typedef struct FeaturesBfloat16 { Chain c; uint32_t on[FEATURES_BFLOAT16]; } FeaturesBfloat16;
typedef struct FeaturesFault { Chain c; uint32_t on[FEATURES_FAULT]; } FeaturesFault;

typedef struct MatrixProperties { Chain c; uint32_t m, n, k, a, b, acc, result, saturating, scope; } MatrixProperties;
typedef struct FlexibleDimensions { Chain c; uint32_t m, n, k, a, b, acc, result, saturating, scope, invocations; } FlexibleDimensions;

typedef struct MemoryType { uint32_t flags, heap; } MemoryType;
typedef struct MemoryHeap { uint64_t bytes; uint32_t flags; } MemoryHeap;
typedef struct MemoryProperties { uint32_t type_count; MemoryType types[32]; uint32_t heap_count; MemoryHeap heaps[16]; } MemoryProperties;
typedef struct MemoryProperties2 { Chain c; MemoryProperties p; } MemoryProperties2;
typedef struct MemoryBudget { Chain c; uint64_t budget[16], usage[16]; } MemoryBudget;
typedef struct QueueFamily { uint32_t flags, count, timestamp_bits, granularity[3]; } QueueFamily;

typedef struct QueueInfo { Chain c; uint32_t flags, family, count; const float *priorities; } QueueInfo;
typedef struct DeviceInfo {
  Chain c; uint32_t flags, queue_count; const QueueInfo *queues; uint32_t layer_count; const char *const *layers;
  uint32_t extension_count; const char *const *extensions; const void *features;
} DeviceInfo;

typedef struct ExternalBuffer { Chain c; uint32_t handles; } ExternalBuffer;
typedef struct BufferInfo { Chain c; uint32_t flags; uint64_t size; uint32_t usage, sharing, family_count; const uint32_t *families; } BufferInfo;
typedef struct MemoryRequirements { uint64_t size, alignment; uint32_t type_bits; } MemoryRequirements;
typedef struct AllocateFlags { Chain c; uint32_t flags, mask; } AllocateFlags;
typedef struct ExportMemory { Chain c; uint32_t handles; } ExportMemory;
typedef struct DedicatedMemory { Chain c; uint64_t image; VkBuffer buffer; } DedicatedMemory;
typedef struct AllocateInfo { Chain c; uint64_t size; uint32_t type; } AllocateInfo;
typedef struct BufferAddressInfo { Chain c; VkBuffer buffer; } BufferAddressInfo;
typedef struct MemoryGetFd { Chain c; VkDeviceMemory memory; uint32_t handle; } MemoryGetFd;

typedef struct ShaderModuleInfo { Chain c; uint32_t flags; uintptr_t bytes; const uint32_t *words; } ShaderModuleInfo;
typedef struct MapEntry { uint32_t id, offset; uintptr_t size; } MapEntry;
typedef struct SpecializationInfo { uint32_t count; const MapEntry *entries; uintptr_t bytes; const void *data; } SpecializationInfo;
typedef struct RequiredSubgroupSize { Chain c; uint32_t size; } RequiredSubgroupSize;
typedef struct ShaderStage { Chain c; uint32_t flags, stage; VkShaderModule module; const char *entry; const SpecializationInfo *specialization; } ShaderStage;
typedef struct PushRange { uint32_t stages, offset, size; } PushRange;
typedef struct PipelineLayoutInfo { Chain c; uint32_t flags, set_count; const uint64_t *sets; uint32_t range_count; const PushRange *ranges; } PipelineLayoutInfo;
typedef struct ComputePipelineInfo { Chain c; uint32_t flags; ShaderStage stage; VkPipelineLayout layout; VkPipeline base; int32_t base_index; } ComputePipelineInfo;
typedef struct PipelineCacheInfo { Chain c; uint32_t flags; uintptr_t bytes; const void *data; } PipelineCacheInfo;

typedef struct CuModuleInfo { Chain c; uintptr_t bytes; const void *data; } CuModuleInfo;
typedef struct CuFunctionInfo { Chain c; VkCuModuleNVX module; const char *name; } CuFunctionInfo;
typedef struct CuLaunchInfo {
  Chain c; VkCuFunctionNVX function; uint32_t blocks[3], threads[3], shared_bytes; uintptr_t parameter_count; const void *const *parameters;
  uintptr_t extra_count; const void *const *extras;
} CuLaunchInfo;

typedef struct CommandPoolInfo { Chain c; uint32_t flags, family; } CommandPoolInfo;
typedef struct CommandBufferInfo { Chain c; VkCommandPool pool; uint32_t level, count; } CommandBufferInfo;
typedef struct BeginInfo { Chain c; uint32_t flags; const void *inheritance; } BeginInfo;
typedef struct MemoryBarrier { Chain c; uint32_t source, target; } MemoryBarrier;
typedef struct BufferCopy { uint64_t from, to, size; } BufferCopy;
typedef struct QueryPoolInfo { Chain c; uint32_t flags, kind, count, statistics; } QueryPoolInfo;
typedef struct SemaphoreType { Chain c; uint32_t kind; uint64_t initial; } SemaphoreType;
typedef struct SemaphoreInfo { Chain c; uint32_t flags; } SemaphoreInfo;
typedef struct FenceInfo { Chain c; uint32_t flags; } FenceInfo;
typedef struct SemaphoreWait { Chain c; uint32_t flags, count; const VkSemaphore *semaphores; const uint64_t *values; } SemaphoreWait;
typedef struct TimelineSubmit { Chain c; uint32_t wait_count; const uint64_t *waits; uint32_t signal_count; const uint64_t *signals; } TimelineSubmit;
typedef struct SubmitInfo {
  Chain c; uint32_t wait_count; const VkSemaphore *waits; const uint32_t *wait_stages; uint32_t command_count; const VkCommandBuffer *commands;
  uint32_t signal_count; const VkSemaphore *signals;
} SubmitInfo;

/* ---- functions: X(return, name, arguments) ---- */
typedef void *(*GetInstanceProcAddr)(VkInstance, const char *);
#define INSTANCE_FUNCTIONS(X)                                                                                            \
  X(void, DestroyInstance, (VkInstance, const void *))                                                                   \
  X(VkResult, EnumeratePhysicalDevices, (VkInstance, uint32_t *, VkPhysicalDevice *))                                    \
  X(void, GetPhysicalDeviceProperties2, (VkPhysicalDevice, Properties2 *))                                               \
  X(void, GetPhysicalDeviceFeatures2, (VkPhysicalDevice, Features2 *))                                                   \
  X(void, GetPhysicalDeviceMemoryProperties2, (VkPhysicalDevice, MemoryProperties2 *))                                   \
  X(void, GetPhysicalDeviceQueueFamilyProperties, (VkPhysicalDevice, uint32_t *, QueueFamily *))                         \
  X(VkResult, EnumerateDeviceExtensionProperties, (VkPhysicalDevice, const char *, uint32_t *, ExtensionProperties *))   \
  X(VkResult, CreateDevice, (VkPhysicalDevice, const DeviceInfo *, const void *, VkDevice *))                            \
  X(void *, GetDeviceProcAddr, (VkDevice, const char *))
#define DEVICE_FUNCTIONS(X)                                                                                              \
  X(void, DestroyDevice, (VkDevice, const void *))                                                                       \
  X(void, GetDeviceQueue, (VkDevice, uint32_t, uint32_t, VkQueue *))                                                     \
  X(VkResult, DeviceWaitIdle, (VkDevice))                                                                                \
  X(VkResult, CreateBuffer, (VkDevice, const BufferInfo *, const void *, VkBuffer *))                                    \
  X(void, DestroyBuffer, (VkDevice, VkBuffer, const void *))                                                             \
  X(void, GetBufferMemoryRequirements, (VkDevice, VkBuffer, MemoryRequirements *))                                       \
  X(VkResult, AllocateMemory, (VkDevice, const AllocateInfo *, const void *, VkDeviceMemory *))                          \
  X(void, FreeMemory, (VkDevice, VkDeviceMemory, const void *))                                                          \
  X(VkResult, BindBufferMemory, (VkDevice, VkBuffer, VkDeviceMemory, uint64_t))                                          \
  X(VkResult, MapMemory, (VkDevice, VkDeviceMemory, uint64_t, uint64_t, uint32_t, void **))                              \
  X(uint64_t, GetBufferDeviceAddress, (VkDevice, const BufferAddressInfo *))                                             \
  X(VkResult, CreateShaderModule, (VkDevice, const ShaderModuleInfo *, const void *, VkShaderModule *))                  \
  X(void, DestroyShaderModule, (VkDevice, VkShaderModule, const void *))                                                 \
  X(VkResult, CreatePipelineLayout, (VkDevice, const PipelineLayoutInfo *, const void *, VkPipelineLayout *))            \
  X(void, DestroyPipelineLayout, (VkDevice, VkPipelineLayout, const void *))                                             \
  X(VkResult, CreatePipelineCache, (VkDevice, const PipelineCacheInfo *, const void *, VkPipelineCache *))               \
  X(void, DestroyPipelineCache, (VkDevice, VkPipelineCache, const void *))                                               \
  X(VkResult, GetPipelineCacheData, (VkDevice, VkPipelineCache, uintptr_t *, void *))                                    \
  X(VkResult, CreateComputePipelines, (VkDevice, VkPipelineCache, uint32_t, const ComputePipelineInfo *, const void *, VkPipeline *)) \
  X(void, DestroyPipeline, (VkDevice, VkPipeline, const void *))                                                         \
  X(VkResult, CreateCommandPool, (VkDevice, const CommandPoolInfo *, const void *, VkCommandPool *))                     \
  X(void, DestroyCommandPool, (VkDevice, VkCommandPool, const void *))                                                   \
  X(VkResult, AllocateCommandBuffers, (VkDevice, const CommandBufferInfo *, VkCommandBuffer *))                          \
  X(void, FreeCommandBuffers, (VkDevice, VkCommandPool, uint32_t, const VkCommandBuffer *))                              \
  X(VkResult, BeginCommandBuffer, (VkCommandBuffer, const BeginInfo *))                                                  \
  X(VkResult, EndCommandBuffer, (VkCommandBuffer))                                                                       \
  X(void, CmdBindPipeline, (VkCommandBuffer, uint32_t, VkPipeline))                                                      \
  X(void, CmdPushConstants, (VkCommandBuffer, VkPipelineLayout, uint32_t, uint32_t, uint32_t, const void *))             \
  X(void, CmdDispatch, (VkCommandBuffer, uint32_t, uint32_t, uint32_t))                                                  \
  X(void, CmdDispatchIndirect, (VkCommandBuffer, VkBuffer, uint64_t))                                                    \
  X(void, CmdPipelineBarrier, (VkCommandBuffer, uint32_t, uint32_t, uint32_t, uint32_t, const MemoryBarrier *, uint32_t, const void *, uint32_t, const void *)) \
  X(void, CmdCopyBuffer, (VkCommandBuffer, VkBuffer, VkBuffer, uint32_t, const BufferCopy *))                            \
  X(void, CmdFillBuffer, (VkCommandBuffer, VkBuffer, uint64_t, uint64_t, uint32_t))                                      \
  X(void, CmdResetQueryPool, (VkCommandBuffer, VkQueryPool, uint32_t, uint32_t))                                         \
  X(void, CmdWriteTimestamp, (VkCommandBuffer, uint32_t, VkQueryPool, uint32_t))                                         \
  X(VkResult, CreateQueryPool, (VkDevice, const QueryPoolInfo *, const void *, VkQueryPool *))                           \
  X(void, DestroyQueryPool, (VkDevice, VkQueryPool, const void *))                                                       \
  X(VkResult, GetQueryPoolResults, (VkDevice, VkQueryPool, uint32_t, uint32_t, uintptr_t, void *, uint64_t, uint32_t))   \
  X(VkResult, CreateSemaphore, (VkDevice, const SemaphoreInfo *, const void *, VkSemaphore *))                           \
  X(void, DestroySemaphore, (VkDevice, VkSemaphore, const void *))                                                       \
  X(VkResult, GetSemaphoreCounterValue, (VkDevice, VkSemaphore, uint64_t *))                                             \
  X(VkResult, WaitSemaphores, (VkDevice, const SemaphoreWait *, uint64_t))                                               \
  X(VkResult, QueueSubmit, (VkQueue, uint32_t, const SubmitInfo *, VkFence))                                             \
  X(VkResult, CreateFence, (VkDevice, const FenceInfo *, const void *, VkFence *))                                       \
  X(void, DestroyFence, (VkDevice, VkFence, const void *))                                                               \
  X(VkResult, ResetFences, (VkDevice, uint32_t, const VkFence *))                                                        \
  X(VkResult, GetFenceStatus, (VkDevice, VkFence))                                                                       \
  X(VkResult, GetMemoryFdKHR, (VkDevice, const MemoryGetFd *, int *))                                                    \
  X(VkResult, CreateCuModuleNVX, (VkDevice, const CuModuleInfo *, const void *, VkCuModuleNVX *))                        \
  X(VkResult, CreateCuFunctionNVX, (VkDevice, const CuFunctionInfo *, const void *, VkCuFunctionNVX *))                  \
  X(void, DestroyCuModuleNVX, (VkDevice, VkCuModuleNVX, const void *))                                                   \
  X(void, DestroyCuFunctionNVX, (VkDevice, VkCuFunctionNVX, const void *))                                               \
  X(void, CmdCuLaunchKernelNVX, (VkCommandBuffer, const CuLaunchInfo *))

#define FUNCTION_POINTER(result, name, arguments) result (*name) arguments;
typedef struct InstanceTable { INSTANCE_FUNCTIONS(FUNCTION_POINTER) } InstanceTable;
typedef struct DeviceTable { DEVICE_FUNCTIONS(FUNCTION_POINTER) } DeviceTable;

/* ---- what the shim keeps ---- */
typedef struct GpuInstance {
  InstanceTable call;
  GetInstanceProcAddr get;
  VkInstance handle;
  uint32_t count;
  VkPhysicalDevice devices[16];
  void *library;
} GpuInstance;

typedef struct Gpu {
  DeviceTable call;
  GpuInstance *instance;
  VkPhysicalDevice physical;
  VkDevice handle;
  VkQueue queue;
  VkCommandPool pool;
  VkSemaphore timeline;
  VkPipelineCache cache;
  VkQueryPool queries;
  VkFence probe;      /* of an empty batch, to see whether the device is lost */
  uint32_t is_probing; /* the batch is not done yet */
} Gpu;

/* Remembers `what failed: VK_ERROR_…`; returns 0. */
int64_t gpu_fail(const char *what, VkResult result);
