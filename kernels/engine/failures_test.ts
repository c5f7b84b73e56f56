import { assertRejects, assertStringIncludes, assertThrows } from "@std/assert";
import { addScaled } from "../elementwise/elementwise.ts";
import { GpuError, ShaderError } from "../errors.ts";
import { ADD_ONE_KERNEL, addOne } from "./_add_one.ts";
import { Engine } from "./engine.ts";
import { defineKernel } from "./kernel.ts";

const BROKEN = ADD_ONE_KERNEL.source.replace("x[id.x] + 1.0", "x[id.x] + oops");

for (const readback of ["eager", "await"] as const) {
  Deno.test(`a kernel that does not compile is told with line, column and source (${readback})`, async () => {
    const kernel = defineKernel({
      ...ADD_ONE_KERNEL,
      name: "broken",
      file: "engine/broken.wgsl",
      source: BROKEN,
    });
    using engine = await Engine.create({ readback });
    const error = await assertRejects(() => engine.compile([kernel]), ShaderError);
    const line = BROKEN.split("\n").findIndex((text) => text.includes("oops")) + 1;
    const column = BROKEN.split("\n")[line - 1]!.indexOf("oops") + 1;
    assertStringIncludes(error.message, 'Cannot compile kernel "broken"');
    assertStringIncludes(error.message, `engine/broken.wgsl:${line}:${column}: error`);
    assertStringIncludes(error.message, `>${String(line).padStart(4)} |     y[id.x] = x[id.x] + oops;`);
    assertStringIncludes(error.message, `${String(line - 1).padStart(5)} |   if (id.x < p.count4) {`);
  });

  Deno.test(`an error in a prelude is told with the prelude's file and line (${readback})`, async () => {
    const prelude = {
      file: "prelude/broken.wgsl",
      source: "// A prelude.\nfn broken() -> f32 {\n  return oops;\n}\n",
    };
    const kernel = defineKernel({
      ...ADD_ONE_KERNEL,
      name: "broken",
      preludes: [{ ...prelude, file: "a.wgsl", source: "// First.\n" }, prelude],
    });
    using engine = await Engine.create({ readback });
    const error = await assertRejects(() => engine.compile([kernel]), ShaderError);
    assertStringIncludes(error.message, "prelude/broken.wgsl:3:10: error");
    assertStringIncludes(error.message, ">   3 |   return oops;");
  });

  Deno.test(`a kernel that does not compile fails the read that needs it (${readback})`, async () => {
    const kernel = defineKernel({
      ...ADD_ONE_KERNEL,
      name: "broken",
      file: "engine/broken.wgsl",
      source: BROKEN,
    });
    using engine = await Engine.create({ readback });
    using x = engine.zeros(1, 4);
    using y = engine.zeros(1, 4);
    engine.dispatch(kernel, { bindings: { x, y }, parameters: { count4: 1 }, workgroups: [1] });
    await assertRejects(() => y.read(), ShaderError, "broken.wgsl");
    await assertRejects(() => x.read(), ShaderError, "broken.wgsl");
  });

  Deno.test(`a dispatch that is not valid fails the next read and all that follow (${readback})`, async () => {
    using engine = await Engine.create({ readback });
    using x = engine.zeros(1, 4);
    addOne(engine, x, x); // read and written at once
    await assertRejects(() => x.read(), GpuError, "conflicting usages");
    await assertRejects(() => x.read(), GpuError, "conflicting usages");
    assertThrows(() => engine.throwIfFailed(), GpuError);
    addScaled(engine.unitScale, x);
    assertThrows(() => engine.flush(), GpuError);
  });
}

Deno.test("memory that the device does not have fails the next read", async () => {
  using engine = await Engine.create();
  engine.device.createBuffer({ size: engine.device.limits.maxBufferSize + 4, usage: 0x80 });
  await assertRejects(() => engine.idle(), GpuError);
});

Deno.test("a lost device fails the next read", async () => {
  const engine = await Engine.create();
  using x = engine.zeros(1, 4);
  await x.read();
  engine.device.destroy();
  await engine.device.lost;
  await assertRejects(() => x.read());
});
