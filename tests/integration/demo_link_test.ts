/**
 * Real processes over emulated links of a profile: jitter, losses and failures in real time.
 */

import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import { inThread } from "../support/in_thread.ts";
import { ROOT } from "../support/places.ts";

async function demo(...args: string[]) {
  const { code, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args: [
      ...["run", "-A", "--quiet", `${ROOT}examples/demo.ts`, "--prompts", "1", "--batch", "1"],
      ...["--length", "32", "--valid-batches", "1", ...args],
    ],
    env: { NO_COLOR: "1" },
  }).output();
  const decoder = new TextDecoder();
  return { code, text: decoder.decode(stdout) + decoder.decode(stderr) };
}

Deno.test("the demo runs over a profile's links, and says whose link was cut [slow]", async () => {
  const out = await Deno.makeTempDir();
  try {
    const way = { bandwidthMbit: 60, latencyMs: 5, jitterMs: 3, loss: 0.001 };
    const link = `${out}/attic.json`;
    await Deno.writeTextFile(link, JSON.stringify({ name: "attic", up: way, down: way }));
    const report = `${out}/report.json`;
    const slow = await demo(
      "--out",
      out,
      "--steps",
      "4",
      "--link",
      link,
      "--report",
      report,
      "--capacities",
      "2,1",
    );
    assertEquals(slow.code, 0, slow.text);
    const steps: { mode: string; times: { total: number } }[] =
      JSON.parse(await Deno.readTextFile(report)).steps;
    const trained = steps.filter(({ mode }) => mode === "train");
    assertEquals(trained.length, 4);
    // Four layers forward and back and the loss: at least nine round trips of 10 ms each, less what E saves.
    assert(trained.every(({ times }) => times.total >= 80), JSON.stringify(trained.map((s) => s.times)));

    const failures = [{ device: 2, goneMs: 1500 }];
    await Deno.writeTextFile(link, JSON.stringify({ name: "attic", up: way, down: way, failures }));
    const cut = await demo("--out", out, "--steps", "400", "--link", link);
    assertEquals(cut.code, 4, cut.text);
    assertStringIncludes(cut.text, "device-3: ");
    assertStringIncludes(cut.text, "the emulated link was cut");

    const both = await inThread("demo.ts", ["--out", out, "--link", "lte", "--latency", "4"]);
    assertEquals(both.code, 2, both.errors);
    assertStringIncludes(both.errors, "--link takes the place of --bandwidth and --latency");
  } finally {
    await Deno.remove(out, { recursive: true });
  }
});
