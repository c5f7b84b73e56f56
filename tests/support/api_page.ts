/**
 * The page `docs/api.md`: the control API as it is described. `deno run -A tests/support/api_page.ts` writes it; a test holds
 * it against the description.
 *
 * @module
 */

import { toJsonSchema } from "@valibot/to-json-schema";
import type { GenericSchema } from "valibot";
import {
  type AnswerDescription,
  BODY_PROBLEMS,
  COMMON_PROBLEMS,
  GUARDED_PROBLEMS,
  PARAMETERS,
  ROLES,
  type RouteDescription,
  ROUTES,
  TRANSPORT_ROUTES,
} from "../../transport/control/routes.ts";
import { SHAPES } from "../../transport/control/schemas.ts";

/** Where the page is. */
export const API_PAGE = new URL("../../docs/api.md", import.meta.url);

/** Columns of the text. */
const WIDTH = 110;

interface JsonSchema {
  readonly $ref?: string;
  readonly type?: string;
  readonly enum?: readonly unknown[];
  readonly anyOf?: readonly JsonSchema[];
  readonly items?: JsonSchema;
  readonly properties?: Readonly<Record<string, JsonSchema>>;
  readonly required?: readonly string[];
  readonly description?: string;
}

/** Words in lines of at most so many columns. */
function wrapped(text: string, indent = ""): string {
  const lines: string[] = [];
  let line = "";
  for (const word of text.split(" ")) {
    const next = line === "" ? word : `${line} ${word}`;
    const width = WIDTH - (lines.length === 0 ? 0 : indent.length);
    if (next.length > width && line !== "") {
      lines.push(line);
      line = word;
    } else line = next;
  }
  return [...lines, line].join(`\n${indent}`);
}

/** A schema in a few words: the name of a shape, or what it is. */
function wordsOf(schema: JsonSchema): string {
  if (schema.$ref !== undefined) return schema.$ref.slice(schema.$ref.lastIndexOf("/") + 1);
  if (schema.enum !== undefined) return schema.enum.map((value) => JSON.stringify(value)).join(", ");
  if (schema.anyOf !== undefined) return schema.anyOf.map(wordsOf).join(" or ");
  if (schema.type === "array") return `list of ${wordsOf(schema.items ?? {})}`;
  if (schema.type === "string") return "text";
  return schema.type ?? "anything";
}

/** A body in a few words. */
function bodyOf(schema: GenericSchema): string {
  const name = Object.keys(SHAPES).find((name) => SHAPES[name] === schema);
  return name ?? wordsOf(jsonSchemaOf(schema));
}

/** A schema, with references to the shapes that have a name. */
function jsonSchemaOf(schema: GenericSchema): JsonSchema {
  const others = Object.entries(SHAPES).filter(([, shape]) => shape !== schema);
  const definitions = Object.fromEntries(others);
  return toJsonSchema(schema, { errorMode: "ignore", definitions }) as JsonSchema;
}

/** Fields of a shape, those of objects within it too. */
function fieldsOf({ properties = {}, required = [] }: JsonSchema, above = ""): string[] {
  return Object.entries(properties).flatMap(([name, field]) => {
    const path = `${above}${name}`;
    const inner = field.type === "array" ? field.items ?? {} : field.anyOf?.[0] ?? field;
    const more = required.includes(name) ? "" : ", may be absent";
    const what = field.description === undefined ? "" : `. ${field.description}`;
    return [
      wrapped(`- \`${path}\`: ${wordsOf(field)}${more}${what}.`, "  "),
      ...fieldsOf(inner, `${path}.`),
    ];
  });
}

function answerLine([status, { what, type, body }]: [string, AnswerDescription<unknown>]): string {
  const shape = body === undefined
    ? ""
    : type === undefined
    ? ` Body: ${bodyOf(body)}.`
    : ` Body: \`${type.split(";")[0]}\`.`;
  return wrapped(`- **${status}**: ${what}${shape}`, "  ");
}

