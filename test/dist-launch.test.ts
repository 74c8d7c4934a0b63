/** What started a rank, told from the variables of every launcher; contradictions refused. */
import { describe, expect, test } from "bun:test"
import { rankDevice } from "../src/cli-train-ranks.ts"
import { detectLaunch, expandHosts } from "../src/dist.ts"

type Env = Record<string, string>
const TORCH: Env = { RANK: "3", WORLD_SIZE: "4", LOCAL_RANK: "1", LOCAL_WORLD_SIZE: "2", MASTER_ADDR: "10.0.0.1", MASTER_PORT: "1234" }
const OMPI: Env = { OMPI_COMM_WORLD_RANK: "1", OMPI_COMM_WORLD_SIZE: "2", OMPI_COMM_WORLD_LOCAL_RANK: "1", OMPI_COMM_WORLD_LOCAL_SIZE: "2" }
const SLURM: Env = {
  SLURM_STEP_ID: "0",
  SLURM_JOB_ID: "123456",
  SLURM_PROCID: "5",
  SLURM_STEP_NUM_TASKS: "7",
  SLURM_LOCALID: "1",
  SLURM_NODEID: "1",
  SLURM_STEP_TASKS_PER_NODE: "4,3",
  SLURM_STEP_NODELIST: "gnode[08-09]",
}

describe("the launcher", () => {
  test("none", () => {
    expect(detectLaunch({}, undefined)).toBeUndefined()
    expect(detectLaunch({}, 1)).toBeUndefined()
  })

  test("torchrun's agent serves the store; a restart is another attempt", () => {
    const elastic = { ...TORCH, TORCHELASTIC_RUN_ID: "job", TORCHELASTIC_USE_AGENT_STORE: "True", TORCHELASTIC_RESTART_COUNT: "2" }
    expect(detectLaunch(elastic, undefined)).toEqual({
      source: "torchrun",
      rank: 3,
      size: 4,
      localRank: 1,
      localSize: 2,
      master: { host: "10.0.0.1", port: 1234 },
      isAgentStore: true,
      attempt: "job.2",
      spawns: 1,
    })
  })

  test("variables exported by hand: rank 0 serves the store", () => {
    expect(detectLaunch(TORCH, undefined)).toMatchObject({ source: "environment", isAgentStore: false, attempt: ".0" })
  })

  test("Open MPI and MPICH bring the ranks together themselves", () => {
    expect(detectLaunch(OMPI, undefined)).toMatchObject({
      source: "Open MPI",
      rank: 1,
      size: 2,
      localRank: 1,
      localSize: 2,
      master: undefined,
    })
    const hydra = { PMI_FD: "7", PMI_RANK: "2", PMI_SIZE: "3", MPI_LOCALRANKID: "2", MPI_LOCALNRANKS: "3" }
    expect(detectLaunch(hydra, undefined)).toMatchObject({ source: "PMI", rank: 2, size: 3, localSize: 3, master: undefined })
  })

  test("srun: the first host of the list has rank 0; a batch script is no task", () => {
    expect(detectLaunch(SLURM, undefined)).toMatchObject({
      ...{ source: "Slurm", rank: 5, size: 7, localRank: 1, localSize: 3 },
      master: { host: "gnode08", port: 20_000 + (123456 % 20_000) },
    })
    const { SLURM_STEP_ID: _, ...script } = SLURM
    expect(detectLaunch(script, undefined)).toBeUndefined()
  })

  test("launchers of one process per node: it starts that node's ranks", () => {
    const job = { JOB_COMPLETION_INDEX: "1", WORLD_SIZE: "3", HOSTNAME: "train-workers-0-1", MASTER_PORT: "29500" }
    expect(detectLaunch(job, 4)).toMatchObject({
      ...{ source: "Indexed Job", rank: 4, size: 12, spawns: 4, localSize: 4 },
      master: { host: "train-workers-0-0", port: 29500 },
    })
    const sky = {
      SKYPILOT_NODE_RANK: "1",
      SKYPILOT_NUM_NODES: "2",
      SKYPILOT_NODE_IPS: "10.0.0.4\n10.0.0.5",
      SKYPILOT_NUM_GPUS_PER_NODE: "8",
    }
    expect(detectLaunch(sky, undefined)).toMatchObject({ source: "SkyPilot", rank: 8, size: 16, spawns: 8, master: { host: "10.0.0.4" } })
    const dstack = { DSTACK_NODE_RANK: "0", DSTACK_NODES_NUM: "2", DSTACK_MASTER_NODE_IP: "10.1.0.1", DSTACK_GPUS_PER_NODE: "1" }
    expect(detectLaunch(dstack, undefined)).toMatchObject({ source: "dstack", rank: 0, size: 2, spawns: 1, master: { host: "10.1.0.1" } })
    const node = { PET_NODE_RANK: "1", PET_NNODES: "2", PET_MASTER_ADDR: "10.2.0.1", PET_MASTER_PORT: "20001" }
    const master = { host: "10.2.0.1", port: 20001 }
    expect(detectLaunch(node, undefined)).toMatchObject({ source: "node", rank: 1, size: 2, spawns: 1, master })
    expect(detectLaunch(node, 4)).toMatchObject({ rank: 4, size: 8, spawns: 4, master })
    expect(detectLaunch({ ...node, PET_NPROC_PER_NODE: "2" }, undefined)).toMatchObject({ rank: 2, size: 4, spawns: 2, localSize: 2 })
    expect(detectLaunch({ JOB_COMPLETION_INDEX: "1" }, undefined)).toBeUndefined() // one of many jobs that have nothing to do with each other
    expect(detectLaunch({}, 2)).toMatchObject({ source: "gpus", rank: 0, size: 2, spawns: 2 })
  })

  test.each<[string, Env, number | undefined, string]>([
    ["a number is none", { ...TORCH, RANK: "x" }, undefined, "RANK=x is no number"],
    ["a size is missing", { RANK: "0" }, undefined, "environment did not set WORLD_SIZE"],
    ["rank 0 is nowhere", { RANK: "0", WORLD_SIZE: "2" }, undefined, "MASTER_ADDR is not"],
    ["a rank too many", { ...TORCH, RANK: "4" }, undefined, "rank 4 of 4"],
    ["a local rank too many", { ...TORCH, LOCAL_RANK: "2" }, undefined, "local rank 2 of 2"],
    [
      "two launchers disagree",
      { ...TORCH, ...OMPI },
      undefined,
      "RANK=3 of WORLD_SIZE=4, but OMPI_COMM_WORLD_RANK=1 of OMPI_COMM_WORLD_SIZE=2",
    ],
    ["srun disagrees", { ...TORCH, ...SLURM }, undefined, "SLURM_PROCID=5"],
    ["more ranks are asked for than were started", TORCH, 8, "started 2 ranks on this host, --gpus=8"],
  ])("refused: %s", (_, env, gpus, message) => {
    expect(() => detectLaunch(env, gpus)).toThrow(message)
  })
})

