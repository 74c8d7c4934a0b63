/** Types of the files that are compiled into the binary: rank files as paths, texts as strings. */
declare module "*.tiktoken" {
  const path: string
  export default path
}

declare module "*.md" {
  const text: string
  export default text
}
