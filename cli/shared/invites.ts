/**
 * Invites at the terminal of an edge server: an address and a QR code for a device, and lines that answer the devices
 * that ask to join.
 *
 * @module
 */

import { renderUnicodeCompact } from "uqr";
import type { JoinRequestJson } from "@edgetuner/transport/control";
import type { Invitations } from "@edgetuner/transport/server";
import { toggle } from "../flags/flags.ts";
import { Lines } from "../process/lines.ts";
import type { WorkerRun } from "../process/worker_run.ts";

/** Flags of invites. */
export const INVITE_FLAGS = {
  invite: toggle(
    "print an address and a QR code with which a browser asks to join, once; then answer here: approve 1, refuse 1, remove DEVICE, invite",
  ),
  "approve-all": toggle("--invite: let every device in that has an invite, without asking"),
};

/** What invites are shown and answered with. */
export interface InviteDeskOptions {
  /** The run. */
  readonly run: Pick<WorkerRun, "run" | "remove" | "devices">;
  /** Invites and requests. */
  readonly invitations: Invitations;
  /** Address of the server, such as `https://192.168.1.20:8787`. */
  readonly address: string;
  /** Says a line to people. */
  readonly say: (line: string) => void;
  /** Tells programs. */
  readonly emit: (event: Record<string, unknown>) => void;
}

/** What lines do. */
const HELP = "Type: approve N, refuse N, remove DEVICE, or invite for another invite";

/** What keeps others from an address, or browsers from taking part there; empty if nothing does. */
function reachNote({ protocol, hostname }: URL): string {
  if (/^(localhost|127\.|\[::1\])/.test(hostname)) {
    return "Only this machine reaches that address: --host 0.0.0.0 lets others come";
  }
  return protocol === "https:"
    ? ""
    : "Browsers use the GPU over https alone: add --tls self-signed, or --cert and --key; programs may join as it is";
}

/** Shows invites, and answers requests by lines. */
export class InviteDesk implements Disposable {
  readonly #options: InviteDeskOptions;
  readonly #unsubscribe: () => void;
  #isOpen = true;

  /** Tells of requests from now on; see `InviteDeskOptions`. */
  constructor(options: InviteDeskOptions) {
    this.#options = options;
    this.#unsubscribe = options.invitations.subscribe((request) => this.#hear(request));
  }

  /** Makes an invite and shows it. */
  async invite(): Promise<void> {
    const { invitations, address, run, say, emit } = this.#options;
    const link = `${address}${await invitations.invite(run.run)}`;
    const minutes = Math.round(invitations.lifetimeMs / 60_000);
    say(`Invite for one device, for ${minutes} minutes; open it or scan it there\n  ${link}`);
    say(renderUnicodeCompact(link, { border: 2 }));
    const note = reachNote(new URL(address));
    if (note !== "") say(note);
    emit({ type: "invite", address: link, seconds: invitations.lifetimeMs / 1000 });
  }

  /**
   * Answers requests by lines, until there are no more.
   *
   * @param lines What is typed.
   */
  async follow(lines: Pick<Lines, "next"> = new Lines()): Promise<void> {
    for (let line = await lines.next(); line !== null && this.#isOpen; line = await lines.next()) {
      const said = await this.#answer(line.trim().split(/\s+/));
      if (said !== "") this.#options.say(said);
    }
  }

  /** Does what a line says; what people are to know of it. */
  async #answer([verb = "", ...rest]: readonly string[]): Promise<string> {
    const { invitations, run } = this.#options;
    const what = rest.join(" ");
    if (verb === "") return "";
    if (verb === "invite" && what === "") {
      await this.invite();
      return "";
    }
    if ((verb === "approve" || verb === "refuse") && what !== "") {
      const answered = invitations.answer(what, verb === "approve" ? "approved" : "refused");
      return answered === null ? `There is no request ${what}` : "";
    }
    if (verb === "remove" && what !== "") {
      const device = run.devices.find(({ id, name }) => what === id || what === name);
      const id = device === undefined ? what : device.id || device.name;
      const isThere = [invitations.remove(run.run, id), run.remove(id)].includes(true);
      return isThere ? `${what} is removed` : `There is no device ${what}`;
    }
    return HELP;
  }

  #hear(request: JoinRequestJson): void {
    const { say, emit } = this.#options;
    emit({ type: "request", ...request });
    const { request: number, name, code, state } = request;
    if (state === "waiting") {
      say(
        `${name} asks to join; its page shows the code ${code}. Type: approve ${number}, or refuse ${number}`,
      );
    } else say(`${name} (request ${number}, code ${code}) is ${state}`);
  }

  [Symbol.dispose](): void {
    this.#isOpen = false;
    this.#unsubscribe();
  }
}
