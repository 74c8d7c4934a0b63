/** Ranks: several processes that train one model, and how they find, hear and watch each other. */
import { type MpiLaunch, openMpi } from "./dist-mpi.ts"
import type { World } from "./dist-world.ts"

/** What a process needs to join its world; made by the main thread, used in the Worker. */
export interface JoinWorld {
  readonly source: string
  readonly rank: number
  readonly size: number
  readonly localRank: number
  readonly localSize: number
  readonly mpi: MpiLaunch
  /** Where rank 0 watches the others; they hear of it through the world where the launcher has no store. */
  readonly watch: string | undefined
}

/** Joins the world; returns when all ranks have. */
export function joinWorld({ rank, size, localRank, localSize, mpi }: JoinWorld): World {
  return { rank, size, localRank, localSize, transport: openMpi(mpi, { rank, size }) }
}

export { expandHosts } from "./dist-hosts.ts"
export { detectLaunch, type Launch } from "./dist-launch.ts"
export type { MpiLaunch } from "./dist-mpi.ts"
export { type PmiServer, servePmi } from "./dist-pmi.ts"
export { OrderedSum, type Summand } from "./dist-reduce.ts"
export { Store } from "./dist-store.ts"
export { type StoreServer, serveStore } from "./dist-store-server.ts"
export { LAUNCHERS, launchTemplate, type TemplateOptions } from "./dist-template.ts"
export { type Lost, type Watch, watchRanks, watchServer } from "./dist-watch.ts"
export { anyOf, gather, requireSame, share, type Transport, type World } from "./dist-world.ts"
