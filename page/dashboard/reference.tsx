/**
 * The control API, as the server describes it.
 *
 * @module
 */

import type { JSX } from "preact";
import { useEffect, useState } from "preact/hooks";
import { client } from "./state.ts";

interface Schema {
  readonly $ref?: string;
  readonly type?: string | readonly string[];
  readonly items?: Schema;
  readonly anyOf?: readonly Schema[];
  readonly enum?: readonly unknown[];
  readonly properties?: Readonly<Record<string, Schema>>;
  readonly required?: readonly string[];
  readonly description?: string;
}

type Content = Readonly<Record<string, { readonly schema?: Schema }>>;

interface Operation {
  readonly operationId: string;
  readonly summary: string;
  readonly description?: string;
  readonly "x-who": readonly string[];
  readonly parameters?: readonly {
    readonly name: string;
    readonly in: string;
    readonly description?: string;
  }[];
  readonly requestBody?: { readonly content: Content };
  readonly responses: Readonly<Record<string, { readonly description: string; readonly content?: Content }>>;
}

interface Description {
  readonly info: { readonly version: string; readonly description: string };
  readonly paths: Readonly<Record<string, Readonly<Record<string, Operation>>>>;
  readonly components: { readonly schemas: Readonly<Record<string, Schema>> };
}

/** Every route: what it does, who may call it, what it takes and answers. */
export function Reference(): JSX.Element {
  const [description, setDescription] = useState<Description | string | null>(null);
  useEffect(() => {
    client.call("GET /openapi.json").then(
      (document) => setDescription(document as unknown as Description),
      (error: Error) => setDescription(error.message),
    );
  }, []);
  if (description === null) return <p role="status">Reading the description</p>;
  if (typeof description === "string") return <p class="bad card" role="alert">{description}</p>;
  const { info, paths, components } = description;
  const common = commonProblems(paths);
  return (
    <>
      <section class="card" aria-labelledby="api-title">
        <h1 id="api-title">Control API</h1>
        <p>{info.description} Version {info.version || "unknown"}.</p>
        <p>
          Programs send the admin token as{" "}
          <code>Authorization: Bearer TOKEN</code>. The same description for programs:{" "}
          <a href="/openapi.json">/openapi.json</a>.
        </p>
        <p>Most routes may also answer with these problems:</p>
        <dl class="answers">
          {[...common].map(([what, status]) => <Answer key={what} status={status} what={what} />)}
        </dl>
      </section>
      {Object.entries(paths).flatMap(([path, operations]) =>
        Object.entries(operations).map(([method, operation]) => (
          <Route key={operation.operationId} {...{ path, method, operation, common }} />
        ))
      )}
      <section class="card" aria-labelledby="shapes-title">
        <h2 id="shapes-title">Shapes</h2>
        {Object.entries(components.schemas).map(([name, schema]) => (
          <details key={name} id={`shape-${name}`}>
            <summary>{name}</summary>
            <Shape schema={schema} />
          </details>
        ))}
      </section>
    </>
  );
}

/** What more than half of the routes may answer with, by its words: its status. */
function commonProblems(paths: Description["paths"]): ReadonlyMap<string, string> {
  const all = Object.values(paths).flatMap((operations) => Object.values(operations));
  const found = Map.groupBy(
    all.flatMap(({ responses }) => Object.entries(responses)),
    ([, { description }]) => description,
  );
  return new Map(
    [...found].filter(([, uses]) => uses.length > all.length / 2)
      .map(([what, [first]]) => [what, first![0]] as const)
      .sort(([, a], [, b]) => Number(a) - Number(b)),
  );
}

function Answer({ status, what }: { readonly status: string; readonly what: string }): JSX.Element {
  return (
    <div>
      <dt class={Number(status) < 400 ? "good" : "quiet"}>{status}</dt>
      <dd>{what}</dd>
    </div>
  );
}

function Route({ path, method, operation, common }: {
  readonly path: string;
  readonly method: string;
  readonly operation: Operation;
  readonly common: ReadonlyMap<string, string>;
}): JSX.Element {
  const { operationId, summary, description, parameters = [], requestBody, responses } = operation;
  const who = operation["x-who"];
  const everyone = who.length > 6;
  return (
    <section class="card route" aria-labelledby={operationId}>
      <h2 id={operationId}>
        <span class={`method ${method}`}>{method.toUpperCase()}</span> <code>{path}</code>
      </h2>
      <p>{summary} {description}</p>
      <p class="quiet">Who: {everyone ? "everyone" : who.join(", ")}.</p>
      {parameters.length === 0 ? null : (
        <ul>
          {parameters.map((one) => (
            <li key={one.name}>
              <code>{one.in === "query" ? `?${one.name}` : one.name}</code>: {one.description}
            </li>
          ))}
        </ul>
      )}
      {requestBody === undefined ? null : <p>Body: {bodyText(requestBody.content)}.</p>}
      <dl class="answers">
        {Object.entries(responses).filter(([, { description }]) => !common.has(description)).map((
          [status, { description: what, content }],
        ) => (
          <Answer
            key={status}
            status={status}
            what={content !== undefined && Number(status) < 400
              ? `${what} Body: ${bodyText(content)}.`
              : what}
          />
        ))}
      </dl>
    </section>
  );
}

function bodyText(content: Content): string {
  return Object.entries(content).map(([type, { schema }]) =>
    type === "application/json" && schema !== undefined ? typeText(schema) : type
  ).join(", ");
}

/** A type in words. */
function typeText({ $ref, type, items, anyOf, enum: values }: Schema): string {
  if ($ref !== undefined) return $ref.split("/").at(-1)!;
  if (anyOf !== undefined) return anyOf.map(typeText).join(" or ");
  if (values !== undefined) return values.map((value) => JSON.stringify(value)).join(" or ");
  if (items !== undefined) return `list of ${typeText(items)}`;
  return type === undefined ? "anything" : [type].flat().join(" or ");
}

function Shape({ schema: { properties = {}, required = [] } }: { readonly schema: Schema }): JSX.Element {
  return (
    <ul>
      {Object.entries(properties).map(([name, property]) => (
        <li key={name}>
          <code>{name}</code>: {typeText(property)}
          {required.includes(name) ? "" : ", may be absent"}
          {property.description === undefined ? "" : `. ${property.description}`}
        </li>
      ))}
    </ul>
  );
}
