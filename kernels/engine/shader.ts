/**
 * What a WGSL source declares: its bindings, the fields of its parameter struct, its constants. And sources
 * that are joined from several files, with the way back from a line to its file.
 *
 * @module
 */

import { KernelDefinitionError } from "../errors.ts";

/** A WGSL file. */
export interface ShaderFile {
  /** Path below `kernels/`, for messages. */
  readonly file: string;
  /** Its text. */
  readonly source: string;
}

/**
 * One binding of group 0: `read` and `write` are storage buffers (`write` may also be read),
 * `texture` is an `rgba32float` storage texture that is read, `texture_write` one that is written.
 */
export type BindingKind = "read" | "write" | "texture" | "texture_write";

/** Type of a field of the parameter struct. */
export type ParameterKind = "u32" | "i32" | "f32";

/** A binding of group 0, at the place that it has in the list. */
export interface ShaderBinding<B extends string = string> {
  /** Name of the variable. */
  readonly name: B;
  /** What is bound. */
  readonly kind: BindingKind;
}

/** A field of the parameter struct, which is the uniform at group 1, binding 0. */
export interface ShaderParameter<P extends string = string> {
  /** Name of the field. */
  readonly name: P;
  /** Its type. */
  readonly kind: ParameterKind;
  /** Where it lies, in words of four bytes. */
  readonly word: number;
}

/** What a source declares. */
export interface ShaderInterface {
  /** Bindings of group 0, by their numbers. */
  readonly bindings: readonly ShaderBinding[];
  /** Fields of the parameter struct, as they stand in it; none without such a struct. */
  readonly parameters: readonly ShaderParameter[];
  /** Names of `override` constants. */
  readonly overrides: readonly string[];
}

/** Bytes that the parameter struct of a kernel may have. */
export const PARAMETER_BYTES = 256;

const BINDING = /@group\((\d+)\)\s*@binding\((\d+)\)\s*var\s*(?:<([^>]*)>)?\s*(\w+)\s*:\s*([^;]+);/g;

/** How bindings are written, without spaces: the address space and access, or the type of a texture. */
const KINDS: Readonly<Record<string, BindingKind>> = {
  "storage": "read",
  "storage,read": "read",
  "storage,read_write": "write",
  "texture_storage_2d<rgba32float,read>": "texture",
  "texture_storage_2d<rgba32float,write>": "texture_write",
};

/**
 * Reads what a source declares.
 *
 * @param kernel Name of the kernel, for errors.
 * @param source WGSL text.
 * @throws {KernelDefinitionError} If a binding or a field is of a kind that kernels here do not have.
 */
export function readShader(kernel: string, source: string): ShaderInterface {
  const text = withoutComments(source);
  const bindings: ShaderBinding[] = [];
  let parameters: readonly ShaderParameter[] = [];
  let found = 0;
  for (const [, group, number, space = "", name, type] of text.matchAll(BINDING)) {
    found++;
    if (group === "1" && number === "0" && space.trim() === "uniform") {
      parameters = readFields(kernel, text, type!.trim());
      continue;
    }
    const kind = KINDS[(space === "" ? type! : space).replace(/\s/g, "")];
    if (group !== "0" || kind === undefined || bindings[Number(number)] !== undefined) {
      throw new KernelDefinitionError(
        `Cannot define kernel "${kernel}" as a binding must be a storage buffer or an rgba32float storage texture of group 0, each at a place of its own, or the uniform struct at group 1, binding 0: current value is "${name}" at group ${group}, binding ${number}`,
      );
    }
    bindings[Number(number)] = { name: name!, kind };
  }
  if (found !== (text.match(/@binding\b/g) ?? []).length || Object.keys(bindings).length < bindings.length) {
    throw new KernelDefinitionError(
      `Cannot define kernel "${kernel}" as its bindings must be written "@group(0) @binding(N) var<storage, read> name: type;" and be numbered from 0 without a gap: current names are ${
        listed(Object.values(bindings).map(({ name }) => name))
      }`,
    );
  }
  const overrides = [...text.matchAll(/\boverride\s+(\w+)/g)].map(([, name]) => name!);
  return { bindings, parameters, overrides };
}

