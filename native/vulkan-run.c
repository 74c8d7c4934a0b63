/** What a Vulkan device does: buffers, pipelines, recorded command buffers, submits on one timeline, timestamps. */
#include "vulkan.h"
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

/* ---- memory ---- */

typedef struct GpuBuffer {
  VkBuffer handle;
  VkDeviceMemory memory;
  uint64_t address;
  void *mapped;
} GpuBuffer;

/** Allocates a buffer of its own: from a memory type whose flags hold `need`, rather one whose flags also hold `want`. Mapped where the host sees it. 0 on failure. */
int64_t gpu_buffer(Gpu *d, int64_t bytes, int64_t need, int64_t want, int64_t exportable, int64_t out[4]) {
  ExternalBuffer external = {.c.type = ST_EXTERNAL_BUFFER, .handles = HANDLE_OPAQUE_FD};
  BufferInfo info = {.c = {ST_BUFFER, exportable ? &external : 0}, .size = (uint64_t)bytes, .usage = USAGE_TRANSFER | USAGE_STORAGE | USAGE_INDIRECT | USAGE_ADDRESS};
  GpuBuffer b = {0};
  VkResult result = d->call.CreateBuffer(d->handle, &info, 0, &b.handle);
  if (result) return gpu_fail("vkCreateBuffer", result);
  MemoryRequirements needs;
  d->call.GetBufferMemoryRequirements(d->handle, b.handle, &needs);
  MemoryProperties2 memory = {.c.type = ST_MEMORY_PROPERTIES_2};
  d->instance->call.GetPhysicalDeviceMemoryProperties2(d->physical, &memory);
  int64_t type = -1;
  for (uint32_t i = 0; i < memory.p.type_count; i++) {
    uint32_t flags = memory.p.types[i].flags;
    if (!(needs.type_bits >> i & 1) || (flags & need) != need) continue;
    if (type < 0 || ((flags & want) == want && (memory.p.types[type].flags & want) != want)) type = i;
  }
  DedicatedMemory dedicated = {.c.type = ST_MEMORY_DEDICATED, .buffer = b.handle};
  ExportMemory export = {.c = {ST_EXPORT_MEMORY, &dedicated}, .handles = HANDLE_OPAQUE_FD};
  AllocateFlags flags = {.c = {ST_MEMORY_ALLOCATE_FLAGS, exportable ? &export : 0}, .flags = ALLOCATE_ADDRESS};
  AllocateInfo allocate = {.c = {ST_MEMORY_ALLOCATE, &flags}, .size = needs.size, .type = (uint32_t)type};
  if (type < 0) result = -3;
  else if (!(result = d->call.AllocateMemory(d->handle, &allocate, 0, &b.memory))) {
    result = d->call.BindBufferMemory(d->handle, b.handle, b.memory, 0);
    if (!result && memory.p.types[type].flags & MEMORY_HOST_VISIBLE) result = d->call.MapMemory(d->handle, b.memory, 0, ~0ull, 0, &b.mapped);
  }
  if (result) {
    if (b.memory) d->call.FreeMemory(d->handle, b.memory, 0);
    d->call.DestroyBuffer(d->handle, b.handle, 0);
    return gpu_fail("allocating memory", result);
  }
  BufferAddressInfo address = {.c.type = ST_BUFFER_ADDRESS, .buffer = b.handle};
  b.address = d->call.GetBufferDeviceAddress(d->handle, &address);
  memcpy(out, &b, sizeof b);
  return 1;
}

void gpu_buffer_free(Gpu *d, int64_t handle, int64_t memory) {
  d->call.DestroyBuffer(d->handle, (VkBuffer)handle, 0);
  d->call.FreeMemory(d->handle, (VkDeviceMemory)memory, 0);
}

/** A file descriptor of an exportable buffer's memory for another API on the same device; −1 on failure. */
int64_t gpu_buffer_fd(Gpu *d, int64_t memory) {
  MemoryGetFd info = {.c.type = ST_MEMORY_GET_FD, .memory = (VkDeviceMemory)memory, .handle = HANDLE_OPAQUE_FD};
  int fd = -1;
  VkResult result = d->call.GetMemoryFdKHR ? d->call.GetMemoryFdKHR(d->handle, &info, &fd) : -7;
  if (result) gpu_fail("vkGetMemoryFdKHR", result);
  return fd;
}

