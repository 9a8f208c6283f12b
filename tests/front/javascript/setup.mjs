// The client as `docs/fal-clients.md` aims it, and one line of JSON for the test to read.
import { fal } from "@fal-ai/client";

globalThis.File ??= (await import("node:buffer")).File; // Debian's Node 18 has it there only.

const { ROUNDTRIP_URL, ROUNDTRIP_KEY } = process.env;

fal.config({ credentials: ROUNDTRIP_KEY, proxyUrl: { url: `${ROUNDTRIP_URL}/fal/proxy`, when: "always" } });

export const asked = JSON.parse(process.env.ASKED ?? "{}");
export const say = (value) => console.log(JSON.stringify(value));
export { fal };