test("the GPU of a rank: its own of the host's, or of those that CUDA_VISIBLE_DEVICES leaves to the job", () => {
  const all = [1, 2, 3, 4].map((index) => ({ index, uuid: `${index}abcdef0${"1234567".repeat(3)}0` })) // gpu:0 runs on the CPU
  const devices = (visible: string | undefined, device = "auto", gpus = all) => {
    const notes: string[] = []
    const of = (localRank: number) => rankDevice(device, { localRank, localSize: 2 }, gpus, visible, (text) => notes.push(text))
    return [of(0), of(1), notes.length]
  }
  expect(devices(undefined)).toEqual(["gpu:1", "gpu:2", 0])
  expect(devices("2,3")).toEqual(["gpu:3", "gpu:4", 0])
  expect(devices("GPU-4abcdef0-1234,GPU-2abcdef0-1234", "gpu")).toEqual(["gpu:4", "gpu:2", 0])
  expect(devices("3")).toEqual(["gpu:4", "gpu:4", 0]) // each rank has a list of its own
  expect(devices("6,7")).toEqual(["gpu:1", "gpu:2", 0]) // the numbers of the host, of which a container shows two
  expect(devices("NoDevFiles")).toEqual(["gpu:1", "gpu:2", 0])
  expect(devices("2,3", "gpu:1")).toEqual(["gpu:1", "gpu:1", 0])
  expect(devices(undefined, "gpu", all.slice(0, 1))).toEqual(["gpu:1", "gpu:1", 2])
  expect(devices("0", "auto", [])).toEqual(["auto", "auto", 0])
})

test("node lists", () => {
  expect(expandHosts("gnode[08,10-12]-ib,login1")).toEqual(["gnode08-ib", "gnode10-ib", "gnode11-ib", "gnode12-ib", "login1"])
  expect(expandHosts("r[1-2]n[09-10]")).toEqual(["r1n09", "r1n10", "r2n09", "r2n10"])
  expect(expandHosts("one.example.org")).toEqual(["one.example.org"])
  for (const list of ["", "a[1-x]", "a[3-1]", "a[1"]) expect(() => expandHosts(list)).toThrow("node list")
})
