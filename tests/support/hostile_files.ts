/**
 * Opens model files that were made to do harm, and prints for each what was said, how long it took and how much
 * memory the process had at most, as JSON lines. A program of its own, as memory is a process's.
 *
 * @module
 */

import {
  chatTemplateFromConfig,
  fromPeft,
  GgufFile,
  loadAdapter,
  loadEmbeddingAndHead,
  loadGgufTokenizer,
  loadHeads,
  loadLayers,
  loadModelFolder,
  loadPeft,
  loadPredictor,
  loadSafetensors,
  loadTokenizer,
  saveAdapter,
  tokenizerFromJson,
  writeSafetensors,
} from "@edgetuner/core";
import { Engine } from "@edgetuner/kernels";
import { ASSETS, FIXTURES } from "./places.ts";

/** What a case printed. */
export interface Seen {
  readonly name: string;
  /** Name and message of the error; `null` if there was none. */
  readonly error: { readonly name: string; readonly message: string } | null;
  readonly ms: number;
  /** Most resident bytes of a fresh process that takes in this file alone, where the system tells. */
  readonly peakBytes: number | null;
}

type Json = Record<string, unknown>;

const folder = Deno.args[0]!;
const LARGE = 2 ** 31;

/** Resident memory: now (`VmRSS`), or the most since it was last forgotten (`VmHWM`). */
function residentBytes(which: "VmRSS" | "VmHWM"): number | null {
  try {
    const lines = Deno.readTextFileSync("/proc/self/status").split("\n");
    return Number(lines.find((line) => line.startsWith(`${which}:`))!.replace(/\D/g, "")) * 1024;
  } catch {
    return null;
  }
}

/** What the process takes before the first file. */
const FRESH_BYTES = residentBytes("VmRSS");

async function attempt(name: string, run: () => unknown): Promise<void> {
  (globalThis as { gc?: () => void }).gc?.(); // what other files left is not this one's
  try {
    await Deno.writeTextFile("/proc/self/clear_refs", "5"); // forgets the peak so far
  } catch { /* not Linux */ }
  const before = residentBytes("VmRSS");
  const started = performance.now();
  let error: Seen["error"] = null;
  try {
    await run();
  } catch (cause) {
    error = { name: (cause as Error).name, message: (cause as Error).message };
  }
  const ms = performance.now() - started;
  const most = residentBytes("VmHWM");
  // Pages that the runtime keeps of earlier files are not this one's.
  const peakBytes = most === null || before === null ? null : FRESH_BYTES! + most - before;
  const seen: Seen = { name, error, ms, peakBytes };
  console.log(JSON.stringify(seen));
}

// Templates

/** Doubles a text in `ns.x` so often. */
const doubled = (text: string, times: number) =>
  `{% set ns = namespace(x='${text}') %}{% for i in range(${times}) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}`;

const TEMPLATES: Readonly<Record<string, string>> = {
  "a range of a thousand million": "{% for i in range(10**9) %}x{% endfor %}",
  "loops in loops": "{% for i in range(9999) %}{% for j in range(9999) %}x{% endfor %}{% endfor %}",
  "a function that takes long": "{% for i in range(9999) %}{% set x = range(99999)|sort %}{% endfor %}",
  "a text doubled over and over": `${doubled("aaaa", 60)}{{ ns.x }}`,
  "a list of the same list twice, over and over":
    "{% set ns = namespace(x=[1]) %}{% for i in range(60) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x }}",
  "a namespace in itself": "{% set a = namespace(x=1) %}{% set a.y = a %}{{ a }}",
  "an indentation of millions of columns": "{{ 'a\nb'|indent(400000000) }}",
  "JSON with millions of columns": "{{ messages|tojson(indent=100000000) }}",
  "each character replaced by thousands": `${doubled("a", 14)}{{ ns.x|replace('a', ns.x) }}`,
  "the same as a method": `${doubled("a", 14)}{{ ns.x.replace('', ns.x) }}`,
  "a long separator": `${doubled("a", 16)}{{ range(9999)|join(ns.x) }}`,
  "a block that is filtered": `${
    doubled("a\n", 18)
  }{% filter indent(64) %}{% for i in range(9999) %}{{ ns.x }}{% endfor %}{% endfilter %}`,
  "thousands of large texts": doubled("a", 19) +
    Array.from({ length: 3000 }, (_, i) => `{% set a${i} = (ns.x ~ '${i}')|upper %}`).join(""),
  "lists of pieces": `${
    doubled("a ", 18)
  }{% for i in range(9999) %}{% set y = ns.x.split(' ') %}{% endfor %}`,
  "brackets in brackets": `{{ ${"(".repeat(1e5)}1${")".repeat(1e5)} }}`,
  "a template of megabytes": "{% if 1 %}{% endif %}".repeat(1e5),
};

