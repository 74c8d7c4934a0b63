/**
 * Sums over ranks as a training step makes them, checked and timed: bun perf/all-reduce.ts [--gpus=2] [--bytes=4096,498000000] [--dist=auto] [--device=gpu]
 * [--ncclLibrary=PATH] [--calls=20]. It starts one rank per GPU itself, or is a rank where a launcher has started it. One JSON line per size, by
 * rank 0: `wrong` elements of the sum of every rank's numbers, milliseconds of each of 5 samples (one sum of `calls` that follow each other on the device), and the bus bandwidth
 * 2·(N−1)/N·bytes/s of the best. Where NCCL sums, `alone` are its own sums with no Vulkan between them, `steps` Vulkan's two steps of a semaphore
 * without CUDA: what is left of `ms` is the turn from one to the other and back.
 */
import { parseArgs } from "node:util"
import { AlphaError } from "../src/base-error.ts"
import { launchOf, launchText, openRank } from "../src/cli-train-ranks.ts"
import { spawnRanks } from "../src/cli-train-spawn.ts"
import type { TrainInput } from "../src/config.ts"
import { openDevice } from "../src/device.ts"
import { type JoinWorld, joinWorld, OrderedSum, type World } from "../src/dist.ts"
import { nccl } from "../src/native.ts"
import type { State } from "../src/program.ts"

const { values: flags } = parseArgs({
  options: {
    gpus: { type: "string" },
    bytes: { type: "string", default: "4096,498000000" },
    calls: { type: "string", default: "20" },
    dist: { type: "string", default: "auto" },
    device: { type: "string", default: "gpu" },
    ncclLibrary: { type: "string" },
    mpiLibrary: { type: "string" },
  },
})
const { dist, device: deviceName, ncclLibrary, mpiLibrary } = flags
const gpus = flags.gpus === undefined ? undefined : Number(flags.gpus)
const config = { dist, gpus, device: deviceName, ncclLibrary, mpiLibrary, threads: 1, accumSteps: 1024, batch: 1 } as unknown as TrainInput
const note = (text: string) => void process.stderr.write(`${text}\n`)

/** A rank's main thread keeps answering the others, its Worker sums. */
async function main(): Promise<void> {
  const launch = launchOf(config)
  if (launch === undefined) throw new Error("no ranks: --gpus=2, or start it by mpirun or torchrun")
  if (launch.spawns > 1) process.exit(await spawnRanks(launch, process.argv.slice(2), note))
  note(launchText(launch))
  const rank = await openRank(config, launch, note)
  const worker = new Worker(import.meta.path, { argv: process.argv.slice(2) })
  const { promise: done, resolve } = Promise.withResolvers<string>()
  worker.onmessage = ({ data }) => resolve(data)
  worker.onerror = ({ message }) => resolve(message)
  worker.postMessage({ join: rank.join, name: rank.device })
  const problem = await done
  if (problem !== "") note(`rank ${launch.rank}: ${problem}`)
  await (problem === "" ? rank.end() : rank.fail(new Error(problem)))
  process.exit(problem === "" ? 0 : 1)
}

function work({ join, name }: { join: JoinWorld; name: string }): void {
  const { device } = openDevice(name, 1)
  const world = joinWorld(join, device.uuid)
  if (world.rank === 0) note(`${world.transport.name} on ${device.description}`)
  for (const bytes of flags.bytes.split(",").map(Number)) measure(world, device.state(), Math.floor(bytes / 4))
  world.transport.barrier()
  world.transport.close()
}

declare const self: Worker
if (Bun.isMainThread) await main()
else
  self.onmessage = ({ data }) => {
    let problem = ""
    try {
      work(data)
    } catch (error) {
      problem = error instanceof AlphaError ? `${error.message} (${error.hint})` : String((error as Error).stack)
    }
    self.postMessage(problem)
  }

/** One sum over all ranks of the state `sum.x`, given to the device. */
function summer(world: World, state: State, count: number): () => void {
  const { transport } = world
  if (transport.sumShared === undefined) {
    state.ensure("sum.x", "f32", [count])
    const sum = new OrderedSum(world, state, ["sum.x"])
    return () => sum.round(world.size, false, true)
  }
  const shared = state.share?.([{ name: "sum.x", shape: [count] }])
  if (shared === undefined) throw new Error("this device cannot share its memory")
  transport.attach?.(shared)
  return () => transport.sumShared?.(0, shared.floats, true)
}

function measure(world: World, state: State, count: number): void {
  const { rank, size, transport } = world
  const sum = summer(world, state, count)
  const mine = Float32Array.from({ length: count }, (_, i) => (rank + 1) * ((i % 1021) - 510))
  state.write("sum.x", mine)
  sum()
  const all = state.read("sum.x") as Float32Array
  const factor = (size * (size + 1)) / 2 / (rank + 1)
  const wrong = all.reduce((n, value, i) => n + (value === (mine[i] as number) * factor ? 0 : 1), 0)
  state.write("sum.x", new Float32Array(count))
  const calls = transport.sumShared === undefined ? 1 : Number(flags.calls)
  state.ensure("one", "f32", [1])
  const timed = (work: () => void, wait: () => void): number[] =>
    Array.from({ length: 5 }, () => {
      transport.barrier()
      const start = performance.now()
      for (let i = 0; i < calls; i++) work()
      wait()
      return (performance.now() - start) / calls
    })
  const ofVulkan = () => void state.read("one") // waits for what was given to the device before
  const ms = timed(sum, ofVulkan)
  const bytes = count * 4
  const busGBs = ((2 * (size - 1)) / size) * (bytes / Math.min(...ms) / 1e6)
  const own = transport.sumShared === undefined ? undefined : state.share?.([{ name: "steps", shape: [1] }])
  let turn = 0
  const step = () => {
    turn++
    own?.signal(turn)
    own?.wait(turn)
  }
  const sumAlone = () => void nccl().nccl_sum(0, count, 0, 0)
  const parts = own === undefined ? {} : { alone: timed(sumAlone, transport.barrier), steps: timed(step, ofVulkan) }
  if (rank === 0) console.log(JSON.stringify({ bytes, ranks: size, transport: transport.name, wrong, ms, busGBs, ...parts }))
  if (wrong > 0)
    note(`rank ${rank}: ${wrong} of ${count} elements are wrong: element 1 is ${all[1]}, expected ${(mine[1] as number) * factor}`)
}
