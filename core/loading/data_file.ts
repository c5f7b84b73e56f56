/**
 * Files of training data in the formats that people have, row by row, so that memory holds a row and not the file.
 *
 * @module
 */

import { DataFormatError, ModelFileError } from "../contracts/errors.ts";
import { BrokenRule, parseFields } from "../data/lines.ts";
import { COLUMNS, namesOf } from "../data/columns.ts";
import { parsePairLine } from "../data/pairs.ts";
import { type RecordsOf, tableParser } from "../data/table_records.ts";
import { type FileLine, fileLines, MAX_LINE_BYTES, openFile } from "../files/lines.ts";
import type { DataRow } from "./_data_row.ts";
import { parquetRows } from "./_parquet.ts";

/**
 * How a file holds its data: `pairs` has `prompt||completion` in each line, `text` is one text, which is packed to the
 * length of sequences, `paragraphs` has a text between empty lines.
 */
export type DataFormat = "pairs" | "text" | "paragraphs" | "jsonl" | "json" | "csv" | "tsv" | "parquet";

/** All formats. */
export const DATA_FORMATS: readonly DataFormat[] = [
  ...["pairs", "text", "paragraphs", "jsonl", "json", "csv", "tsv", "parquet"] as const,
];

/** Formats by the end of a name. */
const ENDINGS: Readonly<Record<string, DataFormat>> = {
  jsonl: "jsonl",
  jsonlines: "jsonl",
  ndjson: "jsonl",
  csv: "csv",
  tsv: "tsv",
  tab: "tsv",
  parquet: "parquet",
};
/** Ends of names of files that count where a folder is given. */
const OF_DATA = /\.(jsonl|jsonlines|ndjson|json|csv|tsv|tab|parquet|txt)(\.gz)?$/i;

/**
 * Recognises what a file is: by the end of its name, in large or small letters, else by how it begins. A text whose
 * first lines have no `||` is plain.
 *
 * @param file The file.
 * @returns Its format.
 * @throws {ModelFileError} If it cannot be read.
 */
