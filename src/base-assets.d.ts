/** Types of the files that are compiled into the binary: rank files as paths, texts and pages as strings. */
declare module "*.tiktoken" {
  const path: string
  export default path
}

declare module "*.py" {
  const text: string
  export default text
}

declare module "*.peer.mjs" {
  const text: string
  export default text
}

declare module "*.md" {
  const text: string
  export default text
}

declare module "*.css" {
  const text: string
  export default text
}

declare module "*.client.js" {
  const text: string
  export default text
}
