/** `alpha` on other machines: what the other groups see of it. */
export { alphaOnHost, enter, enterIfThere, quote, remoteCommand, script, sshArgv } from "./fleet-command.ts"
export { type FleetConfig, type FleetHost, fleetSchema, parseFleet, readFleet, type Selection, selectHosts } from "./fleet-config.ts"
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
export { type Answer, closeConnection, interactive, type RemoteOptions, remote } from "./fleet-ssh.ts"
export { fingerprintOf, pinnedKeys, type Trust, type TrustOptions, trustHost } from "./fleet-trust.ts"
