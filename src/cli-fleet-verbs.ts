/** The verbs of `alpha fleet` that are about jobs. */
import { type Command, defineCommand } from "./cli-command.ts"
import {
  FLEET_BENCH,
  FLEET_DOWNLOAD,
  FLEET_LOGS,
  FLEET_RESUME,
  FLEET_SERVE,
  FLEET_STATUS,
  FLEET_STOP,
  FLEET_TRAIN,
  FLEET_WATCH,
} from "./config.ts"

export const FLEET_JOB_VERBS: readonly Command[] = [
  defineCommand({
    name: "fleet status",
    group: "Fleet",
    summary: "tell how machines and their jobs stand",
    fields: FLEET_STATUS,
    positionals: ["instances"],
    examples: ["alpha fleet status", "alpha fleet status box --run=first --json"],
    run: async (invocation) => (await import("./cli-fleet-watch.ts")).status(invocation),
  }),
  defineCommand({
    name: "fleet train",
    group: "Fleet",
    summary: "start training on a machine; it goes on without this one",
    fields: FLEET_TRAIN,
    positionals: ["instances"],
    examples: [
      "alpha fleet train box --data=book.txt --steps=5000 --run=first",
      "alpha fleet train box --preset=gpt2-124m --data=corpus.bin --idleCommand='sudo poweroff'",
      "alpha fleet train --label=big --nodes --gpus=8 --accumSteps=16 --data=corpus.bin --run=first",
    ],
    run: async (invocation) =>
      invocation.config.nodes
        ? (await import("./cli-fleet-nodes.ts")).trainNodes(invocation)
        : (await import("./cli-fleet-jobs.ts")).train(invocation),
  }),
  defineCommand({
    name: "fleet resume",
    group: "Fleet",
    summary: "start a job again with the words it was started with",
    fields: FLEET_RESUME,
    positionals: ["instances"],
    examples: ["alpha fleet resume box", "alpha fleet resume box --run=first"],
    run: async (invocation) => (await import("./cli-fleet-jobs.ts")).resume(invocation),
  }),
  defineCommand({
    name: "fleet stop",
    group: "Fleet",
    summary: "stop a job after a checkpoint",
    fields: FLEET_STOP,
    positionals: ["instances"],
    examples: ["alpha fleet stop box", "alpha fleet stop box --run=first --now"],
    run: async (invocation) => (await import("./cli-fleet-jobs.ts")).stop(invocation),
  }),
  defineCommand({
    name: "fleet logs",
    group: "Fleet",
    summary: "show a job's log, and follow it over broken connections",
    fields: FLEET_LOGS,
    positionals: ["instances"],
    examples: ["alpha fleet logs box -n 100", "alpha fleet logs box -f", "alpha fleet logs box --run=first --whole"],
    run: async (invocation) => (await import("./cli-fleet-logs.ts")).logs(invocation),
  }),
  defineCommand({
    name: "fleet download",
    group: "Fleet",
    summary: "fetch a run, every byte verified",
    fields: FLEET_DOWNLOAD,
    positionals: ["instances"],
    examples: ["alpha fleet download box --run=first", "alpha fleet download box --part=best --to=models"],
    run: async (invocation) => (await import("./cli-fleet-logs.ts")).download(invocation),
  }),
  defineCommand({
    name: "fleet serve",
    group: "Fleet",
    summary: "serve a model on a machine",
    fields: FLEET_SERVE,
    positionals: ["instances"],
    examples: ["alpha fleet serve box --model=first --port=8080"],
    run: async (invocation) => (await import("./cli-fleet-jobs.ts")).serve(invocation as never),
  }),
  defineCommand({
    name: "fleet bench-cuda",
    group: "Fleet",
    summary: "deploy, measure beside PyTorch, fetch the figures, let the machine go",
    fields: FLEET_BENCH,
    positionals: ["instances"],
    examples: ["alpha fleet bench-cuda box", "alpha fleet bench-cuda box --shutdown=delete"],
    run: async (invocation) => (await import("./cli-fleet-bench.ts")).benchCuda(invocation),
  }),
]

/** The view without a verb; it stands behind all verbs, for it is the beginning of their names. */
export const FLEET_VIEW: Command = defineCommand({
  name: "fleet",
  group: "Fleet",
  summary: "watch machines, their GPUs and jobs on a full screen",
  fields: FLEET_WATCH,
  examples: ["alpha fleet", "alpha fleet --label=l4 --refresh=5", "alpha fleet --once --width=120"],
  run: async (invocation) => (await import("./cli-fleet-watch.ts")).watch(invocation),
})
