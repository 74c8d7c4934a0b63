/** `alpha fleet`: the table of its verbs; each verb's work is loaded when it runs. */
import { type Command, defineCommand } from "./cli-command.ts"
import { FLEET_JOB_VERBS, FLEET_VIEW } from "./cli-fleet-verbs.ts"
import { FLEET_RUN, FLEET_SELECT, FLEET_TRUST } from "./config.ts"

/** Every verb. All of them select machines by FLEET_SELECT and end with the exit codes of FLEET_EXIT. */
export const FLEET_VERBS: readonly Command[] = [
  ...FLEET_JOB_VERBS,
  defineCommand({
    name: "fleet trust",
    group: "Fleet",
    summary: "show a machine's host key and pin it",
    fields: FLEET_TRUST,
    positionals: ["instances"],
    examples: ["alpha fleet trust box", "alpha fleet trust box --replace"],
    run: async (invocation) => (await import("./cli-fleet-trust.ts")).trust(invocation),
  }),
  defineCommand({
    name: "fleet ssh",
    group: "Fleet",
    summary: "open a shell on a machine",
    fields: FLEET_SELECT,
    positionals: ["instances"],
    examples: ["alpha fleet ssh box"],
    run: async (invocation) => (await import("./cli-fleet-shell.ts")).ssh(invocation),
  }),
  defineCommand({
    name: "fleet run",
    group: "Fleet",
    summary: "run a command on machines",
    fields: FLEET_RUN,
    positionals: ["instances"],
    takesRest: true,
    examples: ["alpha fleet run box -- nvidia-smi", "alpha fleet run --all -- df -h ."],
    run: async (invocation) => (await import("./cli-fleet-shell.ts")).runCommand(invocation),
  }),
  defineCommand({
    name: "fleet schema",
    group: "Fleet",
    summary: "print the JSON Schema of fleet.json",
    fields: {},
    examples: ["alpha fleet schema"],
    run: async (invocation) => (await import("./cli-fleet-shell.ts")).schema(invocation),
  }),
  FLEET_VIEW,
]
