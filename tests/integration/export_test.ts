import { assert, assertEquals, assertMatch, assertRejects } from "@std/assert";
import {
  type Adapter,
  certifyExport,
  type EmbeddingAndHead,
  fromPeft,
  type InputModeName,
  loadAdapter,
  loadEmbeddingAndHead,
  loadLayers,
  loadModelFolder,
  loadPeft,
  mergePeft,
  ModelFileError,
  type ModelFolder,
  modelShape,
  type NamedArray,
  type NamedArrays,
  type PeftAdapter,
  randomStream,
  saveAdapter,
  savePeft,
  saveSafetensors,
  StoredTensors,
  toPeft,
  writeSafetensors,
} from "@edgetuner/core";
import { Engine } from "@edgetuner/kernels";
import { splitLogits } from "@edgetuner/transport";
import { inThreadWithGpu } from "../support/in_thread.ts";
import { ASSETS, EXAMPLES, FIXTURES } from "../support/places.ts";
import { assertQuick } from "../support/quick.ts";
import { runAll } from "../support/run_all.ts";

const engine = await Engine.create();
const SAMPLES = [[1, 5, 9, 30, 2], [7], [3, 3, 60, 12, 44, 8, 1, 0, 2]];

/** Head modules with random A and B; R in mode `core`, whose frozen projections come from a seed. */
async function randomAdapter(folder: string, mode: InputModeName, rank = 4): Promise<Adapter> {
  const model = await loadModelFolder(folder);
  const { layers, heads, hidden, headSize } = modelShape(model.config);
  const random = randomStream(5);
  const numbers = (rows: number, columns: number): NamedArray => ({
    shape: [rows, columns],
    data: Float32Array.from({ length: rows * columns }, () => 0.2 * (random.float() - 0.5)),
  });
  const arrays = new Map<string, NamedArray>();
  for (let l = 0; l < layers; l++) {
    for (let h = 0; h < heads; h++) {
      for (const target of ["q", "v"]) {
        if (mode === "core") {
          // Large enough to be seen in the logits: A and B have rows and columns of length 1.
          const { shape, data } = numbers(rank, rank);
          arrays.set(`layer${l}.head${h}.${target}.R`, { shape, data: data.map((x) => 10 * x) });
          continue;
        }
        arrays.set(`layer${l}.head${h}.${target}.A`, numbers(rank, mode === "slice" ? headSize : hidden));
        arrays.set(`layer${l}.head${h}.${target}.B`, numbers(headSize, rank));
      }
    }
  }
  return {
    lora: { mode, targets: ["q", "v"], rank, alpha: 8, dropout: 0 },
    model: { layers, heads, hidden },
    fingerprint: model.fingerprint,
    arrays,
  };
}

const MODELS = [
  ["parity/gpt2_base", "gpt2"],
  ["families/llama_grouped", "llama"],
  ["families/opt", "opt"],
] as const;

/** A split run over some devices. */
function splitOver(devices: number, model: ModelFolder, adapter: Adapter) {
  return async (samples: readonly (readonly number[])[], ends: EmbeddingAndHead) => {
    using layers = loadLayers(engine, model);
    return await splitLogits({ engine, layers, ends, adapter, devices, samples });
  };
}

/** What `certifyExport` needs of GPT-2's fixture. */
async function gpt2Case(mode: InputModeName, rank = 4) {
  const folder = `${FIXTURES}parity/gpt2_base`;
  const model = await loadModelFolder(folder);
  const adapter = await randomAdapter(folder, mode, rank);
  const shape = modelShape(model.config);
  const options = {
    ...{ engine, model, family: "gpt2" as const, adapter, samples: SAMPLES },
    split: splitOver(2, model, adapter),
  };
  return { options, model, adapter, shape, peft: toPeft(adapter, "gpt2", shape.kvHeads) };
}

