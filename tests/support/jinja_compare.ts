/**
 * Compares chat templates with what jinja2 makes of them.
 *
 *     deno run -A tests/support/jinja_compare.ts FILE
 *
 * Files are those that `tests/fixtures/jinja` writes. It prints how many texts are the same, refused, or otherwise.
 *
 * @module
 */

import { Template } from "../../core/data/jinja/template.ts";

/** What jinja2 makes of templates. */
interface Fixture {
  /** What all templates may read. */
  readonly names?: Readonly<Record<string, unknown>>;
  readonly messages?: unknown;
  /** Sources of templates by their names. @default {each case has its source} */
  readonly templates?: Readonly<Record<string, string>>;
  /** What each chat has. */
  readonly chats?: readonly Readonly<Record<string, unknown>>[];
  readonly cases: readonly {
    readonly template: string;
    readonly chat?: number;
    readonly text?: string;
    readonly error?: true;
  }[];
}

/** How templates compare with jinja2. */
export interface Comparison {
  /** How many give the same text, or fail where jinja2 fails. */
  same: number;
  /** Those that are refused where jinja2 has a text, and why. */
  readonly refused: string[];
  /** Those that give another text. */
  readonly otherwise: string[];
}

/** The time that counts as now. */
const NOW = new Date(2024, 6, 6, 15, 4, 9);

/**
 * Renders all templates of a file.
 *
 * @param path The file.
 */
export async function compareWithJinja2(path: string): Promise<Comparison> {
  const { names, messages, templates, chats, cases }: Fixture = JSON.parse(await Deno.readTextFile(path));
  const found: Comparison = { same: 0, refused: [], otherwise: [] };
  for (const { template, chat, text, error } of cases) {
    const label = chat === undefined ? template : `${template}, chat ${chat}`;
    try {
      const source = templates?.[template] ?? template;
      const written = new Template(source).render(chats?.[chat!] ?? names ?? { messages }, NOW).text;
      if (written === text) found.same++;
      else found.otherwise.push(`${label}: ${written}`);
    } catch (why) {
      if (error) found.same++;
      else found.refused.push(`${label}: ${why}`);
    }
  }
  return found;
}

if (import.meta.main) {
  for (const path of Deno.args) {
    const { same, refused, otherwise } = await compareWithJinja2(path);
    console.log(`${path}: ${same} the same, ${refused.length} refused, ${otherwise.length} otherwise`);
    for (const line of [...refused, ...otherwise].slice(0, 20)) console.log(line);
  }
}
