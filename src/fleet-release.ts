/** Pure: the scripts of a deploy. What is sent lies in blobs/<sha256>; `current` is one link that is renamed into place. */
import { type AuditEntry, audit } from "./fleet-audit.ts"
import { deployPath, enter, quote, script } from "./fleet-command.ts"
import type { FleetHost } from "./fleet-config.ts"
import { FACTS, needCompiler } from "./fleet-facts.ts"
import { dropLock, holdLock, type LockOwner, takeLock } from "./fleet-lock.ts"

/** A file to have on the machine. */
export interface Blob {
  readonly sha256: string
  readonly bytes: number
  /** Local file. */
  readonly path: string
  /** The mode it gets: programs may be run. */
  readonly isProgram: boolean
  /** Path below the deploy directory that will lead to it; undefined for what belongs to a release. */
  readonly link: string | undefined
}

/** What shall be current. */
export interface Release {
  readonly id: string
  readonly alpha: Blob
  /** Sources of the native library as a shell script, for --rebuildNative. */
  readonly native: Blob | undefined
}

/** What shall be on a machine. */
export interface Cargo {
  readonly release: Release | undefined
  readonly files: readonly Blob[]
}

/** Exit codes of the scripts beside LOCKED. */
export const SCRIPT = { offset: 76, short: 77, corrupt: 78, full: 79, unfit: 80, compiler: 81 } as const

/** Bytes of a file that go in one request; each ends with a check and a flush. */
export const CHUNK = 256 << 20

/** Seconds that a lock lasts: for the work itself, and for sending at 64 KiB/s at least. */
export const lockSeconds = (bytes: number): number => 900 + Math.ceil(bytes / 65536)

const blobsOf = ({ alpha, native }: Release) => (native === undefined ? [alpha] : [alpha, native])

/**
 * The one round trip of an unchanged deploy: makes the directories, takes the secrets from standard input, and prints either
 * "state=unchanged" or, holding the lock then, "state=changed", the facts and "need=SHA256 BYTES" (what is there already) for each blob.
 */
export function probeScript(
  host: FleetHost,
  { release, files }: Cargo,
  owner: LockOwner,
  options: { secretBytes: number | undefined; takeover?: string | undefined },
): string {
  const blobs = [...(release ? blobsOf(release) : []), ...files]
  const bytes = blobs.reduce((sum, blob) => sum + blob.bytes, 0)
  const wanted = release === undefined ? undefined : `releases/${release.id}`
  return script(
    "umask 077",
    `mkdir -p -- ${quote([deployPath(host.deployDir)])}`,
    enter(host),
    "mkdir -p blobs releases",
    "state=unchanged",
    ...(options.secretBytes !== undefined
      ? [
          "trap 'rm -f \".env.$$\"' EXIT",
          'cat > ".env.$$"',
          // A connection that broke must not leave half of them.
          `[ "$(stat -c %s ".env.$$")" = ${options.secretBytes} ] || exit ${SCRIPT.short}`,
          'if [ -f .env.local ] && [ "$(sha256sum < ".env.$$")" = "$(sha256sum < .env.local)" ]; then rm -f ".env.$$"; else state=changed; fi',
        ]
      : []),
    'size() { stat -c %s "$1" 2>/dev/null || echo 0; }',
    'need() { [ "$(size "blobs/$1")" = "$2" ] && [ -f "blobs/$1" ] || { state=changed; echo "need=$1 $(size "blobs/$1.part")"; }; }',
    ...blobs.map(({ sha256, bytes: size }) => `need ${sha256} ${size}`),
    ...files.map(
      ({ link, sha256 }) => `[ "$(readlink ${quote([`./${link}`])} || :)" = ${quote([linkTo(link!, sha256)])} ] || state=changed`,
    ),
    wanted && `[ "$(readlink current || :)" = ${wanted}/alpha ] || state=changed`,
    release?.native && `[ -f ${wanted}/libalpha.so ] || state=changed`,
    "if [ $state = changed ]; then",
    takeLock(owner, lockSeconds(bytes), options.takeover),
    ...(options.secretBytes !== undefined
      ? ['if [ -f ".env.$$" ]; then sync ".env.$$" 2>/dev/null || sync; mv -f ".env.$$" .env.local; echo secrets=new; fi']
      : []),
    FACTS,
    "fi",
    'echo "state=$state"',
  )
}

