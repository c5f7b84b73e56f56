import { assert, assertEquals } from "@std/assert";
import { isOutOfMemory, memoryAdvice } from "./memory_advice.ts";

Deno.test("memoryAdvice() names flags with smaller values and what each saves", () => {
  const flags = { batch: 8, length: 80, accumulate: 1, "base-weights": "f16" };
  assertEquals(memoryAdvice(flags), [
    "--batch 4 (now 8): 50 % less for what the layers keep of a step; with --accumulate 2 (now 1) the steps stay the same",
    "--length 40 (now 80): at least 50 % less for the same; longer sequences are cut",
    "--base-weights int8 (now f16): 50 % less for the frozen weights",
    "--base-weights int4 (now f16): 75 % less for the frozen weights",
  ]);
  assertEquals(memoryAdvice({ batch: 1, length: 2, "base-weights": "int4" }), []);
  assertEquals(memoryAdvice({}), []);
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

Deno.test("a command that runs out of memory names its flags", async () => {
  const { code, stderr } = await new Deno.Command(Deno.execPath(), {
    args: [
      ...["eval", "--quiet", "--ext=ts"],
      `import { exitCodeOf } from ${JSON.stringify(import.meta.resolve("./flags.ts"))};
      import { command } from ${JSON.stringify(import.meta.resolve("../process/command.ts"))};
      const run = command(() => ({ flags: { batch: 6 } }), async () => {
        throw new RangeError('Cannot make tensor "x" [9, 9] as it must fit a buffer of 64 bytes: it needs 432');
      });
      Deno.exit(await exitCodeOf(() => run({ args: [], form: "command" })));`,
    ],
  }).output();
  const text = new TextDecoder().decode(stderr);
  assertEquals(code, 1, text);
  assert(text.includes("Out of memory. Any of these needs less:\n  --batch 3 (now 6): 50 % less"), text);
});
