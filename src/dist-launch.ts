/** What started this process, read from its environment: rank, size, where rank 0 is; contradictions are refused. */
import { AlphaError, EXIT } from "./base-error.ts"
import { expandHosts } from "./dist-hosts.ts"

/** Where a rank stands. */
export interface Launch {
  readonly source: "torchrun" | "environment" | "Open MPI" | "PMI" | "Slurm" | "Indexed Job" | "SkyPilot" | "dstack" | "node" | "gpus"
  readonly rank: number
  readonly size: number
  /** Among the ranks of this host. */
  readonly localRank: number
  readonly localSize: number
  /** Where the store is or will be; undefined where mpirun brings the ranks together itself. */
  readonly master: { readonly host: string; readonly port: number } | undefined
  /** A torchrun agent serves the store already. */
  readonly isAgentStore: boolean
  /** Tells one start of the same job from the next in the same store. */
  readonly attempt: string
  /** Ranks that this process has to start on this host in place of being one. */
  readonly spawns: number
}

type Env = Readonly<Record<string, string | undefined>>

/** Port of the store where a launcher names a host only. */
const PORT = 29400

/**
 * Reads the variables of the innermost launcher: torchrun or whoever exports RANK, then Open MPI, MPICH's process manager, Slurm, Kubernetes
 * Indexed Jobs, SkyPilot, dstack, what gives torchrun's arguments of a node (alpha fleet, Kubeflow). Undefined: one process alone. `gpus`: ranks per host where the launcher starts one process per host, or none did.
 * Throws AlphaError where variables are missing, no numbers, or contradict each other.
 */
export function detectLaunch(env: Env, gpus: number | undefined): Launch | undefined {
  const found = torch(env) ?? openMpi(env) ?? pmi(env) ?? slurm(env) ?? nodes(env, gpus) ?? alone(gpus)
  if (found === undefined) return undefined
  for (const [name, value, below] of [
    ["rank", found.rank, found.size],
    ["local rank", found.localRank, found.localSize],
  ] as const) {
    if (value >= below) refuse(`${found.source}: ${name} ${value} of ${below}`, "ranks count from 0")
  }
  if (gpus !== undefined && found.spawns === 1 && found.localSize !== gpus && found.source !== "gpus")
    refuse(`${found.source} started ${found.localSize} ranks on this host, --gpus=${gpus} asks for others`, "leave --gpus out")
  return found
}

function refuse(message: string, hint: string): never {
  throw new AlphaError(`ranks: ${message}`, { hint, code: EXIT.usage })
}

function count(env: Env, name: string): number | undefined {
  const text = env[name]
  if (text === undefined || text === "") return undefined
  if (!/^\d{1,7}$/.test(text)) refuse(`${name}=${text} is no number`, "it is set by the launcher")
  return Number(text)
}

function needed(env: Env, name: string, source: string): number {
  const value = count(env, name)
  if (value === undefined) refuse(`${source} did not set ${name}`, "start all ranks by one launcher, or unset its other variables")
  return value
}

const base = { isAgentStore: false, attempt: "0", spawns: 1, master: undefined }

/** torchrun, or a script that exports the same. */
function torch(env: Env): Launch | undefined {
  if (env.RANK === undefined || env.RANK === "") return undefined
  const isElastic = env.TORCHELASTIC_RUN_ID !== undefined
  const source = isElastic ? "torchrun" : "environment"
  const size = needed(env, "WORLD_SIZE", source)
  const rank = needed(env, "RANK", source)
  if (!isElastic) agree(env, { rank, size })
  if (size > 1 && !env.MASTER_ADDR) refuse(`RANK=${rank} is set, MASTER_ADDR is not`, "set it to the host of rank 0")
  const localSize = count(env, "LOCAL_WORLD_SIZE")
  const localRank = count(env, "LOCAL_RANK")
  if (size > 1 && localRank === undefined && localSize !== undefined)
    refuse(`LOCAL_WORLD_SIZE=${localSize} is set, LOCAL_RANK is not`, "set both or neither")
  return {
    ...base,
    source,
    rank,
    size,
    localRank: localRank ?? 0,
    localSize: localSize ?? (localRank ?? 0) + 1,
    master: env.MASTER_ADDR ? { host: env.MASTER_ADDR, port: count(env, "MASTER_PORT") ?? PORT } : undefined,
    isAgentStore: env.TORCHELASTIC_USE_AGENT_STORE === "True",
    attempt: `${env.TORCHELASTIC_RUN_ID ?? ""}.${env.TORCHELASTIC_RESTART_COUNT ?? "0"}`,
  }
}

/** RANK and WORLD_SIZE beside another launcher's own numbers must say the same. */
function agree(env: Env, { rank, size }: { rank: number; size: number }): void {
  for (const [rankName, sizeName] of [
    ["OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"],
    ["PMI_RANK", "PMI_SIZE"],
    ...(env.SLURM_STEP_ID === undefined ? [] : [["SLURM_PROCID", "SLURM_STEP_NUM_TASKS"]]),
  ] as [string, string][]) {
    const [theirRank, theirSize] = [count(env, rankName), count(env, sizeName)]
    if (theirRank === undefined || theirSize === undefined || theirSize === 1) continue
    if (theirRank !== rank || theirSize !== size)
      refuse(
        `RANK=${rank} of WORLD_SIZE=${size}, but ${rankName}=${theirRank} of ${sizeName}=${theirSize}`,
        `two launchers disagree: unset RANK and WORLD_SIZE, or ${rankName}`,
      )
  }
}

