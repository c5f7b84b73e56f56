/**
 * Rows of Parquet files, one row group at a time.
 *
 * @module
 */

import { DataFormatError, ModelFileError } from "../contracts/errors.ts";
import type { DataRow } from "./_data_row.ts";

/** Most bytes of a row group, unpacked: what is in memory at once. */
const MAX_GROUP_BYTES = 2 ** 30;

/**
 * Reads rows in order; their numbers are from 1 on.
 *
 * @throws {ModelFileError} If the file cannot be read.
 * @throws {DataFormatError} If it is not Parquet, or a row group is too large.
 */
export async function* parquetRows(path: string): AsyncGenerator<DataRow> {
  // Loaded for such files alone.
  const [{ parquetMetadataAsync, parquetReadObjects }, { compressors }] = await Promise.all([
    import("hyparquet"),
    import("hyparquet-compressors"),
  ]);
  using file = await Deno.open(path).catch((cause) => {
    throw new ModelFileError(`Cannot read ${path} as it must be a readable file: ${cause.message}`, {
      cause,
    });
  });
  const { size } = await file.stat();
  const buffer = {
    byteLength: size,
    slice: async (start: number, end = size) => {
      const from = start < 0 ? size + start : start;
      const bytes = new Uint8Array(Math.max(0, Math.min(end, size) - from));
      await file.seek(from, Deno.SeekMode.Start);
      for (let at = 0; at < bytes.length;) {
        const count = await file.read(bytes.subarray(at));
        if (count === null) break;
        at += count;
      }
      return bytes.buffer;
    },
  };
  const wrong = (cause: unknown): never => {
    throw new DataFormatError(
      `Cannot read ${path} as it must be a whole Parquet file: ${
        cause instanceof Error ? cause.message : cause
      }`,
      { cause },
    );
  };
  const metadata = await parquetMetadataAsync(buffer).catch(wrong);
  let rowStart = 0;
  for (const group of metadata.row_groups) {
    if (group.total_byte_size > MAX_GROUP_BYTES) {
      throw new DataFormatError(
        `Cannot read ${path} as a row group must have at most ${MAX_GROUP_BYTES} bytes: current value is ${group.total_byte_size}`,
      );
    }
    const rowEnd = rowStart + Number(group.num_rows);
    const rows = await parquetReadObjects({ file: buffer, metadata, compressors, rowStart, rowEnd }).catch(
      wrong,
    );
    for (const [i, fields] of rows.entries()) yield { line: rowStart + i + 1, row: { fields }, source: "" };
    rowStart = rowEnd;
  }
}
