/** The MPI transport: finds the library that the launcher speaks, joins its world, moves host memory. */
import { AlphaError, EXIT } from "./base-error.ts"
import type { Transport } from "./dist-world.ts"
import { mpi } from "./native.ts"

/** A library and whether it is asked for by the standard ABI of MPI 5. */
interface Candidate {
  readonly file: string
  readonly abi: boolean
}

const OPEN_MPI: readonly Candidate[] = [{ file: "libmpi.so.40", abi: false }]
const MPICH: readonly Candidate[] = ["libmpich.so.12", "libmpi.so.12"].map((file) => ({ file, abi: false }))
const STANDARD: readonly Candidate[] = ["libmpi_abi.so.1", "libmpi_abi.so"].map((file) => ({ file, abi: true }))

/** Which libraries understand a launcher: mpirun's own; MPICH's where PMI is spoken; with srun whichever is there. */
function candidates(speaks: MpiLaunch["speaks"]): readonly Candidate[] {
  if (speaks === "Open MPI") return [...OPEN_MPI, ...STANDARD]
  return speaks === "PMI" ? [...MPICH, ...STANDARD] : [...OPEN_MPI, ...MPICH, ...STANDARD]
}

/** How the MPI library finds the other ranks. */
export interface MpiLaunch {
  readonly speaks: "Open MPI" | "PMI" | "any"
  /** Library given by --mpiLibrary. */
  readonly library: string | undefined
  /** Variables that it reads. */
  readonly variables: Readonly<Record<string, string>>
}

const cstring = (text: string): Uint8Array => new TextEncoder().encode(`${text}\0`)

/** Joins MPI's world. Throws AlphaError naming the libraries that were tried, or what MPI says when its world is not the launcher's. */
export function openMpi({ speaks, library, variables }: MpiLaunch, expected: { rank: number; size: number }): Transport {
  const m = mpi()
  for (const [name, value] of Object.entries(variables)) m.mpi_setenv(cstring(name), cstring(value))
  const tried: string[] = []
  const all = library === undefined ? candidates(speaks) : [{ file: library, abi: /mpi_abi/.test(library) }]
  const found = all.find(({ file, abi }) => {
    if (Number(m.mpi_open(cstring(file), abi ? 1 : 0)) === 1) return true
    tried.push(String(m.mpi_error()))
    return false
  })
  if (found === undefined) {
    throw new AlphaError(`no MPI library: ${tried.join("; ")}`, {
      hint: `install the one of the launcher (Debian: ${speaks === "PMI" ? "libmpich12" : "libopenmpi3"}), or name it: --mpiLibrary=PATH`,
      code: EXIT.device,
    })
  }
  const [rank, size] = [Number(m.mpi_rank()), Number(m.mpi_size())]
  if (rank !== expected.rank || size !== expected.size) {
    throw new AlphaError(`${found.file} sees rank ${rank} of ${size}, the launcher started rank ${expected.rank} of ${expected.size}`, {
      hint: "the launcher is not that library's own: use its mpirun (for srun: --mpi=pmix or --mpi=pmi2), or name the other: --mpiLibrary=PATH",
      code: EXIT.device,
    })
  }
  const check = (result: number | bigint): void => {
    if (Number(result) !== 1) throw new AlphaError(`rank ${rank}: ${m.mpi_error()}`, { code: EXIT.failure })
  }
  return {
    name: `MPI (${shortVersion(String(m.mpi_version()))})`,
    broadcast(bytes, root) {
      if (bytes.length > 0) check(m.mpi_broadcast(bytes, bytes.length, root))
    },
    allGather(mine) {
      const into = new Uint8Array(mine.length * size)
      if (mine.length > 0) check(m.mpi_all_gather(mine, into, mine.length))
      return into
    },
    allToAll: (from, into) => check(m.mpi_all_to_all(from, into, from.length / size)),
    barrier: () => check(m.mpi_barrier()),
    close: () => check(m.mpi_close()),
  }
}

/** "Open MPI v4.1.4, package: …" → "Open MPI 4.1.4"; "MPICH Version: 4.0.2 …" → "MPICH 4.0.2". */
function shortVersion(text: string): string {
  const [first = ""] = text.split("\n")
  return /^([\w() ]+?)(?:\s+Version)?:?\s+v?([\d.]+)/.exec(first)?.slice(1, 3).join(" ") ?? first.slice(0, 60)
}
