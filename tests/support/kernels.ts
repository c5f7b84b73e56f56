/**
 * What kernel tests share: one engine per kernel form, inputs, reading back with the padding
 * checked, and central differences.
 *
 * @module
 */

import { assert, AssertionError } from "@std/assert";
import { loadGpu } from "../../cli/flags/webgpu.ts";
import { guardedGpu } from "./guarded_gpu.ts";
import { sizeClass } from "../../kernels/engine/pool.ts";
import {
  type AdapterClass,
  type DType,
  Engine,
  type EngineOptions,
  roundUp4,
  Tensor,
} from "../../kernels/mod.ts";

/** Both forms of the kernels; a software adapter runs either. */
export const FORMS: readonly AdapterClass[] = ["software", "hardware"];

/** The WebGPU that tests run on: the runtime's own, or what `EDGETUNER_TEST_WEBGPU` names. */
export function implementation(): Promise<GPU | undefined> {
  return loadGpu(Deno.env.get("EDGETUNER_TEST_WEBGPU") ?? "deno");
}

const engines = new Map<string, Promise<Engine>>();

/** Limits that cut tensors in pieces. */
export type Limits = Pick<EngineOptions, "maxBindingBytes" | "maxTextureSide">;

/** The engine of one form, shared by all tests of a file that want the same limits; see `guardedGpu`. */
export function engineOf(form: AdapterClass, limits: Limits = {}): Promise<Engine> {
  const key = `${form} ${limits.maxBindingBytes} ${limits.maxTextureSide}`;
  let engine = engines.get(key);
  if (engine === undefined) {
    engine = implementation().then((gpu) =>
      Engine.create({ adapterClass: form, gpu: guardedGpu(gpu), ...limits })
    );
    engines.set(key, engine);
  }
  return engine;
}

/**
 * Registers a test that runs on both kernel forms. Free memory of the engine is filled with NaN
 * before, so that a kernel that reads what it or its caller did not write cannot pass; all tensors
 * must be disposed in the end. A name that ends with `[slow]` keeps that end.
 */
export function testForms(
  name: string,
  test: (engine: Engine) => Promise<void> | void,
  limits: Limits = {},
): void {
  const slow = name.endsWith(" [slow]") ? " [slow]" : "";
  const plain = name.slice(0, name.length - slow.length);
  for (const form of FORMS) {
    Deno.test(
      `${plain} (${form} form)${slow}`,
      async () => {
        const engine = await engineOf(form, limits);
        poison(engine);
        const before = engine.stats.tensors;
        await test(engine);
        const left = engine.stats.tensors - before;
        assert(left === 0, `${name}: ${left} tensors were not disposed`);
      },
    );
  }
}

/** Bytes up to which `poison` fills free memory. */
const POISONED_BYTES = 128 * 1024;

/** Fills the buffers that the pool hands out next with NaN: `copies` of every size up to 128 KiB. */
export function poison(engine: Engine, copies = 3): void {
  const nan = new Float32Array(POISONED_BYTES / 4).fill(NaN);
  const tensors: Tensor[] = [];
  for (let bytes = sizeClass(1); bytes <= POISONED_BYTES; bytes = sizeClass(bytes + 1)) {
    for (let i = 0; i < copies; i++) {
      tensors.push(engine.upload(nan.subarray(0, bytes / 4), 1, bytes / 4, "poison"));
    }
  }
  for (const tensor of tensors) tensor.dispose();
}

/** `count` reproducible numbers, about normal with mean 0 and deviation `scale`; exact in f32. */
export function normal(count: number, seed: number, scale = 1): Float32Array<ArrayBuffer> {
  let state = seed >>> 0;
  const uniform = () => {
    // mulberry32
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
  return Float32Array.from({ length: count }, () => {
    let sum = 0;
    for (let i = 0; i < 6; i++) sum += uniform();
    return (sum - 3) * Math.SQRT2 * scale;
  });
}

/** `count` reproducible integers in [0, below). */
export function integers(count: number, below: number, seed: number): Uint32Array<ArrayBuffer> {
  return Uint32Array.from(normal(count, seed), (x) => Math.floor(Math.abs(x) * 1e6) % below);
}

/** A tensor that covers the padding of another one too: [rows, pitch]. It owns nothing. */
export function padded(tensor: Tensor, dtype: DType = tensor.dtype): Tensor {
  const { engine, buffer, rows, columns } = tensor;
  return new Tensor(engine, buffer, {
    rows,
    columns: roundUp4(columns),
    dtype,
    label: `padded ${tensor.label}`,
  });
}

/** Reads tensors with their padding, which must be zero, and returns rows * columns values of each. */
export async function readAll(...tensors: Tensor[]): Promise<Float32Array[]> {
  const all = await tensors[0]!.engine.read(tensors.map((t) => padded(t)));
  return tensors.map((tensor, t) => {
    const { rows, columns, pitch } = tensor;
    const values = new Float32Array(rows * columns);
    for (let r = 0; r < rows; r++) {
      const row = all[t]!.subarray(r * pitch, (r + 1) * pitch);
      values.set(row.subarray(0, columns), r * columns);
      const bad = row.subarray(columns).findIndex((x) => x !== 0);
      if (bad >= 0) {
        throw new AssertionError(
          `padding of "${tensor.label}" [${rows}, ${columns}]: expected 0 at row ${r}, column ${
            columns + bad
          }, got ${row[columns + bad]}`,
        );
      }
    }
    return values;
  });
}

/** Reads one tensor; see `readAll`. */
export async function readOne(tensor: Tensor): Promise<Float32Array> {
  return (await readAll(tensor))[0]!;
}

/** sum of a[i] * b[i], in double precision. */
export function dot(a: ArrayLike<number>, b: ArrayLike<number>): number {
  let sum = 0;
  for (let i = 0; i < a.length; i++) sum += a[i]! * b[i]!;
  return sum;
}

/** Step of `differences`: truncation is about step^2, rounding about 1e-7 / step; both stay below 1e-3. */
const STEP = 2 ** -5;

/**
 * Gradient of a scalar function by central differences.
 *
 * @param x Where.
 * @param f Evaluates the function; x is changed in place between calls.
 * @param step Distance to either side.
 */
export async function differences(
  x: Float32Array<ArrayBuffer>,
  f: (x: Float32Array<ArrayBuffer>) => Promise<number>,
  step = STEP,
): Promise<Float64Array> {
  const gradient = new Float64Array(x.length);
  for (let i = 0; i < x.length; i++) {
    const before = x[i]!;
    x[i] = before + step;
    const above = x[i]!;
    const high = await f(x);
    x[i] = before - step;
    const below = x[i]!;
    const low = await f(x);
    x[i] = before;
    gradient[i] = (high - low) / (above - below);
  }
  return gradient;
}
