/**
 * How waits of a step end that begins again.
 *
 * @module
 */

/** The step that was waited for begins again. Never seen outside a run: whoever runs the step catches it. */
export class StepRestart extends Error {
  /** Always `"StepRestart"`. */
  override readonly name = "StepRestart";

  /** Says so. */
  constructor() {
    super("the step begins again");
  }
}
