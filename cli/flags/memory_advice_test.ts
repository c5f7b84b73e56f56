import { assert, assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { isOutOfMemory, memoryAdvice } from "./memory_advice.ts";
import { baseWeightBytes, loadModelConfig, memoryModelOf, stepMemory } from "@edgetuner/core";
import { ASSETS, ROOT } from "../../tests/support/places.ts";

const MODEL = `${ASSETS}tiny_gpt2`;
const FLAGS = { batch: 8, length: 80, accumulate: 1, "base-weights": "f16", model: MODEL };

/** The number before "MB" in a line. */
function megabytesIn(line: string | undefined): number {
  return Number(/([\d.]+) MB/.exec(line ?? "")?.[1]);
}

Deno.test("memoryAdvice() says what is needed, and what each flag would save, as the formulas have it", async () => {
  const [head, ...lines] = await memoryAdvice({ flags: FLAGS });
  assertMatch(
    head!,
    /^Out of memory\. It takes about .* MB for the frozen weights and .* MB for a step\. Any/,
  );
  assertEquals(lines.map((line) => line.replace(/[\d.]+ MB/, "N MB")), [
    "  --batch 4 --accumulate 2 (now 8 and 1): saves about N MB; the steps stay the same",
    "  --length 40 (now 80): saves about N MB; longer sequences are cut",
    "  --base-weights int8 (now f16): saves about N MB",
    "  --base-weights int4 (now f16): saves about N MB",
  ]);
  const config = await loadModelConfig(MODEL);
  const step = (batch: number) =>
    stepMemory({ model: memoryModelOf(config), batch, length: 80 }).oneMachine / 1e6;
  const saved = step(8) - step(4);
  assert(Math.abs(megabytesIn(lines[0]) - saved) <= Math.max(0.5, saved / 20), `${lines[0]}, not ${saved}`);
});

Deno.test("memoryAdvice() counts what the party holds: layers, embedding and head, or head modules alone", async () => {
  const config = await loadModelConfig(MODEL);
  const parts = baseWeightBytes(config, "f16");
  const saves = async (party: "edgeServer" | "dataDevice") => {
    const { batch: _, ...served } = FLAGS;
    const lines = await memoryAdvice({ flags: party === "edgeServer" ? served : FLAGS, party });
    return megabytesIn(lines.find((line) => line.includes("int8")));
  };
  const int8 = baseWeightBytes(config, "int8");
  for (const [party, part] of [["edgeServer", "layers"], ["dataDevice", "ends"]] as const) {
    const expected = (parts[part] - int8[part]) / 1e6;
    const said = await saves(party);
    assert(
      Math.abs(said - expected) <= expected / 20,
      `${party}: ${said} MB are said, ${expected} are saved`,
    );
  }
  const server = await memoryAdvice({ flags: { model: MODEL, "base-weights": "int8" }, party: "edgeServer" });
  assertEquals(server[1], "  a smaller --batch or --length at the data device");
  const heads = await memoryAdvice({ flags: FLAGS, party: "headDevice", heads: 2 });
  assert(!heads.some((line) => line.includes("--base-weights")), heads.join("\n"));
});

Deno.test("memoryAdvice() has no figures without a model, and no lines without flags", async () => {
  assertEquals(await memoryAdvice({ flags: { batch: 6, length: 2 } }), [
    "Out of memory. Any of these needs less:",
    "  --batch 3 (now 6)",
  ]);
  assertEquals(await memoryAdvice({ flags: { batch: 1, length: 2, "base-weights": "int4" } }), []);
  assertEquals(await memoryAdvice({ flags: {} }), []);
});

Deno.test("isOutOfMemory() knows what adapters and buffers say, and nothing else", () => {
  const gpu = new Error("Not enough memory left.");
  gpu.name = "GpuError";
  assert(isOutOfMemory(gpu));
  assert(isOutOfMemory(new RangeError("Array buffer allocation failed")));
  assert(
    isOutOfMemory(
      new RangeError('Cannot make tensor "x" [9, 9] as it must fit a buffer of 64 bytes: it needs 432'),
    ),
  );
  assert(!isOutOfMemory(new RangeError("Cannot generate as x must be 1: current value is 2")));
});

Deno.test("a run that runs out of memory ends with what to turn; with one of that it has enough [slow]", async () => {
  const folder = await Deno.makeTempDir();
  const tune = async (...flags: string[]) => {
    const { code, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
      args: [
        ...[
          "run",
          "-A",
          "--quiet",
          `${ROOT}cli/main.ts`,
          "tune",
          "--steps",
          "1",
          "--batch",
          "16",
          "--length",
          "48",
        ],
        ...["--gpu-mb", "40", "--save", `${folder}/heads`, "--state", "", ...flags],
      ],
      env: { NO_COLOR: "1" },
    }).output();
    const decoder = new TextDecoder();
    return { code, text: decoder.decode(stdout) + decoder.decode(stderr) };
  };
  try {
    const { code, text } = await tune();
    assertEquals(code, 1, text);
    assertMatch(text, /Out of memory: \d+ of at most 40000000 bytes are in use, and \d+ more are needed/);
    assert(!/^ +at /m.test(text), text);
    assertMatch(text, /It takes about [\d.]+ MB for the frozen weights and [\d.]+ MB for a step/);
    assertMatch(
      text,
      /--batch 8 --accumulate 2 \(now 16 and 1\): saves about [\d.]+ MB; the steps stay the same/,
    );
    assertStringIncludes(text, "--length 24 (now 48): saves about");
    assertStringIncludes(text, "--base-weights int8 (now f32): saves about");
    const enough = await tune("--batch", "1", "--accumulate", "16");
    assertEquals(enough.code, 0, enough.text);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});
