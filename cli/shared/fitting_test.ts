import { assertEquals, assertRejects, assertStringIncludes } from "@std/assert";
import { COMMON_FLAGS } from "../flags/common_flags.ts";
import { fitting, UsageError } from "../flags/flags.ts";
import { MODEL_FLAG } from "../flags/model_flags.ts";
import { TOTAL_RANK_FLAG, TUNING_FLAGS } from "../flags/tuning_flags.ts";
import { OWN_CALL } from "../process/invocation.ts";
import { chosenText, readFitted } from "./fitting.ts";
import { DATA_FLAGS, EPOCHS_FLAG } from "./training_data.ts";

const FLAGS = {
  ...TUNING_FLAGS,
  ...DATA_FLAGS,
  ...EPOCHS_FLAG,
  model: MODEL_FLAG,
  data: COMMON_FLAGS.data,
  batch: fitting(COMMON_FLAGS.batch),
  length: fitting(COMMON_FLAGS.length),
};
const PROGRAM = { name: "test.ts", about: "", examples: [] };

async function read(...args: string[]) {
  return await readFitted(PROGRAM, FLAGS, { ...OWN_CALL, args });
}

Deno.test("what is not given is chosen, and said; what is given stays", async () => {
  const { flags, chosen } = await read("--rate", "0.5", "--batch", "3", "--steps", "1000");
  assertEquals([flags.rate, flags.batch, flags.warmup, flags.length], [0.5, 3, 25, 80]);
  assertEquals(Object.keys(chosen).sort(), ["length", "rank", "warmup"]);
  assertStringIncludes(chosenText(chosen)!, "warm-up 25");
  assertEquals(chosenText({}), null);
});

Deno.test("a made-up model's shape gives its settings, without files", async () => {
  const shape = { layers: 24, heads: 32, hidden: 1024 };
  const flags = { rate: TUNING_FLAGS.rate, rank: TUNING_FLAGS.rank };
  const { chosen } = await readFitted(PROGRAM, flags, { ...OWN_CALL, args: [] }, { shape: () => shape });
  assertEquals(chosen.rank, 4);
  assertEquals(chosen.rate! < 0.002, true);
});

Deno.test("long texts get long sequences", async () => {
  const file = await Deno.makeTempFile({ suffix: ".jsonl" });
  try {
    const line = JSON.stringify({ prompt: "a", completion: "the river ".repeat(60) });
    await Deno.writeTextFile(file, `${line}\n`.repeat(3));
    const { flags } = await read("--data", file);
    assertEquals([flags.length, flags.batch], [128, 8]);
  } finally {
    await Deno.remove(file);
  }
});

Deno.test("--total-rank is the rank of the exported adapter at most", async () => {
  const flags = { ...FLAGS, ...TOTAL_RANK_FLAG };
  const rankOf = async (...args: string[]) =>
    (await readFitted(PROGRAM, flags, { ...OWN_CALL, args })).flags.rank;
  // Eight heads of q, k and v, which GPT-2 has in one module.
  assertEquals(await rankOf("--total-rank", "24"), 1);
  assertEquals(await rankOf("--total-rank", "100"), 4);
  assertEquals(await rankOf("--total-rank", "16", "--targets", "q"), 2);
  await assertRejects(() => rankOf("--total-rank", "16"), UsageError, "from 24 to");
  await assertRejects(() => rankOf("--total-rank", "48", "--rank", "2"), UsageError, "both");
});