for (const [name, family] of MODELS) {
  for (const mode of ["slice", "full", "core"] as const) {
    Deno.test(`an export of ${name} in ${mode} mode is certified, a wrong one is not [slow]`, async () => {
      const folder = `${FIXTURES}${name}`;
      const model = await loadModelFolder(folder);
      const adapter = await randomAdapter(folder, mode);
      const peft = toPeft(adapter, family, modelShape(model.config).kvHeads);
      const split = splitOver(3, model, adapter);
      const options = { engine, model, family, adapter, split, samples: SAMPLES };
      const before = engine.stats.tensors;
      const right = await certifyExport({ ...options, peft });
      assertEquals(engine.stats.tensors, before);
      assertEquals([right.holds, right.samples, right.tokens, right.reduction], [true, 3, 15, null]);
      assert(right.effect > 1e-3 * right.largestLogit, `the adapter must change logits: ${right.effect}`);
      // The split run decodes token by token over a cache: sums in another order, of a whole model.
      assert(right.split < 1e-5 * right.largestLogit, `${right.split}`);
      assert(right.imported < 1e-5 * right.largestLogit, `${right.imported}`);
      assertEquals(right.importedAs, "head modules");
      const [first, array] = [...peft.arrays].find(([key]) => key.endsWith("lora_B.weight"))!;
      const spoilt = new Map(peft.arrays).set(first, { ...array, data: array.data.map((x) => 1.01 * x) });
      const wrong = await certifyExport({ ...options, peft: { ...peft, arrays: spoilt } });
      assertEquals(wrong.holds, false);
    });
  }
}

Deno.test("an export is held against the split run, whatever else agrees [slow]", async () => {
  const { options, peft, adapter, model } = await gpt2Case("slice");
  const changed = new Map(adapter.arrays);
  const [name, array] = [...changed].find(([key]) => key.endsWith("v.B"))!;
  changed.set(name, { ...array, data: array.data.map((x) => -x) });
  const other = { ...adapter, arrays: changed };
  const certificate = await certifyExport({ ...options, peft, split: splitOver(2, model, other) });
  assert(certificate.split > 1e-4 * certificate.largestLogit, `${certificate.split}`);
  assertEquals(certificate.holds, false);
  const broken = await certifyExport({
    ...options,
    peft,
    split: async (samples, ends) => {
      const logits = await options.split(samples, ends);
      logits[1]![3] = NaN;
      return logits;
    },
  });
  assertEquals(broken.holds, false);
  await assertRejects(
    () => certifyExport({ ...options, peft, split: () => Promise.resolve([new Float32Array(67)]) }),
    TypeError,
    "must give [335,67,603] logits: it gave [67]",
  );
});

Deno.test("an adapter that does little is held against what it does: none at all does not pass for it [slow]", async () => {
  const { model, adapter, options, shape } = await gpt2Case("full");
  const scaled = (factor: number): Adapter => ({
    ...adapter,
    arrays: new Map([...adapter.arrays].map(([name, { shape, data }]) => [
      name,
      { shape, data: name.endsWith(".B") ? data.map((x) => factor * x) : data },
    ])),
  });
  const certify = (trained: Adapter, exported: Adapter) =>
    certifyExport({
      ...options,
      adapter: trained,
      split: splitOver(2, model, trained),
      peft: toPeft(exported, "gpt2", shape.kvHeads),
    });
  const [little, none] = [scaled(3e-4), scaled(0)];
  const right = await certify(little, little);
  assert(right.effect < right.tolerance * right.largestLogit, `${right.effect}`);
  assertEquals([right.holds, right.allowed], [true, right.effect / 10], JSON.stringify(right));
  assertEquals((await certify(little, none)).holds, false);
  // What does nothing must come back to the bit: no difference is small beside it.
  const nothing = await certify(none, none);
  assertEquals(nothing.holds, Math.max(nothing.split, nothing.imported, nothing.merged) === 0);
  assertEquals((await certify(none, little)).holds, false);
});

