/** The main thread's side of a rank: what started it, where the others are, and the end of all when one is lost. */
import { existsSync, rmSync } from "node:fs"
import { availableParallelism, hostname } from "node:os"
import { join } from "node:path"
import { AlphaError, EXIT } from "./base-error.ts"
import { readHolder } from "./base-process.ts"
import { watchParent } from "./cli-train-spawn.ts"
import type { TrainInput } from "./config.ts"
import { gpuNames } from "./device.ts"
import {
  detectLaunch,
  findNccl,
  type JoinWorld,
  type Launch,
  type Lost,
  type MpiLaunch,
  ncclId,
  type PmiServer,
  Store,
  type StoreServer,
  servePmi,
  serveStore,
  type Watch,
  watchRanks,
  watchServer,
} from "./dist.ts"
import { mpi } from "./native.ts"
import type { TrainEvent } from "./train.ts"

/** How long a rank waits for the others to start. */
const START_MS = 600_000
/** A rank whose connection breaks because another one died says so itself first: that word is waited for. */
const WORD_MS = 1500

export interface RankProcess {
  readonly launch: Launch
  readonly join: JoinWorld
  /** Device of this rank: of the GPUs of its host, the one of its number there. */
  readonly device: string
  /** Threads of a rank where several share the host. */
  readonly threads: number
  /** Hears every event of the Worker. */
  show(event: TrainEvent): void
  /** This process was asked to stop: where the ranks have not found each other yet, there is nothing to save and nobody to wait for. */
  stop(): void
  /** This rank fails: says so to the others, unless another was lost before. */
  fail(error: Error): Promise<void>
  /** All ranks have ended. */
  end(): Promise<void>
}

/** What started this process, unless --dist=none; undefined: it trains alone. */
export function launchOf({
  dist,
  gpus,
  accumSteps,
  batch,
}: Pick<TrainInput, "dist" | "gpus" | "accumSteps" | "batch">): Launch | undefined {
  if (dist === "none") {
    if (gpus !== undefined && gpus > 1)
      throw new AlphaError(`--gpus=${gpus} starts ranks, --dist=none says there are none`, {
        hint: "give one of the two",
        code: EXIT.usage,
      })
    return undefined
  }
  const launch = detectLaunch(process.env, gpus)
  if (launch === undefined && dist !== "auto")
    throw new AlphaError(`--dist=${dist}: no launcher has started ranks`, {
      hint: "mpirun -n 2 alpha train …, torchrun, srun, or --gpus=N; alpha dist template prints a script",
      code: EXIT.usage,
    })
  if (launch === undefined || launch.size === 1) return undefined
  if (accumSteps < launch.size) {
    throw new AlphaError(`accumSteps ${accumSteps} cannot be shared by ${launch.size} ranks`, {
      hint: `a step's micro-batches are the ranks' work: with --accumSteps=${launch.size} each has one of batch ${batch}`,
      code: EXIT.usage,
    })
  }
  return launch
}

/** What a person reads first. */
export function launchText({ source, rank, size, localRank, localSize, master, isAgentStore }: Launch): string {
  const store = master === undefined ? "" : `, store ${master.host}:${master.port}${isAgentStore ? " of torchrun" : ""}`
  return `rank ${rank} of ${size} (${source}; rank ${localRank} of ${localSize} on ${hostname()}${store})`
}

/** Finds the other ranks as far as the main thread can. `note` tells people; the process ends when a rank is lost. */
export async function openRank(config: TrainInput, launch: Launch, note: (text: string) => void): Promise<RankProcess> {
  const { rank, size, localRank, localSize, source } = launch
  let directory = ""
  let hasMet = false
  const { promise: lostWord, resolve: sayLost } = Promise.withResolvers<void>()
  const onLost = ({ who, cause, code }: Lost) => {
    sayLost()
    note(code === EXIT.ok ? `${who}: ${cause}` : `${who} is lost: ${cause}; all ranks end`)
    releaseLock(directory)
    process.stdout.write("", () => mpi().mpi_exit(code))
  }
  const cause = "the process that started it is gone (killed)"
  const release = watchParent(() => onLost({ rank, who: `rank ${rank}`, cause, code: EXIT.failure }))
  const server = rank === 0 ? watchServer(size, START_MS, onLost) : undefined
  let watch: Watch | undefined = server
  const device = rankDevice(config.device, launch, gpuNames(), process.env.CUDA_VISIBLE_DEVICES, note)
  const met = launch.master === undefined ? undefined : await meet(launch, server?.address, () => worldId(config, device))
  if (met !== undefined && rank > 0) {
    watch = await watchRanks(met.address, rank, onLost)
    if (met.size !== size) {
      const message = `rank ${rank} is one of ${size} (WORLD_SIZE), rank 0 of ${met.size}`
      await watch.fail(message, EXIT.usage)
      throw new AlphaError(message, { hint: "start all ranks by one launcher, or give them the same variables", code: EXIT.usage })
    }
  }
  const variables = met === undefined || met.pmi === 0 ? {} : pmiVariables(launch, met.pmi, watch)
  const speaks: MpiLaunch["speaks"] = source === "Open MPI" ? "Open MPI" : source === "PMI" || met?.pmi ? "PMI" : "any"
  return {
    launch,
    join: {
      ...{ source, rank, size, localRank, localSize },
      wants: config.dist === "none" ? "mpi" : config.dist,
      nccl: { library: config.ncclLibrary, id: met?.nccl },
      mpi: { speaks, library: config.mpiLibrary, variables },
      watch: met === undefined ? server?.address : undefined,
    },
    device,
    threads: config.threads ?? Math.max(1, Math.floor(availableParallelism() / localSize)),
    show(event) {
      if (event.type !== "ranks") return
      hasMet = true
      directory = rank === 0 ? event.directory : ""
      if (rank === 0 || event.watch === "") return
      watchRanks(event.watch, rank, onLost).then(
        (found) => {
          watch = found
        },
        (error: Error) => note(`${error.message}; the launcher alone ends this rank when another is lost`),
      )
    },
    stop() {
      if (hasMet) return
      const cause = "it was stopped before the first step"
      const leave = () => onLost({ rank, who: `rank ${rank}`, cause, code: EXIT.ok })
      if (watch === undefined) leave()
      else void watch.fail(cause, EXIT.ok).then(leave) // the others hear it, or they would call this rank lost
    },
    async fail(error) {
      await Promise.race([lostWord, Bun.sleep(WORD_MS)])
      await watch?.fail(error.message, error instanceof AlphaError ? error.code : EXIT.failure)
    },
    async end() {
      release()
      watch?.bye()
      await Bun.sleep(50)
      watch?.close()
      met?.close()
    },
  }
}

