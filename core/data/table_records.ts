/**
 * Records of tables: comma-separated values and their like, by csv-parse.
 *
 * @module
 */

/** One record. */
export interface TableRecord {
  /** Its fields. */
  readonly record: readonly string[];
  /** Number of its first line in the text, from 1 on. */
  readonly first: number;
  /** Number of its last line. */
  readonly last: number;
}

/** What is wrong with a text from some place on. */
export interface TableProblem {
  /** True if the text ends within quotes. */
  readonly isOpen: boolean;
  /** What must hold, as the end of a sentence, with the field. */
  readonly rule: string;
  /** The error of the library. */
  readonly cause: Error;
}

/** Reads the records of a text up to where it is wrong. */
export type RecordsOf = (text: string) => {
  readonly records: readonly TableRecord[];
  readonly problem: TableProblem | null;
};

/** How tables are written. */
export interface TableForm {
  /** What separates fields. */
  readonly delimiter: string;
  /** True where quotes come in fields as they are. @default {false} */
  readonly plainQuotes?: boolean;
  /** Most characters of a record. @default {no limit} */
  readonly maxLength?: number;
}

function ruleOf(code: string, message: string, column: unknown): string {
  const where = typeof column === "number" ? `, in field ${column + 1}` : "";
  if (code === "CSV_QUOTE_NOT_CLOSED") {
    return `a quoted field must end with ": the file ends before it${where}`;
  }
  return `a field with quotes must be quoted whole, with each quote in it doubled${where} (${message})`;
}

/**
 * Makes a reader of tables. Empty lines are no records.
 *
 * @param form How they are written.
 */
export async function tableParser(
  { delimiter, plainQuotes = false, maxLength }: TableForm,
): Promise<RecordsOf> {
  // Loaded for tables alone. The library's streams need node:stream, which a page does not have.
  const { CsvError, parse } = await import("csv-parse/sync");
  return (text) => {
    const records: TableRecord[] = [];
    try {
      parse(text, {
        delimiter,
        relax_column_count: true,
        skip_empty_lines: true,
        ...(maxLength === undefined ? {} : { max_record_size: maxLength }),
        ...(plainQuotes ? { relax_quotes: true } : {}),
        on_record: (record: readonly string[], { lines: last }: { readonly lines: number }) => {
          const within = record.reduce((count, field) => count + field.split("\n").length - 1, 0);
          records.push({ record, first: last - within, last });
          return null;
        },
      });
      return { records, problem: null };
    } catch (error) {
      if (!(error instanceof CsvError)) throw error;
      const { code, message } = error;
      const { column } = error as { readonly column?: unknown };
      const problem = {
        isOpen: code === "CSV_QUOTE_NOT_CLOSED",
        rule: ruleOf(code, message, column),
        cause: error,
      };
      return { records, problem };
    }
  };
}
