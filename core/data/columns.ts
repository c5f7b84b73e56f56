/**
 * The columns that data sets have, as those that examples are made of: Alpaca, ShareGPT, columns of any name, columns
 * that are null.
 *
 * @module
 */

import { showValue } from "../contracts/plain_text.ts";
import { BrokenRule } from "./lines.ts";

/** Which column of the data is which of ours, by our names: `{ prompt: "question", completion: "answer" }`. */
export type ColumnMap = Readonly<Record<string, string>>;

/** Our names of columns. */
export const COLUMNS: readonly string[] = [
  ...["prompt", "completion", "context", "continuation", "text", "messages", "tools"],
  ...["instruction", "input", "output", "system", "conversations"],
];

/** Who speaks, by the names that ShareGPT data has. */
const SPEAKERS: Readonly<Record<string, string>> = {
  human: "user",
  user: "user",
  gpt: "assistant",
  chatgpt: "assistant",
  bing: "assistant",
  bard: "assistant",
  model: "assistant",
  assistant: "assistant",
  system: "system",
  tool: "tool",
  observation: "tool",
  function_response: "tool",
};

/** How rows are read. */
export interface ColumnOptions {
  /** Which column is which; others do not count then. @default {columns have our names} */
  readonly map?: ColumnMap | undefined;
  /** True to make conversations of instructions, where a chat template says how they are written. */
  readonly instructionsAsChats?: boolean | undefined;
}

type Fields = Record<string, unknown>;

/**
 * A row in the columns that examples are made of. A column that is null is not there.
 *
 * @returns The fields, or the rule that the row breaks.
 */
export function columnsOf(row: Fields, options: ColumnOptions = {}): Fields | BrokenRule {
  const { map, instructionsAsChats = false } = options;
  const mapped = map === undefined ? row : mappedFields(row, map);
  if (mapped instanceof BrokenRule) return mapped;
  const fields: Fields = {};
  for (const [name, value] of Object.entries(mapped)) {
    if (value !== null && value !== undefined) fields[name] = value;
  }
  if (fields.messages !== undefined) return fields;
  if (fields.conversations !== undefined) return shareGptFields(fields);
  if (Array.isArray(fields.prompt) && Array.isArray(fields.completion)) return turnsFields(fields);
  if (fields.instruction !== undefined && fields.output !== undefined) {
    return alpacaFields(fields, { asChats: instructionsAsChats });
  }
  if (fields.chosen !== undefined && fields.completion === undefined) {
    return new BrokenRule(
      "rows of preferences must be given one answer: --map prompt=prompt,completion=chosen takes the chosen one",
    );
  }
  return fields;
}

function mappedFields(row: Fields, map: ColumnMap): Fields | BrokenRule {
  const fields: Fields = {};
  for (const [name, column] of Object.entries(map)) {
    if (!Object.hasOwn(row, column)) {
      return new BrokenRule(
        `a row must have the column ${showValue(column)}: its columns are ${namesOf(row)}`,
        { hasValue: true },
      );
    }
    fields[name] = row[column];
  }
  return fields;
}

/** Names of the columns of a row, for messages. */
export function namesOf(row: Fields): string {
  const names = Object.keys(row);
  const shown = names.slice(0, 12).map((name) => name.length > 40 ? `${name.slice(0, 40)}...` : name).join(
    ", ",
  );
  return names.length > 12 ? `${shown} and ${names.length - 12} more` : shown;
}

/** `instruction`, `input` and `output`, with `system` if there is one. */
function alpacaFields(
  { instruction, input = "", output, system }: Fields,
  { asChats }: { readonly asChats: boolean },
): Fields | BrokenRule {
  for (const [name, value] of Object.entries({ instruction, input, output, system })) {
    if (value !== undefined && typeof value !== "string") return notText(name, value);
  }
  const prompt = input === "" ? instruction : `${instruction}\n\n${input}`;
  if (!asChats) {
    return { prompt: system === undefined ? prompt : `${system}\n\n${prompt}`, completion: output };
  }
  if (`${output}`.trim() === "") return new BrokenRule("the output must not be empty");
  return {
    messages: [
      ...(system === undefined || system === "" ? [] : [{ role: "system", content: system }]),
      { role: "user", content: prompt },
      { role: "assistant", content: output },
    ],
  };
}

function notText(name: string, value: unknown): BrokenRule {
  return new BrokenRule(`"${name}" must be a string: current value is ${showValue(value)}`, {
    hasValue: true,
  });
}

/** `conversations` of turns with `from` and `value`, or with `role` and `content` as `messages` have them. */
function shareGptFields({ conversations, system, tools }: Fields): Fields | BrokenRule {
  if (!Array.isArray(conversations)) {
    return new BrokenRule(`"conversations" must be a list: current value is ${showValue(conversations)}`, {
      hasValue: true,
    });
  }
  const messages: Fields[] = [];
  for (const [i, turn] of conversations.entries()) {
    const { from, value, role = from, content = value, weight } = (turn ?? {}) as Fields;
    const speaker = typeof role === "string" && Object.hasOwn(SPEAKERS, role) ? SPEAKERS[role] : undefined;
    if (speaker === undefined) {
      return new BrokenRule(
        `"from" of turn ${i + 1} must be one of ${Object.keys(SPEAKERS).join(", ")}: current value is ${
          showValue(role)
        }`,
        { hasValue: true },
      );
    }
    if (typeof content !== "string") return notText(`value" of turn ${i + 1} of "conversations`, content);
    messages.push({ role: speaker, content, ...(weight === undefined ? {} : { weight }) });
  }
  if (typeof system === "string" && system !== "" && messages[0]?.role !== "system") {
    messages.unshift({ role: "system", content: system });
  }
  return { messages, ...(tools === undefined ? {} : { tools }) };
}

/** Turns that are given and turns to learn, as two lists of messages. */
function turnsFields({ prompt, completion, tools }: Fields): Fields {
  const given = (prompt as readonly unknown[]).map((turn) => ({ ...turn as Fields, weight: 0 }));
  return { messages: [...given, ...completion as unknown[]], ...(tools === undefined ? {} : { tools }) };
}
