/**
 * A program for Node.js that asks llama.cpp: `node llama_cpp.mjs FOLDER MODEL JOB`, with `npm install node-llama-cpp`
 * done in FOLDER and a job as `peers.ts` writes it. Prints what it found as JSON.
 */

import { readFileSync, writeFileSync } from "node:fs";
import process from "node:process";
import { pathToFileURL } from "node:url";

const [folder, modelPath, jobPath] = process.argv.slice(2);
const { getLlama } = await import(pathToFileURL(`${folder}/node_modules/node-llama-cpp/dist/index.js`).href);
const job = JSON.parse(readFileSync(jobPath, "utf8"));
const llama = await getLlama({ gpu: false, build: "never", logLevel: "error", maxThreads: 2 });
const model = await llama.loadModel({ modelPath });

/** A context with one sequence; with an adapter if the job names one. */
async function sequenceOf(contextSize) {
  const lora = job.adapter === undefined ? {} : { lora: { adapters: [{ filePath: job.adapter }] } };
  const context = await model.createContext({ contextSize, batchSize: contextSize, ...lora });
  return { sequence: context.getSequence(), context };
}

/** Log-likelihood of each token after the first. */
async function likelihoods(tokens) {
  const { sequence, context } = await sequenceOf(tokens.length + 8);
  const found = await sequence.controlledEvaluate(
    tokens.slice(0, -1).map((token, i) => [token, {
      generateNext: {
        // The largest logit is among the top ones; "includeMax" leaves it out beside other tokens.
        logits: { filter: { tokens: [tokens[i + 1]], includeTop: 1 } },
        totalLogitWeight: true,
      },
    }]),
  );
  await context.dispose();
  return found.map(({ next }, i) => {
    const most = Math.max(...next.logits.values());
    return next.logits.get(tokens[i + 1]) - most - Math.log(next.totalLogitWeight);
  });
}

/** All logits after every token, as a file of float32 numbers. */
async function writeLogits(tokens, path) {
  const { sequence, context } = await sequenceOf(tokens.length + 8);
  const found = await sequence.controlledEvaluate(
    tokens.map((token) => [token, { generateNext: { logits: true } }]),
  );
  const size = found[0].next.logits.size;
  const all = new Float32Array(tokens.length * size);
  found.forEach(({ next }, i) => {
    for (const [token, logit] of next.logits) all[i * size + token] = logit;
  });
  await context.dispose();
  writeFileSync(path, all);
}

/** What llama.cpp goes on with, the most likely token each time. */
async function greedy(tokens, most) {
  const { sequence, context } = await sequenceOf(tokens.length + most + 8);
  const found = [];
  for await (const token of sequence.evaluate(tokens, { temperature: 0 })) {
    found.push(token);
    if (found.length === most) break;
  }
  await context.dispose();
  return found;
}

const { texts = [], chats, scored = [], logits, prompts = [], maxTokens = 0 } = job;
const found = {
  tokens: texts.map((text) => model.tokenize(text, true)),
  rendered: chats === undefined ? [] : chats.conversations.map((messages) =>
    // llama.cpp's own renderer: the package itself would take one of JavaScript.
    new llama._bindings.AddonJinjaRenderer(chats.template).render({ messages, ...chats.more })
  ),
  likelihoods: [],
  greedy: [],
};
for (const tokens of scored) found.likelihoods.push(await likelihoods(tokens));
if (logits !== undefined) await writeLogits(logits.tokens, logits.path);
for (const tokens of prompts) found.greedy.push(await greedy(tokens, maxTokens));
console.log(JSON.stringify(found));
process.exit(0);
