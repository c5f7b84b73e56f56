/**
 * Parts of the comparison in which nothing is learnt: tokens, template, logits, perplexity.
 *
 * @module
 */

import { encodeChat, GgufFile } from "@edgetuner/core";
import { fileURLToPath } from "node:url";
import { UsageError } from "../../cli/flags/flags.ts";
import type { Peers, Which } from "./peers.ts";
import type { Subject } from "./subject.ts";
import { apartText, differenceOf, NOT_COMPARED, type Row, sameTop } from "./table.ts";

/** Texts of all kinds. */
const TEXTS = fileURLToPath(new URL("../../tests/fixtures/tokenizer/encodings.jsonl", import.meta.url));

/** Conversations of all lengths. */
const CONVERSATIONS = [
  [{ role: "user", content: "Hello" }],
  [{ role: "system", content: "Be brief." }, { role: "user", content: "  What is 2 + 2?\n" }],
  [
    { role: "user", content: "Hi" },
    { role: "assistant", content: "Hello! ünï <tag> 🙂" },
    { role: "user", content: "Bye" },
  ],
  [
    { role: "system", content: "" },
    { role: "user", content: "one\n\ntwo" },
    { role: "assistant", content: "three\n" },
    { role: "user", content: "'quoted' \"twice\" {{ braces }}" },
  ],
] as const;

/** Whether both are the same. */
const isSame = (a: unknown, b: unknown): boolean => JSON.stringify(a) === JSON.stringify(b);

/** Tokens of many texts. */
export async function tokenRows({ tokenizer }: Subject, peers: Peers): Promise<Row[]> {
  const lines = (await Deno.readTextFile(TEXTS)).trim().split("\n");
  const texts = [...new Set(lines.map((line) => JSON.parse(line).text as string))];
  const ours = texts.map((text) => tokenizer.encode(text));
  const theirs = await peers.llama({ texts });
  const count = ours.reduce((sum, ids) => sum + ids.length, 0);
  const same = theirs?.tokens.filter((ids, i) => isSame(ids, Array.from(ours[i]!))).length;
  return [{
    what: `tokens of ${texts.length} texts`,
    ours: `${count} tokens`,
    theirs: theirs === null ? NOT_COMPARED : `llama.cpp: ${theirs.tokens.flat().length} tokens`,
    apart: same === undefined ? "" : `${same} of ${texts.length} texts are the same`,
  }];
}

/** The chat template of the file. */
export async function templateRows({ path, template }: Subject, peers: Peers): Promise<Row[]> {
  const { metadata } = await GgufFile.open(path);
  const words = metadata["tokenizer.ggml.tokens"] as readonly string[];
  const token = (field: string): string => words[Number(metadata[`tokenizer.ggml.${field}_token_id`])] ?? "";
  const ours = CONVERSATIONS.map((messages) => template.render({ messages }, { addGenerationPrompt: true }));
  const theirs = await peers.llama({
    chats: {
      template: String(metadata["tokenizer.chat_template"]),
      conversations: CONVERSATIONS,
      more: { add_generation_prompt: true, bos_token: token("bos"), eos_token: token("eos") },
    },
  });
  const same = theirs?.rendered.filter((text, i) => text === ours[i]).length;
  return [{
    what: `chat template, ${CONVERSATIONS.length} conversations`,
    ours: `${ours.join("").length} characters`,
    theirs: theirs === null ? NOT_COMPARED : `llama.cpp: ${theirs.rendered.join("").length} characters`,
    apart: same === undefined ? "" : `${same} of ${CONVERSATIONS.length} are the same`,
  }];
}

/** Logits after each token of a conversation. */
export async function logitRows(subject: Subject, peers: Peers): Promise<Row[]> {
  const messages = CONVERSATIONS[1];
  const text = subject.template.render({ messages }, { addGenerationPrompt: true });
  const tokens = encodeChat(subject.tokenizer, text);
  const ours = await subject.logits(tokens);
  const { vocabulary } = subject.ends.shape;
  const row = (who: string, theirs: Float32Array | null): Row => ({
    what: `logits after ${tokens.length} tokens`,
    ours: `${ours.length} logits`,
    theirs: theirs === null ? `${who}: ${NOT_COMPARED}` : who,
    apart: theirs === null
      ? ""
      : `${apartText(differenceOf(ours, theirs))}; most likely token: ${sameTop(ours, theirs, vocabulary)}`,
  });
  return [
    row("transformers", await peers.transformersLogits(tokens)),
    row("llama.cpp, float32 weights", await peers.llamaLogits(tokens, { model: "float32" })),
    row("llama.cpp, the file as it is", await peers.llamaLogits(tokens)),
  ];
}

/** Perplexity of a text, in pieces. */
export async function perplexityRows(
  subject: Subject,
  peers: Peers,
  { file, pieces, length }: { readonly file: string; readonly pieces: number; readonly length: number },
): Promise<Row[]> {
  const tokens = subject.tokenizer.encode(await Deno.readTextFile(file));
  if (tokens.length < pieces * length) {
    throw new UsageError(
      `Cannot compare as --text must hold ${pieces * length} tokens: ${file} has ${tokens.length}`,
    );
  }
  const scored = Array.from(
    { length: pieces },
    (_, i) => Array.from(tokens.slice(i * length, (i + 1) * length)),
  );
  const perplexity = (sums: readonly number[]) =>
    Math.exp(-sums.reduce((a, b) => a + b, 0) / (pieces * (length - 1)));
  const ours = perplexity(await subject.likelihoods(scored));
  const row = async (model: Which, name: string): Promise<Row> => {
    const answer = await peers.llama({ scored }, model);
    const theirs = answer === null
      ? null
      : perplexity(answer.likelihoods.map((all) => all.reduce((a, b) => a + b, 0)));
    return {
      what: `perplexity of a page, ${pieces} x ${length} tokens`,
      ours: ours.toFixed(3),
      theirs: `${name}: ${theirs === null ? NOT_COMPARED : theirs.toFixed(3)}`,
      apart: theirs === null ? "" : `${(100 * Math.abs(ours / theirs - 1)).toPrecision(2)} %`,
    };
  };
  return [
    await row("float32", "llama.cpp, float32 weights"),
    await row("file", "llama.cpp, the file as it is"),
  ];
}