async function templates(): Promise<void> {
  for (const [name, source] of Object.entries(TEMPLATES)) {
    await attempt(
      `template: ${name}`,
      () => chatTemplateFromConfig({ chat_template: source }).render({ messages: [{ role: "user" }] }),
    );
  }
}

// Tokenizers

async function tokenizers(): Promise<void> {
  const good = JSON.parse(await Deno.readTextFile(`${ASSETS}tiny_gpt2/tokenizer.json`)) as Json;
  const split = (pattern: string) => ({
    type: "Sequence",
    pretokenizers: [
      { type: "Split", pattern: { Regex: pattern }, behavior: "Isolated", invert: false },
      { type: "ByteLevel", add_prefix_space: false, trim_offsets: true, use_regex: false },
    ],
  });
  const text = `${"a".repeat(64)}!`;
  const encode = (changes: Json) => () => tokenizerFromJson({ ...good, ...changes }).encode(text);
  const model = good.model as Json;
  await attempt("tokenizer: a pattern that goes back and forth", encode({ pre_tokenizer: split("(a+)+$") }));
  await attempt("tokenizer: a pattern of megabytes", encode({ pre_tokenizer: split("a|".repeat(1e6)) }));
  await attempt("tokenizer: such a pattern on the way back", () => {
    const decoder = {
      type: "Sequence",
      decoders: [good.decoder, { type: "Replace", pattern: { Regex: "(a+)+$" }, content: "" }],
    };
    const tokenizer = tokenizerFromJson({ ...good, decoder });
    tokenizer.decode(tokenizer.encode(text));
  });
  await attempt(
    "tokenizer: steps that make a text longer and longer",
    encode({
      normalizer: {
        type: "Sequence",
        normalizers: Array.from({ length: 40 }, () => ({
          type: "Replace",
          pattern: { String: "a" },
          content: "aa",
        })),
      },
    }),
  );
  await attempt(
    "tokenizer: pieces of no length",
    encode({
      pre_tokenizer: {
        type: "Sequence",
        pretokenizers: [{ type: "FixedLength", length: 0 }, good.pre_tokenizer],
      },
    }),
  );
  await attempt(
    "tokenizer: an id of 2^31",
    encode({ model: { ...model, vocab: { ...model.vocab as Json, x: LARGE } } }),
  );
  await attempt(
    "tokenizer: a special token of 2^31",
    encode({ added_tokens: [...good.added_tokens as Json[], { id: LARGE, content: "<x>", special: true }] }),
  );
  await attempt(
    "tokenizer: a special token of no length",
    encode({ added_tokens: [...good.added_tokens as Json[], { id: 3, content: "", special: true }] }),
  );
  await attempt(
    "tokenizer: a token of megabytes",
    encode({ model: { ...model, vocab: { ...model.vocab as Json, ["x".repeat(5e6)]: 7 } } }),
  );
  const path = `${folder}/tokenizer.json`;
  for (
    const [name, content] of [
      ["lists in lists", `{"model": ${"[".repeat(1e6)}${"]".repeat(1e6)}}`],
      ["millions of values", `{"model": [${"0,".repeat(6e6)}0]}`],
    ] as const
  ) {
    await Deno.writeTextFile(path, content);
    await attempt(`tokenizer: ${name}`, () => loadTokenizer(path));
  }
  await Deno.truncate(path, 2 ** 33);
  await attempt("tokenizer: a file of gigabytes", () => loadTokenizer(path));
  if (Deno.build.os !== "windows") {
    await attempt("tokenizer: a file without an end", () => loadTokenizer("/dev/zero"));
  }
  await Deno.remove(path);
}

// Sizes in configurations

