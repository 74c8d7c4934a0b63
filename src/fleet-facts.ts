/** What a machine is: the script that asks, and whether alpha can run there. */
import { quote } from "./fleet-command.ts"

/** Oldest C library that alpha runs with. */
const GLIBC = [2, 28] as const

export interface HostFacts {
  /** "Linux 6.1.0". */
  readonly kernel: string
  /** "x86_64", "aarch64". */
  readonly machine: string
  /** "glibc 2.36", "musl", "unknown". */
  readonly libc: string
  /** Free space where the deploy directory is. */
  readonly freeBytes: number
  /** Version of NVIDIA's kernel driver. */
  readonly driver: string | undefined
  /** GPUs by name, where the driver tells. */
  readonly gpus: readonly string[]
  /** C compiler for --rebuildNative. */
  readonly compiler: string | undefined
}

/** Lines that print the facts as "fact.NAME=VALUE", in the deploy directory. They use sh and coreutils; anything else only where it is there. */
export const FACTS = `
echo "fact.kernel=$(uname -sr)"
echo "fact.machine=$(uname -m)"
libc=$(getconf GNU_LIBC_VERSION 2>/dev/null || :)
if [ -z "$libc" ]; then
  for ld in /lib64/ld-linux-x86-64.so.2 /lib/ld-linux-aarch64.so.1 /lib*/ld-linux*.so.*; do
    [ -e "$ld" ] || continue
    libc="glibc unknown"
    for program in "$ld --version" /lib/*-linux-gnu/libc.so.6 /lib64/libc.so.6 /lib/libc.so.6; do
      said=$($program 2>/dev/null </dev/null || :)
      case $said in *"release version "*) said=\${said#*release version }; libc="glibc \${said%%[!0-9.]*}"; libc=\${libc%.}; break 2 ;; esac
    done
  done
fi
if [ -z "$libc" ]; then for ld in /lib/ld-musl-*; do [ ! -e "$ld" ] || libc=musl; done; fi
echo "fact.libc=\${libc:-none}"
set -- $(df -Pk . | tail -n 1); echo "fact.free=\${4:-0}"
if [ -r /proc/driver/nvidia/version ]; then
  read -r line < /proc/driver/nvidia/version; line=\${line##*Module }; line=\${line#"\${line%%[! ]*}"}; echo "fact.driver=\${line%% *}"
fi
for gpu in /proc/driver/nvidia/gpus/*/information; do
  [ -r "$gpu" ] || continue
  read -r line < "$gpu"; line=\${line#Model:}; echo "fact.gpu=\${line#"\${line%%[![:space:]]*}"}"
done
for cc in \${CC:-cc} gcc clang; do
  if command -v "$cc" >/dev/null 2>&1; then echo "fact.compiler=$cc"; break; fi
done`.trim()

export function parseFacts(stdout: string): HostFacts {
  const all = [...stdout.matchAll(/^fact\.(\w+)=(.*)$/gm)].map(([, name, value]) => [name!, value!.trim()] as const)
  const one = (name: string) => all.find(([key]) => key === name)?.[1]
  return {
    kernel: one("kernel") ?? "unknown",
    machine: one("machine") ?? "unknown",
    libc: one("libc") ?? "none",
    freeBytes: 1024 * Number(one("free") ?? 0),
    driver: one("driver") || undefined,
    gpus: all.filter(([name]) => name === "gpu").map(([, value]) => value),
    compiler: one("compiler"),
  }
}

/** Why alpha cannot run there, with the next step; undefined where it can. */
export function refusal({ kernel, machine, libc }: HostFacts): { reason: string; hint: string } | undefined {
  if (!kernel.startsWith("Linux ")) return { reason: `${kernel}: alpha runs on Linux`, hint: "choose a Linux machine" }
  if (!["x86_64", "aarch64"].includes(machine))
    return { reason: `${machine}: alpha runs on x86_64 and aarch64`, hint: "choose such a machine" }
  const glibc = "glibc 2.28 or newer is needed: Debian 10, Ubuntu 20.04, RHEL 8 and newer have it"
  if (libc.startsWith("musl")) return { reason: "its C library is musl (Alpine?), on which alpha does not run", hint: glibc }
  if (libc === "none") return { reason: "it has no C library that alpha can use", hint: glibc }
  const [major, minor] = (/glibc (\d+)\.(\d+)/.exec(libc) ?? []).slice(1).map(Number)
  if (major === undefined || minor === undefined) return undefined // it will say itself whether it starts
  const isOld = major < GLIBC[0] || (major === GLIBC[0] && minor < GLIBC[1])
  return isOld ? { reason: `its C library is ${libc}`, hint: glibc } : undefined
}

/** The line that ends a script where there is no C compiler, naming the package. */
export function needCompiler(exitCode: number): string {
  const message = "no C compiler on this machine: apt-get install gcc libc6-dev, dnf install gcc glibc-devel, or apk add gcc musl-dev"
  return `cc=; for c in \${CC:-cc} gcc clang; do if command -v "$c" >/dev/null 2>&1; then cc=$c; break; fi; done
[ -n "$cc" ] || { echo ${quote([message])} >&2; exit ${exitCode}; }`
}
