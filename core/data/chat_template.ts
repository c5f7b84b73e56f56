/**
 * Conversations as the text that a model was trained on, by the model's own chat template.
 *
 * @module
 */

import { entriesOf } from "../files/folders.ts";
import { isMissing } from "../files/missing.ts";
import { parseJson, readTextWithin } from "../files/json_file.ts";
import { showValue } from "../contracts/plain_text.ts";
import { ModelFileError } from "../contracts/errors.ts";
import { type Span, Template } from "./jinja/template.ts";

/** A turn of a conversation. Templates may read further fields, such as `tool_calls`. */
export interface ChatMessage {
  /** Who speaks: "system", "user", "assistant", "tool". */
  readonly role: string;
  /** What is said; templates also know other forms than text. */
  readonly content?: unknown;
  /** Whatever else the template reads. */
  readonly [field: string]: unknown;
}

/** A conversation. */
export interface Conversation {
  /** The turns, in order. */
  readonly messages: readonly ChatMessage[];
  /** Descriptions of the tools that the model may call, as the template wants them. */
  readonly tools?: readonly unknown[];
}

/** How to render. */
export interface RenderOptions {
  /** Ends the text where the assistant is to speak. @default {false} */
  readonly addGenerationPrompt?: boolean;
}

/** A rendered conversation. */
export interface RenderedText {
  /** The text, special tokens written out. */
  readonly text: string;
  /**
   * Parts that the template marks as the assistant's, by `{% generation %}`: where each begins and ends, in UTF-16
   * units. None in templates without such marks.
   */
  readonly generated: readonly (readonly [start: number, end: number])[];
}

/** Folder with further chat templates, in a model folder. */
export const TEMPLATE_FOLDER = "additional_chat_templates";

/** Turns conversations into text. */
export interface ChatTemplate {
  /**
   * Renders a conversation, special tokens written out.
   *
   * @param conversation The turns and tools.
   * @param options Whether the assistant is to go on.
   * @returns The text.
   * @throws {ModelFileError} If the template refuses the conversation, takes longer than some seconds, or makes
   * a text or list of more than a million characters.
   */
  render(conversation: Conversation, options?: RenderOptions): string;
  /**
   * As `render`, with the parts that the template marks as the assistant's. Templates without this mark none.
   *
   * @param conversation The turns and tools.
   * @param options Whether the assistant is to go on.
   * @throws {ModelFileError} As `render`.
   */
  renderMarked?(conversation: Conversation, options?: RenderOptions): RenderedText;
}

/** How to read a template. */
export interface ChatTemplateOptions {
  /** A template that takes the place of the one in the configuration, as models with a `chat_template.jinja` have it. */
  readonly template?: string;
  /** How errors call the file. @default {"the tokenizer configuration"} */
  readonly name?: string;
  /** What counts as now where a template writes the date. @default {the time of rendering} */
  readonly now?: Date;
}

/**
 * Makes a chat template from the content of a `tokenizer_config.json`. Of several named templates it takes
 * "tool_use" for conversations with tools, if there is one, and "default" otherwise.
 *
 * @param config The parsed content.
 * @param options Another template.
 * @returns The template.
 * @throws {ModelFileError} If there is no template, or it is not valid.
 *
 * @example
 * ```ts
 * import { chatTemplateFromConfig } from "@edgetuner/core";
 *
 * const template = chatTemplateFromConfig({
 *   chat_template: "{% for m in messages %}<{{ m.role }}>{{ m.content }}{{ eos_token }}{% endfor %}" +
 *     "{% if add_generation_prompt %}<assistant>{% endif %}",
 *   eos_token: "</s>",
 * });
 * template.render({ messages: [{ role: "user", content: "Hi" }] }, { addGenerationPrompt: true });
 * // "<user>Hi</s><assistant>"
 * ```
 */
export function chatTemplateFromConfig(config: unknown, options: ChatTemplateOptions = {}): ChatTemplate {
  const { name = "the tokenizer configuration", now } = options;
  const fields = (config ?? {}) as Record<string, unknown>;
  const templates = new Map<string, Template>();
  for (const [key, source] of templateSources(options.template ?? fields.chat_template, name)) {
    try {
      templates.set(key, new Template(source));
    } catch (error) {
      throw new ModelFileError(`Cannot use ${name} as its chat template must be valid: ${error}`, {
        cause: error,
      });
    }
  }
  const tokens = specialTokens(fields);
  const renderMarked = (
    conversation: Conversation,
    { addGenerationPrompt = false }: RenderOptions = {},
  ): { readonly text: string; readonly generated: readonly Span[] } => {
    const { messages, tools } = conversation;
    const template = (tools && templates.get("tool_use")) ?? templates.get("default")!;
    try {
      return template.render({
        ...tokens,
        messages,
        tools: tools ?? null,
        documents: null,
        add_generation_prompt: addGenerationPrompt,
      }, now ?? new Date());
    } catch (error) {
      throw new ModelFileError(
        `Cannot render the conversation as the chat template must take it: ${
          error instanceof Error ? error.message : error
        }`,
        { cause: error },
      );
    }
  };
  return {
    render: (conversation, options) => renderMarked(conversation, options).text,
    renderMarked,
  };
}

