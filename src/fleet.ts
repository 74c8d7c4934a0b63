/** `alpha` on other machines: what the other groups see of it. */

export { type AuditEntry, audit, auditIfThere } from "./fleet-audit.ts"
export { runShutdown, SHUTDOWNS, shutdownCommand } from "./fleet-bench.ts"
export { alphaOnHost, enter, enterIfThere, quote, remoteCommand, script, sshArgv } from "./fleet-command.ts"
export { type FleetConfig, type FleetHost, fleetSchema, parseFleet, readFleet, type Selection, selectHosts } from "./fleet-config.ts"
export { binaryPath, blobOf, deployPlan, deployTo, releaseOf, rollBack, rollbackPlan } from "./fleet-deploy.ts"
export { type Downloaded, downloadRun, filesWords } from "./fleet-download.ts"
export { type Exit, type JobPolicy, type JobRecord, jobPolicy, newestJob, readRecord as readJobRecord } from "./fleet-host.ts"
export { manifest, type Piece, sendPieces } from "./fleet-host-files.ts"
export { resumeJob, type StartRequest, startJob } from "./fleet-host-launch.ts"
export { sendLog } from "./fleet-host-log.ts"
export { type GpuReport, type HostReport, hostReport } from "./fleet-host-report.ts"
export { isLive, JOB_STATES, type JobReport, type JobState } from "./fleet-host-state.ts"
export { onlyRunning, stopJob } from "./fleet-host-stop.ts"
export { supervise } from "./fleet-host-supervise.ts"
export { askHost } from "./fleet-job.ts"
export { logWords, readLog } from "./fleet-logs.ts"
export { nativeScript } from "./fleet-native.ts"
export { askReady, type Needs, nodePlaces, nodePort, readyScript, sameAs, sameSettings } from "./fleet-nodes.ts"
export {
  asFleetError,
  checked,
  exitOf,
  FLEET_EXIT,
  HostError,
  type HostState,
  type Outcome,
  onHosts,
  said,
  summary,
} from "./fleet-parallel.ts"
export { flag, PROFILES, profileOf, trainWords } from "./fleet-profile.ts"
export type { Blob, Cargo, Step } from "./fleet-release.ts"
export { askJob, jobScript, resumeWords, startWords, stopWords } from "./fleet-run.ts"
export {
  doctorHost,
  doctorPlan,
  factsText,
  type HostDoctor,
  publicKeys,
  setupHost,
  setupPlan,
  syncKeys,
  syncKeysPlan,
} from "./fleet-setup.ts"
export { type Answer, closeConnection, interactive, type RemoteOptions, remote } from "./fleet-ssh.ts"
export { askStatus, gpuCells, hostLine, inOrder, JOB_HEAD, jobCells, statusWords } from "./fleet-status.ts"
export { fingerprintOf, pinnedKeys, type Trust, type TrustOptions, trustHost } from "./fleet-trust.ts"
