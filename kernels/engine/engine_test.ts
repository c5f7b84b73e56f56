import { assert, assertEquals, assertLessOrEqual, assertRejects, assertThrows } from "@std/assert";
import { normal, padded, readOne, testForms } from "../../tests/support/kernels.ts";
import { assertClose, TOLERANCE } from "../../tests/support/tolerance.ts";
import { addScaled } from "../elementwise/elementwise.ts";
import { layerNorm } from "../layer_norm/layer_norm.ts";
import { matmul } from "../matmul/matmul.ts";
import { matmulReference } from "../matmul/matmul_reference.ts";
import { addOne, addOneKernel } from "./_add_one.ts";
import { Engine } from "./engine.ts";
import { RowWindow, type Tensor } from "./tensor.ts";

testForms("an engine returns to the same figures after every step", async (engine) => {
  const weights = normal(20 * 30, 1);
  using w = engine.upload(weights, 20, 30);
  using row = engine.upload(normal(20, 2), 1, 20);
  const step = async () => {
    using x = engine.upload(normal(7 * 20, 3), 7, 20);
    const { y, statistics } = layerNorm(x, row, row, 1e-5);
    using normed = y;
    using _statistics = statistics;
    using z = matmul(normed, w);
    return await z.read();
  };
  const first = await step();
  await step();
  const before = engine.stats;
  assertEquals(await step(), first);
  const after = engine.stats;
  for (
    const name of [
      "allocatedBytes",
      "allocatedCount",
      "liveBytes",
      "liveCount",
      "tensors",
      "bindGroups",
      "pipelines",
    ] as const
  ) {
    assertEquals(after[name], before[name], name);
  }
  assertEquals(after.readbacks, before.readbacks + 1);
  assert(after.dispatches > before.dispatches && after.submits > before.submits);
});

testForms("readbacks and yields under way are counted", async (engine) => {
  using x = engine.zeros(3, 3);
  assertEquals(engine.stats.pending, 0);
  let turned = false;
  const reading = [
    engine.read([x]),
    engine.idle(),
    engine.yieldToEventLoop().then(() => void (turned = true)),
  ];
  assertEquals(engine.stats.pending, 3);
  await null;
  assert(!turned);
  await Promise.all(reading);
  assertEquals(engine.stats.pending, 0);
});

testForms("a tensor takes over the memory of one that was disposed", (engine) => {
  const a = engine.tensor(5, 6);
  const memory = a.buffer.id;
  const { liveBytes, tensors } = engine.stats;
  a.dispose();
  a.dispose();
  assertEquals(a.disposed, true);
  assertEquals(engine.stats.tensors, tensors - 1);
  assert(engine.stats.liveBytes < liveBytes);
  using b = engine.tensor(6, 5);
  assertEquals(b.buffer.id, memory);
  assertEquals(engine.stats.liveBytes, liveBytes);
});

testForms("a tensor cannot be used after its scope", async (engine) => {
  let leaked: Tensor;
  {
    using tensor = engine.zeros(1, 4, "short-lived");
    leaked = tensor;
    assertEquals(leaked.disposed, false);
  }
  using other = engine.zeros(1, 4);
  using out = engine.zeros(1, 1);
  const message = 'tensor "short-lived" as it must not be disposed';
  assertThrows(() => leaked.buffer, TypeError, message);
  assertThrows(() => engine.write(leaked, new Float32Array(4)), TypeError, message);
  assertThrows(() => engine.copy(other, leaked), TypeError, message);
  assertThrows(() => addScaled(leaked, other), TypeError, message);
  assertThrows(() => matmul(other, leaked, { transposeB: true, out }), TypeError, message);
  await assertRejects(() => leaked.read(), TypeError, message);
  // None of these attempts keeps the engine from working.
  assertEquals(await other.read(), new Float32Array(4));
});

testForms("a write waits for recorded commands that read the memory", async (engine) => {
  const first = normal(64, 4);
  const second = normal(64, 5);
  using x = engine.upload(first, 8, 8);
  using y = engine.tensor(8, 8);
  using z = engine.tensor(8, 8);
  addOne(engine, x, y); // recorded, not submitted
  engine.write(x, second);
  addOne(engine, x, z);
  const [yValues, zValues] = await engine.read([y, z]);
  assertEquals(yValues, first.map((v) => v + 1));
  assertEquals(zValues, second.map((v) => v + 1));
});

testForms("an upload into reused memory does not reach commands recorded before", async (engine) => {
  const first = normal(64, 6);
  const second = normal(64, 7);
  const x = engine.upload(first, 8, 8);
  const memory = x.buffer.id;
  using y = engine.tensor(8, 8);
  addOne(engine, x, y); // recorded, not submitted
  x.dispose();
  using reused = engine.upload(second, 8, 8);
  assertEquals(reused.buffer.id, memory);
  assertEquals(await y.read(), first.map((v) => v + 1));
  assertEquals(await reused.read(), second);
});