const linkTo = (link: string, sha256: string) => `${"../".repeat(link.split("/").length - 1)}blobs/${sha256}`

/**
 * Takes bytes `offset`… of a blob from standard input. The last request checks the whole file against its name, flushes it and only then
 * gives it that name. Ends with SCRIPT.offset where the machine has another number of bytes ("have=N"), SCRIPT.short where the connection
 * ended early (what came is kept), SCRIPT.full or SCRIPT.corrupt (what came is deleted).
 */
export function uploadScript(host: FleetHost, blob: Blob, owner: LockOwner, offset: number, end: number): string {
  const { sha256, bytes, isProgram } = blob
  const isLast = end === bytes
  const isWhole = offset === 0 && isLast
  return script(
    "umask 077",
    enter(host),
    holdLock(owner),
    "cd blobs",
    `p=${sha256}.part`,
    ': >> "$p"',
    'size() { stat -c %s "$p"; }',
    `[ "$(size)" -le ${bytes} ] || : > "$p"`,
    `[ "$(size)" = ${offset} ] || { echo "have=$(size)"; exit ${SCRIPT.offset}; }`,
    // The hash of one whole stream is computed as it passes; anything else is read again from the file.
    isWhole ? 'sum=$(tee -a "$p" | sha256sum)' : 'cat >> "$p" || :',
    `if [ "$(size)" != ${end} ]; then`,
    `set -- $(df -Pk . | tail -n 1)`,
    // A full disk is given back; what a broken connection left is continued next time.
    `if [ "\${4:-0}" -lt 64 ] || ! echo room > ".room.$$"; then rm -f "$p" ".room.$$"; exit ${SCRIPT.full}; fi`,
    `rm -f ".room.$$"; exit ${SCRIPT.short}`,
    "fi",
    'sync "$p" 2>/dev/null || sync',
    ...(isLast
      ? [
          isWhole ? undefined : 'sum=$(sha256sum < "$p")',
          `[ "\${sum%% *}" = ${sha256} ] || { rm -f "$p"; exit ${SCRIPT.corrupt}; }`,
          `chmod ${isProgram ? "0500" : "0400"} "$p"`,
          `mv -f "$p" ${sha256}`,
          "sync . 2>/dev/null || sync",
        ]
      : []),
  )
}

/** Puts links to files in place; the lock is ours. */
function linkLines(files: readonly Blob[]): string[] {
  return files.flatMap(({ link, sha256 }) => {
    const folder = link!.includes("/") ? link!.replace(/\/[^/]*$/, "") : undefined
    const place = quote([`./${link}`])
    return [
      ...(folder === undefined ? [] : [`mkdir -p -- ${quote([`./${folder}`])}`]),
      `[ ! -d ${place} ] || { echo ${quote([`${link} is a directory there`])} >&2; exit ${SCRIPT.unfit}; }`,
      `rm -f ".link.$$"; ln -s ${quote([linkTo(link!, sha256)])} ".link.$$"; mv -f ".link.$$" ${place}`,
    ]
  })
}

/** Prints what runs: its version, and the judgement of its own doctor; ends with SCRIPT.unfit where it is bad. The release is in $r. */
const PROOF = `
if version=$("./$r/alpha" --version 2>&1 </dev/null); then :; else
  echo "alpha --version: $version" >&2; exit ${SCRIPT.unfit}
fi
echo "version=$version"
if [ -f "$r/libalpha.so" ]; then ALPHA_NATIVE_LIBRARY=$PWD/$r/libalpha.so; export ALPHA_NATIVE_LIBRARY; fi
if said=$("./$r/alpha" doctor 2>&1 </dev/null); then :; else
  printf '%s\\n' "$said" | tail -n 6 >&2; echo "alpha doctor fails" >&2; exit ${SCRIPT.unfit}
fi
echo "doctor=$(printf '%s\\n' "$said" | tail -n 1)"`.trim()

