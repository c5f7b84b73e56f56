import { assertEquals, assertThrows } from "@std/assert";
import { KernelDefinitionError } from "../errors.ts";
import { defineKernel, type KernelDefinition } from "./kernel.ts";
import { joinFiles, placeOf } from "./shader.ts";

const SOURCE = `// struct Parameters { not: u32, read: u32 }
/* Nor /* is */ this: @group(0) @binding(7) var<storage, read> z: array<f32>; */
override FAST: bool = false;

struct Parameters {
  rows: u32, // rows of x
  first: i32,
  scale: f32,
}

@group(0) @binding(1) var<storage, read_write> y: array<vec4f>;
@group(0) @binding(0) var<storage,read> x: array<vec4f>;
@group(0) @binding(2)
var image: texture_storage_2d<rgba32float, read>;
@group(1) @binding(0) var<uniform> p: Parameters;
`;

const DEFINITION: KernelDefinition = {
  name: "scale",
  file: "scale/scale.wgsl",
  source: SOURCE,
  bindings: ["x", "y", "image"],
  parameters: ["rows", "first", "scale"],
  constants: { FAST: 1 },
};

Deno.test("defineKernel() reads bindings and parameters from the source", () => {
  const { bindings, parameters, entryPoint } = defineKernel(DEFINITION);
  assertEquals(bindings, [
    { name: "x", kind: "read" },
    { name: "y", kind: "write" },
    { name: "image", kind: "texture" },
  ]);
  assertEquals(parameters, [
    { name: "rows", kind: "u32", word: 0 },
    { name: "first", kind: "i32", word: 1 },
    { name: "scale", kind: "f32", word: 2 },
  ]);
  assertEquals(entryPoint, "main");
});

Deno.test("defineKernel() lays fields out by their attributes", () => {
  const source = SOURCE.replace("first: i32", "@align(16) @size(8) first: i32");
  const { parameters } = defineKernel({ ...DEFINITION, source });
  assertEquals(parameters.map(({ word }) => word), [0, 4, 6]);
});

Deno.test("defineKernel() refuses names that are not those of the source", () => {
  const cases: readonly [string, Partial<KernelDefinition>, string][] = [
    ["an unknown field", { parameters: ["rows", "first", "scale", "pitch"] }, '"pitch" is unknown'],
    [
      "a missing field",
      { parameters: ["rows", "scale"] },
      '"first" is missing; the source has rows, first, scale',
    ],
    [
      "swapped fields",
      { parameters: ["first", "rows", "scale"] },
      '"first" is misplaced, "rows" is misplaced',
    ],
    ["a field twice", { parameters: ["rows", "first", "scale", "rows"] }, '"rows" is listed twice'],
    ["a field of a comment", { parameters: ["not", "read"] }, '"not" is unknown'],
    ["swapped bindings", { bindings: ["y", "x", "image"] }, "its bindings must be those of its WGSL source"],
    ["a missing binding", { bindings: ["x", "y"] }, '"image" is missing'],
    ["an unknown constant", { constants: { SLOW: 1 } }, '"SLOW" is unknown'],
  ];
  for (const [what, change, message] of cases) {
    const error = assertThrows(
      () => defineKernel({ ...DEFINITION, ...change }),
      KernelDefinitionError,
      message,
      what,
    );
    assertEquals(error.message.startsWith('Cannot define kernel "scale"'), true, what);
  }
});

Deno.test("defineKernel() refuses sources that it cannot serve", () => {
  const cases: readonly [string, string, string][] = [
    ["scale: f32", "scale: vec4f", 'must be a u32, i32 or f32: current value is "scale: vec4f"'],
    ["scale: f32", "@size(400) scale: f32", "at most 256 bytes: current size is 408"],
    ["p: Parameters", "p: Other", "must be a struct of the same source: current type is Other"],
    ["rgba32float, read", "rgba8unorm, read", 'current value is "image" at group 0, binding 2'],
    ["@binding(2)\nvar", "@binding(3)\nvar", "numbered from 0 without a gap"],
    ["@group(0) @binding(1)", "@binding(1) @group(0)", "must be written"],
    ["@group(0) @binding(1)", "@group(0) @binding(0)", 'current value is "x" at group 0, binding 0'],
    ["@group(0) @binding(0)", "@group(2) @binding(0)", 'current value is "x" at group 2, binding 0'],
  ];
  for (const [from, to, message] of cases) {
    const source = SOURCE.replace(from, to);
    assertThrows(() => defineKernel({ ...DEFINITION, source }), KernelDefinitionError, message, to);
  }
});

Deno.test("a line of joined files leads back to its file", () => {
  const files = [
    { file: "a.wgsl", source: "one\ntwo\n" },
    { file: "b.wgsl", source: "three" },
    { file: "c.wgsl", source: "four\n" },
  ];
  assertEquals(joinFiles(files), "one\ntwo\nthree\nfour\n");
  const places = [1, 2, 3, 4].map((line) => placeOf(files, line));
  assertEquals(places.map(({ file, line }) => `${file.file}:${line}`), [
    "a.wgsl:1",
    "a.wgsl:2",
    "b.wgsl:1",
    "c.wgsl:1",
  ]);
});