testForms("products of operands that share memory one after the other stay apart", async (engine) => {
  const w = normal(6 * 5, 8);
  using weights = engine.upload(w, 6, 5);
  const results = [9, 10, 11].map((seed) => {
    const x = normal(4 * 6, seed);
    using tensor = engine.upload(x, 4, 6); // disposed while its product is only recorded
    return { x, product: matmul(tensor, weights) };
  });
  const values = await engine.read(results.map((r) => r.product));
  results.forEach(({ x, product }, i) => {
    assertClose(values[i]!, matmulReference(x, w, { m: 4, n: 5, k: 6 }).c, TOLERANCE.sum, `product ${i}`);
    product.dispose();
  });
});

testForms("writes of many bytes are handed on before recorded commands, in order [slow]", async (engine) => {
  // 4 MiB of writes are pending at most; each write here passes that.
  const count = 9 * 2 ** 20;
  using large = engine.tensor(3, count / 3, "large");
  using small = engine.upload(Float32Array.of(1, 2, 3, 4), 1, 4);
  using copied = engine.tensor(1, 4);
  engine.copy(small, copied);
  for (const value of [5, 6]) engine.write(large, new Float32Array(count).fill(value));
  engine.write(small, Float32Array.of(7, 7, 7, 7));
  const [values, before] = await engine.read([large, copied]);
  assertEquals([values![0], values!.at(-1), ...before!], [6, 6, 1, 2, 3, 4]);
});

testForms("read() may be followed by dispose() at once", async (engine) => {
  const data = normal(10, 12);
  const x = engine.upload(data, 2, 5);
  const reading = x.read();
  x.dispose();
  using other = engine.upload(normal(10, 13), 2, 5);
  assertEquals(await reading, data);
  assertEquals(other.disposed, false);
});

testForms("read() returns several tensors without padding, as one readback", async (engine) => {
  const shapes = [[1, 1], [3, 5], [2, 8], [7, 3], [1, 130]] as const;
  const data = shapes.map(([rows, columns], i) => normal(rows * columns, 20 + i));
  const tensors = shapes.map(([rows, columns], i) => engine.upload(data[i]!, rows, columns));
  const { readbacks } = engine.stats;
  assertEquals(await engine.read(tensors), data);
  assertEquals(engine.stats.readbacks, readbacks + 1);
  for (const tensor of tensors) {
    const whole = await padded(tensor).read();
    const { columns, pitch } = tensor;
    assert(whole.every((v, i) => i % pitch < columns || v === 0), "padding must be zero");
    tensor.dispose();
  }
});

testForms("read() keeps the bits of integers", async (engine) => {
  const data = Uint32Array.of(0, 1, 0x7fc00001, 0xffffffff, 0x7f800001, 7);
  using tensor = engine.upload(data, 2, 3);
  const values = await tensor.read();
  assertEquals(new Uint32Array(values.buffer, values.byteOffset, values.length), data);
});

testForms("zeros(), clear() and copy() fill tensors", async (engine) => {
  const data = normal(15, 14);
  using x = engine.upload(data, 3, 5);
  using y = engine.zeros(3, 5);
  assertEquals(await y.read(), new Float32Array(15));
  engine.copy(x, y);
  engine.clear(x);
  assertEquals(await engine.read([x, y]), [new Float32Array(15), data]);
});

testForms("texture copies are dropped when a tensor is written", async (engine) => {
  // 64 columns are copied by the driver, 20 by a kernel.
  for (const columns of [64, 20]) {
    const x = normal(3 * columns, 15);
    const w = normal(columns * 4, 16);
    using xTensor = engine.upload(x, 3, columns);
    using weights = engine.upload(w, columns, 4);
    using changed = engine.upload(x.map((v) => v * 2), 3, columns);
    const product = async () => {
      using y = matmul(xTensor, weights);
      return await readOne(y);
    };
    const expected = (scale: number) => matmulReference(x, w, { m: 3, n: 4, k: columns, alpha: scale }).c;
    const writes: [string, () => void, number][] = [
      ["write()", () => engine.write(xTensor, x), 1],
      ["copy()", () => engine.copy(changed, xTensor), 2],
      ["a kernel", () => addScaled(changed, xTensor, 0.5), 3],
      ["clear()", () => engine.clear(xTensor), 0],
    ];
    for (const [name, write, scale] of writes) {
      engine.stage(xTensor);
      const staged = xTensor.staged;
      assert(staged !== null);
      assertEquals(engine.stage(xTensor), staged, "an unchanged tensor keeps its copy");
      write();
      assertEquals(xTensor.staged, null, name);
      assertClose(await product(), expected(scale), TOLERANCE.sum, `after ${name}`);
    }
  }
});

