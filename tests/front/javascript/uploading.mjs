import { readFileSync } from "node:fs";
import { asked, fal, say } from "./setup.mjs";

const text = await fal.storage.upload(new File(["Hello, World!"], "hello.txt", { type: "text/plain" }));
const unnamed = await fal.storage.upload(new Blob([new Uint8Array([1, 2, 3])]));
const large = await fal.storage.upload(new Blob([new Uint8Array(asked.largeBytes).fill(7)]), {
  lifecycle: { expiresIn: "1d" },
});
const picture = new Blob([readFileSync(asked.picture)], { type: "image/png" });
const result = await fal.subscribe(asked.model, { input: { image_url: picture, prompt: asked.prompt } });
say({ text, unnamed, large, result });
