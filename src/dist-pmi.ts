/** The process manager's side of PMI-1, by which MPICH and its relatives find each other where no mpirun started the ranks. */
import type { Socket } from "bun"
import { Lines, Outbox } from "./dist-socket.ts"

/** A server for one world. */
export interface PmiServer {
  readonly port: number
  stop(): void
}

interface Client {
  readonly lines: Lines
  readonly out: Outbox
  rank: number
}

/**
 * Serves `size` ranks over TCP: each connects, names its rank, puts and gets keys, and waits in barriers. A client finds it by the variables
 * PMI_PORT (host:port) and PMI_ID (its rank). Source: Flux RFC 13, "Simple Process Manager Interface v1"; MPICH doc/wiki/design/PMI.md.
 */
export function servePmi(size: number, hostname: string): PmiServer {
  const keys = new Map<string, string>()
  const waiting = new Set<Socket<Client>>()
  /** What a line is answered with at once. */
  const answer = (socket: Socket<Client>, line: string): string | undefined => {
    const fields = fieldsOf(line)
    const key = fields.get("key") ?? ""
    switch (fields.get("cmd")) {
      case "initack":
        socket.data.rank = Number(fields.get("pmiid"))
        return `cmd=initack rc=0\ncmd=set rc=0 size=${size}\ncmd=set rc=0 rank=${socket.data.rank}\ncmd=set rc=0 debug=0`
      case "init":
        return "cmd=response_to_init rc=0 pmi_version=1 pmi_subversion=1"
      case "get_maxes":
        return "cmd=maxes rc=0 kvsname_max=64 keylen_max=256 vallen_max=4096"
      case "get_universe_size":
        return `cmd=universe_size rc=0 size=${size}`
      case "get_appnum":
        return "cmd=appnum rc=0 appnum=0"
      case "get_my_kvsname":
        return "cmd=my_kvsname rc=0 kvsname=alpha"
      case "put":
        keys.set(key, fields.get("value") ?? "")
        return "cmd=put_result rc=0 msg=success"
      case "get": {
        const value = keys.get(key)
        return value === undefined
          ? "cmd=get_result rc=-1 msg=key_not_found value=unknown"
          : `cmd=get_result rc=0 msg=success value=${value}`
      }
      case "barrier_in":
        waiting.add(socket)
        if (waiting.size < size) return undefined
        for (const each of waiting) each.data.out.send(each, new TextEncoder().encode("cmd=barrier_out rc=0\n"))
        waiting.clear()
        return undefined
      case "finalize":
        return "cmd=finalize_ack rc=0"
      default:
        return `cmd=${fields.get("cmd") ?? "unknown"} rc=-1 msg=unknown_command`
    }
  }
  const server = Bun.listen<Client>({
    hostname,
    port: 0,
    socket: {
      open(socket) {
        socket.data = { lines: new Lines(), out: new Outbox(), rank: -1 }
      },
      data(socket, bytes) {
        for (const line of socket.data.lines.push(bytes)) {
          const text = answer(socket, line)
          if (text !== undefined) socket.data.out.send(socket, new TextEncoder().encode(`${text}\n`))
        }
      },
      drain: (socket) => socket.data.out.drain(socket),
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
