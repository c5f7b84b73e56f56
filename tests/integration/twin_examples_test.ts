import { LINK_PROFILES, MODEL_SIZES } from "@edgetuner/core";
import { assert, assertAlmostEquals, assertEquals } from "@std/assert";

/** Runs an example to its end. */
async function run(name: string, ...args: string[]) {
  const { code, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args: ["run", "-A", "--quiet", new URL(`../../examples/${name}`, import.meta.url).pathname, ...args],
    stdin: "null",
  }).output();
  const decoder = new TextDecoder();
  return { code, stdout: decoder.decode(stdout), stderr: decoder.decode(stderr) };
}

const TINY = ["--layers", "2", "--heads", "2", "--hidden", "16", "--batch", "1", "--length", "8"];

Deno.test("sweep.ts: a table over the devices, with a refusal where there are more than heads", async () => {
  const { code, stdout, stderr } = await run("sweep.ts", "--devices", "1,2,3", "--link", "lte", ...TINY);
  assertEquals(code, 0, stderr);
  const lines = stdout.trim().split("\n");
  assertEquals(lines.length, 5);
  assert(lines[1]!.startsWith("devices  s/step  planned"));
  assert(lines[4]!.startsWith("3 devices: Cannot start the edge server"), lines[4]);
});

Deno.test("sweep.ts: the same as JSON, with a link from a file", async () => {
  const file = await Deno.makeTempFile({ suffix: ".json" });
  try {
    await Deno.writeTextFile(file, JSON.stringify({ ...LINK_PROFILES.dsl, name: "mine" }));
    const args = ["--devices", "2", "--link", file, "--json", "--keep", "0.5", ...TINY];
    const { code, stdout, stderr } = await run("sweep.ts", ...args);
    assertEquals(code, 0, stderr);
    const { link, lines: [line] } = JSON.parse(stdout);
    assertEquals(link.name, "mine");
    assertEquals(line.headsPerDevice, [1, 1]);
    assertAlmostEquals(line.plannedMsPerStep, line.msPerStep, 0.1 * line.msPerStep);
    await Deno.writeTextFile(file, JSON.stringify({ ...LINK_PROFILES.dsl, up: {} }));
    const wrong = await run("sweep.ts", ...args);
    assertEquals(wrong.code, 2);
    assert(wrong.stderr.includes("--link: Cannot use the link profile as up.bandwidthMbit must be a number"));
  } finally {
    await Deno.remove(file);
  }
});

Deno.test("plan.ts: five systems for each shape, as text and as JSON", async () => {
  const { code, stdout } = await run("plan.ts");
  assertEquals(code, 0);
  for (const system of ["ServerTuner", "TPTensor", "vEdgeTuner", "DLoRA", "EdgeTuner"]) {
    assertEquals(stdout.split("\n").filter((line) => line.startsWith(`${system} `)).length, 3);
  }
  const json = JSON.parse((await run("plan.ts", "--models", "gpt2-large", "--json")).stdout);
  assertEquals(json.models[0].model, MODEL_SIZES["gpt2-large"]);
  const ms = json.models[0].systems.map((s: { msPerStep: number }) => s.msPerStep);
  const [server, tensor, all, , kept] = ms;
  assert(server < kept && kept < all && all < tensor, ms.join());
  const own = await run("plan.ts", "--layers", "3", "--heads", "5", "--hidden", "16");
  assertEquals(own.code, 2);
  assert(own.stderr.includes("--hidden be a multiple of --heads"), own.stderr);
});