testForms("copyRows() copies rows at any pitch and refuses those that are not there", async (engine) => {
  for (const columns of [1, 3, 4, 13]) {
    const values = normal(7 * columns, 1);
    using from = engine.upload(values, 7, columns);
    using to = engine.zeros(5, columns);
    engine.copyRows(from, to, { fromRow: 4, toRow: 1 });
    engine.copyRows(from, to, { fromRow: 2, toRow: 4, rows: 1 });
    const expected = new Float32Array(5 * columns);
    expected.set(values.subarray(4 * columns, 7 * columns), columns);
    expected.set(values.subarray(2 * columns, 3 * columns), 4 * columns);
    assertEquals(await readOne(to), expected);
    using other = engine.zeros(5, columns + 1);
    assertThrows(() => engine.copyRows(from, other), TypeError, "as many columns");
    assertThrows(() => engine.copyRows(from, to, { fromRow: 7 }), TypeError, "copy rows");
    assertThrows(() => engine.copyRows(from, to, { toRow: 3, rows: 3 }), TypeError, "copy rows");
  }
});

testForms("allocateExact() takes no more than a tensor's own size and is given back", (engine) => {
  const before = engine.stats.liveBytes;
  {
    using _tensor = engine.allocateExact(33, 33);
    assertEquals(engine.stats.liveBytes - before, 33 * 36 * 4 - 33 * 36 * 4 % 256 + 256);
  }
  assertEquals(engine.stats.liveBytes, before);
});

testForms("writeRows() replaces rows at any pitch and refuses those that are not there", async (engine) => {
  const values = normal(7 * 5, 1);
  using tensor = engine.upload(new Float32Array(7 * 5).fill(-1), 7, 5);
  engine.writeRows(tensor, 2, values.subarray(10, 20));
  engine.writeRows(tensor, 4, values.subarray(20));
  engine.writeRows(tensor, 0, values.subarray(0, 10));
  assertEquals(await readOne(tensor), values);
  assertThrows(
    () => engine.writeRows(tensor, 6, values.subarray(0, 10)),
    RangeError,
    "10 values from row 6 on",
  );
  assertThrows(
    () => engine.writeRows(tensor, 0, values.subarray(0, 9)),
    RangeError,
    "9 values from row 0 on",
  );
  assertThrows(() => engine.writeRows(tensor, -1, values.subarray(0, 5)), RangeError, "from row -1 on");
});

testForms("a full batch is submitted by itself", async (engine) => {
  using x = engine.zeros(1, 4);
  using y = engine.zeros(1, 4);
  engine.flush();
  const { submits } = engine.stats;
  for (let i = 0; i < 300; i++) addScaled(engine.unitScale, i % 2 === 0 ? x : y, i % 7);
  assertEquals(engine.stats.submits, submits + 2);
  const sum = (parity: number) =>
    Array.from({ length: 300 }, (_, i) => i % 2 === parity ? i % 7 : 0).reduce((a, b) => a + b);
  const [xValues, yValues] = await engine.read([x, y]);
  assertEquals([xValues![0], yValues![3]], [sum(0), sum(1)]);
});

testForms("windows() cuts rows that a binding can hold", (engine) => {
  using tensor = engine.tensor(70, 13);
  const windows = tensor.windows();
  // 2048 bytes hold 32 rows of 64 bytes.
  assertEquals(windows.map(({ row, rows }) => [row, rows]), [[0, 32], [32, 32], [64, 6]]);
  assertEquals(windows.map((w) => [w.offset, w.bytes]), [[0, 2048], [2048, 2048], [4096, 384]]);
  assertEquals(tensor.windows(32, 20).map(({ row, rows }) => [row, rows]), [[32, 20]]);
  assert(windows.every((w) => w instanceof RowWindow && w.tensor === tensor));
  using wide = engine.tensor(3, 600);
  assertThrows(() => wide.windows(), RangeError, "16 rows must fit a binding of 2048 bytes: a row has 2400");
  using fits = engine.tensor(3, 100);
  assertEquals(fits.windows().length, 1);
}, { maxBindingBytes: 2048 });

