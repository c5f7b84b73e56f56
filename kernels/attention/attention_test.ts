import { assert, assertThrows } from "@std/assert";
import {
  differences,
  dot,
  engineOf,
  type Limits,
  normal,
  readAll,
  readOne,
  testForms,
} from "../../tests/support/kernels.ts";
import { assertClose, TOLERANCE } from "../../tests/support/tolerance.ts";
import { attention, attentionBackward, type AttentionShape } from "./attention.ts";
import { attentionBackwardReference, attentionReference } from "./attention_reference.ts";

// One token; odd; a tile; one more than a tile; prime. Heads that do and do not fill a vec4.
const SHAPES: readonly (AttentionShape & { readonly headSize: number })[] = [
  { batch: 1, length: 1, heads: 1, headSize: 4 },
  { batch: 3, length: 1, heads: 2, headSize: 8 },
  { batch: 2, length: 7, heads: 3, headSize: 8 },
  { batch: 1, length: 64, heads: 2, headSize: 12 },
  { batch: 2, length: 65, heads: 3, headSize: 20 },
  { batch: 1, length: 131, heads: 1, headSize: 64 },
  // Heads that share keys and values.
  { batch: 1, length: 1, heads: 2, kvHeads: 1, headSize: 4 },
  { batch: 2, length: 7, heads: 6, kvHeads: 2, headSize: 8 },
  { batch: 1, length: 65, heads: 4, kvHeads: 2, headSize: 12 },
  // Tokens that see later ones too.
  { batch: 3, length: 10, heads: 4, headSize: 8, causal: false },
  { batch: 1, length: 1, heads: 1, headSize: 4, causal: false },
  { batch: 2, length: 67, heads: 3, headSize: 12, causal: false },
  // Tokens that see only some before them; other scales.
  { batch: 2, length: 7, heads: 3, headSize: 8, window: 1 },
  { batch: 2, length: 7, heads: 3, headSize: 8, window: 100, scale: 0.2 },
  { batch: 1, length: 67, heads: 4, kvHeads: 2, headSize: 12, window: 18, scale: 0.5 },
];

/** Tests one shape where the scores take `chunks` pieces. */
function testShape(shape: typeof SHAPES[number], limits: Limits = {}, chunks = 1): void {
  const { batch, length, heads, headSize, kvHeads = heads } = shape;
  const name = `B ${batch}, T ${length}, H ${heads}, G ${kvHeads}, D ${headSize}${
    shape.causal === false ? ", not causal" : ""
  }${shape.window === undefined ? "" : `, window ${shape.window}`}${
    chunks > 1 ? `, in ${chunks} pieces` : ""
  }`;
  testForms(`attention() and its gradient equal the reference at ${name} [slow]`, async (engine) => {
    const rows = batch * length;
    const d = heads * headSize;
    const columns = (heads + 2 * kvHeads) * headSize;
    const qkv = normal(rows * columns, 1);
    const dOutput = normal(rows * d, 2);
    {
      // The scores' memory must be NaN before, or the test would prove nothing of what lies above the diagonal.
      using probe = engine.tensor(rows, heads * Math.ceil(length / 4) * 4);
      assert((await probe.read()).every(Number.isNaN), "free memory should be NaN");
    }
    using qkvTensor = engine.upload(qkv, rows, columns);
    using dOutputTensor = engine.upload(dOutput, rows, d);
    const { dispatches } = engine.stats;
    const { output, logSums } = attention(qkvTensor, shape);
    assert(chunks === 1 || engine.stats.dispatches - dispatches >= 3 * chunks, "not in pieces");
    using _output = output;
    using _logSums = logSums;
    using dqkv = attentionBackward({ qkv: qkvTensor, output, logSums, dOutput: dOutputTensor, ...shape });
    const [outputValues, logSumValues, dqkvValues] = await readAll(output, logSums, dqkv);
    const expected = attentionReference(qkv, shape);
    assertClose(outputValues!, expected.output, TOLERANCE.sum, "output");
    assertClose(logSumValues!, expected.logSums, TOLERANCE.sum, "log sums");
    assertClose(dqkvValues!, attentionBackwardReference(qkv, dOutput, shape), TOLERANCE.sum, "dqkv");
  }, limits);
}

for (const shape of SHAPES) testShape(shape);

// A binding holds the scores of two sequences, and less than all of Q, K, V: 3 pieces.
testShape(
  { batch: 5, length: 21, heads: 3, headSize: 8 },
  { maxBindingBytes: 13_000, maxTextureSide: 48 },
  3,
);
// A binding holds the scores of two of three heads of one sequence: 4 pieces.
testShape(
  { batch: 2, length: 37, heads: 3, headSize: 8 },
  { maxBindingBytes: 17_000, maxTextureSide: 64 },
  4,
);

