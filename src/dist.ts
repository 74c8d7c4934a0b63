/** Ranks: several processes that train one model, and how they find, hear and watch each other. */
import { AlphaError, EXIT } from "./base-error.ts"
import { type MpiLaunch, openMpi } from "./dist-mpi.ts"
import { findNccl, ncclId, openNccl } from "./dist-nccl.ts"
import { share, type World } from "./dist-world.ts"

/** What a process needs to join its world; made by the main thread, used in the Worker. */
export interface JoinWorld {
  readonly source: string
  readonly rank: number
  readonly size: number
  readonly localRank: number
  readonly localSize: number
  readonly wants: "auto" | "mpi" | "nccl"
  readonly mpi: MpiLaunch
  /** `id`: of the NCCL world, where rank 0 could tell it before; "" where it has no NCCL. */
  readonly nccl: { readonly library: string | undefined; readonly id: string | undefined }
  /** Where rank 0 watches the others; they hear of it through the world where the launcher has no store. */
  readonly watch: string | undefined
}

/**
 * Joins the world; returns when all ranks have. `uuid`: of this rank's GPU. Rank 0 decides for NCCL or MPI: NCCL where its library is there and
 * the device is a GPU, or where it is asked for.
 */
export function joinWorld({ rank, size, localRank, localSize, wants, mpi, nccl }: JoinWorld, uuid: string | undefined): World {
  const place = { rank, size, localRank, localSize }
  const byNccl = (id: string): World => {
    if (uuid === undefined)
      throw new AlphaError(`rank ${rank}: NCCL needs a GPU`, { hint: "use --device=gpu on every rank, or --dist=mpi", code: EXIT.usage })
    return { ...place, transport: openNccl({ id, library: nccl.library, uuid }, place) }
  }
  if (nccl.id !== undefined && nccl.id !== "") return byNccl(nccl.id)
  const refuse = () => {
    const found = findNccl(nccl.library)
    throw new AlphaError(`--dist=nccl: ${"reason" in found ? found.reason : "rank 0 has no NCCL"}`, {
      hint: "install libnccl2 (or pip's nvidia-nccl-cu13) and name it: --ncclLibrary=PATH",
      code: EXIT.device,
    })
  }
  if (wants === "nccl" && nccl.id === "") refuse()
  const byMpi: World = { ...place, transport: openMpi(mpi, place) }
  if (wants === "mpi" || nccl.id === "") return byMpi
  // mpirun brought the ranks together: MPI carries the identifier of NCCL's world.
  const isPossible = uuid !== undefined && rank === 0 && !("reason" in findNccl(nccl.library))
  const id = share(byMpi, rank === 0 ? (isPossible ? ncclId(nccl.library) : "") : undefined)
  if (id === "" && wants === "nccl") refuse()
  return id === "" ? byMpi : byNccl(id)
}

export { expandHosts } from "./dist-hosts.ts"
export { detectLaunch, type Launch } from "./dist-launch.ts"
export type { MpiLaunch } from "./dist-mpi.ts"
export { findNccl, ncclId } from "./dist-nccl.ts"
export { type PmiServer, servePmi } from "./dist-pmi.ts"
export { OrderedSum } from "./dist-reduce.ts"
export { Store } from "./dist-store.ts"
export { type StoreServer, serveStore } from "./dist-store-server.ts"
export { LAUNCHERS, launchTemplate, type TemplateOptions } from "./dist-template.ts"
export { type Lost, type Watch, watchRanks, watchServer } from "./dist-watch.ts"
export { gather, requireSame, share, type Transport, Vote, type World } from "./dist-world.ts"
