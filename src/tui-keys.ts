/** Bytes that a terminal sends as names of keys. */

const SEQUENCES: Readonly<Record<string, string>> = {
  "[A": "up",
  "[B": "down",
  "[C": "right",
  "[D": "left",
  "[H": "home",
  "[F": "end",
  "[1~": "home",
  "[7~": "home",
  "[4~": "end",
  "[8~": "end",
  "[5~": "pageup",
  "[6~": "pagedown",
  "[Z": "shift-tab",
}

const CONTROLS: Readonly<Record<string, string>> = {
  "\r": "enter",
  "\n": "enter",
  "\t": "tab",
  "\x7f": "backspace",
  "\b": "backspace",
  "\x03": "ctrl-c",
  "\x0c": "ctrl-l",
  "\x1a": "ctrl-z",
}

/** The keys in `text`, and what may be the beginning of a longer one. */
export function readKeys(text: string): { readonly keys: readonly string[]; readonly rest: string } {
  const keys: string[] = []
  let at = 0
  while (at < text.length) {
    const tail = text.slice(at)
    if (tail[0] !== "\x1b") {
      const char = String.fromCodePoint(tail.codePointAt(0) as number)
      const name = CONTROLS[char] ?? (char < " " ? undefined : char)
      if (name !== undefined) keys.push(name)
      at += char.length
      continue
    }
    // Application mode sends ESC O A where normal mode sends ESC [ A.
    const sequence = /^\x1b(?:\[[0-9;?<]*[@-~]|O[A-Za-z])/.exec(tail)?.[0]
    if (sequence !== undefined) {
      const name = SEQUENCES[sequence.slice(1).replace(/^O/, "[")]
      if (name !== undefined) keys.push(name)
      at += sequence.length
    } else if (/^\x1b(?:\[[0-9;?<]*|O)?$/.test(tail)) {
      return { keys, rest: tail }
    } else {
      keys.push("escape")
      at += 1
    }
  }
  return { keys, rest: "" }
}
