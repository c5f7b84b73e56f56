import {
  assert,
  assertEquals,
  assertInstanceOf,
  assertRejects,
  assertStringIncludes,
  assertThrows,
} from "@std/assert";
import { ModelFileError } from "../contracts/errors.ts";
import { gpt2Config } from "../model/families/gpt2.ts";
import { loadSafetensors, readSafetensors, writeSafetensors } from "./safetensors.ts";
import { StoredTensors } from "./stored_tensors.ts";

const FIXTURES = new URL("../../tests/fixtures/", import.meta.url);

/** A file with a header of our own. */
function file(header: unknown, size: number, length?: number): Uint8Array {
  const text = new TextEncoder().encode(typeof header === "string" ? header : JSON.stringify(header));
  const bytes = new Uint8Array(8 + text.length + size);
  new DataView(bytes.buffer).setBigUint64(0, BigInt(length ?? text.length), true);
  bytes.set(text, 8);
  return bytes;
}

function entry(shape: unknown, begin: unknown, end: unknown, dtype: unknown = "F32") {
  return { dtype, shape, data_offsets: [begin, end] };
}

Deno.test("readSafetensors reads a checkpoint as transformers saves it", async () => {
  const folder = new URL("parity/gpt2_base/", FIXTURES);
  const config = gpt2Config(JSON.parse(await Deno.readTextFile(new URL("config.json", folder))));
  const tensors = await loadSafetensors(new URL("model.safetensors", folder));
  assertEquals(tensors.size, 4 + 12 * config.n_layer);
  assertEquals(tensors.get("transformer.wte.weight")?.shape, [config.vocab_size, config.n_embd]);
  assertEquals(tensors.get("transformer.h.2.attn.c_attn.weight")?.shape, [config.n_embd, 3 * config.n_embd]);
  for (const { shape, data } of tensors.values()) {
    assertEquals(data.length, shape.reduce((product, n) => product * n, 1));
    assertEquals(data.every(Number.isFinite), true);
  }
});

Deno.test("writeSafetensors gives back the bytes that transformers wrote", async () => {
  const bytes = await Deno.readFile(new URL("parity/gpt2_base/model.safetensors", FIXTURES));
  assertEquals(writeSafetensors(readSafetensors(bytes), { format: "pt" }), bytes);
});

Deno.test("readSafetensors converts F16 and BF16 exactly and leaves integers out", async () => {
  const tensors = await loadSafetensors(new URL("safetensors/half.safetensors", FIXTURES));
  const expected = await loadSafetensors(new URL("safetensors/half_as_f32.safetensors", FIXTURES));
  assertEquals([...tensors.keys()].toSorted(), ["bf16", "empty", "f16", "f32", "scalar"]);
  for (const [name, { shape, data }] of expected) {
    const found = tensors.get(name)!;
    assertEquals(found.shape, shape);
    assertEquals(new Uint32Array(found.data.buffer), new Uint32Array(data.buffer), name);
  }
  const f32 = [1.5, -2.25, Math.fround(1e-40), Infinity, 0, Math.fround(3e38)];
  assertEquals(tensors.get("f32"), { shape: [2, 3], data: Float32Array.from(f32) });
  assertEquals(tensors.get("scalar"), { shape: [], data: Float32Array.of(7) });
  assertEquals(tensors.get("empty"), { shape: [0, 3], data: new Float32Array(0) });
});

Deno.test("readSafetensors keeps NaNs", () => {
  const bytes = file({ a: entry([1], 0, 2, "F16"), b: entry([1], 2, 4, "BF16") }, 4);
  bytes.set([0x00, 0x7e, 0xc0, 0x7f], bytes.length - 4);
  const tensors = readSafetensors(bytes);
  assertEquals([tensors.get("a")!.data[0], tensors.get("b")!.data[0]], [NaN, NaN]);
});

Deno.test("readSafetensors copies, whatever the alignment", () => {
  const whole = writeSafetensors(new Map([["w", { shape: [2], data: Float32Array.of(1, 2) }]]));
  const shifted = new Uint8Array(whole.length + 3);
  shifted.set(whole, 3);
  const { data } = readSafetensors(shifted.subarray(3)).get("w")!;
  shifted.fill(0);
  assertEquals(data, Float32Array.of(1, 2));
});

