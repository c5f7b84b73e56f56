import { DEFAULT_LORA, findRunCodecs, headMemory, MESSAGES, stepTraffic } from "@edgetuner/core";
import type { RunAbout } from "@edgetuner/transport";
import { assertEquals } from "@std/assert";
import { forecastOf } from "./forecast.ts";

const model = { layers: 3, heads: 4, hidden: 48 };
const lora = { ...DEFAULT_LORA, mode: "slice", targets: ["q", "v"], rank: 4, dropout: 0 } as const;

function aboutWith(codec: string): RunAbout {
  return {
    ...{ run: "r", status: "waiting", step: 0, steps: 10, loss: null, stepMs: null, base: null },
    ...{ model, lora: { ...lora }, codec, places: 1, devices: [] },
  };
}

Deno.test("the bytes that a page forecasts are those of the ledger's formula, with a codec a tensor too", () => {
  const bytes = ["f32", "f16,delta=int8", "int8,x=f32"].map((codec) => {
    const traffic = stepTraffic({
      ...{ ...model, tokens: 640, batch: 8, targets: 2, rank: 4, mode: "slice" },
      ...{ sharesInput: false, statistics: 0, headsPerDevice: [4], mask: new Uint8Array(12) },
      codec: findRunCodecs(codec),
    });
    const expected = [...traffic].filter(([kind]) => MESSAGES[kind].lane === "heads")
      .reduce((sum, [, bytes]) => sum + bytes, 0);
    const { stepBytes, tokens, heads, memoryBytes } = forecastOf(aboutWith(codec), 1)!;
    assertEquals([stepBytes, tokens, heads], [expected, 640, 4], codec);
    assertEquals(memoryBytes, headMemory(model, lora, { rows: 640, heads: 4, copies: 1 }));
    return stepBytes;
  });
  assertEquals(new Set(bytes).size, 3);
});