async function configurations(engine: Engine): Promise<void> {
  const models = {
    gpt2: `${FIXTURES}parity/gpt2_base`,
    opt: `${FIXTURES}families/opt`,
    llama: `${FIXTURES}families/llama`,
  };
  for (const [family, from] of Object.entries(models)) {
    const to = `${folder}/${family}`;
    await Deno.mkdir(to);
    await Deno.copyFile(`${from}/model.safetensors`, `${to}/model.safetensors`);
    const config = JSON.parse(await Deno.readTextFile(`${from}/config.json`)) as Json;
    for (const [field, value] of Object.entries(config)) {
      // The longest sequence is no size of a weight in LLaMA: memory is taken for what is used of it.
      if (!Number.isInteger(value) || field.endsWith("token_id")) continue;
      if (/drop|pretraining_tp/.test(field) || (family === "llama" && field.startsWith("max_"))) continue;
      await Deno.writeTextFile(`${to}/config.json`, JSON.stringify({ ...config, [field]: LARGE }));
      for (const baseWeights of ["f32", "int8"] as const) {
        await attempt(`config.json: ${family} with ${field} 2^31, ${baseWeights}`, async () => {
          const model = await loadModelFolder(to);
          using _layers = loadLayers(engine, model, { baseWeights });
          using _ends = loadEmbeddingAndHead(engine, model, { baseWeights });
        });
      }
    }
  }
  const peft = `${folder}/peft`;
  await Deno.mkdir(peft);
  const slice = `${FIXTURES}parity/peft_adapter_slice`;
  await Deno.copyFile(`${slice}/adapter_model.safetensors`, `${peft}/adapter_model.safetensors`);
  const config = JSON.parse(await Deno.readTextFile(`${slice}/adapter_config.json`)) as Json;
  await Deno.writeTextFile(`${peft}/adapter_config.json`, JSON.stringify({ ...config, r: LARGE }));
  await attempt("adapter_config.json: PEFT's r 2^31", async () => {
    fromPeft(await loadPeft(peft), "gpt2", { layers: 3, heads: 3, hidden: 48 });
  });
  await Deno.writeTextFile(`${peft}/adapter_config.json`, `{"r": ${"[".repeat(1e6)}`);
  await attempt("adapter_config.json: lists in lists", () => loadPeft(peft));
}

async function adapters(engine: Engine): Promise<void> {
  const path = `${folder}/heads`;
  const matrix = (rows: number, columns: number) => ({
    shape: [rows, columns],
    data: new Float32Array(rows * columns),
  });
  const arrays = new Map([["layer0.head0.q.A", matrix(2, 4)], ["layer0.head0.q.B", matrix(4, 2)]]);
  const lora = { mode: "slice", targets: ["q"], rank: 2, alpha: 4, dropout: 0 } as const;
  await saveAdapter(path, { lora, model: { layers: 1, heads: 1, hidden: 4 }, fingerprint: "", arrays });
  const file = `${path}/adapter_config.json`;
  const { digest: _, ...config } = JSON.parse(await Deno.readTextFile(file)) as Json;
  // Weights that say nothing of themselves: the configuration counts.
  await Deno.writeFile(`${path}/adapter_model.safetensors`, writeSafetensors(arrays));
  const sizes: readonly (readonly [string, Json])[] = [
    ["rank", { lora: { ...lora, rank: LARGE } }],
    ["layers", { model: { layers: LARGE, heads: 1, hidden: 4 } }],
    ["heads", { model: { layers: 1, heads: LARGE, hidden: 4 * LARGE } }],
    ["heads of no matrix", { model: { layers: 1, heads: 2 ** 15, hidden: 2 ** 17 } }],
    ["hidden", { model: { layers: 1, heads: 1, hidden: LARGE } }],
  ];
  for (const [name, changes] of sizes) {
    await Deno.writeTextFile(file, JSON.stringify({ ...config, ...changes }));
    await attempt(`adapter_config.json: ${name} 2^31`, async () => {
      loadHeads(engine, await loadAdapter(path))[Symbol.dispose]();
    });
  }
  const predictor = `${folder}/predictor`;
  await Deno.mkdir(predictor);
  const { digest: __, ...noted } = JSON.parse(
    await Deno.readTextFile(`${ASSETS}demo_predictor/config.json`),
  ) as Json;
  const weights = await loadSafetensors(`${ASSETS}demo_predictor/model.safetensors`);
  await Deno.writeFile(`${predictor}/model.safetensors`, writeSafetensors(weights));
  for (const field of ["layers", "heads", "hidden", "history", "width", "channels", "fusion"]) {
    await Deno.writeTextFile(`${predictor}/config.json`, JSON.stringify({ ...noted, [field]: LARGE }));
    await attempt(`predictor: ${field} 2^31`, () => loadPredictor(predictor));
  }
}

// Headers