// The same with heads that share keys and values: whole groups at a time, then single heads of one group.
testShape(
  { batch: 1, length: 37, heads: 6, kvHeads: 3, headSize: 8 },
  { maxBindingBytes: 17_000, maxTextureSide: 64 },
  3,
);
testShape(
  { batch: 2, length: 37, heads: 6, kvHeads: 2, headSize: 8 },
  { maxBindingBytes: 17_000, maxTextureSide: 64 },
  12,
);

testForms("attention() refuses scores of one head that do not fit a binding", (engine) => {
  using qkv = engine.zeros(64, 12);
  assertThrows(
    () => attention(qkv, { batch: 1, length: 64, heads: 1 }),
    RangeError,
    "scores of one head must fit",
  );
}, { maxBindingBytes: 13_000, maxTextureSide: 48 });

testForms("attention() refuses windows that are none", (engine) => {
  using qkv = engine.zeros(4, 12);
  for (const more of [{ window: 0 }, { window: 1.5 }, { window: 2, causal: false }]) {
    const shape = { batch: 1, length: 4, heads: 1, ...more };
    assertThrows(() => attention(qkv, shape), RangeError, `current value is ${more.window}`);
  }
});

testForms("attention() stays finite where scores are far apart", async (engine) => {
  const shape = { batch: 1, length: 9, heads: 1 };
  const qkv = normal(9 * 12, 3, 30);
  using qkvTensor = engine.upload(qkv, 9, 12);
  const { output, logSums } = attention(qkvTensor, shape);
  using _output = output;
  using _logSums = logSums;
  const [outputValues, logSumValues] = await readAll(output, logSums);
  const expected = attentionReference(qkv, shape);
  // Scores of a thousand are rounded to 1e-4 before the exponential.
  assertClose(outputValues!, expected.output, { ...TOLERANCE.sum, relative: 5e-4 }, "output");
  assertClose(logSumValues!, expected.logSums, TOLERANCE.sum, "log sums");
});

testForms("attention() does not let later tokens change earlier ones", async (engine) => {
  const shape = { batch: 1, length: 21, heads: 2 };
  const qkv = normal(21 * 48, 4);
  const run = async (values: Float32Array) => {
    using tensor = engine.upload(values, 21, 48);
    const { output, logSums } = attention(tensor, shape);
    using _output = output;
    using _logSums = logSums;
    return await readOne(output);
  };
  const before = await run(qkv);
  const changed = qkv.slice();
  changed.set(normal(10 * 48, 5, 10), 11 * 48);
  const after = await run(changed);
  assertClose(after.subarray(0, 11 * 16), before.subarray(0, 11 * 16), TOLERANCE.exact);
});

for (const [kvHeads, causal, window] of [[2, true], [1, true], [2, false], [1, true, 2]] as const) {
  testForms(
    `attention() has the gradient of its forward pass, G ${kvHeads}, causal ${causal}, window ${window} [slow]`,
    async (engine) => {
      const shape = { batch: 2, length: 5, heads: 2, kvHeads, causal, window };
      const [rows, d] = [10, 8];
      const columns = d + 8 * kvHeads;
      const qkv = normal(rows * columns, 6);
      const dOutput = normal(rows * d, 7);
      using qkvTensor = engine.upload(qkv, rows, columns);
      using dOutputTensor = engine.upload(dOutput, rows, d);
      const { output, logSums } = attention(qkvTensor, shape);
      using _output = output;
      using _logSums = logSums;
      using dqkv = attentionBackward({ qkv: qkvTensor, output, logSums, dOutput: dOutputTensor, ...shape });
      const gradient = await readOne(dqkv);
      const expected = await differences(qkv, async (values) => {
        engine.write(qkvTensor, values);
        const { output, logSums } = attention(qkvTensor, shape);
        using _output = output;
        using _logSums = logSums;
        return dot(await output.read(), dOutput);
      });
      assertClose(gradient, expected, TOLERANCE.difference);
    },
  );
}

Deno.test("attention() throws on shapes that do not fit", async () => {
  const engine = await engineOf("software");
  using qkv = engine.zeros(6, 24);
  assertThrows(
    () => attention(qkv, { batch: 2, length: 4, heads: 2 }),
    TypeError,
    "batch * length = 8 rows",
  );
  assertThrows(() => attention(qkv, { batch: 2, length: 3, heads: 4 }), TypeError, "multiple of 4");
  assertThrows(
    () => attention(qkv, { batch: 2, length: 3, heads: 3, kvHeads: 2 }),
    TypeError,
    "kvHeads must divide heads: they are 2 and 3",
  );
  using odd = engine.zeros(6, 25);
  assertThrows(() => attention(odd, { batch: 2, length: 3, heads: 1 }), TypeError, "multiple of 4");
});
