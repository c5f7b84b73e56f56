/**
 * GFLOP/s of EdgeTuner's matrix products at the demo's shapes and at those of GPT-2 small.
 *
 * @module
 */

import { writeWhole } from "@edgetuner/core";
import { parseArgs } from "node:util";
import { ProductMeter } from "./products.ts";
import { describeMachine, loadNow, machineText, numberText, tableText } from "./report.ts";
import type { Product, ProductForm } from "./shapes.ts";

/**
 * The best figures, GFLOP/s, that were measured for such a kernel in isolation, on two AMD cores
 * by llvmpipe. They say something on machines of that kind only, and the ratio is shown for software
 * adapters alone.
 */
const REFERENCE: Readonly<Record<string, number>> = {
  "512x768x2304": 50,
  "512x768x3072": 41,
  "512x3072x768": 48,
  "64x768x50257 NT": 38,
};

const HELP = `GFLOP/s of the matrix products C [m, n] = op(A) [m, k] op(B) [k, n], by timestamp queries

  deno run -A matmul.ts [options]

Options [default]
  --runs N       interleaved runs of each product [10]
  --only WHICH   demo or gpt2 [both]
  --json FILE    write the figures to a file too
  --help         this text`;

const FORMS: readonly ProductForm[] = ["NN", "NT", "TN"];

function demoProducts(): Product[] {
  const products: Product[] = [];
  for (const m of [1536, 512]) {
    for (const [k, n] of [[128, 384], [128, 128], [128, 512], [512, 128], [128, 768]] as const) {
      for (const form of FORMS) products.push({ m, k, n, form, count: 1 });
    }
  }
  return products;
}

function gpt2Products(): Product[] {
  const products: Product[] = [];
  for (const [k, n] of [[768, 2304], [768, 3072], [3072, 768]] as const) {
    for (const form of FORMS) products.push({ m: 512, k, n, form, count: 1 });
  }
  return [...products, { m: 64, k: 768, n: 50257, form: "NT", count: 1 }];
}

async function main(): Promise<number> {
  const { values } = parseArgs({
    args: Deno.args,
    options: {
      runs: { type: "string", default: "10" },
      only: { type: "string", default: "" },
      json: { type: "string" },
      help: { type: "boolean", default: false },
    },
  });
  if (values.help) {
    console.log(HELP);
    return 0;
  }
  const runs = Number(values.runs);
  if (!Number.isInteger(runs) || runs < 1 || !["", "demo", "gpt2"].includes(values.only)) {
    console.error("Cannot measure as --runs must be a positive integer and --only demo or gpt2; see --help");
    return 2;
  }
  const machine = await describeMachine();
  console.log(machineText(machine));
  using meter = await ProductMeter.create([
    ...(values.only === "gpt2" ? [] : demoProducts()),
    ...(values.only === "demo" ? [] : gpt2Products()),
  ]);
  for (let i = 0; i < runs; i++) await meter.sample();
  const rows = meter.results().map(({ product, ...time }) => {
    const { m, k, n, form } = product;
    const shape = `${m}x${k}x${n}`;
    const reference = meter.adapterClass === "software"
      ? REFERENCE[`${shape} ${form}`] ?? REFERENCE[shape] ?? null
      : null;
    return { shape, form, ...time, reference, ratio: reference === null ? null : time.best / reference };
  });
  console.log(`runs       ${runs}, interleaved\n`);
  console.log(tableText([
    [
      "m x k x n",
      "form",
      "min ms",
      "median ms",
      "best GFLOP/s",
      "median GFLOP/s",
      "reference",
      "best / reference",
    ],
    ...rows.map(({ shape, form, min, median, best, typical, reference, ratio }) => [
      shape,
      form,
      min.toFixed(3),
      median.toFixed(3),
      best.toFixed(1),
      typical.toFixed(1),
      reference === null ? "" : String(reference),
      ratio === null ? "" : numberText(ratio),
    ]),
  ]));
  const loadAfter = loadNow();
  console.log(`\nload at the end  ${loadAfter.join(" ")}`);
  if (values.json !== undefined) {
    await writeWhole(
      values.json,
      JSON.stringify({ machine, loadAfter, runs, products: rows }, null, 2) + "\n",
    );
  }
  return 0;
}

try {
  Deno.exit(await main());
} catch (error) {
  // What `parseArgs` refuses is the user's to mend.
  if (!(error instanceof TypeError && "code" in error && `${error.code}`.startsWith("ERR_PARSE_ARGS"))) throw error;
  console.error(error.message);
  Deno.exit(2);
}