/** A GGUF file: its magic number and version, then 64-bit counts, 32-bit types and texts. */
function ggufBytes(...parts: (bigint | number | string)[]): Uint8Array {
  const bytes: number[] = [...new TextEncoder().encode("GGUF"), 3, 0, 0, 0];
  const count = (value: bigint, width: number) => {
    for (let i = 0; i < width; i++) bytes.push(Number((value >> BigInt(8 * i)) & 255n));
  };
  for (const part of parts) {
    if (typeof part === "bigint") count(part, 8);
    else if (typeof part === "number") count(BigInt(part), 4);
    else {
      count(BigInt(part.length), 8);
      bytes.push(...new TextEncoder().encode(part));
    }
  }
  return Uint8Array.from(bytes);
}

async function headers(): Promise<void> {
  const path = `${folder}/model.gguf`;
  const files: Readonly<Record<string, Uint8Array>> = {
    "2^60 tensors": ggufBytes(1n << 60n, 0n),
    "2^60 fields": ggufBytes(0n, 1n << 60n),
    "a name of 2^40 bytes": ggufBytes(0n, 1n, 1n << 40n),
    "a list of 2^60 numbers": ggufBytes(0n, 1n, "a", 9, 4, 1n << 60n),
    "a list of more numbers than there are": ggufBytes(0n, 1n, "a", 9, 4, 900_000n),
    "lists in lists": ggufBytes(0n, 1n, "a", 9, ...Array.from({ length: 99 }, () => [9, 1n]).flat()),
    "dimensions of 2^62": ggufBytes(1n, 0n, "a", 2, 1n << 62n, 1n << 62n, 0, 0n),
    "a tensor of 2^62 values": ggufBytes(1n, 0n, "a", 2, 1n << 31n, 1n << 31n, 0, 0n),
    "many dimensions": ggufBytes(1n, 0n, "a", 2 ** 31),
  };
  for (const [name, bytes] of Object.entries(files)) {
    await Deno.writeFile(path, bytes);
    await attempt(`GGUF: ${name}`, () => GgufFile.open(path));
  }
  // Lists of a million bytes each; the file's zeros are their values.
  const start = ggufBytes(0n, 39n);
  const field = ggufBytes("a", 9, 0, 1_000_000n).subarray(8);
  await Deno.writeFile(path, start);
  await Deno.truncate(path, start.length + 39 * (field.length + 1_000_000));
  {
    using file = await Deno.open(path, { write: true });
    for (let i = 0; i < 39; i++) {
      await file.seek(start.length + i * (field.length + 1_000_000), Deno.SeekMode.Start);
      await file.write(field);
    }
  }
  await attempt("GGUF: lists of millions of bytes", () => GgufFile.open(path));
  await Deno.writeFile(
    path,
    ggufBytes(
      0n,
      3n,
      "tokenizer.ggml.model",
      8,
      "gpt2",
      "tokenizer.ggml.pre",
      8,
      "gpt-2",
      "tokenizer.ggml.tokens",
      10,
      1n << 60n,
    ),
  );
  await attempt("GGUF: a number in place of tokens", () => loadGgufTokenizer(path));

  const tensors = `${folder}/model.safetensors`;
  const withHeader = (length: bigint, header: string, more = 0) => {
    const text = new TextEncoder().encode(header);
    const bytes = new Uint8Array(8 + text.length + more);
    new DataView(bytes.buffer).setBigUint64(0, length, true);
    bytes.set(text, 8);
    return bytes;
  };
  const sized = (header: string) => withHeader(BigInt(header.length), header);
  const entry = (shape: string, end: string) =>
    `{"a":{"dtype":"F32","shape":${shape},"data_offsets":[0,${end}]}}`;
  const broken: Readonly<Record<string, Uint8Array>> = {
    "a header of 2^60 bytes": withHeader(1n << 60n, "{}"),
    "lists in lists": sized(`{"a":${"[".repeat(5e6)}}`),
    "millions of entries": sized(`{${'"a":{},'.repeat(4e6)}"b":{}}`),
    "2^53 values": sized(entry("[94906265,94906265]", "36028796618764900")),
    "a shape of millions of ones": sized(entry(`[${"1,".repeat(1e6)}1]`, "4")),
  };
  for (const [name, bytes] of Object.entries(broken)) {
    await Deno.writeFile(tensors, bytes);
    await attempt(`safetensors: ${name}`, () => loadSafetensors(tensors));
  }
}

if (import.meta.main) {
  using engine = await Engine.create();
  await templates();
  await tokenizers();
  await headers();
  await configurations(engine);
  await adapters(engine);
}
