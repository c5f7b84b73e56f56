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
import { addColumnSums, layerNorm, layerNormBackward, layerNormParameterGradients } from "./layer_norm.ts";
import {
  columnSumsReference,
  layerNormBackwardReference,
  layerNormReference,
} from "./layer_norm_reference.ts";

const EPSILON = 1e-5;

// One row, fewer rows than a workgroup, a prime; columns below, at and above 64 lanes of vec4.
// (Not two columns: xhat is 1 and -1 whatever x is, and dx is what rounding leaves.)
const SHAPES = [[1, 1], [1, 3], [3, 5], [8, 64], [13, 67], [17, 256], [9, 331]] as const;

function inputs(rows: number, columns: number) {
  return {
    // Far from zero mean: a variance from squares would cancel.
    x: normal(rows * columns, 1, 2).map((v) => v + 3),
    gamma: normal(columns, 2).map((v) => v + 1),
    beta: normal(columns, 3),
    dy: normal(rows * columns, 4),
  };
}

testForms("layerNorm() and its gradients equal the reference", async (engine) => {
  for (const [rows, columns] of SHAPES) {
    const { x, gamma, beta, dy } = inputs(rows, columns);
    using xTensor = engine.upload(x, rows, columns);
    using gammaTensor = engine.upload(gamma, 1, columns);
    using betaTensor = engine.upload(beta, 1, columns);
    using dyTensor = engine.upload(dy, rows, columns);
    const { y, statistics } = layerNorm(xTensor, gammaTensor, betaTensor, EPSILON);
    using _y = y;
    using _statistics = statistics;
    const options = { x: xTensor, gamma: gammaTensor, statistics, dy: dyTensor };
    using dx = layerNormBackward(options);
    const before = normal(rows * columns, 5);
    using accumulated = engine.upload(before, rows, columns);
    layerNormBackward({ ...options, dx: accumulated, accumulate: true });
    const dgammaBefore = normal(columns, 6);
    using dgamma = engine.upload(dgammaBefore, 1, columns);
    using dbeta = engine.zeros(1, columns);
    layerNormParameterGradients({ x: xTensor, statistics, dy: dyTensor, dgamma, dbeta });

    const [yValues, statisticsValues, dxValues, accumulatedValues, dgammaValues, dbetaValues] = await readAll(
      y,
      statistics,
      dx,
      accumulated,
      dgamma,
      dbeta,
    );
    const what = (name: string) => `${name} of [${rows}, ${columns}]`;
    const forward = layerNormReference(x, gamma, beta, EPSILON);
    assertClose(yValues!, forward.y, TOLERANCE.sum, what("y"));
    assertClose(statisticsValues!, forward.statistics, TOLERANCE.sum, what("statistics"));
    const backward = layerNormBackwardReference(x, gamma, forward.statistics, dy);
    assertClose(dxValues!, backward.dx, TOLERANCE.sum, what("dx"));
    assertClose(
      accumulatedValues!,
      backward.dx.map((v, i) => v + before[i]!),
      TOLERANCE.sum,
      what("dx, accumulated"),
    );
    assertClose(
      dgammaValues!,
      backward.dgamma.map((v, i) => v + dgammaBefore[i]!),
      TOLERANCE.sum,
      what("dgamma"),
    );
    assertClose(dbetaValues!, backward.dbeta, TOLERANCE.sum, what("dbeta"));
  }
});

testForms("layerNorm() of a constant row is beta", async (engine) => {
  using x = engine.upload(new Float32Array(10).fill(7), 2, 5);
  using gamma = engine.upload(normal(5, 7), 1, 5);
  const beta = normal(5, 8);
  using betaTensor = engine.upload(beta, 1, 5);
  const { y, statistics } = layerNorm(x, gamma, betaTensor, EPSILON);
  using _y = y;
  using _statistics = statistics;
  assertClose(await readOne(y), [...beta, ...beta], TOLERANCE.sum);
});

testForms("layerNorm() has the gradient of its forward pass", async (engine) => {
  const [rows, columns] = [2, 7];
  const { x, gamma, beta, dy } = inputs(rows, columns);
  using xTensor = engine.upload(x, rows, columns);
  using gammaTensor = engine.upload(gamma, 1, columns);
  using betaTensor = engine.upload(beta, 1, columns);
  using dyTensor = engine.upload(dy, rows, columns);
  const loss = async () => {
    const { y, statistics } = layerNorm(xTensor, gammaTensor, betaTensor, EPSILON);
    using _y = y;
    using _statistics = statistics;
    return dot(await y.read(), dy);
  };
  const { y, statistics } = layerNorm(xTensor, gammaTensor, betaTensor, EPSILON);
  using _y = y;
  using _statistics = statistics;
  using dx = layerNormBackward({ x: xTensor, gamma: gammaTensor, statistics, dy: dyTensor });
  using dgamma = engine.zeros(1, columns);
  using dbeta = engine.zeros(1, columns);
  layerNormParameterGradients({ x: xTensor, statistics, dy: dyTensor, dgamma, dbeta });
  const [dxValues, dgammaValues, dbetaValues] = await readAll(dx, dgamma, dbeta);
  for (
    const [name, tensor, values, gradient] of [
      ["dx", xTensor, x, dxValues],
      ["dgamma", gammaTensor, gamma, dgammaValues],
      ["dbeta", betaTensor, beta, dbetaValues],
    ] as const
  ) {
    const expected = await differences(values, (v) => {
      engine.write(tensor, v);
      return loss();
    });
    engine.write(tensor, values);
    assertClose(gradient!, expected, TOLERANCE.difference, name);
  }
});

testForms("addColumnSums() adds the sums down the rows", async (engine) => {
  for (const [rows, columns] of [[1, 1], [7, 5], [64, 33], [131, 66]] as const) {
    const x = normal(rows * columns, 9);
    const before = normal(columns, 10);
    using xTensor = engine.upload(x, rows, columns);
    using sum = engine.upload(before, 1, columns);
    addColumnSums(xTensor, sum);
    const expected = columnSumsReference(x, columns).map((v, c) => v + before[c]!);
    assertClose(await readOne(sum), expected, TOLERANCE.sum, `[${rows}, ${columns}]`);
  }
});

Deno.test("layerNorm() throws on parameters of another length", async () => {
  const engine = await engineOf("software");
  using x = engine.zeros(2, 5);
  using row = engine.zeros(1, 5);
  using other = engine.zeros(1, 6);
  assertThrows(() => layerNorm(x, other, row, EPSILON), TypeError, '"gamma" must be [1, 5]');
  assertThrows(() => layerNorm(x, row, other, EPSILON), TypeError, '"beta" must be [1, 5]');
  assertThrows(() => addColumnSums(x, other), TypeError, '"sum" must be [1, 5]');
});
