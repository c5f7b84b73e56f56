import {
  assertEquals,
  assertGreater,
  assertLess,
  assertLessOrEqual,
  assertStringIncludes,
} from "@std/assert";
import { encodePairs, loadPairs, loadTokenizer, randomStream } from "@edgetuner/core";
import { trainBpe } from "./bpe_trainer.ts";
import { formDocument } from "./forms.ts";
import { generalTalk } from "./general_talk.ts";

const ASSETS = `${import.meta.dirname}/../../cli/assets`;
const PARTS = ["train", "valid", "test"];
const files = Object.fromEntries(
  await Promise.all(
    PARTS.map(async (part) => [part, await loadPairs(`${ASSETS}/restaurant/${part}.txt`)] as const),
  ),
);

async function sha256(path: string): Promise<string> {
  return new Uint8Array(await crypto.subtle.digest("SHA-256", await Deno.readFile(path))).toHex();
}

async function run(script: string, ...args: string[]) {
  const command = new Deno.Command(Deno.execPath(), {
    args: [
      "run",
      "--no-prompt",
      "--allow-read",
      "--allow-write",
      "--allow-env",
      `${import.meta.dirname}/${script}`,
      ...args,
    ],
  });
  const { code, stdout, stderr } = await command.output();
  return { code, out: new TextDecoder().decode(stdout), error: new TextDecoder().decode(stderr) };
}

Deno.test("the commands give the committed files again [slow]", async () => {
  const folder = await Deno.makeTempDir();
  try {
    const data = await run("make_data.ts", "--out", folder);
    assertEquals(data.code, 0, data.error);
    const tokenizer = await run("train_tokenizer.ts", "--data", folder, "--out", `${folder}/tokenizer.json`);
    assertEquals(tokenizer.code, 0, tokenizer.error);
    for (const part of PARTS) {
      const committed = await sha256(`${ASSETS}/restaurant/${part}.txt`);
      assertEquals(await sha256(`${folder}/${part}.txt`), committed, part);
    }
    assertEquals(
      await sha256(`${folder}/tokenizer.json`),
      await sha256(`${ASSETS}/tiny_gpt2/tokenizer.json`),
    );
    assertEquals(
      await sha256(`${folder}/pretrain.txt`),
      "32761786ad206628c6541427b01e7eaa98a22d3756271665dd2d7fd4551bc0c3",
    );
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});

Deno.test("the commands explain themselves and what is wrong [slow]", async () => {
  const help = await run("make_data.ts", "--help");
  assertStringIncludes(help.out, "--seed N");
  const cases = [
    ["make_data.ts", "--seed", "-1", "--seed"],
    ["make_data.ts", "--sentences", "0", "--sentences must be an integer from 1 to"],
    ["train_tokenizer.ts", "--size", "3", "--size must be an integer from 257 to 65536"],
    ["train_tokenizer.ts", "--data", "/no/such/folder", "run make_data.ts first"],
  ] as const;
  const results = await Promise.all(cases.map(([script, option, value]) => run(script, option, value)));
  results.forEach(({ code, error }, i) => {
    assertEquals(code, 2);
    assertStringIncludes(error, cases[i]![3]);
  });
});

Deno.test("no meaning is in two parts, and no entry occurs twice", () => {
  const prompts = PARTS.flatMap((part) => files[part]!.map(({ prompt }) => prompt));
  assertEquals(PARTS.map((part) => files[part]!.length), [2000, 200, 200]);
  assertEquals(new Set(prompts).size, 2400);
  const completions = PARTS.flatMap((part) => files[part]!.map(({ completion }) => completion));
  assertEquals(new Set(completions).size, 2400);
});

Deno.test("the committed files are small", async () => {
  const paths = [...PARTS.map((part) => `restaurant/${part}.txt`), "tiny_gpt2/tokenizer.json"];
  const sizes = await Promise.all(paths.map(async (path) => (await Deno.stat(`${ASSETS}/${path}`)).size));
  assertLess(sizes.reduce((sum, size) => sum + size), 1_000_000);
});

Deno.test("every entry fits in the 80 tokens of the examples", async () => {
  const tokenizer = await loadTokenizer(`${ASSETS}/tiny_gpt2/tokenizer.json`);
  for (const part of PARTS) {
    const set = encodePairs(files[part]!, tokenizer, { length: 80 });
    assertEquals(set.droppedTokens, 0);
    const mean = set.sequences.reduce((sum, { tokens }) => sum + tokens.length, 0) / set.sequences.length;
    assertLess(mean, 60);
  }
});

Deno.test("the general talk knows neither form of the task [slow]", () => {
  const documents = generalTalk();
  const text = documents.join("\n");
  assertEquals(/[[\]|]|eatType|priceRange|familyFriendly|customer rating/.exec(text), null);
  const sentences = documents.flatMap((document) => document.split(/(?<=[.?!]) /));
  const talk = new Set(sentences);
  assertGreater(talk.size, 38_000);
  assertEquals(new Set(documents).size, documents.length);
  const entries = PARTS.flatMap((part) =>
    files[part]!.flatMap(({ completion }) => completion.split(/(?<=[.?!]) /))
  );
  assertEquals(entries.filter((sentence) => talk.has(sentence)), []);
});

Deno.test("the general talk is a function of its seed", () => {
  const make = (seed: number) => generalTalk({ seed, sentences: 50 });
  assertEquals(make(3), make(3));
  assertEquals(make(3).some((document, i) => document === make(4)[i]), false);
});

Deno.test("what is said about a form stands in the form", () => {
  const random = randomStream(7, 0);
  const madeUp =
    /\b(?:ka|lo|mi|ra|ten|sol|vi|dur|ne|pa|bel|to|ri|san|gu|fe|lin|mo|da|ze){2,3}(?:an|ish|ese)?\b/gi;
  let repeated = 0;
  for (let i = 0; i < 200; i++) {
    const [form, ...rest] = formDocument(random);
    const known = new Set(form!.match(madeUp));
    for (const name of rest.join(" ").match(madeUp) ?? []) {
      assertEquals(known.has(name), true, `${name} is not in "${form}"`);
      repeated++;
    }
  }
  assertGreater(repeated, 500);
});

Deno.test("trainBpe merges the most frequent pair first and stops when nothing is left", () => {
  const { tokens, merges } = trainBpe(["aab aab aab", "ab"], 260);
  assertEquals(merges[0], ["a", "b"]);
  assertLessOrEqual(tokens.length, 260);
  assertEquals(trainBpe(["ab"], 300).tokens.length, 257);
  assertEquals(trainBpe([], 256).merges, []);
});
