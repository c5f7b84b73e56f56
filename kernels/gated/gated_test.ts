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
import { gated, gatedBackward } from "./gated.ts";
import { gatedBackwardReference, gatedReference } from "./gated_reference.ts";

for (
  const [limits, activation] of [[{}, "silu"], [{ maxBindingBytes: 8 * 1024 }, "silu"], [{}, "gelu"]] as const
) {
  const where = "maxBindingBytes" in limits ? ", in windows" : "";
  testForms(`gated() and its gradients equal the reference: ${activation}${where}`, async (engine) => {
    for (const [rows, columns] of [[1, 1], [3, 5], [67, 64], [130, 31]] as const) {
      const count = rows * columns;
      const gate = normal(count, 1, 3);
      // Where exponentials end: beyond them silu is 0 or its argument.
      gate.set([-1e4, 1e4, -100, 100, 0].slice(0, count));
      const [up, dy] = [normal(count, 2), normal(count, 3)];
      using gateTensor = engine.upload(gate, rows, columns);
      using upTensor = engine.upload(up, rows, columns);
      using dyTensor = engine.upload(dy, rows, columns);
      using y = gated(gateTensor, upTensor, activation);
      const { dGate, dUp } = gatedBackward({ gate: gateTensor, up: upTensor }, dyTensor, activation);
      using _dGate = dGate;
      using _dUp = dUp;
      const [yValues, dGateValues, dUpValues] = await readAll(y, dGate, dUp);
      const what = (name: string) => `${name} of [${rows}, ${columns}]`;
      const each = { ...TOLERANCE.sum, absolute: 1e-6, ofLargest: false };
      assertClose(yValues!, gatedReference(gate, up, activation), each, what("y"));
      const expected = gatedBackwardReference({ gate, up }, dy, activation);
      assertClose(dGateValues!, expected.dGate, each, what("dGate"));
      assertClose(dUpValues!, expected.dUp, each, what("dUp"));
    }
  }, limits);
}

for (const activation of ["silu", "gelu"] as const) {
  testForms(`gated() has the gradients of its forward pass: ${activation}`, async (engine) => {
    const [rows, columns] = [2, 5];
    const inputs = { gate: normal(10, 4, 2), up: normal(10, 5) };
    const dy = normal(10, 6);
    using gate = engine.upload(inputs.gate, rows, columns);
    using up = engine.upload(inputs.up, rows, columns);
    using dyTensor = engine.upload(dy, rows, columns);
    const { dGate, dUp } = gatedBackward({ gate, up }, dyTensor, activation);
    using _dGate = dGate;
    using _dUp = dUp;
    for (const [name, tensor, gradient] of [["gate", gate, dGate], ["up", up, dUp]] as const) {
      const actual = await readOne(gradient);
      const expected = await differences(inputs[name], async (values) => {
        engine.write(tensor, values);
        using y = gated(gate, up, activation);
        return dot(await y.read(), dy);
      });
      engine.write(tensor, inputs[name]);
      assertClose(actual, expected, TOLERANCE.difference, name);
    }
  });
}

Deno.test("gated() throws on shapes that differ", async () => {
  const engine = await engineOf("software");
  using gate = engine.zeros(2, 4);
  using up = engine.zeros(4, 2);
  assertThrows(() => gated(gate, up), TypeError, "[2, 4]");
  assertThrows(() => gatedBackward({ gate, up: gate }, up), TypeError, "[4, 2]");
});
