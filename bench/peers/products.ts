/**
 * Times of matrix products by timestamp queries.
 *
 * @module
 */

import { Engine, matmul, type Tensor } from "@edgetuner/kernels";
import { flopsOf, type Product } from "./shapes.ts";

/** What a product took. */
export interface ProductTime {
  /** The product. */
  readonly product: Product;
  /** Best time, ms. */
  readonly min: number;
  /** Median time, ms. */
  readonly median: number;
  /** GFLOP/s of the best time. */
  readonly best: number;
  /** GFLOP/s of the median time. */
  readonly typical: number;
}

interface Entry {
  readonly product: Product;
  readonly a: Tensor;
  readonly b: Tensor;
  readonly c: Tensor;
  readonly times: number[];
}

/** The middle of some numbers; `NaN` if there are none. */
export function medianOf(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  if (sorted.length === 0) return NaN;
  return sorted.length % 2 === 1 ? sorted[middle]! : (sorted[middle - 1]! + sorted[middle]!) / 2;
}

/**
 * Times products. What is timed is the product alone: operands are where the kernel reads them,
 * in textures on a software adapter.
 */
export class ProductMeter implements Disposable {
  readonly #engine: Engine;
  readonly #entries: readonly Entry[];

  private constructor(engine: Engine, entries: readonly Entry[]) {
    this.#engine = engine;
    this.#entries = entries;
  }

  /** Starts an engine of its own and compiles. */
  static async create(products: readonly Product[]): Promise<ProductMeter> {
    const engine = await Engine.create({ profile: true });
    const known = new Map<string, Tensor>();
    const operand = (which: string, rows: number, columns: number) => {
      const key = `${which} [${rows}, ${columns}]`;
      let tensor = known.get(key);
      if (tensor === undefined) {
        const data = new Float32Array(rows * columns);
        for (let i = 0; i < data.length; i++) data[i] = ((i * 7919) % 1009) / 1009 - 0.5;
        known.set(key, tensor = engine.upload(data, rows, columns, key));
      }
      return tensor;
    };
    const entries = products.map((product): Entry => {
      const { m, k, n, form } = product;
      return {
        product,
        a: form === "TN" ? operand("a", k, m) : operand("a", m, k),
        b: form === "NT" ? operand("b", n, k) : operand("b", k, n),
        c: operand("c", m, n),
        times: [],
      };
    });
    const meter = new ProductMeter(engine, entries);
    await meter.sample();
    for (const { times } of entries) times.length = 0;
    return meter;
  }

  /** Class of the adapter. */
  get adapterClass(): "software" | "hardware" {
    return this.#engine.adapterClass;
  }

  /** Runs every product once, one after the other. */
  async sample(): Promise<void> {
    for (const { product, a, b, c, times } of this.#entries) {
      matmul(a, b, { out: c, transposeA: product.form === "TN", transposeB: product.form === "NT" });
      const kernels = await this.#engine.profile();
      times.push(
        kernels.filter(({ kernel }) => kernel.startsWith("matmul")).reduce((sum, { ms }) => sum + ms, 0),
      );
    }
  }

  /** What all samples gave. */
  results(): ProductTime[] {
    return this.#entries.map(({ product, times }) => {
      const min = Math.min(...times);
      const median = medianOf(times);
      const flops = flopsOf({ ...product, count: 1 });
      return { product, min, median, best: flops / min / 1e6, typical: flops / median / 1e6 };
    });
  }

  /** Frees everything. */
  [Symbol.dispose](): void {
    this.#engine[Symbol.dispose]();
  }
}
