/** The process manager's side of PMI-1, by which MPICH and its relatives find each other where no mpirun started the ranks. */
import type { Socket } from "bun"
import { Lines } from "./dist-lines.ts"

/** A server for one world. */
export interface PmiServer {
  readonly port: number
  stop(): void
}

interface Client {
  readonly lines: Lines
  rank: number
}

/**
 * Serves `size` ranks over TCP: each connects, names its rank, puts and gets keys, and waits in barriers. A client finds it by the variables
 * PMI_PORT (host:port) and PMI_ID (its rank). Source: Flux RFC 13, "Simple Process Manager Interface v1"; MPICH doc/wiki/design/PMI.md.
 */
export function servePmi(size: number, hostname: string): PmiServer {
  const keys = new Map<string, string>()
  const waiting = new Set<Socket<Client>>()
  const answer = (socket: Socket<Client>, line: string): void => {
    const say = (text: string) => void socket.write(`${text}\n`)
    const fields = fieldsOf(line)
    const key = fields.get("key") ?? ""
    switch (fields.get("cmd")) {
      case "initack":
        socket.data.rank = Number(fields.get("pmiid"))
        say(`cmd=initack rc=0\ncmd=set rc=0 size=${size}\ncmd=set rc=0 rank=${socket.data.rank}\ncmd=set rc=0 debug=0`)
        return
      case "init":
        return say("cmd=response_to_init rc=0 pmi_version=1 pmi_subversion=1")
      case "get_maxes":
        return say("cmd=maxes rc=0 kvsname_max=64 keylen_max=256 vallen_max=4096")
      case "get_universe_size":
        return say(`cmd=universe_size rc=0 size=${size}`)
      case "get_appnum":
        return say("cmd=appnum rc=0 appnum=0")
      case "get_my_kvsname":
        return say("cmd=my_kvsname rc=0 kvsname=alpha")
      case "put":
        keys.set(key, fields.get("value") ?? "")
        return say("cmd=put_result rc=0 msg=success")
      case "get": {
        const value = keys.get(key)
        return say(value === undefined ? "cmd=get_result rc=-1 msg=key_not_found value=unknown" : `cmd=get_result rc=0 msg=success value=${value}`)
      }
      case "barrier_in":
        waiting.add(socket)
        if (waiting.size < size) return
        for (const each of waiting) each.write("cmd=barrier_out rc=0\n")
        waiting.clear()
        return
      case "finalize":
        return say("cmd=finalize_ack rc=0")
      default:
        return say(`cmd=${fields.get("cmd") ?? "unknown"} rc=-1 msg=unknown_command`)
    }
  }
  const server = Bun.listen<Client>({
    hostname,
    port: 0,
    socket: {
      open(socket) {
        socket.data = { lines: new Lines(), rank: -1 }
      },
      data(socket, bytes) {
        for (const line of socket.data.lines.push(bytes)) answer(socket, line)
      },
      close: (socket) => void waiting.delete(socket),
    },
  })
  return { port: server.port, stop: () => server.stop(true) }
}

/** cmd=put key=a value=b c → {cmd: put, key: a, value: "b c"}: a value goes to the end of its line. */
function fieldsOf(line: string): Map<string, string> {
  const [, head = line, value] = /^(.*?)\s+value=(.*)$/.exec(line) ?? []
  const pairs = head.split(/\s+/).map((word): [string, string] => {
    const at = word.indexOf("=")
    return at < 0 ? [word, ""] : [word.slice(0, at), word.slice(at + 1)]
  })
  return new Map(value === undefined ? pairs : [...pairs, ["value", value]])
}