Deno.test("files that were damaged after they were written are noticed [slow]", async () => {
  const { options, peft, model, shape } = await gpt2Case("full");
  const folder = await Deno.makeTempDir();
  try {
    await savePeft(`${folder}/peft`, peft);
    const merge = () => mergePeft(model.weights, peft, "gpt2", shape);
    await saveSafetensors(`${folder}/merged.safetensors`, merge());
    const readBack = async () => ({
      peft: await loadPeft(`${folder}/peft`),
      merged: await StoredTensors.open(`${folder}/merged.safetensors`),
    });
    const right = await certifyExport({ ...options, ...await readBack() });
    assertEquals(right.holds, true);
    assert(right.merged > 0, "the merged file is another computation");
    // By their digests; and by the certificate where none are noted, or those of wrong values.
    await flip(`${folder}/merged.safetensors`, "transformer.h.1.mlp.c_fc.weight");
    await assertRejects(
      async () => await certifyExport({ ...options, ...await readBack() }),
      ModelFileError,
      'merged.safetensors as the values of "transformer.h.1.mlp.c_fc.weight" must have the digest',
    );
    const withoutDigests = async (path: string, tensors: NamedArrays) =>
      await Deno.writeFile(path, writeSafetensors(tensors));
    await withoutDigests(`${folder}/merged.safetensors`, merge());
    await flip(`${folder}/merged.safetensors`, "transformer.h.1.mlp.c_fc.weight");
    const merged = await certifyExport({ ...options, ...await readBack() });
    assertEquals([merged.holds, merged.imported], [false, right.imported]);
    await saveSafetensors(`${folder}/merged.safetensors`, merge());
    const [name] = [...peft.arrays.keys()];
    await withoutDigests(`${folder}/peft/adapter_model.safetensors`, peft.arrays);
    await flip(`${folder}/peft/adapter_model.safetensors`, name!);
    const adapter = await certifyExport({ ...options, ...await readBack() });
    assertEquals([adapter.holds, adapter.merged], [false, right.merged]);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});

/** Changes one bit of each of a tensor's first values, as a bad disk might. */
async function flip(path: string, tensor: string): Promise<void> {
  const bytes = await Deno.readFile(path);
  const length = Number(new DataView(bytes.buffer).getBigUint64(0, true));
  const header = JSON.parse(new TextDecoder().decode(bytes.subarray(8, 8 + length)));
  const start = 8 + length + header[tensor].data_offsets[0];
  for (let i = 0; i < 48; i++) bytes[start + 4 * i + 3]! ^= 1; // a high bit of the exponent
  await Deno.writeFile(path, bytes);
}

Deno.test("an adapter whose rank is above 256 is taken in by heads, or else merged, never skipped [slow]", async () => {
  // 4 heads, two targets: 512 in PEFT's terms.
  const { options, peft, shape } = await gpt2Case("slice", 64);
  assertEquals(peft.config.r, 512);
  const byHeads = await certifyExport({ ...options, peft });
  assertEquals([byHeads.importedAs, byHeads.holds], ["head modules", true]);
  assert(byHeads.imported < 1e-5 * byHeads.largestLogit, `${byHeads.imported}`);
  assertEquals(fromPeft(peft, "gpt2", shape).lora.rank, 64);
  // The same adapter with its ranks mixed up, so that each head's B uses all of A.
  const mixed = hadamard(peft);
  assert(await assertRejectsRank(() => fromPeft(mixed, "gpt2", shape)));
  const merged = await certifyExport({ ...options, peft: mixed });
  assertEquals([merged.importedAs, merged.holds], ["merged weights", true]);
  const [name, array] = [...mixed.arrays].find(([key]) => key.endsWith("lora_A.weight"))!;
  const arrays = new Map(mixed.arrays).set(name, { ...array, data: array.data.map((x) => 1.05 * x) });
  assertEquals((await certifyExport({ ...options, peft: { ...mixed, arrays } })).holds, false);
});

function assertRejectsRank(call: () => unknown): boolean {
  try {
    call();
  } catch (error) {
    return error instanceof ModelFileError &&
      error.message.includes("at most 256 rows of A: current value is 512");
  }
  return false;
}

/** B H and H A in place of B and A, with the orthogonal matrix H of Hadamard: the same product. */
function hadamard(peft: PeftAdapter): PeftAdapter {
  const rank = peft.config.r;
  const sign = (i: number, j: number) => {
    let bits = i & j, odd = 1;
    for (; bits > 0; bits &= bits - 1) odd = -odd;
    return odd / Math.sqrt(rank);
  };
  const arrays = new Map<string, NamedArray>();
  for (const [name, { shape, data }] of peft.arrays) {
    const out = new Float32Array(data.length);
    const [rows, columns] = shape as [number, number];
    for (let r = 0; r < rows; r++) {
      for (let c = 0; c < columns; c++) {
        let sum = 0;
        for (let k = 0; k < rank; k++) {
          sum += name.includes("lora_A")
            ? sign(r, k) * data[k * columns + c]!
            : data[r * columns + k]! * sign(k, c);
        }
        out[r * columns + c] = sum;
      }
    }
    arrays.set(name, { shape, data: out });
  }
  return { config: peft.config, arrays };
}

Deno.test("splitLogits() runs over any number of devices, and ends at once if a party fails [slow]", async () => {
  const { model, adapter, options } = await gpt2Case("full");
  using layers = loadLayers(engine, model);
  using ends = loadEmbeddingAndHead(engine, model);
  const before = engine.stats.tensors;
  const all = { engine, layers, ends, adapter, samples: SAMPLES };
  const one = await splitLogits({ ...all, devices: 1 });
  for (const devices of [2, 4, 9]) assertEquals(await splitLogits({ ...all, devices }), one, `${devices}`);
  const lacking = new Map(adapter.arrays);
  lacking.delete("layer2.head3.v.B");
  const started = performance.now();
  await assertRejects(
    () => splitLogits({ ...all, adapter: { ...adapter, arrays: lacking } }),
    ModelFileError,
    '"layer2.head3.v.B" is missing',
  );
  await assertRejects(() => splitLogits({ ...all, samples: [[]] }), RangeError, "1 to 32 tokens");
  await assertRejects(
    () => splitLogits({ ...all, samples: [new Array(33).fill(1)] }),
    RangeError,
    "at most 32 tokens",
  );
  await assertRejects(() => splitLogits({ ...all, devices: 0 }), RangeError, "current value is 0");
  assertQuick(performance.now() - started, 30_000, "nobody waits for a party that is gone");
  assertEquals(engine.stats.tensors, before);
  assertEquals(options.samples, SAMPLES);
});

interface Ended {
  readonly code: number;
  readonly out: string;
  readonly err: string;
}

/** Runs export.ts in this thread. */
async function run(...args: string[]): Promise<Ended> {
  const { code, out, errors } = await inThreadWithGpu("export.ts", args);
  return { code, out, err: errors };
}

/** Runs export.ts as users do. */
async function runAlone(...args: string[]): Promise<Ended> {
  const { code, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args: ["run", "-A", "--quiet", `${EXAMPLES}export.ts`, ...args],
    env: { NO_COLOR: "1" },
  }).output();
  const decoder = new TextDecoder();
  return { code, out: decoder.decode(stdout), err: decoder.decode(stderr) };
}

