import { assertThrows } from "@std/assert";
import {
  differences,
  dot,
  engineOf,
  normal,
  readAll,
  readOne,
  testForms,
} from "../../tests/support/kernels.ts";
import { assertClose, TOLERANCE } from "../../tests/support/tolerance.ts";
import { rmsNorm, rmsNormBackward } from "./rms_norm.ts";
import { rmsNormBackwardReference, rmsNormReference } from "./rms_norm_reference.ts";

const EPSILON = 1e-5;
/** Large enough to show, and to give a row of one column a gradient that does not cancel. */
const LARGE = 0.25;

testForms("rmsNorm() and its gradient equal the reference", async (engine) => {
  for (const [rows, columns] of [[1, 1], [3, 5], [8, 64], [13, 67], [17, 256], [9, 331]] as const) {
    const x = normal(rows * columns, 1, 2).map((v) => v + 1);
    const gamma = normal(columns, 2).map((v) => v + 1);
    const dy = normal(rows * columns, 3);
    const before = normal(rows * columns, 4);
    using xTensor = engine.upload(x, rows, columns);
    using gammaTensor = engine.upload(gamma, 1, columns);
    using dyTensor = engine.upload(dy, rows, columns);
    using accumulated = engine.upload(before, rows, columns);
    const { y, statistics } = rmsNorm(xTensor, gammaTensor, LARGE);
    using _y = y;
    using _statistics = statistics;
    const options = { x: xTensor, gamma: gammaTensor, statistics, dy: dyTensor };
    using dx = rmsNormBackward(options);
    rmsNormBackward({ ...options, dx: accumulated, accumulate: true });
    const [yValues, statisticsValues, dxValues, sums] = await readAll(y, statistics, dx, accumulated);
    const what = (name: string) => `${name} of [${rows}, ${columns}]`;
    const forward = rmsNormReference(x, gamma, LARGE);
    assertClose(yValues!, forward.y, TOLERANCE.sum, what("y"));
    assertClose(statisticsValues!, forward.statistics, TOLERANCE.sum, what("statistics"));
    const expected = rmsNormBackwardReference(x, gamma, forward.statistics, dy);
    assertClose(dxValues!, expected, TOLERANCE.sum, what("dx"));
    assertClose(sums!, expected.map((v, i) => v + before[i]!), TOLERANCE.sum, what("dx, accumulated"));
  }
});

testForms("rmsNorm() of zeros is zero, and has a gradient", async (engine) => {
  using x = engine.zeros(2, 5);
  using gamma = engine.upload(normal(5, 5), 1, 5);
  const { y, statistics } = rmsNorm(x, gamma, EPSILON);
  using _y = y;
  using _statistics = statistics;
  assertClose(await readOne(y), new Float32Array(10), TOLERANCE.exact);
  assertClose(await readOne(statistics), [1 / Math.sqrt(EPSILON), 1 / Math.sqrt(EPSILON)], TOLERANCE.sum);
});

testForms("rmsNorm() has the gradient of its forward pass", async (engine) => {
  const [rows, columns] = [2, 7];
  const x = normal(rows * columns, 6);
  const dy = normal(rows * columns, 7);
  using xTensor = engine.upload(x, rows, columns);
  using gamma = engine.upload(normal(columns, 8), 1, columns);
  using dyTensor = engine.upload(dy, rows, columns);
  const { y, statistics } = rmsNorm(xTensor, gamma, EPSILON);
  using _y = y;
  using _statistics = statistics;
  using dx = rmsNormBackward({ x: xTensor, gamma, statistics, dy: dyTensor });
  const gradient = await readOne(dx);
  const expected = await differences(x, async (values) => {
    engine.write(xTensor, values);
    const { y, statistics } = rmsNorm(xTensor, gamma, EPSILON);
    using _y = y;
    using _statistics = statistics;
    return dot(await y.read(), dy);
  });
  assertClose(gradient, expected, TOLERANCE.difference);
});

Deno.test("rmsNorm() throws on a gain of another length", async () => {
  const engine = await engineOf("software");
  using x = engine.zeros(2, 5);
  using gamma = engine.zeros(1, 6);
  assertThrows(() => rmsNorm(x, gamma, EPSILON), TypeError, '"gamma" must be [1, 5]: it is [1, 6]');
});