/**
 * --device=auto and gpu mean the rank's own GPU of `all`; ranks share one where there are fewer, and are told so. `visible`: CUDA_VISIBLE_DEVICES,
 * by which launchers share out a host and which Vulkan does not know: numbers or UUIDs of GPUs, in the order of the ranks.
 */
export function rankDevice(
  device: string,
  { localRank, localSize }: Pick<Launch, "localRank" | "localSize">,
  all: readonly { readonly index: number; readonly uuid: string }[],
  visible: string | undefined,
  note: (text: string) => void,
): string {
  if (!["auto", "gpu"].includes(device) || all.length === 0) return device
  const listed = (visible ?? "").split(",").flatMap((word) => {
    const uuid = /^GPU-([0-9a-f-]{8,})$/i.exec(word.trim())?.[1]?.replaceAll("-", "").toLowerCase()
    const gpu =
      uuid === undefined ? (/^\d+$/.test(word.trim()) ? all[Number(word)] : undefined) : all.find((one) => one.uuid.startsWith(uuid))
    return gpu ?? []
  })
  const own = listed.length > 0 ? listed : all
  const { index } = own[localRank % own.length] as { index: number }
  // One GPU alone in a list is this rank's own: its neighbours have other lists.
  if (own.length < localSize && listed.length !== 1)
    note(`${localSize} ranks on this host, ${own.length} GPUs in sight: rank ${localRank} of it takes gpu:${index}`)
  return `gpu:${index}`
}

interface Meeting {
  /** Where rank 0 watches. */
  readonly address: string
  /** How many ranks there are by rank 0's variables. */
  readonly size: number
  /** Port of rank 0's PMI server; 0: the launcher serves the MPI library itself. */
  readonly pmi: number
  /** Identifier of the NCCL world; "" where rank 0 goes by MPI. */
  readonly nccl: string
  close(): void
}

/** Rank 0 decides for NCCL where its device is a GPU of NVIDIA's and the library is there, or where it is asked for. */
function worldId({ dist, ncclLibrary }: TrainInput, device: string): string {
  const isAsked = dist === "nccl"
  const isNvidia = device.startsWith("gpu") && existsSync("/proc/driver/nvidia/version")
  if (dist === "mpi" || (!isAsked && (!isNvidia || "reason" in findNccl(ncclLibrary)))) return ""
  return "reason" in findNccl(ncclLibrary) ? "" : ncclId(ncclLibrary)
}

/** Rank 0 publishes in the store where it listens, the others read it; rank 0 serves the store where torchrun does not. */
async function meet(launch: Launch, address: string | undefined, worldId: () => string): Promise<Meeting> {
  const { rank, size, master, isAgentStore, attempt } = launch
  const { host, port } = master as NonNullable<Launch["master"]>
  const hasManager = process.env.PMIX_NAMESPACE !== undefined || process.env.PMI_FD !== undefined || process.env.PMI_PORT !== undefined
  let [store, pmi]: [StoreServer | undefined, PmiServer | undefined] = [undefined, undefined]
  if (rank === 0 && !isAgentStore) store = serveStore(port)
  const nccl = rank === 0 ? worldId() : ""
  if (rank === 0 && nccl === "" && !hasManager) pmi = servePmi(size, "0.0.0.0")
  const client = await Store.connect(rank === 0 && !isAgentStore ? "127.0.0.1" : host, port, START_MS)
  const key = `alpha/${attempt}/meeting`
  if (rank === 0) await client.set(key, JSON.stringify({ address, size, pmi: pmi?.port ?? 0, nccl }))
  const found = JSON.parse(new TextDecoder().decode(await client.get(key, START_MS))) as Omit<Meeting, "close">
  return {
    ...found,
    close() {
      client.close()
      store?.stop()
      pmi?.stop()
    },
  }
}

/** What MPICH reads to find rank 0's PMI server; by the address at which this rank has found rank 0. */
function pmiVariables({ rank }: Launch, port: number, watch: (Watch & { readonly host?: string }) | undefined): Record<string, string> {
  return { PMI_PORT: `${watch?.host ?? "127.0.0.1"}:${port}`, PMI_ID: String(rank) }
}

/** The run's lock is this process's: a later start, perhaps on another host, must not find it. */
function releaseLock(directory: string): void {
  if (directory === "") return
  const path = join(directory, "lock")
  const holder = readHolder(path)
  if (holder?.pid === process.pid && holder.host === hostname()) rmSync(path, { force: true })
}
