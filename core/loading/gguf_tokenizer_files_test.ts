import { assertEquals } from "@std/assert";
import { tokenizerFromJson } from "../data/tokenizer.ts";
import { FIXTURES } from "../../tests/support/places.ts";
import { writeGguf } from "../../tests/support/write_gguf.ts";
import { loadGgufTokenizer } from "./gguf_tokenizer.ts";
import { ggufTokenizerFiles } from "./gguf_tokenizer_files.ts";

const { texts, byteLevel, sentencePiece } = JSON.parse(
  await Deno.readTextFile(`${FIXTURES}gguf/tokenizers.json`),
);

/** Runs with a GGUF file that has these fields of a tokenizer alone. */
async function withFile(
  fields: Parameters<typeof writeGguf>[1],
  run: (path: string) => Promise<void>,
): Promise<void> {
  const path = await Deno.makeTempFile({ suffix: ".gguf" });
  try {
    const named = Object.entries(fields).map(([name, value]) => [`tokenizer.${name}`, value]);
    await writeGguf(path, Object.fromEntries(named), new Map());
    await run(path);
  } finally {
    await Deno.remove(path);
  }
}

for (const { name, tokens, scores, types, spaceFirst, texts, ids } of sentencePiece) {
  Deno.test(`a SentencePiece tokenizer "${name}" is the same as merges of a tokenizer.json`, async () => {
    const fields = {
      ...{ "ggml.model": "llama", "ggml.tokens": tokens, "ggml.scores": scores, "ggml.token_type": types },
      ...{ "ggml.add_space_prefix": spaceFirst, chat_template: "{{ messages[0].content }}" },
    };
    await withFile(fields, async (path) => {
      const own = await loadGgufTokenizer(path);
      const { files, eos, bos } = await ggufTokenizerFiles(path);
      assertEquals([eos, bos], [own.eos, own.bos]);
      const written = tokenizerFromJson(JSON.parse(JSON.stringify(files.get("tokenizer.json"))), {
        eos: tokens[own.eos],
      });
      assertEquals([written.bos, written.vocabSize], [own.bos, own.vocabSize]);
      for (const [i, text] of texts.entries()) {
        assertEquals(written.encode(text), ids[i], text);
        assertEquals(written.decode(ids[i]), own.decode(ids[i]), text);
      }
      const config = files.get("tokenizer_config.json") as Record<string, unknown>;
      assertEquals([config.bos_token, config.eos_token], ["<s>", "</s>"]);
      assertEquals(config.chat_template, "{{ messages[0].content }}");
    });
  });
}

Deno.test("a byte-level tokenizer is the same in a tokenizer.json, with what begins and ends a text", async () => {
  const { tokens, types, merges } = byteLevel;
  for (const { pre, ids } of byteLevel.cases) {
    const fields = {
      ...{ "ggml.model": "gpt2", "ggml.pre": pre, "ggml.tokens": tokens, "ggml.token_type": types },
      ...{
        "ggml.merges": merges,
        "ggml.eos_token_id": tokens.length - 1,
        "ggml.bos_token_id": tokens.length - 1,
      },
      ...{ "ggml.add_bos_token": true },
    };
    await withFile(fields, async (path) => {
      const { files } = await ggufTokenizerFiles(path);
      const written = tokenizerFromJson(files.get("tokenizer.json"), { eos: tokens.at(-1) });
      assertEquals([written.bos, written.eos], [tokens.length - 1, tokens.length - 1]);
      texts.forEach((text: string, i: number) => assertEquals(written.encode(text), ids[i], text));
      const generation = { bos_token_id: tokens.length - 1, eos_token_id: [tokens.length - 1] };
      assertEquals(files.get("generation_config.json"), generation);
    });
  }
});
