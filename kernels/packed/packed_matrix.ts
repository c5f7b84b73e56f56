/**
 * Matrices of frozen weights in adapter memory, packed.
 *
 * @module
 */

import type { Engine } from "../engine/engine.ts";
import { type RowWindow, type Tensor, WINDOW_ROWS } from "../engine/tensor.ts";

import {
  type GroupsAlong,
  PACKED_FORMATS,
  type PackedFormat,
  packedRoom,
  type PackedShape,
  packedTensors,
  packRows,
} from "./formats.ts";

/** Weights packed at a time, in bytes of f32. */
const PIECE_BYTES = 2 ** 20;

/** Some rows of a packed matrix, as they are bound to kernels. */
export interface PackedWindow {
  /** Words of the rows. */
  readonly words: RowWindow;
  /** Their scales, or what is bound in their place. */
  readonly scales: RowWindow | Tensor;
  /** First row. */
  readonly row: number;
  /** Number of rows. */
  readonly rows: number;
  /** Added to a row's place in the window: the row of the scales, times the group if it is along the rows. */
  readonly scaleRow: number;
}

/**
 * A matrix [rows, columns] of frozen weights as f16, int8 or int4; see `PackedFormat`. `matmul` multiplies by
 * it and `embeddingGather` looks rows up, both straight from the packed words, in f32. It belongs to whoever
 * made it, like a tensor.
 *
 * @example
 * ```ts ignore
 * using w = new PackedMatrix(engine, { format: "int8", rows: 4096, columns: 11_008, groupsAlong: "columns" }, "w");
 * w.write(0, weights);
 * using y = matmul(x, w, { transposeB: true });
 * ```
 */
export class PackedMatrix implements Disposable {
  /** The engine that holds it. */
  readonly engine: Engine;
  /** How weights are packed. */
  readonly format: PackedFormat;
  /** Number of rows. */
  readonly rows: number;
  /** Number of columns. */
  readonly columns: number;
  /** Which weights share a scale. */
  readonly groupsAlong: GroupsAlong;
  /** Name for error messages and GPU debuggers. */
  readonly label: string;
  /** [rows, words of a row] of u32. */
  readonly words: Tensor;
  /** One scale a group; `null` for f16. */
  readonly scales: Tensor | null;

  /** Makes room; `write` fills it. */
  constructor(engine: Engine, shape: PackedShape, label = "packed") {
    this.engine = engine;
    this.format = shape.format;
    this.rows = shape.rows;
    this.columns = shape.columns;
    this.groupsAlong = shape.groupsAlong;
    this.label = label;
    const { words, scales } = packedTensors(shape);
    this.words = engine.allocateExact(...words, label, "u32");
    this.scales = scales === null ? null : engine.allocateExact(...scales, `scales of ${label}`);
  }

  /** Bytes of adapter memory, padding included. */
  get bytes(): number {
    return this.words.buffer.bytes + (this.scales?.buffer.bytes ?? 0);
  }

  /**
   * Packs weights, a few megabytes at a time, and puts them in the place of some rows.
   *
   * @param first First row; with groups along the rows a multiple of their length.
   * @param data Values of whole rows; with groups along the rows whole groups, unless they end the matrix.
   * @throws {RangeError} If the rows do not lie in the matrix or cut a group, or a weight is not finite or too
   * large for the format.
   */
  write(first: number, data: Float32Array): void {
    const { rows, columns, format, engine } = this;
    const count = data.length / columns;
    const group = this.groupsAlong === "rows" ? PACKED_FORMATS[format].group || 1 : 1;
    const last = first + count;
    if (
      !Number.isInteger(count) || first < 0 || last > rows || first % group !== 0 ||
      (last % group !== 0 && last !== rows)
    ) {
      throw new RangeError(
        `Cannot write rows of "${this.label}" [${rows}, ${columns}] as they must be whole and lie in it, in groups of ${group}: ${data.length} values from row ${first} on`,
      );
    }
    const step = Math.max(1, Math.floor(PIECE_BYTES / (columns * 4 * group))) * group;
    const room = packedRoom(this, Math.min(step, count));
    for (let row = 0; row < count; row += step) {
      const part = data.subarray(row * columns, Math.min(count, row + step) * columns);
      const packed = packRows(part, this, this.label, room);
      engine.writeRows(this.words, first + row, packed.words);
      if (packed.scales !== null) engine.writeRows(this.scales!, (first + row) / group, packed.scales);
    }
    // Now: the garbage collector would let the rooms of many writes pile up.
    room.words.buffer.transfer(0);
    room.scales?.buffer.transfer(0);
  }

  /** Rows that one window holds; `Infinity` if all of them fit one. */
  get rowsPerWindow(): number {
    const { words, scales, engine: { maxBindingBytes } } = this;
    if (Math.max(words.bytes, scales?.bytes ?? 0) <= maxBindingBytes) return Infinity;
    const along = this.groupsAlong === "rows" ? PACKED_FORMATS[this.format].group : 1;
    // A window of the scales begins up to 15 rows before the first that is needed.
    const most = Math.min(
      Math.floor(maxBindingBytes / (words.pitch * 4)),
      scales === null ? Infinity : (Math.floor(maxBindingBytes / (scales.pitch * 4)) - WINDOW_ROWS) * along,
    );
    const rows = Math.floor(most / WINDOW_ROWS) * WINDOW_ROWS;
    if (rows < WINDOW_ROWS) {
      throw new RangeError(
        `Cannot split "${this.label}" as ${WINDOW_ROWS} rows and their scales must fit a binding of ${maxBindingBytes} bytes: a row has ${
          words.pitch * 4
        } and its scales ${(scales?.pitch ?? 0) * 4}`,
      );
    }
    return rows;
  }

  /** The window that holds `row`: windows start at multiples of `rowsPerWindow`. */
  windowOf(row: number): PackedWindow {
    const { words, scales, engine, rowsPerWindow } = this;
    const group = this.groupsAlong === "rows" ? PACKED_FORMATS[this.format].group || 1 : 1;
    const first = rowsPerWindow === Infinity ? 0 : row - row % rowsPerWindow;
    const rows = Math.min(rowsPerWindow, this.rows - first);
    const window = words.windowAt(first, rows);
    if (scales === null) return { words: window, scales: engine.nullInput, row: first, rows, scaleRow: 0 };
    const firstScale = Math.floor(first / group);
    const lastScale = Math.floor((first + rows - 1) / group);
    const scaleWindow = scales.windowAt(firstScale, lastScale - firstScale + 1);
    return {
      words: window,
      scales: scaleWindow,
      row: first,
      rows,
      scaleRow: first - scaleWindow.row * group,
    };
  }

  /** Gives the memory back to the pool. Idempotent. */
  [Symbol.dispose](): void {
    this.words.dispose();
    this.scales?.dispose();
  }

  /** As the end of a `using` scope. */
  dispose(): void {
    this[Symbol.dispose]();
  }
}
