/**
 * What a kernel is: a WGSL source and how its bindings and parameters are laid out.
 *
 * @module
 */

/**
 * One binding of group 0: `read` and `write` are storage buffers (`write` may also be read),
 * `texture` is an `rgba32float` storage texture that is read, `texture_write` one that is written.
 */
export type BindingKind = "read" | "write" | "texture" | "texture_write";

/** A field of the uniform struct at group 1, binding 0; in order, four bytes each. */
export type ParameterKind = "u32" | "f32";

/** A kernel's declaration, beside its `.wgsl` file. */
export interface Kernel<P extends string = string> {
  /** Name; unique, used for labels and errors. */
  readonly name: string;
  /** WGSL text. */
  readonly source: string;
  /** Entry point. @default {"main"} */
  readonly entryPoint?: string;
  /** Bindings of group 0, in order. */
  readonly bindings: readonly BindingKind[];
  /** Fields of the uniform struct, in order. */
  readonly parameters: readonly (readonly [P, ParameterKind])[];
  /** Values of `override` constants. */
  readonly constants?: Readonly<Record<string, number>>;
}

/**
 * Declares a kernel; infers the parameters' names, so that a dispatch with a missing or unknown
 * one does not compile.
 */
export function defineKernel<const P extends string>(kernel: Kernel<P>): Kernel<P> {
  return kernel;
}
