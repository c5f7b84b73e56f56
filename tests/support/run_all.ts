/**
 * Programs that run one after the other in a process of their own, which has an environment of its own.
 *
 * Arguments: a list of calls as JSON, each the file in `examples/` and its flags. Prints how they ended.
 *
 * @module
 */

import { fileURLToPath } from "node:url";
import { type Ended, inThreadWithGpu } from "./in_thread.ts";

/**
 * Runs some programs in one process.
 *
 * @param calls File in `examples/` and flags of each.
 * @param env What the process has in its environment besides.
 */
export async function runAll(
  calls: readonly (readonly string[])[],
  env: Readonly<Record<string, string>>,
): Promise<Ended[]> {
  const { stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args: ["run", "-A", "--quiet", fileURLToPath(import.meta.url), JSON.stringify(calls)],
    env: { NO_COLOR: "1", ...env },
  }).output();
  const text = new TextDecoder().decode(stdout);
  if (text === "") throw new Error(new TextDecoder().decode(stderr));
  return JSON.parse(text);
}

if (import.meta.main) {
  const ended: Ended[] = [];
  for (const [program, ...args] of JSON.parse(Deno.args[0]!)) {
    ended.push(await inThreadWithGpu(program, args));
  }
  console.log(JSON.stringify(ended));
}
