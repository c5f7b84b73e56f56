/**
 * Files of pages, as a server sends them.
 *
 * @module
 */

/** A file of a page. */
export interface PageFile {
  /** Its media type, with the charset. */
  readonly type: string;
  /** Its content. */
  readonly body: string;
}