async function names(folder: string): Promise<string[]> {
  return (await Array.fromAsync(Deno.readDir(folder), ({ name }) => name)).sort();
}

Deno.test("export.ts compares on training data of any kind, and on plain lines [slow]", async () => {
  const folder = await Deno.makeTempDir();
  try {
    await saveAdapter(`${folder}/heads`, await randomAdapter(`${ASSETS}tiny_gpt2`, "slice", 1));
    const kinds = {
      "pairs.txt": "name[The Crooked Fox]||The Crooked Fox, a pub.\n",
      "lines.txt": "The Crooked Fox, a pub.\n\nIt is cheap.\n",
      "pairs.jsonl": '{"prompt": "name[X]", "completion": "X is a pub."}\n',
      "texts.jsonl": '{"text": "The Crooked Fox, a pub."}\n',
    };
    for (const [name, content] of Object.entries(kinds)) {
      await Deno.writeTextFile(`${folder}/${name}`, content);
      const { code, err } = await run(
        ...["--adapter", `${folder}/heads`, "--peft", `${folder}/peft`, "--data", `${folder}/${name}`],
        ...["--devices", "3"],
      );
      assertEquals(code, 0, `${name}: ${err}`);
      const certificate = JSON.parse(await Deno.readTextFile(`${folder}/peft/certificate.json`));
      assertEquals(certificate.samples, name === "lines.txt" ? 2 : 1, name);
      assertEquals([certificate.holds, certificate.splitDevices], [true, 3]);
    }
    await Deno.writeTextFile(`${folder}/empty.txt`, "\n");
    const empty = await run(
      "--adapter",
      `${folder}/heads`,
      "--peft",
      `${folder}/x`,
      "--data",
      `${folder}/empty.txt`,
    );
    assertEquals(empty.code, 1, empty.err);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});

Deno.test("export.ts writes, merges, reduces and imports, each with a certificate [slow]", async () => {
  const folder = await Deno.makeTempDir();
  try {
    const adapter = await randomAdapter(`${ASSETS}tiny_gpt2`, "full");
    await saveAdapter(`${folder}/heads`, adapter);
    const exported = await runAlone(
      ...["--adapter", `${folder}/heads`, "--samples", "2"],
      ...["--peft", `${folder}/peft`, "--merge", `${folder}/merged`, "--gguf", `${folder}/gguf`],
    );
    assertEquals(exported.code, 0, exported.err);
    assertEquals(await names(`${folder}/gguf`), ["Modelfile", "adapter.gguf", "certificate.json"]);
    assertMatch(
      await Deno.readTextFile(`${folder}/gguf/Modelfile`),
      /^FROM \/.*\/tiny_gpt2\/?\nADAPTER \.\/adapter\.gguf$/m,
    );
    for (const place of ["peft", "merged", "gguf"]) {
      const certificate = JSON.parse(await Deno.readTextFile(`${folder}/${place}/certificate.json`));
      assertEquals([certificate.holds, certificate.samples], [true, 2]);
    }
    // The merged model is a model folder like any other, and imported heads export again.
    await loadModelFolder(`${folder}/merged`);
    const imported = await run("--import", `${folder}/peft`, "--adapter", `${folder}/imported`);
    assertEquals(imported.code, 0, imported.err);
    // The same adapter in GGUF means the same; a smaller rank on the way in is said.
    const theirs = ["--import", `${folder}/gguf/adapter.gguf`, "--adapter"];
    assertEquals((await run(...theirs, `${folder}/from_gguf`)).code, 0);
    const [one, other] = await Promise.all(
      ["imported", "from_gguf"].map((name) => loadAdapter(`${folder}/${name}`)),
    );
    assertEquals(other!.arrays, one!.arrays);
    const less = await run(...theirs, `${folder}/less`, "--rank", "4");
    assertMatch(less.out, /became 4: [0-9.]+ % of the change of the weights is lost/);
    assertEquals((await loadAdapter(`${folder}/less`)).lora.rank, 4);
    for (const name of ["from_gguf", "less", "gguf"]) {
      await Deno.remove(`${folder}/${name}`, { recursive: true });
    }
    const small = [
      "--adapter",
      `${folder}/heads`,
      "--samples",
      "2",
      "--peft",
      `${folder}/small`,
      "--rank",
      "8",
    ];
    const lossy = await run(...small);
    assertEquals(lossy.code, 1);
    assert(/rank 8 loses [0-9.]+ % .* 5.0 % may be lost; .* --accept-loss/.test(lossy.err), lossy.err);
    assertEquals(await names(folder), ["heads", "imported", "merged", "peft"]);
    const reduced = await run(...small, "--accept-loss", "2");
    assertEquals(reduced.code, 0, reduced.err);
    const { reduction, weightsLost, holds, readBack } = JSON.parse(
      await Deno.readTextFile(`${folder}/small/certificate.json`),
    );
    assert(weightsLost > 0.01 && weightsLost < 1, `${weightsLost}`);
    assert(reduction.share > 0.05 && reduction.share < 2, `${reduction.share}`);
    assertEquals([reduction.allowed, holds, readBack], [2, true, {
      adapter: true,
      gguf: false,
      merged: false,
      mergedGguf: null,
    }]);
    const refused = await run(
      ...["--adapter", `${folder}/heads`, "--samples", "1", "--peft", `${folder}/never`, "--tolerance", "0"],
    );
    assertEquals(refused.code, 1);
    assert(refused.err.includes("Nothing was written"), refused.err);
    assertEquals(await names(folder), ["heads", "imported", "merged", "peft", "small"]);
    assertEquals((await runAlone()).code, 2);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});

/** Every file below a folder, with its bytes. */
async function contents(folder: string): Promise<Record<string, string>> {
  const all: Record<string, string> = {};
  for await (const { name, isDirectory, isSymlink } of Deno.readDir(folder)) {
    const path = `${folder}/${name}`;
    if (isDirectory) {
      for (const [n, hex] of Object.entries(await contents(path))) all[`${name}/${n}`] = hex;
    } else all[name] = isSymlink ? await Deno.readLink(path) : (await Deno.readFile(path)).toHex();
  }
  return all;
}

Deno.test("export.ts neither overwrites what it reads nor replaces what is no former export [slow]", async () => {
  const folder = await Deno.makeTempDir();
  try {
    const [base, heads, other] = [`${folder}/base`, `${folder}/heads`, `${folder}/other`];
    await Deno.mkdir(base);
    for (const name of await names(`${ASSETS}tiny_gpt2`)) {
      await Deno.copyFile(`${ASSETS}tiny_gpt2/${name}`, `${base}/${name}`);
    }
    await saveAdapter(heads, await randomAdapter(base, "slice"));
    await savePeft(other, (await gpt2Case("slice")).peft); // somebody's, without a certificate
    await Deno.symlink(base, `${folder}/link`);
    const from = ["--model", base, "--samples", "1", "--adapter"];
    const before = await contents(folder);
    const wrong: readonly [string[], RegExp][] = [
      [[...from, heads, "--merge", base], /--merge must be another folder than --model/],
      [[...from, heads, "--merge", `${folder}/link/`], /--merge must be another folder than --model/],
      [
        [...from, `${heads},${other}`, "--peft", `${base}/../heads`],
        /--peft must be another folder than --adapter/,
      ],
      [
        [...from, heads, "--peft", `${folder}/new`, "--merge", `${folder}/link/../new/`],
        /--merge must be another folder than --peft/,
      ],
      [
        ["--model", base, "--import", other, "--adapter", other],
        /--adapter must be another folder than --import/,
      ],
      [
        ["--model", base, "--import", other, "--adapter", heads],
        /"[^"]+heads", which holds adapter_config.json/,
      ],
      [
        [...from, heads, "--peft", other],
        /former export: current value is "[^"]+other", which holds adapter_config.json/,
      ],
      [[...from, heads, "--merge", folder], /which holds base/],
      [
        [...from, heads, "--peft", `${base}/config.json/peft`],
        /--peft must be a folder that can be written: current value is "[^"]+peft"/,
      ],
      [
        ["--model", base, "--import", other, "--adapter", `${base}/config.json/a`],
        /--adapter must be a folder that can be written/,
      ],
      [
        [...from, heads, "--peft", `${folder}/new`, "--data", `${folder}/no.txt`],
        /--data must be a file that can be read: current value is "[^"]+no.txt"/,
      ],
    ];
    for (const [args, message] of wrong) {
      const { code, err } = await run(...args);
      assertMatch(err, message);
      assertEquals([code, /^ {4}at /m.test(err)], [2, false], err);
      assertEquals(await contents(folder), before, `nothing has changed after ${args}`);
    }
    // A former export is replaced as a whole, but nothing that came to lie beside it.
    const again = [...from, heads, "--merge", `${folder}/merged`];
    assertEquals((await run(...again)).code, 0);
    await Deno.writeTextFile(`${folder}/merged/merges.txt`, "of another tokenizer");
    assertEquals((await run(...again)).code, 0);
    assertEquals(await names(`${folder}/merged`), [
      "certificate.json",
      "config.json",
      "model.safetensors",
      "tokenizer.json",
    ]);
    await Deno.writeTextFile(`${folder}/merged/notes.txt`, "mine");
    const { code, err } = await run(...again);
    assertEquals(code, 2);
    assertMatch(err, /which holds notes.txt/);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});