/** The fields of a struct, laid out by the rules of WGSL. */
function readFields(kernel: string, text: string, struct: string): ShaderParameter[] {
  const body = new RegExp(`\\bstruct\\s+${struct}\\s*\\{([^}]*)\\}`).exec(text)?.[1];
  if (body === undefined) {
    throw new KernelDefinitionError(
      `Cannot define kernel "${kernel}" as its uniform must be a struct of the same source: current type is ${struct}`,
    );
  }
  let bytes = 0;
  const fields = body.split(",").map((field) => field.trim()).filter((field) => field !== "").map((field) => {
    const [, attributes = "", name, kind] = /^((?:@\w+\(\d+\)\s*)*)(\w+)\s*:\s*(u32|i32|f32)$/.exec(field) ??
      [];
    if (name === undefined) {
      throw new KernelDefinitionError(
        `Cannot define kernel "${kernel}" as each field of ${struct} must be a u32, i32 or f32: current value is "${field}"`,
      );
    }
    const attribute = (which: string) =>
      Number(new RegExp(`@${which}\\((\\d+)\\)`).exec(attributes)?.[1] ?? 4);
    const align = attribute("align");
    const offset = Math.ceil(bytes / align) * align;
    bytes = offset + attribute("size");
    return { name, kind: kind as ParameterKind, word: offset / 4 };
  });
  if (bytes > PARAMETER_BYTES) {
    throw new KernelDefinitionError(
      `Cannot define kernel "${kernel}" as ${struct} must have at most ${PARAMETER_BYTES} bytes: current size is ${bytes}`,
    );
  }
  return fields;
}

/** Comments are replaced by spaces, so that places stay. Block comments may be nested. */
function withoutComments(source: string): string {
  let text = "";
  let depth = 0;
  for (const [part] of source.matchAll(/\/\/[^\n]*|\/\*|\*\/|[^/*]+|[/*]/g)) {
    if (part === "/*") depth++;
    const comment = depth > 0 || part.startsWith("//");
    text += comment ? part.replace(/[^\n]/g, " ") : part;
    if (part === "*/" && depth > 0) depth--;
  }
  return text;
}

/**
 * Holds the names that a declaration lists against those of the source.
 *
 * @param kernel Name of the kernel, for errors.
 * @param what What they name, such as "parameters".
 * @param declared Names that the declaration lists.
 * @param found Names of the source.
 * @throws {KernelDefinitionError} If one is unknown, missing, listed twice or in another place.
 */
export function requireNames(
  kernel: string,
  what: string,
  declared: readonly string[],
  found: readonly string[],
): void {
  const wrong = declared.map((name, i) => {
    if (!found.includes(name)) return `"${name}" is unknown`;
    if (declared.indexOf(name) < i) return `"${name}" is listed twice`;
    return found[i] === name ? null : `"${name}" is misplaced`;
  });
  const missing = found.filter((name) => !declared.includes(name)).map((name) => `"${name}" is missing`);
  // What is unknown or missing moves the others: those are told only if nothing else is wrong.
  const problems = [...missing, ...wrong.filter((problem) => problem?.endsWith("misplaced") === false)];
  if (problems.length === 0) problems.push(...wrong.filter((problem) => problem !== null));
  if (problems.length === 0) return;
  throw new KernelDefinitionError(
    `Cannot define kernel "${kernel}" as its ${what} must be those of its WGSL source, in order: ${
      problems.join(", ")
    }; the source has ${listed(found)}`,
  );
}

function listed(names: readonly string[]): string {
  return names.length === 0 ? "none" : names.join(", ");
}

/** Some files as one source: the first one's lines keep their numbers. */
export function joinFiles(files: readonly ShaderFile[]): string {
  return files.map(({ source }) => source.endsWith("\n") ? source : `${source}\n`).join("");
}

/**
 * The place of a line of a joined source.
 *
 * @param files The files, as they were joined.
 * @param line Line of the joined source, from 1.
 * @returns The file and the line in it, from 1.
 */
export function placeOf(files: readonly ShaderFile[], line: number): { file: ShaderFile; line: number } {
  let before = 0;
  for (const file of files) {
    const lines = file.source.replace(/\n$/, "").split("\n").length;
    if (line <= before + lines) return { file, line: line - before };
    before += lines;
  }
  return { file: files.at(-1)!, line: line - before };
}
