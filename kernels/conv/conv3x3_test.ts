import { assertThrows } from "@std/assert";
import { differences, dot, engineOf, normal, readAll, testForms } from "../../tests/support/kernels.ts";
import { assertClose, TOLERANCE } from "../../tests/support/tolerance.ts";
import { conv3x3, conv3x3InputGradient, conv3x3WeightGradients } from "./conv3x3.ts";
import { conv3x3BackwardReference, conv3x3Reference, type Conv3x3Shape } from "./conv3x3_reference.ts";

// One place; one row; one column; odd and prime; more channels than a workgroup has taps for.
const SHAPES: readonly Conv3x3Shape[] = [
  { batch: 1, inputs: 1, outputs: 1, height: 1, width: 1, relu: false },
  { batch: 2, inputs: 3, outputs: 2, height: 1, width: 7, relu: true },
  { batch: 3, inputs: 2, outputs: 5, height: 5, width: 1, relu: false },
  { batch: 2, inputs: 5, outputs: 3, height: 3, width: 7, relu: true },
  { batch: 3, inputs: 8, outputs: 9, height: 11, width: 13, relu: true },
];

function valuesOf({ batch, inputs, outputs, height, width }: Conv3x3Shape) {
  return {
    x: normal(batch * inputs * height * width, 1),
    weight: normal(outputs * inputs * 9, 2, 0.3),
    bias: normal(outputs, 3),
    dy: normal(batch * outputs * height * width, 4),
  };
}

for (const shape of SHAPES) {
  const { batch, inputs, outputs, height, width, relu } = shape;
  const name = `B ${batch}, ${inputs} to ${outputs} channels of ${height} x ${width}${relu ? ", ReLU" : ""}`;
  testForms(`conv3x3() and its gradients equal the reference at ${name} [slow]`, async (engine) => {
    const v = valuesOf(shape);
    const maps = height * width;
    using x = engine.upload(v.x, batch, inputs * maps);
    using weight = engine.upload(v.weight, outputs, inputs * 9);
    using bias = engine.upload(v.bias, 1, outputs);
    using dy = engine.upload(v.dy, batch, outputs * maps);
    const options = { weight, bias, height, width, relu };
    using y = conv3x3(x, options);
    const backward = { ...options, y, dy };
    using dx = conv3x3InputGradient(x, backward);
    // Gradients of parameters, and of inputs that something was added to before, are added to.
    const before = { dweight: normal(v.weight.length, 5), dbias: normal(outputs, 6) };
    using dweight = engine.upload(before.dweight, outputs, inputs * 9);
    using dbias = engine.upload(before.dbias, 1, outputs);
    conv3x3WeightGradients(x, backward, { dweight, dbias });
    using twice = engine.upload(v.x, batch, inputs * maps);
    conv3x3InputGradient(x, backward, twice);
    const [yValues, dxValues, dwValues, dbValues, twiceValues] = await readAll(y, dx, dweight, dbias, twice);
    const expected = conv3x3BackwardReference(v, shape);
    const plus = (a: Float64Array, b: Float32Array) => a.map((value, i) => value + b[i]!);
    assertClose(yValues!, conv3x3Reference(v.x, v.weight, v.bias, shape), TOLERANCE.sum, "y");
    assertClose(dxValues!, expected.dx, TOLERANCE.sum, "dx");
    assertClose(dwValues!, plus(expected.dweight, before.dweight), TOLERANCE.sum, "dweight");
    assertClose(dbValues!, plus(expected.dbias, before.dbias), TOLERANCE.sum, "dbias");
    assertClose(twiceValues!, plus(expected.dx, v.x), TOLERANCE.sum, "dx, added to");
  });
}

testForms("conv3x3() has the gradients of its forward pass", async (engine) => {
  // Without ReLU: differences across its edge are not gradients.
  const shape = { batch: 2, inputs: 2, outputs: 3, height: 3, width: 5, relu: false };
  const { batch, inputs, outputs, height, width } = shape;
  const v = valuesOf(shape);
  using x = engine.upload(v.x, batch, inputs * 15);
  using weight = engine.upload(v.weight, outputs, inputs * 9);
  using bias = engine.upload(v.bias, 1, outputs);
  using dy = engine.upload(v.dy, batch, outputs * 15);
  const options = { weight, bias, height, width };
  using y = conv3x3(x, options);
  using dx = conv3x3InputGradient(x, { ...options, y, dy });
  using dweight = engine.zeros(outputs, inputs * 9);
  using dbias = engine.zeros(1, outputs);
  conv3x3WeightGradients(x, { ...options, y, dy }, { dweight, dbias });
  const [dxValues, dwValues, dbValues] = await readAll(dx, dweight, dbias);
  for (
    const [what, tensor, values, actual] of [
      ["x", x, v.x, dxValues],
      ["weight", weight, v.weight, dwValues],
      ["bias", bias, v.bias, dbValues],
    ] as const
  ) {
    const expected = await differences(values, async (changed) => {
      engine.write(tensor, changed);
      using out = conv3x3(x, options);
      return dot(await out.read(), v.dy);
    });
    engine.write(tensor, values);
    assertClose(actual!, expected, TOLERANCE.difference, `gradient of ${what}`);
  }
});

Deno.test("conv3x3() throws on shapes that do not fit", async () => {
  const engine = await engineOf("software");
  using x = engine.zeros(2, 24);
  using weight = engine.zeros(3, 18);
  using bias = engine.zeros(1, 3);
  using short = engine.zeros(1, 2);
  assertThrows(() => conv3x3(x, { weight, bias, height: 3, width: 5 }), TypeError, "maps of 3 x 5");
  assertThrows(() => conv3x3(x, { weight, bias, height: 2, width: 4 }), TypeError, "18 columns");
  assertThrows(() => conv3x3(x, { weight, bias: short, height: 3, width: 4 }), TypeError, "[1, 3]");
});