/** A route as a part of the page. */
function partOf([name, route]: [string, RouteDescription]): string {
  const parameters = [
    ...[...name.matchAll(/:(\w+)/g)].map(([, parameter]) => [parameter!, PARAMETERS[parameter!]!] as const),
    ...Object.entries(route.query ?? {}).map(([parameter, what]) => [`?${parameter}`, what] as const),
  ];
  return [
    `### ${name}`,
    wrapped(route.more === undefined ? route.what : `${route.what} ${route.more}`),
    `Who: ${whoOf(route)}.`,
    [
      ...parameters.map(([parameter, what]) => wrapped(`- \`${parameter}\`: ${what}`, "  ")),
      ...(route.body === undefined ? [] : [`- body: ${bodyOf(route.body)}`]),
      ...Object.entries(route.answers).map(answerLine),
      ...Object.entries(route.problems).map(([status, what]) => wrapped(`- ${status}: ${what}`, "  ")),
    ].join("\n"),
  ].join("\n\n");
}

/** Problems as a list. */
function listOf(problems: Readonly<Record<number, string>>): string {
  return Object.entries(problems).map(([status, what]) => wrapped(`- ${status}: ${what}`, "  ")).join("\n");
}

function whoOf({ who }: Pick<RouteDescription, "who">): string {
  return who.includes("anonymous") ? "everyone" : who.join(", ");
}

/** Who may call which route, as a table. */
export function whoTable(): string {
  const routes = [...Object.entries(ROUTES), ...Object.entries(TRANSPORT_ROUTES)];
  const rows = routes.map(([name, { who }]) => [
    `\`${name}\``,
    ...ROLES.map((role) => who.includes("anonymous") || who.includes(role) ? "yes" : "no"),
  ]);
  const all = [["route", ...ROLES], ...rows];
  const widths = all[0]!.map((_, i) => Math.max(3, ...all.map((row) => row[i]!.length)));
  const line = (cells: readonly string[]) =>
    `| ${cells.map((cell, i) => cell.padEnd(widths[i]!)).join(" | ")} |`;
  return [line(all[0]!), line(widths.map((width) => "-".repeat(width))), ...rows.map(line)].join("\n");
}

/** The page. */
export function apiPage(): string {
  return `${
    [
      "# Control API",
      "Which routes does an edge server have, and who may call them?",
      wrapped(
        "This page is made of `transport/control/routes.ts`, which the server answers by. `GET /openapi.json` has the " +
          "same as OpenAPI 3.1. In TypeScript, `ControlClient` of `@edgetuner/edgetuner/control` calls every route with " +
          "its types. [Security](security.md) says what each kind of caller is.",
      ),
      wrapped(
        "Errors are problem details (RFC 9457): `{ type, title, status, detail }` as `application/problem+json`. " +
          "Beside its own every route may answer with these:",
      ),
      listOf({
        400: "The body is not valid.",
        ...GUARDED_PROBLEMS,
        ...BODY_PROBLEMS,
        ...COMMON_PROBLEMS,
      }),
      "## Who may call what",
      "A test calls every route as every kind of caller, and compares the answers with this table.",
      whoTable(),
      "## Routes",
      ...(Object.entries(ROUTES) as [string, RouteDescription][]).map(partOf),
      "## Shapes",
      ...Object.entries(SHAPES).flatMap((
        [name, shape],
      ) => [`### ${name}`, fieldsOf(jsonSchemaOf(shape)).join("\n")]),
      "## Transports of devices",
      Object.entries(TRANSPORT_ROUTES).map(([name, route]) =>
        wrapped(`- \`${name}\`: ${route.what} Who: ${whoOf(route)}.`, "  ")
      ).join("\n"),
    ].join("\n\n")
  }\n`;
}

if (import.meta.main) await Deno.writeTextFile(API_PAGE, apiPage());