/** Renames `current` to lead to $r, remembers the one before, and flushes. */
const SWITCH = `
old=$(readlink current || :)
if [ "$old" != "$r/alpha" ]; then
  rm -f .current.new .previous.new
  ln -s "$r/alpha" .current.new
  mv -f .current.new current
  if [ -n "$old" ]; then ln -s "$old" .previous.new; mv -f .previous.new previous; fi
fi
touch "$r"
sync . 2>/dev/null || sync
echo "from=\${old:-nothing}"`.trim()

/** Keeps the newest five releases, and whatever current and previous lead to. */
const PRUNE = `
for old in $(ls -t releases | tail -n +6); do
  case "$(readlink current || :) $(readlink previous || :)" in *"releases/$old/"*) continue ;; esac
  gone="$(readlink "releases/$old/alpha" || :) $(readlink "releases/$old/native.sh" || :)"
  rm -rf "releases/$old"
  for blob in $gone; do
    used=
    for link in releases/*/alpha releases/*/native.sh; do [ "$(readlink "$link" || :)" != "$blob" ] || used=1; done
    [ -n "$used" ] || rm -f "blobs/\${blob##*/}"
  done
done`.trim()

/** Makes the release, proves it, and only then makes it current; puts the files in place; gives up the lock. */
export function switchScript(
  host: FleetHost,
  release: Release | undefined,
  files: readonly Blob[],
  owner: LockOwner,
  entry: AuditEntry,
): string {
  return script(
    "umask 077",
    enter(host),
    holdLock(owner),
    ...linkLines(files),
    ...(release === undefined ? [] : releaseLines(release)),
    "sync . 2>/dev/null || sync",
    audit(entry),
    dropLock(owner),
  )
}

function releaseLines({ id, alpha, native }: Release): string[] {
  const build = native && [
    needCompiler(SCRIPT.compiler),
    `ln -s ../../blobs/${native.sha256} "$t/native.sh"`,
    `(cd "$t" && mkdir build && cd build && CC=$cc sh ../native.sh > ../native.log 2>&1) || { tail -n 20 "$t/native.log" >&2; echo "compiling native/ fails" >&2; exit ${SCRIPT.unfit}; }`,
    'mv "$t/build/libalpha.so" "$t/libalpha.so"; rm -rf "$t/build"; sync "$t/libalpha.so" 2>/dev/null || sync',
  ]
  return [
    `r=releases/${id}`,
    't="$r.new"',
    `chmod 0500 blobs/${alpha.sha256}`, // it may have come as a mere file before
    'if [ ! -d "$r" ]; then',
    'rm -rf "$t"; mkdir "$t"',
    `ln -s ../../blobs/${alpha.sha256} "$t/alpha"`,
    ...(build ?? []),
    'mv "$t" "$r"; sync releases 2>/dev/null || sync',
    "fi",
    PROOF,
    SWITCH,
    PRUNE,
  ]
}

/** Makes the release before the current one current again; that one is then the one before. */
export function rollbackScript(host: FleetHost, owner: LockOwner, takeover: string | undefined): string {
  return script(
    "umask 077",
    enter(host),
    takeLock(owner, lockSeconds(0), takeover),
    `trap '${dropLock(owner).replaceAll("'", `'"'"'`)}' EXIT`,
    "to=$(readlink previous || :)",
    `[ -n "$to" ] || { echo "there is no release before the current one" >&2; exit ${SCRIPT.unfit}; }`,
    'r=$(dirname -- "$to")',
    `[ -x "$to" ] || { echo "the release before is gone" >&2; exit ${SCRIPT.unfit}; }`,
    PROOF,
    SWITCH,
    'echo "to=$to"',
    audit({ verb: "rollback" }),
  )
}

/** Gives up the lock, after a failure. */
export function unlockScript(host: FleetHost, owner: LockOwner): string {
  return script(enter(host), dropLock(owner))
}

/** One thing that would be done to a machine. `stdin` says in words what is sent; contents are never shown. */
export interface Step {
  readonly what: string
  readonly script: string
  readonly stdin?: string
}