Deno.test("writeSafetensors depends on no order and keeps odd names", () => {
  const a = { shape: [2, 1], data: Float32Array.of(1, -2) };
  const b = { shape: [], data: Float32Array.of(3) };
  const forward = writeSafetensors(new Map([["10", a], ["2", b], ["__proto__", a], ['"é\n', b]]), {
    x: "1",
    a: "é",
  });
  const backward = writeSafetensors(new Map([['"é\n', b], ["__proto__", a], ["2", b], ["10", a]]), {
    a: "é",
    x: "1",
  });
  assertEquals(forward, backward);
  assertEquals([...readSafetensors(forward)], [['"é\n', b], ["10", a], ["2", b], ["__proto__", a]]);
  assertEquals(new DataView(forward.buffer).getUint32(0, true) % 8, 0);
});

Deno.test("writeSafetensors writes no tensors too", () => {
  assertEquals(readSafetensors(writeSafetensors(new Map())).size, 0);
});

Deno.test("writeSafetensors refuses tensors that do not fit", () => {
  const data = Float32Array.of(1, 2);
  const write = (name: string, shape: number[]) =>
    assertThrows(() => writeSafetensors(new Map([[name, { shape, data }]])), ModelFileError).message;
  assertStringIncludes(write("w", [3]), '"w" must hold as many values as its shape says: shape is [3]');
  assertStringIncludes(write("w", [-1, -2]), "shape is [-1,-2]");
  assertStringIncludes(write("__metadata__", [2]), "reserved");
});

/** A text where weights should be. */
const text = (content: string) => new TextEncoder().encode(content);

const good = entry([2], 0, 8);
const MALFORMED: readonly (readonly [what: string, bytes: Uint8Array, message: string])[] = [
  ["nothing", new Uint8Array(0), "at least 8 bytes: current value is 0"],
  ["a piece of the length", new Uint8Array(7), "at least 8 bytes: current value is 7"],
  ["a header past the end", file({}, 0, 3), "the length of the header must be at most 2"],
  ["an enormous header", file({}, 0, 2 ** 60), 'current value is "1152921504606846976"'],
  [
    "a pointer of Git LFS",
    text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"),
    "it must be a safetensors file: it is a pointer of Git LFS; get the file itself with: git lfs pull",
  ],
  ["a web page", text("<!DOCTYPE html>\n<html></html>"), "it must be a safetensors file: it is a web page"],
  ["a web page after a line", text("\n\n<html><body>no</body></html>"), "it is a web page"],
  ["a web page after a mark", text("\ufeff<?xml version=1?>"), "it is a web page"],
  ["a ZIP archive", text("PK\x03\x04 archive/data.pkl"), "it is a ZIP archive"],
  ["a header as long as it looks like a web page", file("", 0, 0x3c), "must be at most 0: current value is"],
  ["an empty header", file("", 0), "must be JSON"],
  ["no JSON", file("{", 0), "must be JSON in UTF-8"],
  ["no UTF-8", file("{}", 0).with(8, 0xff), "must be JSON in UTF-8"],
  ["a header that is a list", file([], 0), 'must be a JSON object that begins with "{"'],
  ["a header that is null", file("null", 0), "must be a JSON object"],
  ["a header after a space", file(" {}", 0), 'begins with "{"'],
  ["metadata that is text", file({ __metadata__: "x" }, 0), "__metadata__ must be an object of strings"],
  ["metadata with a number", file({ __metadata__: { a: 1 } }, 0), 'current value is {"a":1}'],
  ["an entry that is no object", file({ a: 1 }, 0), 'entry of "a" must be an object'],
  ["an entry that is null", file({ a: null }, 0), 'entry of "a" must be an object'],
  ["no dtype", file({ a: { shape: [2], data_offsets: [0, 8] } }, 8), 'dtype of "a" must be one of F32,F16'],
  ["an unknown dtype", file({ a: entry([2], 0, 16, "F128") }, 16), 'current value is "F128"'],
  ["a dtype in lower case", file({ a: entry([2], 0, 8, "f32") }, 8), 'current value is "f32"'],
  ["no shape", file({ a: entry(undefined, 0, 8) }, 8), 'shape of "a" must be a list'],
  ["a negative size", file({ a: entry([-2], 0, 8) }, 8), "current value is [-2]"],
  ["a size that is no integer", file({ a: entry([0.5, 4], 0, 8) }, 8), "current value is [0.5,4]"],
  ["sizes beyond all integers", file({ a: entry([2 ** 52, 2 ** 52], 0, 8) }, 8), "must take"],
  ["one offset", file({ a: { dtype: "F32", shape: [2], data_offsets: [0] } }, 8), "current value is [0]"],
  ["offsets in the wrong order", file({ a: entry([2], 8, 0) }, 8), "ascending order: current value is [8,0]"],
  ["a negative offset", file({ a: entry([2], -8, 0) }, 8), "current value is [-8,0]"],
  [
    "offsets that do not fit the shape",
    file({ a: entry([3], 0, 8) }, 8),
    "must take 12 bytes (F32, shape [3])",
  ],
  ["half elements", file({ a: entry([2], 0, 7) }, 7), "must take 8 bytes"],
  ["values past the end", file({ a: good }, 4), "must lie in the file (end at byte 4 at most)"],
  ["values left over", file({ a: good }, 9), "must take all 9 bytes after the header: current value is 8"],
  ["a gap", file({ a: good, b: entry([1], 12, 16) }, 16), 'the values of "b" must follow'],
  ["a gap at the start", file({ a: entry([1], 4, 8) }, 8), "without a gap"],
  ["an overlap", file({ a: good, b: entry([2], 4, 12) }, 12), 'the values of "b" must not overlap others'],
  ["an integer tensor that overlaps", file({ a: good, b: entry([8], 0, 8, "U8") }, 8), "must not overlap"],
];

