/**
 * Paths of folders of this repository, as the file system has them. An address writes a space, "ü", "#" and "%"
 * in another way.
 *
 * @module
 */

import { fileURLToPath } from "node:url";

/** The repository, with a slash at the end. */
export const ROOT = fileURLToPath(new URL("../../", import.meta.url));

/** `examples/`. */
export const EXAMPLES = `${ROOT}examples/`;

/** `tests/fixtures/`. */
export const FIXTURES = `${ROOT}tests/fixtures/`;
