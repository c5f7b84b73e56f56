/**
 * A row of training data, whatever file it is in.
 *
 * @module
 */

import type { BrokenRule } from "../data/lines.ts";
import type { TextPair } from "../data/pairs.ts";

/** A row of a file, or the rule that it breaks. */
export interface DataRow {
  /** The line on which it begins; of Parquet the number of the row; from 1 on. */
  readonly line: number;
  /** Columns; or a pair; or a plain text. */
  readonly row:
    | { readonly fields: Record<string, unknown> }
    | { readonly pair: TextPair }
    | { readonly text: string }
    | BrokenRule;
  /** What the row is, for messages about rules that name no value. */
  readonly source: string;
}
