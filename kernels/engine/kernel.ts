/**
 * What a kernel is: a WGSL source, and which of its entry points and constants are used.
 *
 * @module
 */

import { KernelDefinitionError } from "../errors.ts";
import {
  joinFiles,
  readShader,
  requireNames,
  type ShaderBinding,
  type ShaderFile,
  type ShaderParameter,
} from "./shader.ts";

/** A kernel's declaration, beside its `.wgsl` file. */
export interface KernelDefinition<P extends string = string, B extends string = string> {
  /** Name; unique, used for labels and errors. */
  readonly name: string;
  /** Path of the WGSL file below `kernels/`. */
  readonly file: string;
  /** Text of that file. */
  readonly source: string;
  /** Shared WGSL that is joined to it, such as that of `prelude/`. @default {none} */
  readonly preludes?: readonly ShaderFile[];
  /** Entry point. @default {"main"} */
  readonly entryPoint?: string;
  /** Names of the bindings of group 0, in the order of their numbers. */
  readonly bindings: readonly B[];
  /** Names of the fields of the uniform struct at group 1, binding 0, in its order. */
  readonly parameters: readonly P[];
  /** Values of `override` constants. */
  readonly constants?: Readonly<Record<string, number>>;
}

/** A kernel, made by `defineKernel`. */
export interface Kernel<P extends string = string, B extends string = string> {
  /** Name; unique, used for labels and errors. */
  readonly name: string;
  /** What the source is joined from: the kernel's file first. */
  readonly files: readonly ShaderFile[];
  /** WGSL text. */
  readonly source: string;
  /** Entry point. */
  readonly entryPoint: string;
  /** Bindings of group 0, by their numbers. */
  readonly bindings: readonly ShaderBinding<B>[];
  /** Fields of the uniform struct at group 1, binding 0. */
  readonly parameters: readonly ShaderParameter<P>[];
  /** Values of `override` constants. */
  readonly constants: Readonly<Record<string, number>>;
}

/**
 * Declares a kernel and holds the declaration against its source. A dispatch gives bindings and parameters
 * by name: one that is missing or unknown does not compile, and none can take the place of another.
 *
 * @throws {KernelDefinitionError} If a binding, a parameter or a constant is unknown, missing or misplaced, or the
 * source declares one of a kind that kernels do not have.
 */
export function defineKernel<const P extends string, const B extends string>(
  definition: KernelDefinition<P, B>,
): Kernel<P, B> {
  const { name, file, source, preludes = [], entryPoint = "main", constants = {} } = definition;
  const files = [{ file, source }, ...preludes];
  const joined = joinFiles(files);
  const shader = readShader(name, joined);
  requireNames(name, "bindings", definition.bindings, shader.bindings.map((b) => b.name));
  requireNames(name, "parameters", definition.parameters, shader.parameters.map((p) => p.name));
  const unknown = Object.keys(constants).find((constant) => !shader.overrides.includes(constant));
  if (unknown !== undefined) {
    throw new KernelDefinitionError(
      `Cannot define kernel "${name}" as its constants must be overrides of its WGSL source: "${unknown}" is unknown`,
    );
  }
  return {
    name,
    files,
    source: joined,
    entryPoint,
    bindings: shader.bindings as readonly ShaderBinding<B>[],
    parameters: shader.parameters as readonly ShaderParameter<P>[],
    constants,
  };
}