/** Budget and use of all device-local heaps in bytes; both 0 where the driver does not tell. */
void gpu_budget(Gpu *d, int64_t known, int64_t out[2]) {
  MemoryBudget budget = {.c.type = ST_MEMORY_BUDGET};
  MemoryProperties2 memory = {.c = {ST_MEMORY_PROPERTIES_2, known ? &budget : 0}};
  d->instance->call.GetPhysicalDeviceMemoryProperties2(d->physical, &memory);
  out[0] = out[1] = 0;
  for (uint32_t i = 0; i < memory.p.heap_count; i++)
    if (memory.p.heaps[i].flags & 1) out[0] += (int64_t)budget.budget[i], out[1] += (int64_t)budget.usage[i];
}

/* ---- pipelines ---- */

/** A pipeline to be made: the module's words, entry point, bytes of push constants, specialization constants 0 … n−1 (u32 each), subgroup size (0 = the driver's choice; −1: the words are PTX or its machine code). */
typedef struct PipelineRow {
  const uint32_t *words;
  int64_t bytes;
  const char *entry;
  int64_t push;
  const uint32_t *constants;
  int64_t n, subgroup;
  VkPipeline handle;
  VkPipelineLayout layout;
  int64_t result;
} PipelineRow;

static VkResult make_pipeline(Gpu *d, PipelineRow *row) {
  ShaderModuleInfo module_info = {.c.type = ST_SHADER_MODULE, .bytes = (uintptr_t)row->bytes, .words = row->words};
  VkShaderModule module;
  VkResult result = d->call.CreateShaderModule(d->handle, &module_info, 0, &module);
  if (result) return result;
  PushRange range = {.stages = STAGE_COMPUTE, .size = (uint32_t)row->push};
  PipelineLayoutInfo layout = {.c.type = ST_PIPELINE_LAYOUT, .range_count = row->push > 0, .ranges = &range};
  MapEntry entries[64];
  uint32_t n = row->n > 64 ? 64 : (uint32_t)row->n;
  for (uint32_t i = 0; i < n; i++) entries[i] = (MapEntry){i, 4 * i, 4};
  SpecializationInfo special = {n, entries, 4 * (uintptr_t)n, row->constants};
  RequiredSubgroupSize required = {.c.type = ST_REQUIRED_SUBGROUP_SIZE, .size = (uint32_t)row->subgroup};
  if (!(result = d->call.CreatePipelineLayout(d->handle, &layout, 0, &row->layout))) {
    ComputePipelineInfo info = {.c.type = ST_COMPUTE_PIPELINE,
                                .stage = {.c = {ST_SHADER_STAGE, row->subgroup ? &required : 0}, .flags = row->subgroup ? STAGE_FULL_SUBGROUPS : 0,
                                          .stage = STAGE_COMPUTE, .module = module, .entry = row->entry, .specialization = &special},
                                .layout = row->layout, .base_index = -1};
    result = d->call.CreateComputePipelines(d->handle, d->cache, 1, &info, 0, &row->handle);
    if (result) d->call.DestroyPipelineLayout(d->handle, row->layout, 0);
  }
  d->call.DestroyShaderModule(d->handle, module, 0);
  return result;
}

/** A kernel of VK_NVX_binary_import: PTX text with its terminating zero, or machine code, becomes a function (handle) of a module (layout). */
static VkResult make_function(Gpu *d, PipelineRow *row) {
  if (!d->call.CreateCuModuleNVX || !d->call.CreateCuFunctionNVX) return -7;
  CuModuleInfo module = {.c.type = ST_CU_MODULE, .bytes = (uintptr_t)row->bytes, .data = row->words};
  VkResult result = d->call.CreateCuModuleNVX(d->handle, &module, 0, &row->layout);
  if (!result) {
    CuFunctionInfo function = {.c.type = ST_CU_FUNCTION, .module = row->layout, .name = row->entry};
    result = d->call.CreateCuFunctionNVX(d->handle, &function, 0, &row->handle);
    if (result) d->call.DestroyCuModuleNVX(d->handle, row->layout, 0);
  }
  return result;
}

typedef struct PipelineQueue {
  Gpu *d;
  PipelineRow *rows;
  int64_t count, next, started;
  pthread_t threads[64];
} PipelineQueue;

static void *make_pipelines(void *arg) {
  PipelineQueue *q = arg;
  for (int64_t i; (i = __atomic_fetch_add(&q->next, 1, __ATOMIC_RELAXED)) < q->count;) {
    PipelineRow *row = &q->rows[i];
    int64_t result = row->subgroup < 0 ? make_function(q->d, row) : make_pipeline(q->d, row);
    __atomic_store_n(&row->result, result, __ATOMIC_RELEASE); /* the handles are there before it */
  }
  return 0;
}