function openMpi(env: Env): Launch | undefined {
  const rank = count(env, "OMPI_COMM_WORLD_RANK")
  if (rank === undefined) return undefined
  const size = needed(env, "OMPI_COMM_WORLD_SIZE", "Open MPI")
  const localRank = count(env, "OMPI_COMM_WORLD_LOCAL_RANK") ?? 0
  return { ...base, source: "Open MPI", rank, size, localRank, localSize: count(env, "OMPI_COMM_WORLD_LOCAL_SIZE") ?? localRank + 1 }
}

/** mpiexec of MPICH, Intel MPI, MVAPICH. */
function pmi(env: Env): Launch | undefined {
  const rank = count(env, "PMI_RANK")
  if (rank === undefined || (env.PMI_FD === undefined && env.PMI_PORT === undefined)) return undefined
  const size = needed(env, "PMI_SIZE", "PMI")
  const localRank = count(env, "MPI_LOCALRANKID") ?? count(env, "SLURM_LOCALID") ?? 0
  return { ...base, source: "PMI", rank, size, localRank, localSize: count(env, "MPI_LOCALNRANKS") ?? localRank + 1 }
}

/** A task of srun; a batch script itself is none. */
function slurm(env: Env): Launch | undefined {
  if (env.SLURM_STEP_ID === undefined || env.SLURM_PROCID === undefined) return undefined
  const size = needed(env, "SLURM_STEP_NUM_TASKS", "Slurm")
  const list = env.SLURM_STEP_NODELIST ?? env.SLURM_JOB_NODELIST
  if (size > 1 && list === undefined) refuse("Slurm did not set SLURM_JOB_NODELIST", "start the ranks by srun")
  const localRank = count(env, "SLURM_LOCALID") ?? 0
  const job = count(env, "SLURM_JOB_ID") ?? 0
  return {
    ...base,
    source: "Slurm",
    rank: needed(env, "SLURM_PROCID", "Slurm"),
    size,
    localRank,
    localSize: tasksHere(env.SLURM_STEP_TASKS_PER_NODE, count(env, "SLURM_NODEID") ?? 0) ?? localRank + 1,
    master:
      list === undefined ? undefined : { host: expandHosts(list)[0] as string, port: count(env, "MASTER_PORT") ?? 20_000 + (job % 20_000) },
    attempt: `${job}.${env.SLURM_STEP_ID}.${env.SLURM_RESTART_COUNT ?? "0"}`,
  }
}

/** Tasks of node `node` in Slurm's "4(x2),3": 4, 4, 3. */
function tasksHere(text: string | undefined, node: number): number | undefined {
  const all = (text ?? "").split(",").flatMap((part) => {
    const [, tasks, times = "1"] = /^(\d+)(?:\(x(\d+)\))?$/.exec(part) ?? []
    return tasks === undefined ? [] : Array.from({ length: Number(times) }, () => Number(tasks))
  })
  return all[node]
}

/** Launchers that start one process per node, which starts that node's ranks. */
function nodes(env: Env, gpus: number | undefined): Launch | undefined {
  const first = (list: string | undefined) => list?.trim().split(/\s+/)[0]
  const found =
    env.JOB_COMPLETION_INDEX !== undefined && env.WORLD_SIZE !== undefined
      ? {
          source: "Indexed Job" as const,
          node: "JOB_COMPLETION_INDEX",
          size: "WORLD_SIZE",
          host: env.MASTER_ADDR ?? firstPod(env),
          each: 1,
        }
      : env.SKYPILOT_NODE_RANK !== undefined
        ? {
            source: "SkyPilot" as const,
            node: "SKYPILOT_NODE_RANK",
            size: "SKYPILOT_NUM_NODES",
            host: first(env.SKYPILOT_NODE_IPS),
            each: count(env, "SKYPILOT_NUM_GPUS_PER_NODE"),
          }
        : env.DSTACK_NODE_RANK !== undefined
          ? {
              source: "dstack" as const,
              node: "DSTACK_NODE_RANK",
              size: "DSTACK_NODES_NUM",
              host: env.DSTACK_MASTER_NODE_IP,
              each: count(env, "DSTACK_GPUS_PER_NODE"),
            }
          : env.PET_NODE_RANK !== undefined && env.PET_NNODES !== undefined
            ? {
                source: "node" as const,
                node: "PET_NODE_RANK",
                size: "PET_NNODES",
                host: env.PET_MASTER_ADDR,
                each: count(env, "PET_NPROC_PER_NODE"),
              }
            : undefined
  if (found === undefined) return undefined
  const [node, size] = [needed(env, found.node, found.source), needed(env, found.size, found.source)]
  const each = Math.max(1, gpus ?? found.each ?? 1)
  if (size > 1 && !found.host) refuse(`${found.source} names no first host`, "set MASTER_ADDR to the host of rank 0")
  if (size * each === 1) return undefined
  return {
    ...base,
    source: found.source,
    rank: node * each,
    size: size * each,
    localRank: 0,
    localSize: each,
    master: { host: found.host ?? "127.0.0.1", port: count(env, "PET_MASTER_PORT") ?? count(env, "MASTER_PORT") ?? PORT },
    spawns: each,
  }
}

/** Host name of pod 0 of an Indexed Job: its own with the index exchanged. */
function firstPod({ HOSTNAME, JOB_COMPLETION_INDEX }: Env): string | undefined {
  const tail = `-${JOB_COMPLETION_INDEX}`
  return HOSTNAME?.endsWith(tail) ? `${HOSTNAME.slice(0, -tail.length)}-0` : undefined
}

/** No launcher: --gpus=N starts the ranks of this host. */
function alone(gpus: number | undefined): Launch | undefined {
  if (gpus === undefined || gpus === 1) return undefined
  return {
    ...base,
    source: "gpus",
    rank: 0,
    size: gpus,
    localRank: 0,
    localSize: gpus,
    master: { host: "127.0.0.1", port: 0 },
    spawns: gpus,
  }
}
