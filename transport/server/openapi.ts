/**
 * The description of the control API as OpenAPI 3.1.
 *
 * @module
 */

import { toJsonSchema } from "@valibot/to-json-schema";
import type { GenericSchema } from "valibot";
import {
  type AnswerDescription,
  PARAMETERS,
  problemsOf,
  type Role,
  type RouteDescription,
  ROUTES,
} from "../control/routes.ts";
import { SHAPES } from "../control/schemas.ts";

/** How callers show who they are. */
const SCHEMES = {
  session: { type: "apiKey", in: "cookie", name: "edgetuner", description: "A browser that is signed in" },
  token: { type: "http", scheme: "bearer", description: "A token in `Authorization: Bearer`" },
} as const;

/** The schemes by which a role is shown. */
function securityOf(who: readonly Role[]): Record<string, never[]>[] {
  if (who.includes("anonymous")) return [];
  const schemes = new Set(who.map((role) => role === "session" ? "session" : "token"));
  return [...schemes].map((scheme) => ({ [scheme]: [] }));
}

/** A schema, with references to the shapes that have a name; one that has a name itself is written out. */
function schemaOf(schema: GenericSchema): unknown {
  const others = Object.entries(SHAPES).filter(([, shape]) => shape !== schema);
  const { $schema: _, $defs: __, ...rest } = toJsonSchema(schema, {
    errorMode: "ignore",
    target: "draft-2020-12",
    definitions: Object.fromEntries(others),
    overrideRef: ({ referenceId }) => `#/components/schemas/${referenceId}`,
  });
  return rest;
}

/** A schema where it is used: a reference if it has a name. */
function referenceTo(schema: GenericSchema): unknown {
  const name = Object.keys(SHAPES).find((name) => SHAPES[name] === schema);
  return name === undefined ? schemaOf(schema) : { $ref: `#/components/schemas/${name}` };
}

function answerOf({ what, type = "application/json", body }: AnswerDescription<unknown>): unknown {
  return { description: what, ...(body && { content: { [type]: { schema: referenceTo(body) } } }) };
}

function operationOf(name: string, route: RouteDescription): unknown {
  const path = name.split(" ")[1]!;
  const parameters = [
    ...[...path.matchAll(/:(\w+)/g)].map(([, parameter]) => ({
      name: parameter,
      in: "path",
      required: true,
      description: PARAMETERS[parameter!],
      schema: { type: "string" },
    })),
    ...Object.entries(route.query ?? {}).map(([parameter, description]) => ({
      name: parameter,
      in: "query",
      required: false,
      description,
      schema: { type: "string" },
    })),
  ];
  const problems = Object.entries(problemsOf(name, route)).map(([status, description]) => [
    status,
    {
      description,
      content: { "application/problem+json": { schema: { $ref: "#/components/schemas/Problem" } } },
    },
  ]);
  const answers = Object.entries(route.answers).map(([status, answer]) => [status, answerOf(answer)]);
  return {
    operationId: operationIdOf(name),
    summary: route.what,
    ...(route.more === undefined ? {} : { description: route.more }),
    "x-who": route.who,
    security: securityOf(route.who),
    ...(parameters.length === 0 ? {} : { parameters }),
    ...(route.body === undefined ? {} : {
      requestBody: { required: true, content: { "application/json": { schema: referenceTo(route.body) } } },
    }),
    responses: Object.fromEntries([...answers, ...problems]),
  };
}

/** A name for generated clients: `POST /api/runs/:run/pause` is `postApiRunsRunPause`. */
function operationIdOf(name: string): string {
  const [first = "", ...words] = name.split(/[^A-Za-z]+/).filter((word) => word !== "");
  return first.toLowerCase() + words.map((word) => word[0]!.toUpperCase() + word.slice(1)).join("");
}

/**
 * The description of the control API.
 *
 * @param version Version of the server.
 * @returns An OpenAPI 3.1 document.
 */
export function openApi(version: string): Readonly<Record<string, unknown>> {
  const paths: Record<string, Record<string, unknown>> = {};
  for (const [name, route] of Object.entries(ROUTES)) {
    const [method, path] = name.split(" ") as [string, string];
    const operations = paths[path.replace(/:(\w+)/g, "{$1}")] ??= {};
    operations[method.toLowerCase()] = operationOf(name, route as RouteDescription);
  }
  return {
    openapi: "3.1.0",
    info: {
      title: "EdgeTuner control API",
      version,
      description: "Watches and steers the runs of an edge server. Errors are problem details (RFC 9457).",
    },
    paths,
    components: {
      schemas: Object.fromEntries(Object.entries(SHAPES).map(([name, shape]) => [name, schemaOf(shape)])),
      securitySchemes: SCHEMES,
    },
  };
}