/** Begins to make all pipelines of the rows, which must stay where they are, on up to `threads` threads (at most 64); handles and results come into the rows. */
PipelineQueue *gpu_pipelines(Gpu *d, PipelineRow *rows, int64_t count, int64_t threads) {
  PipelineQueue *q = calloc(1, sizeof *q);
  q->d = d, q->rows = rows, q->count = count;
  while (q->started < threads && q->started < count && q->started < 64 && !pthread_create(&q->threads[q->started], 0, make_pipelines, q)) q->started++;
  if (!q->started) make_pipelines(q);
  return q;
}

/** Returns when all pipelines are made. */
void gpu_pipelines_made(PipelineQueue *q) {
  for (int64_t i = 0; i < q->started; i++) pthread_join(q->threads[i], 0);
  free(q);
}

void gpu_pipeline_free(Gpu *d, int64_t pipeline, int64_t layout) {
  d->call.DestroyPipeline(d->handle, (VkPipeline)pipeline, 0);
  d->call.DestroyPipelineLayout(d->handle, (VkPipelineLayout)layout, 0);
}

void gpu_function_free(Gpu *d, int64_t function, int64_t module) {
  d->call.DestroyCuFunctionNVX(d->handle, (VkCuFunctionNVX)function, 0);
  d->call.DestroyCuModuleNVX(d->handle, (VkCuModuleNVX)module, 0);
}

/** Bytes of the pipeline cache; written to `out` when it has room for `bytes`. */
int64_t gpu_cache_data(Gpu *d, void *out, int64_t bytes) {
  uintptr_t size = (uintptr_t)bytes;
  return d->call.GetPipelineCacheData(d->handle, d->cache, &size, out) ? 0 : (int64_t)size;
}

/* ---- recording ---- */

/** A new command buffer, open for recording, that may be submitted many times; NULL on failure. */
VkCommandBuffer gpu_record(Gpu *d) {
  CommandBufferInfo info = {.c.type = ST_COMMAND_BUFFER, .pool = d->pool, .count = 1};
  BeginInfo begin = {.c.type = ST_COMMAND_BEGIN, .flags = SUBMIT_SIMULTANEOUS};
  VkCommandBuffer commands = 0;
  VkResult result = d->call.AllocateCommandBuffers(d->handle, &info, &commands);
  if (!result) result = d->call.BeginCommandBuffer(commands, &begin);
  if (result) gpu_fail("recording", result);
  return result ? 0 : commands;
}

int64_t gpu_record_end(Gpu *d, VkCommandBuffer commands) {
  VkResult result = d->call.EndCommandBuffer(commands);
  return result ? gpu_fail("vkEndCommandBuffer", result) : 1;
}

void gpu_record_free(Gpu *d, VkCommandBuffer commands) { d->call.FreeCommandBuffers(d->handle, d->pool, 1, &commands); }

/** One dispatch of x · y · z workgroups; x < 0: the three counts are read from buffer y at offset z. */
void gpu_dispatch(Gpu *d, VkCommandBuffer commands, int64_t pipeline, int64_t layout, const void *push, int64_t bytes, int64_t x, int64_t y, int64_t z) {
  d->call.CmdBindPipeline(commands, BIND_COMPUTE, (VkPipeline)pipeline);
  if (bytes) d->call.CmdPushConstants(commands, (VkPipelineLayout)layout, STAGE_COMPUTE, 0, (uint32_t)bytes, push);
  if (x < 0) d->call.CmdDispatchIndirect(commands, (VkBuffer)y, (uint64_t)z);
  else d->call.CmdDispatch(commands, (uint32_t)x, (uint32_t)y, (uint32_t)z);
}

/** One launch of a kernel in PTX: blocks along x, y, z, threads of each, bytes of dynamic shared memory, parameters of 8 bytes each (at most 32). */
void gpu_launch(Gpu *d, VkCommandBuffer commands, int64_t function, const int64_t *blocks, int64_t threads, int64_t shared_bytes, const uint64_t *cells, int64_t count) {
  const void *parameters[32];
  for (int64_t i = 0; i < count && i < 32; i++) parameters[i] = &cells[i];
  CuLaunchInfo info = {.c.type = ST_CU_LAUNCH, .function = (VkCuFunctionNVX)function, .blocks = {(uint32_t)blocks[0], (uint32_t)blocks[1], (uint32_t)blocks[2]}, .threads = {(uint32_t)threads, 1, 1},
                       .shared_bytes = (uint32_t)shared_bytes, .parameter_count = (uintptr_t)(count < 32 ? count : 32), .parameters = parameters};
  d->call.CmdCuLaunchKernelNVX(commands, &info);
}