/** A copy of the tiny GPT-2 with its weights as BF16, and its configuration changed. */
async function bf16Base(folder: string, changes: Readonly<Record<string, unknown>>): Promise<void> {
  const from = `${ASSETS}tiny_gpt2`;
  await Deno.mkdir(folder, { recursive: true });
  await Deno.copyFile(`${from}/tokenizer.json`, `${folder}/tokenizer.json`);
  const config = JSON.parse(await Deno.readTextFile(`${from}/config.json`));
  await Deno.writeTextFile(`${folder}/config.json`, JSON.stringify({ ...config, ...changes }));
  const header: Record<string, unknown> = {};
  const parts: Uint8Array[] = [];
  let place = 0;
  for (const [name, { shape, data }] of (await loadModelFolder(from)).weights) {
    // The upper half of an f32's bits.
    const halves = Uint16Array.from(new Uint32Array(data.slice().buffer), (bits) => bits >>> 16);
    parts.push(new Uint8Array(halves.buffer));
    header[name] = { dtype: "BF16", shape, data_offsets: [place, place += halves.byteLength] };
  }
  const text = new TextEncoder().encode(JSON.stringify(header));
  const length = new Uint8Array(new BigUint64Array([BigInt(text.length)]).buffer);
  await Deno.writeFile(
    `${folder}/model.safetensors`,
    await new Blob([length, text, ...parts] as BlobPart[]).bytes(),
  );
}

