/** The fields of fleet.json and of the `alpha fleet` commands. */
import { bool, inGroup, int, list, text, type Values } from "./config-field.ts"
import { JOB_POLICY } from "./config-host.ts"

/** What ssh takes as one word. */
const WORD = { pattern: /^[^\s"'-][^\s"']*$/, words: "a word without spaces and quotes" }

/** One machine of fleet.json; `defaults` holds the same fields for all of them. */
export const FLEET_HOST = {
  ...inGroup("Connection", {
    host: text("address, or a name of ~/.ssh/config", { derive: "the name of the instance", form: WORD }),
    user: text("who logs in", { derive: "~/.ssh/config, else your own name", aliases: ["sshUser"], form: WORD }),
    address: text("address at which other machines of the fleet reach it", { derive: "host" }),
    port: int("port of its ssh server", { derive: "~/.ssh/config, else 22", min: 1, max: 65535 }),
    key: text("private key file; ~/ is your home", { derive: "~/.ssh/config, else the usual files", aliases: ["sshKey"] }),
    jump: text("machine in between: another instance, or [user@]host[:port]", {}),
    connectTimeout: int("how long a connection may take", { default: 15, min: 1, max: 600, unit: "s" }),
  }),
  ...inGroup("Machine", {
    deployDir: text("directory on the machine; without a leading / it stands in the home", { default: "alpha" }),
    gpu: text("its GPU, such as l4 or h100: chooses defaults for training", {}),
    labels: list("words that --label finds", { default: [] }),
    zone: text("where it stands; --label finds it", {}),
    machine: text("its type at the provider; --label finds it", {}),
    role: text("what it is for; --label finds it", {}),
  }),
  ...inGroup("Setup", {
    setupCommand: text("shell command that setup runs on the machine", {}),
    envFile: text("file of secrets that deploy sends, from beside fleet.json", { default: ".env.local" }),
    files: list("more files that deploy sends, such as data or a tokenizer, from beside fleet.json", { default: [] }),
  }),
  ...JOB_POLICY,
  ...inGroup("Rent", {
    stopCommand: text("command of this machine that stops it at the provider; it sees $INSTANCE, $HOST, $ZONE, $MACHINE", {}),
    deleteCommand: text("the same to delete it", {}),
  }),
}
export type FleetHostFields = Values<typeof FLEET_HOST>

/** Which machines a command is about. */
export const FLEET_SELECT = inGroup("Machines", {
  instances: list("names from fleet.json", { default: [] }),
  all: bool("every machine", { default: false }),
  label: list("machines with this label, GPU, role, zone or type", { default: [] }),
  fleet: text("the file that names the machines", { default: "fleet.json" }),
  parallel: int("most machines at a time", { default: 16, min: 1, max: 1000 }),
  dryRun: bool("show what would be run where, and stop", { default: false }),
})
export type FleetSelectConfig = Values<typeof FLEET_SELECT>

export const FLEET_TRUST = {
  ...inGroup("Trust", {
    fingerprint: text("pin the key only if it is this one, as SHA256:… of your provider's console", {
      form: { pattern: /^SHA256:[A-Za-z0-9+/]{43}=?$/, words: "SHA256: and 43 letters, as ssh-keygen -l prints it" },
    }),
    replace: bool("take the new key of a machine whose pinned key is another", { default: false }),
  }),
  ...FLEET_SELECT,
}
export type FleetTrustConfig = Values<typeof FLEET_TRUST>

export const FLEET_SYNC_KEYS = {
  ...inGroup("Keys", {
    publicKey: list("public key files to allow on the machines", { default: [] }),
  }),
  ...FLEET_SELECT,
}
export type FleetSyncKeysConfig = Values<typeof FLEET_SYNC_KEYS>

export const FLEET_DEPLOY = {
  ...inGroup("Deploy", {
    binary: text("the alpha to send", { derive: "this program; from source ./alpha" }),
    rebuildNative: bool("compile native/ with the machine's own compiler", { default: false }),
    rollback: bool("go back to the release before the current one", { default: false }),
    takeover: bool("take the lock of a deploy that still holds it", { default: false }),
  }),
  ...FLEET_SELECT,
}
export type FleetDeployConfig = Values<typeof FLEET_DEPLOY>

export const FLEET_RUN = {
  ...inGroup("Run", {
    timeout: int("end the command after this long", { optional: true, min: 1, unit: "s" }),
  }),
  ...FLEET_SELECT,
}
export type FleetRunConfig = Values<typeof FLEET_RUN>

export const FLEET_UPLOAD = {
  ...inGroup("Upload", {
    file: list("local files or directories", { default: [] }),
    to: text("directory below deployDir", { default: "." }),
  }),
  ...FLEET_SELECT,
}
export type FleetUploadConfig = Values<typeof FLEET_UPLOAD>