/** Everything written before is seen by everything after: kernels, copies, indirect counts, and the host. */
void gpu_barrier(Gpu *d, VkCommandBuffer commands) {
  const uint32_t stages = PIPELINE_COMPUTE | PIPELINE_TRANSFER | PIPELINE_HOST;
  MemoryBarrier barrier = {.c.type = ST_MEMORY_BARRIER,
                           .source = ACCESS_SHADER_WRITE | ACCESS_TRANSFER_WRITE | ACCESS_HOST_WRITE,
                           .target = ACCESS_SHADER_READ | ACCESS_SHADER_WRITE | ACCESS_TRANSFER_READ | ACCESS_TRANSFER_WRITE | ACCESS_INDIRECT | ACCESS_HOST_READ};
  d->call.CmdPipelineBarrier(commands, stages, stages | PIPELINE_INDIRECT, 0, 1, &barrier, 0, 0, 0, 0);
}

/** The narrow barrier between two levels of kernels. */
void gpu_kernel_barrier(Gpu *d, VkCommandBuffer commands) {
  MemoryBarrier barrier = {.c.type = ST_MEMORY_BARRIER, .source = ACCESS_SHADER_WRITE, .target = ACCESS_SHADER_READ | ACCESS_SHADER_WRITE};
  d->call.CmdPipelineBarrier(commands, PIPELINE_COMPUTE, PIPELINE_COMPUTE, 0, 1, &barrier, 0, 0, 0, 0);
}

void gpu_copy(Gpu *d, VkCommandBuffer commands, int64_t from, int64_t from_offset, int64_t to, int64_t to_offset, int64_t bytes) {
  BufferCopy copy = {(uint64_t)from_offset, (uint64_t)to_offset, (uint64_t)bytes};
  d->call.CmdCopyBuffer(commands, (VkBuffer)from, (VkBuffer)to, 1, &copy);
}

/** Fills bytes (a multiple of 4) with a 32-bit pattern. */
void gpu_fill(Gpu *d, VkCommandBuffer commands, int64_t buffer, int64_t offset, int64_t bytes, int64_t pattern) {
  d->call.CmdFillBuffer(commands, (VkBuffer)buffer, (uint64_t)offset, (uint64_t)bytes, (uint32_t)pattern);
}

/** Writes timestamp `index` when all work before it is done; index −n resets the first n. */
void gpu_timestamp(Gpu *d, VkCommandBuffer commands, int64_t index) {
  if (index < 0) d->call.CmdResetQueryPool(commands, d->queries, 0, (uint32_t)-index);
  else d->call.CmdWriteTimestamp(commands, PIPELINE_COMPUTE, d->queries, (uint32_t)index);
}

/** Reads the first `count` timestamps (ticks of the device); waits for them. */
int64_t gpu_timestamps(Gpu *d, int64_t count, uint64_t *out) {
  VkResult result = d->call.GetQueryPoolResults(d->handle, d->queries, 0, (uint32_t)count, (uintptr_t)count * 8, out, 8, QUERY_64 | QUERY_WAIT);
  return result ? gpu_fail("vkGetQueryPoolResults", result) : 1;
}

/* ---- running ---- */

/** Submits recordings, one after another, that start when the timeline reaches `after` (0 = at once); all done, they move it to `value`. */
int64_t gpu_submit(Gpu *d, const VkCommandBuffer *commands, int64_t count, int64_t after, int64_t value) {
  uint64_t wait = (uint64_t)after, signal = (uint64_t)value;
  uint32_t stage = PIPELINE_COMPUTE | PIPELINE_TRANSFER | PIPELINE_INDIRECT;
  TimelineSubmit timeline = {.c.type = ST_TIMELINE_SUBMIT, .wait_count = after > 0, .waits = &wait, .signal_count = 1, .signals = &signal};
  SubmitInfo info = {.c = {ST_SUBMIT, &timeline}, .wait_count = after > 0, .waits = &d->timeline, .wait_stages = &stage,
                     .command_count = (uint32_t)count, .commands = commands, .signal_count = 1, .signals = &d->timeline};
  VkResult result = d->call.QueueSubmit(d->queue, 1, &info, 0);
  return result ? gpu_fail("vkQueueSubmit", result) : 1;
}

/** Waits until the timeline has reached `value`: 1 reached, 0 timed out, −1 failed (the device is lost). */
int64_t gpu_wait(Gpu *d, int64_t value, int64_t nanoseconds) {
  uint64_t target = (uint64_t)value;
  SemaphoreWait wait = {.c.type = ST_SEMAPHORE_WAIT, .count = 1, .semaphores = &d->timeline, .values = &target};
  VkResult result = d->call.WaitSemaphores(d->handle, &wait, (uint64_t)nanoseconds);
  if (result == VK_SUCCESS || result == VK_TIMEOUT) return result == VK_SUCCESS;
  gpu_fail("vkWaitSemaphores", result);
  return -1;
}
