/**
 * Model files that were made to do harm are refused with a typed error, in bounded time and memory.
 */

import { assert, assertEquals, assertGreater, assertLess } from "@std/assert";
import type { Seen } from "../support/hostile_files.ts";
import { ROOT } from "../support/places.ts";
import { assertQuick } from "../support/quick.ts";

/** Longest time of a file, in milliseconds. */
const LIMIT_MS = 5000;
/** Most memory of the process while it has the file, in bytes; the process with an engine has a third of it. */
const LIMIT_BYTES = 500e6;

Deno.test("model files that were made to do harm are refused within 5 seconds and 500 MB [slow]", async () => {
  const folder = await Deno.makeTempDir();
  const { code, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args: ["run", "-A", "--quiet", "--v8-flags=--expose-gc", `${ROOT}tests/support/hostile_files.ts`, folder],
    stdin: "null",
  }).output();
  const decoder = new TextDecoder();
  assertEquals(code, 0, decoder.decode(stderr).slice(-3000));
  const all = decoder.decode(stdout).trim().split("\n").map((line) => JSON.parse(line) as Seen);
  assertGreater(all.length, 70);
  for (const { name, error, ms, peakBytes } of all) {
    assert(error !== null, `${name}: must be refused`);
    assertEquals(error.name, "ModelFileError", `${name}: ${error.message.slice(0, 300)}`);
    assertLess(error.message.length, 600, `${name}: ${error.message.slice(0, 300)}`);
    assertEquals(error.message.startsWith("Cannot "), true, `${name}: ${error.message}`);
    assertQuick(ms, LIMIT_MS, name);
    if (peakBytes !== null) assertLess(peakBytes, LIMIT_BYTES, name);
  }
  await Deno.remove(folder, { recursive: true });
});