testForms("an engine refuses what cannot be", (engine) => {
  using x = engine.zeros(2, 3);
  using y = engine.zeros(3, 2);
  assertThrows(() => engine.tensor(0, 4, "empty"), RangeError, 'tensor "empty"');
  assertThrows(() => engine.tensor(2, 1.5), RangeError, "positive integers: current shape is [2, 1.5]");
  assertThrows(() => engine.tensor(2 ** 20, 2 ** 20), RangeError, "must fit a buffer");
  assertThrows(() => engine.upload(new Float32Array(5), 2, 3), RangeError, "6 values are needed: got 5");
  assertThrows(() => engine.copy(x, y), TypeError, "[2, 3] and [3, 2]");
  const parameters = { count4: 1 };
  assertThrows(
    () => engine.dispatch(addOneKernel, { bindings: { x, y }, parameters, workgroups: [65_536] }),
    RangeError,
    "at most 65535 workgroups: current value is [65536, 1, 1]",
  );
  for (
    const [incomplete, message] of [
      [{ bindings: { x }, parameters }, 'its binding "y" must be given'],
      [{ bindings: { x, y }, parameters: {} }, 'its parameter "count4" must be given'],
    ] as const
  ) {
    const dispatch = { ...incomplete, workgroups: [1] } as unknown as Parameters<typeof engine.dispatch>[1];
    assertThrows(() => engine.dispatch(addOneKernel, dispatch), TypeError, message);
  }
  const { dispatches } = engine.stats;
  engine.dispatch(addOneKernel, { bindings: { x, y }, parameters, workgroups: [1, 0] });
  assertEquals(engine.stats.dispatches, dispatches);
});

Deno.test("reading often without waiting for anything else needs one buffer", async () => {
  using engine = await Engine.create();
  const data = normal(1000, 17);
  using x = engine.upload(data, 10, 100);
  await x.read();
  const { device } = engine;
  const original = device.createBuffer.bind(device);
  let made = 0;
  device.createBuffer = (descriptor) => {
    made++;
    return original(descriptor);
  };
  for (let i = 0; i < 50; i++) assertEquals(await x.read(), data);
  assertLessOrEqual(made, 1);
});

Deno.test("both readback modes return the same", async () => {
  const x = normal(33 * 17, 18);
  const w = normal(17 * 9, 19);
  const results = [];
  for (const readback of ["eager", "await"] as const) {
    using engine = await Engine.create({ readback });
    using a = engine.upload(x, 33, 17);
    using b = engine.upload(w, 17, 9);
    using c = matmul(a, b);
    using d = matmul(a, b, { alpha: -1 });
    const together = await engine.read([c, d]);
    // Reads that overlap must not share a buffer.
    const apart = await Promise.all([c.read(), d.read(), a.read()]);
    assertEquals(apart, [together[0]!, together[1]!, x]);
    results.push(together);
  }
  assertEquals(results[0], results[1]);
});

Deno.test("compile() prepares kernels before their first dispatch", async () => {
  using engine = await Engine.create();
  const { pipelines } = engine.stats;
  await engine.compile([addOneKernel]);
  await engine.compile([addOneKernel]);
  assertEquals(engine.stats.pipelines, pipelines + 1);
});

Deno.test("trim() frees what no tensor uses, and the engine goes on", async () => {
  using engine = await Engine.create();
  const start = engine.stats;
  const x = normal(40 * 20, 20);
  using kept = engine.upload(x, 40, 20);
  for (let i = 0; i < 3; i++) {
    using other = engine.upload(x, 20, 40);
    using _product = matmul(kept, other);
  }
  const { allocatedBytes, liveBytes, tensors } = engine.stats;
  await engine.trim();
  const trimmed = engine.stats;
  assert(trimmed.allocatedBytes < allocatedBytes, "memory should be freed");
  assertEquals(trimmed.allocatedBytes, trimmed.liveBytes);
  assertEquals([trimmed.liveBytes, trimmed.tensors], [liveBytes, tensors]);
  assertEquals(trimmed.bindGroups, 0);
  assertEquals(await kept.read(), x);
  using other = engine.upload(x, 20, 40);
  using product = matmul(kept, other);
  assertClose(await readOne(product), matmulReference(x, x, { m: 40, n: 40, k: 20 }).c, TOLERANCE.sum);
  kept.dispose();
  other.dispose();
  product.dispose();
  await engine.trim();
  assertEquals(engine.stats.allocatedBytes, start.allocatedBytes);
  assertEquals(engine.stats.tensors, start.tensors);
});

Deno.test("disposing an engine twice does nothing", async () => {
  const engine = await Engine.create();
  engine.dispose();
  engine.dispose();
  await engine.device.lost;
});

Deno.test("profile() reports the kernels that ran", async () => {
  using engine = await Engine.create({ profile: true });
  using x = engine.zeros(1, 4);
  for (let i = 0; i < 3; i++) addScaled(engine.unitScale, x);
  const times = await engine.profile();
  assertEquals(times.map(({ kernel, runs }) => [kernel, runs]), [["add_scaled", 3]]);
  assert(times[0]!.ms >= 0);
  using plain = await Engine.create();
  await assertRejects(() => plain.profile(), TypeError, "profile: true");
});
