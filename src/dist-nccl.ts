/** The NCCL transport: gradients summed by NVIDIA GPUs in the memory where Vulkan has left them. */
import { AlphaError, EXIT } from "./base-error.ts"
import type { Transport } from "./dist-world.ts"
import { nccl } from "./native.ts"
import type { SharedState } from "./program.ts"

const LIBRARY = "libnccl.so.2"
/** Bytes of a world's identifier. */
const ID_BYTES = 128

const cstring = (text: string): Uint8Array => new TextEncoder().encode(`${text}\0`)

/** Version of NCCL; undefined, with the reason, where it cannot be opened. */
export function findNccl(library: string | undefined): { version: number } | { reason: string } {
  const version = Number(nccl().nccl_open(cstring(library ?? LIBRARY)))
  return version > 0 ? { version } : { reason: String(nccl().nccl_error()) }
}

/** A new world's identifier, hexadecimal; the process that makes it must be one of its ranks and stay alive. */
export function ncclId(library: string | undefined): string {
  const found = findNccl(library)
  const id = new Uint8Array(ID_BYTES)
  if ("reason" in found || Number(nccl().nccl_id(id)) !== 1) throw failure("no identifier")
  return id.toHex()
}

function failure(what: string): AlphaError {
  return new AlphaError(`NCCL: ${what}: ${nccl().nccl_error()}`, {
    hint: "NCCL_DEBUG=INFO shows what it does; --dist=mpi goes through host memory",
    code: EXIT.device,
  })
}

/** Joins the world `id` on the GPU with this UUID (hexadecimal, Vulkan's). Throws AlphaError with NCCL's or CUDA's words. */
export function openNccl(
  { id, library, uuid }: { id: string; library: string | undefined; uuid: string },
  { rank, size }: { rank: number; size: number },
): Transport {
  const n = nccl()
  const check = (result: number | bigint, what: string): void => {
    if (Number(result) !== 1) throw failure(`rank ${rank}: ${what}`)
  }
  const found = findNccl(library)
  if ("reason" in found) throw failure("cannot be opened")
  check(n.nccl_join(Uint8Array.fromHex(id), rank, size, Uint8Array.fromHex(uuid)), "cannot join")
  const allGather = (mine: Uint8Array): Uint8Array => {
    const into = new Uint8Array(mine.length * size)
    if (mine.length > 0) check(n.nccl_all_gather(mine, into, mine.length, size), "gathering")
    return into
  }
  let turn = 0
  let shared: SharedState | undefined
  return {
    name: `NCCL ${Math.floor(found.version / 10_000)}.${Math.floor(found.version / 100) % 100}.${found.version % 100}`,
    broadcast(bytes, root) {
      if (bytes.length > 0) check(n.nccl_broadcast(bytes, bytes.length, root), "broadcasting")
    },
    allGather,
    barrier: () => void allGather(Uint8Array.of(0)),
    attach(state) {
      shared = state
      check(n.nccl_share(state.memoryFd, state.memoryBytes, state.semaphoreFd), "mapping the gradients")
    },
    sumShared(from, to, isLast) {
      if (shared === undefined) throw new TypeError("no shared state is attached")
      // CUDA moves the semaphore after the last sum only: Vulkan may be several signals ahead of it until then.
      turn++
      shared.signal(turn)
      check(n.nccl_sum(from, to - from, turn, isLast ? turn + 1 : 0), "summing")
      if (isLast) shared.wait(++turn)
    },
    close: () => check(n.nccl_close(), "closing"),
  }
}