Deno.test("export.ts notes f32 in the configuration of a merged model of a BF16 base, and names the base [slow]", async () => {
  const folder = await Deno.makeTempDir();
  const [base, merged] = [`${folder}/base`, `${folder}/merged`];
  try {
    const noted = { dtype: "bfloat16", torch_dtype: "bfloat16", _name_or_path: "some/gpt2", eos_token_id: 3 };
    await bf16Base(base, noted);
    const adapter = await randomAdapter(base, "slice", 1);
    await saveAdapter(`${folder}/heads`, adapter);
    const from = ["--adapter", `${folder}/heads`, "--samples", "1"];
    const peft = ["--peft", `${folder}/peft`];
    const { code, err } = await run(...from, ...peft, "--model", base, "--merge", merged);
    assertEquals(code, 0, err);
    const { _name_or_path, ...config } = JSON.parse(await Deno.readTextFile(`${base}/config.json`));
    assertEquals(JSON.parse(await Deno.readTextFile(`${merged}/config.json`)), {
      ...config,
      dtype: "float32",
      torch_dtype: "float32",
    });
    // F32 in the file, and in need of it.
    const bytes = await Deno.readFile(`${merged}/model.safetensors`);
    const length = Number(new DataView(bytes.buffer).getBigUint64(0, true));
    const { __metadata__, ...header } = JSON.parse(new TextDecoder().decode(bytes.subarray(8, 8 + length)));
    assertEquals(
      new Set(Object.values(header).map((entry) => (entry as { dtype: string }).dtype)),
      new Set(["F32"]),
    );
    const model = await loadModelFolder(base);
    const shape = modelShape(model.config);
    const expected = mergePeft(model.weights, toPeft(adapter, "gpt2", shape.kvHeads), "gpt2", shape);
    const { weights } = await loadModelFolder(merged);
    const name = "transformer.h.0.attn.c_attn.weight";
    assertEquals(weights.get(name)!.data, expected.get(name)!.data);
    const bits = new Uint32Array(weights.get(name)!.data.slice().buffer);
    assert(bits.some((b) => (b & 0xffff) !== 0), "what is merged does not fit into BF16");

    const named = async (peft: string) => {
      const json = JSON.parse(await Deno.readTextFile(`${peft}/adapter_config.json`));
      return [json.base_model_name_or_path, json.revision];
    };
    assertEquals(await named(`${folder}/peft`), [_name_or_path, undefined]);
    const places = [
      ["models/some/pulled/main", "some/pulled", undefined],
      ["models/some/pulled/refs/pr/7", "some/pulled", "refs/pr/7"],
      ["models/gpt2/v1", "gpt2", "v1"],
      ["elsewhere/base", `${folder}/elsewhere/base`, undefined], // as PEFT notes it too
    ] as const;
    for (const [place] of places) {
      await bf16Base(`${folder}/${place}`, { dtype: "bfloat16", _name_or_path: `${folder}/private` });
    }
    const calls = places.map(([place], i) => [
      "export.ts",
      ...[...from, "--peft", `${folder}/peft${i}`, "--model", `${folder}/${place}`],
    ]);
    for (const { code, errors } of await runAll(calls, { EDGETUNER_CACHE: folder })) {
      assertEquals(code, 0, errors);
    }
    for (const [i, [, name, revision]] of places.entries()) {
      assertEquals(await named(`${folder}/peft${i}`), [name, revision]);
    }
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});