/** Names and sources of templates. */
function templateSources(value: unknown, name: string): [string, string][] {
  if (typeof value === "string") return [["default", value]];
  if (Array.isArray(value)) {
    const named = value.map((item): [unknown, unknown] => [item?.name, item?.template]);
    const isNamed = (pair: [unknown, unknown]): pair is [string, string] =>
      pair.every((part) => typeof part === "string");
    if (named.every(isNamed) && named.some(([key]) => key === "default")) return named;
  }
  throw new ModelFileError(
    `Cannot use ${name} as "chat_template" must be a template, or named ones with one called "default": ` +
      `current value is ${showValue(value)}`,
  );
}

/** `bos_token` and its like: text, or an object with the text as `content`. */
function specialTokens(fields: Record<string, unknown>): Record<string, string> {
  const tokens: Record<string, string> = {};
  for (const [key, value] of Object.entries(fields)) {
    const text = (value as { content?: unknown } | null)?.content ?? value;
    if (key.endsWith("_token") && typeof text === "string") tokens[key] = text;
  }
  return tokens;
}

/**
 * Reads the chat template of a model folder: `chat_template.jinja` if there is one, otherwise the one in
 * `tokenizer_config.json` or `chat_template.json`. Those in `additional_chat_templates/` have the names of their files.
 *
 * @param folder The model folder.
 * @returns The template.
 * @throws {ModelFileError} If there is none, or it is not valid.
 */
export async function loadChatTemplate(folder: string): Promise<ChatTemplate> {
  const template = await findChatTemplate(folder);
  if (template !== null) return template;
  throw new ModelFileError(
    `Cannot read the chat template as ${folder}/tokenizer_config.json or ${folder}/chat_template.jinja must hold one: ` +
      "there is none",
  );
}

/**
 * As {@linkcode loadChatTemplate}, of models that may have none: many chat, many do not.
 *
 * @param folder The model folder.
 * @param now What counts as now where the template writes the date. @default {the time of rendering}
 * @returns The template; `null` if neither file is there or names one.
 * @throws {ModelFileError} If there is one that is not valid, or a file cannot be read.
 */
export async function findChatTemplate(folder: string, now?: Date): Promise<ChatTemplate | null> {
  const path = `${folder}/tokenizer_config.json`;
  const config = await fieldsIn(path);
  const file = await readIfThere(`${folder}/chat_template.jinja`);
  const named = await writtenTemplates(folder, { config, file, path });
  if (named === null) return null;
  const map = await fieldsIn(`${folder}/special_tokens_map.json`);
  return chatTemplateFromConfig({ ...config, ...map, chat_template: named }, {
    name: file === null ? path : `${folder}/chat_template.jinja`,
    ...(now === undefined ? {} : { now }),
  });
}

/** The templates of a model folder, as a `tokenizer_config.json` has them; `null` if there are none. */
async function writtenTemplates(
  folder: string,
  { config, file, path }: {
    readonly config: Record<string, unknown>;
    readonly file: string | null;
    readonly path: string;
  },
): Promise<unknown> {
  const older = await fieldsIn(`${folder}/chat_template.json`);
  const main = file ?? config.chat_template ?? older.chat_template ?? null;
  const further = await furtherTemplates(folder);
  if (further.length === 0) return main;
  return [...(main === null ? [] : templateSources(main, path)), ...further]
    .map(([name, template]) => ({ name, template }));
}

/**
 * Sources of the chat templates of a model folder by name, the main one as "default".
 *
 * @throws {ModelFileError} If there is one that is no text, or a file cannot be read.
 */
export async function folderTemplates(folder: string): Promise<ReadonlyMap<string, string>> {
  const path = `${folder}/tokenizer_config.json`;
  const file = await readIfThere(`${folder}/chat_template.jinja`);
  const named = await writtenTemplates(folder, { config: await fieldsIn(path), file, path });
  return new Map(named === null ? [] : templateSources(named, path));
}

/** Fields of a JSON file; none if it is not there. */
async function fieldsIn(path: string): Promise<Record<string, unknown>> {
  const content = await readIfThere(path);
  try {
    return (content === null ? null : parseJson(content)) as Record<string, unknown> | null ?? {};
  } catch (error) {
    throw new ModelFileError(`Cannot read ${path} as it must be JSON: ${(error as Error).message}`, {
      cause: error,
    });
  }
}

/** Names and sources of the templates that a model has beside its main one. */
async function furtherTemplates(folder: string): Promise<[name: string, source: string][]> {
  const found: [string, string][] = [];
  for (const name of await templateNames(folder)) {
    const source = await readIfThere(`${folder}/${name}`);
    if (source !== null) found.push([name.replace(/^.*\/|\.jinja$/g, ""), source]);
  }
  return found;
}

/** Paths in a model folder of chat templates beside its main one. */
export async function templateNames(folder: string): Promise<string[]> {
  return (await entriesOf(`${folder}/${TEMPLATE_FOLDER}`))
    .filter(({ name, isFile }) => isFile && name.endsWith(".jinja"))
    .map(({ name }) => `${TEMPLATE_FOLDER}/${name}`);
}

/** Content of a file; `null` if it is not there. */
async function readIfThere(path: string): Promise<string | null> {
  try {
    return await readTextWithin(path);
  } catch (error) {
    if (isMissing(error)) return null;
    throw new ModelFileError(
      `Cannot read ${path} as it must be a readable file: ${(error as Error).message}`,
      {
        cause: error,
      },
    );
  }
}
