import { assertEquals, assertRejects } from "@std/assert";
import { DataFormatError, ModelFileError } from "../contracts/errors.ts";
import { loadCorpus, loadCorpusOf } from "./files.ts";

Deno.test("predictions are read alike beside references of every form: with a mark, Latin-1, missing, one too few", async () => {
  const folder = await Deno.makeTempDir();
  try {
    const references = `${folder}/references.txt`;
    await Deno.writeTextFile(references, "A pub.\n\nCheap food.\n");
    const list = [["A pub."], ["Cheap food."]];
    const predictions = `${folder}/predictions.txt`;
    const both = [
      () => loadCorpus(references, predictions),
      () => loadCorpusOf(list, { references, predictions }),
    ];
    await Deno.writeTextFile(predictions, "\uFEFFA pub.\r\nFood.\r\n");
    for (const load of both) {
      assertEquals(await load(), { references: list, predictions: ["A pub.", "Food."] });
    }
    await Deno.writeTextFile(predictions, "A pub.\n");
    for (const load of both) {
      await assertRejects(load, DataFormatError, "there are 1 lines and 2 instances");
    }
    await Deno.writeFile(predictions, Uint8Array.of(0x63, 0x61, 0x66, 0xe9, 0x0a, 0x61, 0x0a));
    for (const load of both) await assertRejects(load, ModelFileError, "must be a readable file in UTF-8");
    await Deno.remove(predictions);
    for (const load of both) await assertRejects(load, ModelFileError, predictions);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});
