/**
 * Why a template cannot be used.
 *
 * @module
 */

/** A template that is not valid, or that fails: Python would fail too. */
export class TemplateError extends Error {
  override readonly name = "TemplateError";
}

/** A template that asks for what is not done here, where Python may give a text. */
export class UnsupportedError extends Error {
  override readonly name = "UnsupportedError";

  /** @param what What it asks for. */
  constructor(what: string) {
    super(`${what} is not done here`);
  }
}