for (const [what, bytes, message] of MALFORMED) {
  Deno.test(`readSafetensors and StoredTensors refuse ${what}`, async () => {
    const error = assertThrows(() => readSafetensors(bytes, "a.safetensors"), ModelFileError);
    assertStringIncludes(error.message, "Cannot read a.safetensors as ");
    assertStringIncludes(error.message, message);
    const path = await Deno.makeTempFile({ suffix: ".safetensors" });
    await Deno.writeFile(path, bytes);
    const stored = await assertRejects(() => StoredTensors.open(path), ModelFileError);
    assertEquals(stored.message, error.message.replace("a.safetensors", path));
    await Deno.remove(path);
  });
}

Deno.test("readSafetensors refuses every shortened file and survives every damaged header", async () => {
  const bytes = await Deno.readFile(new URL("safetensors/half.safetensors", FIXTURES));
  for (let length = 0; length < bytes.length; length += length < 600 ? 1 : 97) {
    assertThrows(() => readSafetensors(bytes.subarray(0, length)), ModelFileError);
  }
  for (let place = 0; place < 560; place++) {
    try {
      readSafetensors(bytes.with(place, bytes[place]! ^ 0x11));
    } catch (error) {
      assertInstanceOf(error, ModelFileError);
    }
  }
});

Deno.test("loadSafetensors names the file", async () => {
  const error = await assertRejects(() => loadSafetensors("/no/such/file"), ModelFileError);
  assertStringIncludes(error.message, "Cannot read /no/such/file as it must be a readable file");
});

Deno.test("readSafetensors refuses dtypes that are no f32; a checkpoint may hold them where nothing needs them", async () => {
  const bytes = file({ a: entry([2], 0, 16, "F64"), b: entry([1], 16, 20) }, 20);
  const error = assertThrows(() => readSafetensors(bytes), ModelFileError);
  assert(error.message.includes('dtype of "a" must be one of F32,F16,BF16 or an integer'), error.message);
  const path = await Deno.makeTempFile();
  try {
    await Deno.writeFile(path, bytes);
    const tensors = await StoredTensors.open(path);
    assertEquals([[...tensors.keys()], tensors.leftOut("a"), tensors.leftOut("b")], [
      ["b"],
      "F64",
      undefined,
    ]);
  } finally {
    await Deno.remove(path);
  }
});
