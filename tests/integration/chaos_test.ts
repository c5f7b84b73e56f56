/**
 * The short form of `bench/chaos.ts`: real processes are killed, stopped and cut off, over WebSocket.
 */
// Runs alone: it waits for limits of time that other work must not stretch.

import { assertEquals, assertStringIncludes } from "@std/assert";
import { ROOT } from "../support/places.ts";

Deno.test("a run on real processes goes on through kills, stops, resets and a lost edge server, and gives the bits of the run with the same heads pruned [slow]", async () => {
  const process = new Deno.Command(Deno.execPath(), {
    args: [
      ...["run", "-A", "--quiet", `${ROOT}bench/chaos.ts`, "--transports", "ws", "--faults", "4"],
      ...["--kinds", "kill,stop,reset,server", "--longest", "5", "--seed", "4"],
    ],
    ...{ stdin: "null", stdout: "piped", stderr: "piped", signal: AbortSignal.timeout(240_000) },
  });
  const { code, stdout, stderr } = await process.output();
  const text = new TextDecoder().decode(stdout) + new TextDecoder().decode(stderr);
  assertStringIncludes(text, "4 tried, 4 held, 0 failed");
  assertStringIncludes(text, "1 of 1 runs bit-equal");
  assertEquals(code, 0, text);
});
