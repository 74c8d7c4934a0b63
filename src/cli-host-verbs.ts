/** The table of `alpha host`, which people do not type: `alpha fleet` runs it on its machines. */
import { type Command, defineCommand } from "./cli-command.ts"
import { HOST_FILES, HOST_LOGS, HOST_READ, HOST_RESUME, HOST_START, HOST_STATUS, HOST_STOP, HOST_SUPERVISE } from "./config.ts"

export const HOST_VERBS: readonly Command[] = [
  defineCommand({
    name: "host start",
    group: "Fleet",
    summary: "start a job that outlives the connection",
    fields: HOST_START,
    takesRest: true,
    examples: ["alpha host start -- --data=book.txt --run=first", "alpha host start --kind=serve -- --model=first"],
    run: async (invocation) => (await import("./cli-host.ts")).start(invocation),
  }),
  defineCommand({
    name: "host resume",
    group: "Fleet",
    summary: "start a job again with the words it was started with",
    fields: HOST_RESUME,
    examples: ["alpha host resume --run=first"],
    run: async (invocation) => (await import("./cli-host.ts")).resume(invocation),
  }),
  defineCommand({
    name: "host stop",
    group: "Fleet",
    summary: "stop a job after a checkpoint",
    fields: HOST_STOP,
    examples: ["alpha host stop --run=first", "alpha host stop --now"],
    run: async (invocation) => (await import("./cli-host.ts")).stop(invocation),
  }),
  defineCommand({
    name: "host status",
    group: "Fleet",
    summary: "tell how the jobs of this machine stand",
    fields: HOST_STATUS,
    examples: ["alpha host status --json"],
    run: async (invocation) => (await import("./cli-host.ts")).status(invocation),
  }),
  defineCommand({
    name: "host supervise",
    group: "Fleet",
    summary: "run a job to its end and watch it",
    fields: HOST_SUPERVISE,
    positionals: ["run"],
    examples: ["alpha host supervise first"],
    run: async (invocation) => (await import("./cli-host.ts")).supervise(invocation),
  }),
  defineCommand({
    name: "host logs",
    group: "Fleet",
    summary: "send a log in frames",
    fields: HOST_LOGS,
    examples: ["alpha host logs --run=first --from=1000 --follow"],
    run: async (invocation) => (await import("./cli-host.ts")).logs(invocation),
  }),
  defineCommand({
    name: "host files",
    group: "Fleet",
    summary: "list the files of a run with their sums",
    fields: HOST_FILES,
    examples: ["alpha host files --run=first --part=best --json"],
    run: async (invocation) => (await import("./cli-host.ts")).files(invocation),
  }),
  defineCommand({
    name: "host read",
    group: "Fleet",
    summary: "send bytes of files of a run in frames",
    fields: HOST_READ,
    examples: ["alpha host read --run=first --from=1000"],
    run: async (invocation) => (await import("./cli-host.ts")).read(invocation),
  }),
]