export async function recogniseFormat(file: string): Promise<DataFormat> {
  const { head, stream } = await openFile(file);
  if (isParquet(head)) {
    await stream.cancel();
    return "parquet";
  }
  const start = await beginning(stream);
  const ending = /\.([a-z]+)(?:\.gz)?$/i.exec(file)?.[1]?.toLowerCase() ?? "";
  const known = ENDINGS[ending];
  if (known !== undefined) return known;
  const first = start.trimStart()[0];
  if (ending === "json") return first === "[" ? "json" : "jsonl";
  if (first === "{") return "jsonl";
  if (/^\s*\[\s*\{/.test(start)) return "json";
  return tableOf(start) ?? (start.includes("||") ? "pairs" : "text");
}

/** Which table a text is, if any: its first line must name two of the columns that data sets have, and nothing else. */
function tableOf(start: string): "csv" | "tsv" | null {
  const header = start.replace(/^\uFEFF/, "").split(/\r?\n/, 1)[0]!;
  const format = header.includes("\t") ? "tsv" : "csv";
  const fields = header.split(delimiterOf(header, format)).map((field) =>
    field.trim().replace(/^"(.*)"$/, "$1")
  );
  const isTable = fields.every((field) => /^\w+$/.test(field)) &&
    fields.filter((field) => COLUMNS.includes(field)).length >= 2;
  return isTable ? format : null;
}

function isParquet(head: Uint8Array): boolean {
  return new TextDecoder("latin1").decode(head.subarray(0, 4)) === "PAR1";
}

/** Characters that tell one format from another. */
const BEGINNING = 2 ** 16;

async function beginning(stream: ReadableStream<Uint8Array>): Promise<string> {
  const decoder = new TextDecoder();
  let text = "";
  for await (const chunk of stream) {
    text += decoder.decode(chunk, { stream: true });
    if (text.length >= BEGINNING) break;
  }
  return text;
}

/**
 * Files of data by the path that a user gives: the file, or those in a folder, in the order of their names.
 *
 * @throws {ModelFileError} If it cannot be read.
 * @throws {DataFormatError} If a folder holds no data, or parts that do not belong together.
 */
export async function dataFiles(path: string): Promise<string[]> {
  const { isDirectory } = await Deno.stat(path).catch((cause) => {
    throw new ModelFileError(`Cannot read ${path} as it must be a readable file: ${cause.message}`, {
      cause,
    });
  });
  if (!isDirectory) return [path];
  const names: string[] = [];
  for await (const entry of Deno.readDir(path)) {
    if (!entry.isDirectory && OF_DATA.test(entry.name) && !entry.name.startsWith(".")) names.push(entry.name);
  }
  names.sort();
  const held = names.find((name) => /^(valid|validation|dev|test|eval)\b/i.test(name));
  if (held !== undefined && names.some((name) => /^train/i.test(name))) {
    throw new DataFormatError(
      `Cannot read the folder ${path} as all of its files must belong together: it holds training data and ${held}; ` +
        "name one file",
    );
  }
  if (names.length === 0) {
    throw new DataFormatError(
      `Cannot read the folder ${path} as it must hold files of data (.jsonl, .json, .csv, .tsv, .parquet, .txt): it has none`,
    );
  }
  return names.map((name) => `${path.replace(/(?<=.)[/\\]+$/, "")}/${name}`);
}

/**
 * Reads a file row by row.
 *
 * @param file The file.
 * @param format Its format. @default {what is recognised}
 * @throws {ModelFileError} If it cannot be read.
 * @throws {DataFormatError} If its rows cannot be told from each other.
 */
export async function* dataRows(file: string, format?: DataFormat): AsyncGenerator<DataRow> {
  const known = format ?? await recogniseFormat(file);
  if (known === "parquet") return yield* parquetRows(file);
  const { stream } = await openFile(file);
  const lines = fileLines(stream, file);
  if (known === "csv" || known === "tsv") yield* tableRows(lines, file, known);
  else if (known === "json") yield* listRows(lines, file);
  else if (known === "text") yield* wholeText(lines, file);
  else if (known === "paragraphs") yield* paragraphs(lines);
  else yield* lineRows(lines, known === "pairs" ? pairRow : fieldsRow);
}

function pairRow(line: string): DataRow["row"] {
  const pair = parsePairLine(line);
  return pair instanceof BrokenRule ? pair : { pair };
}

function fieldsRow(line: string): DataRow["row"] {
  const fields = parseFields(line);
  return fields instanceof BrokenRule ? fields : { fields };
}

function broken({ line, problem }: FileLine): DataRow {
  return { line, row: new BrokenRule(problem!, { hasValue: true }), source: "" };
}

/** A row a line; empty lines at the end are none. */
async function* lineRows(
  lines: AsyncIterable<FileLine>,
  parse: (line: string) => DataRow["row"],
): AsyncGenerator<DataRow> {
  let empty: number[] = [];
  for await (const found of lines) {
    const { line } = found;
    const source = found.text.trim();
    if (source === "" && found.problem === null) {
      empty.push(line);
      continue;
    }
    for (const one of empty) yield { line: one, row: parse(""), source: "" };
    empty = [];
    yield found.problem === null ? { line, row: parse(source), source } : broken(found);
  }
}

/** Most characters of a text that is read in one piece. */
const MAX_TEXT = 2 ** 27;

/** The whole text, in one piece. */
async function* wholeText(lines: AsyncIterable<FileLine>, file: string): AsyncGenerator<DataRow> {
  const texts: string[] = [];
  let size = 0;
  for await (const found of lines) {
    if (found.problem !== null) yield broken(found);
    else texts.push(found.text);
    size += found.text.length + 1;
    if (size > MAX_TEXT) {
      throw new DataFormatError(
        `Cannot read ${file} as a text must have at most ${MAX_TEXT} characters: it has more; read it by paragraphs`,
      );
    }
  }
  const text = texts.join("\n").trim();
  if (text !== "") yield { line: 1, row: { text }, source: text };
}

async function* paragraphs(lines: AsyncIterable<FileLine>): AsyncGenerator<DataRow> {
  let texts: string[] = [];
  let first = 0;
  const row = (): DataRow => ({ line: first, row: { text: texts.join("\n") }, source: texts.join("\n") });
  for await (const found of lines) {
    if (found.problem !== null) yield broken(found);
    else if (found.text.trim() !== "") {
      if (texts.length === 0) first = found.line;
      texts.push(found.text);
    } else if (texts.length > 0) {
      yield row();
      texts = [];
    }
  }
  if (texts.length > 0) yield row();
}

/** @throws {DataFormatError} If a line has bytes that are not UTF-8. */
function requireWellFormed({ line, problem }: FileLine, file: string): void {
  if (problem !== null) throw new DataFormatError(`Cannot read ${file}, line ${line}, as ${problem}`);
}

/** Rows of a JSON list: each is cut out and read on its own. */
async function* listRows(lines: AsyncIterable<FileLine>, file: string): AsyncGenerator<DataRow> {
  const refuse = (line: number, rule: string): never => {
    throw new DataFormatError(`Cannot read ${file}, line ${line}, as ${rule}`);
  };
  let depth = 0, inText = false, isEscaped = false, first = 0, last = 0;
  let piece = "";
  let bad: FileLine | null = null;
  const row = (): DataRow => {
    const source = piece.trim();
    piece = "";
    // Several rows may be on a line: those that have what stands for the wrong bytes.
    const isBad = bad !== null && bad.line >= first && source.includes("\uFFFD");
    return isBad ? broken(bad!) : { line: first, row: fieldsRow(source), source };
  };
  for await (const found of lines) {
    const { text, line } = found;
    if (found.problem !== null && (bad === null || bad.line < first)) bad = found;
    last = line;
    let start = 0;
    for (let i = 0; i < text.length; i++) {
      const letter = text[i]!;
      if (isEscaped) isEscaped = false;
      else if (inText) {
        if (letter === "\\") isEscaped = true;
        else if (letter === '"') inText = false;
      } else if (letter === '"') inText = true;
      else if (letter === "[" || letter === "{") {
        depth++;
        if (depth === 1) {
          if (letter !== "[" || first > 0) refuse(line, "the file must be one list of objects: it is not");
          [start, first] = [i + 1, line];
        } else if (depth === 2 && piece.trim() === "" && text.slice(start, i).trim() === "") first = line;
      } else if (letter === "]" || letter === "}") {
        depth--;
        if (depth === 0) {
          piece += text.slice(start, i);
          if (piece.trim() !== "") yield row();
          start = text.length;
        }
      } else if (letter === "," && depth === 1) {
        piece += text.slice(start, i);
        start = i + 1;
        yield row();
      } else if (depth === 0 && letter.trim() !== "") {
        refuse(
          line,
          `the file must be one list of objects: current value is ${JSON.stringify(text.slice(i, i + 40))}`,
        );
      }
    }
    if (depth > 0) piece += `${text.slice(start)}\n`;
    if (piece.length > MAX_LINE_BYTES) {
      refuse(first, `a row must have at most ${MAX_LINE_BYTES} characters: it has more`);
    }
  }
  if (depth > 0) refuse(last, `the list must end with "]": the file ends before it`);
}

/** What separates the fields of a table: of a header without commas that has semicolons, those. */
function delimiterOf(header: string, format: "csv" | "tsv"): string {
  if (format === "tsv") return "\t";
  const plain = header.replace(/"(?:[^"]|"")*"/g, "");
  return plain.includes(",") || !plain.includes(";") ? "," : ";";
}

/** Rows of a table with a header. An empty field is null. */
async function* tableRows(
  lines: AsyncGenerator<FileLine>,
  file: string,
  format: "csv" | "tsv",
): AsyncGenerator<DataRow> {
  const { value: first } = await lines.next();
  if (first === undefined || (first.problem === null && first.text.trim() === "")) {
    throw new DataFormatError(`Cannot read ${file} as a table must begin with a header: it is empty`);
  }
  requireWellFormed(first, file);
  const recordsOf = await tableParser({
    delimiter: delimiterOf(first.text, format),
    // Tabs hardly come in texts, quotes often do and are seldom doubled there.
    plainQuotes: format === "tsv",
    maxLength: MAX_LINE_BYTES,
  });
  let header: readonly string[] | null = null;
  let next = 1;
  /** Lines with bytes that are not UTF-8: the rows that they are in cannot be read. */
  const bad: FileLine[] = [];
  for await (
    const { records, problem, before } of portions(noting(prepended(first, lines), bad), recordsOf)
  ) {
    for (const { record, first, last } of records) {
      const line = before + first;
      next = before + last + 1;
      const wrong = bad.find((found) => found.line >= line && found.line < next);
      while (bad.length > 0 && bad[0]!.line < next) bad.shift();
      if (wrong !== undefined) yield broken(wrong);
      else if (header === null) header = headerOf(record, file);
      else yield { line, row: tableRow(header, record), source: record.join(",") };
    }
    if (problem === null) continue;
    throw new DataFormatError(`Cannot read ${file}, line ${next}, as ${problem.rule}`, {
      cause: problem.cause,
    });
  }
}

/** Lines as they come; those whose bytes are wrong are put into a list too. */
async function* noting(lines: AsyncIterable<FileLine>, bad: FileLine[]): AsyncGenerator<FileLine> {
  for await (const line of lines) {
    if (line.problem !== null) bad.push(line);
    yield line;
  }
}

/** Characters of a table that are parsed at once. */
const PORTION = 1 << 16;

/** A file in portions of whole records: one that ends within quotes takes as many lines again. */
async function* portions(
  lines: AsyncIterable<FileLine>,
  recordsOf: RecordsOf,
): AsyncGenerator<ReturnType<RecordsOf> & { readonly before: number }> {
  let text = "";
  let before = 0;
  let count = 0;
  let enough = PORTION;
  for await (const line of lines) {
    text += `${line.text}\n`;
    count++;
    if (text.length < enough) continue;
    const portion = recordsOf(text);
    if (portion.problem?.isOpen === true) {
      enough = 2 * text.length;
      continue;
    }
    yield { ...portion, before };
    before += count;
    [text, count, enough] = ["", 0, PORTION];
  }
  if (text !== "") yield { ...recordsOf(text), before };
}

async function* prepended<T>(first: T, rest: AsyncIterable<T>): AsyncGenerator<T> {
  yield first;
  yield* rest;
}

function headerOf(record: readonly string[], file: string): readonly string[] {
  const names = record.map((name) => name.trim());
  const twice = names.find((name, i) => name !== "" && names.indexOf(name) < i);
  if (twice !== undefined) {
    throw new DataFormatError(
      `Cannot read ${file}, line 1, as each column must have a name of its own: "${twice}" comes twice`,
    );
  }
  return names;
}

function tableRow(header: readonly string[], record: readonly string[]): DataRow["row"] {
  if (record.length !== header.length) {
    const names = namesOf(Object.fromEntries(header.map((name) => [name, ""])));
    return new BrokenRule(
      `a row must have ${header.length} fields (${names}): current value is ${record.length}`,
      { hasValue: true },
    );
  }
  return { fields: Object.fromEntries(header.map((name, i) => [name, record[i] === "" ? null : record[i]])) };
}
